//! Sums in an order that does not depend on how many processes share the terms.

/// The sum of vectors of equal length as a binary tree of neighbours, `(a + b) + (c + d)`. If the
/// number of terms is a power of two, summing blocks of any smaller power of two, and then their
/// sums, gives the same bits. `None` for no terms.
///
/// Terms are consumed one by one, with at most one partial sum per level of the tree.
pub fn tree_sum(terms: impl IntoIterator<Item = Vec<f32>>) -> Option<Vec<f32>> {
    let mut tree = Tree::default();
    for term in terms {
        tree.push(term, add);
    }
    tree.finish(add)
}

fn add(mut left: Vec<f32>, right: Vec<f32>) -> Vec<f32> {
    assert_eq!(left.len(), right.len(), "terms of different length");
    for (left, right) in left.iter_mut().zip(right) {
        *left += right;
    }
    left
}

/// A binary tree whose leaves are added one by one; see [`tree_sum`].
#[derive(Clone, Debug)]
pub struct Tree<T> {
    /// Finished branches from left to right, each with the number of its leaves.
    branches: Vec<(usize, T)>,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree {
            branches: Vec::new(),
        }
    }
}

impl<T> Tree<T> {
    /// Adds the next leaf.
    pub fn push(&mut self, leaf: T, mut add: impl FnMut(T, T) -> T) {
        let mut right = (1, leaf);
        while let Some((leaves, left)) = self.branches.pop_if(|(leaves, _)| *leaves == right.0) {
            right = (leaves + right.0, add(left, right.1));
        }
        self.branches.push(right);
    }

    /// The sum of all leaves; `None` if there were none.
    pub fn finish(self, mut add: impl FnMut(T, T) -> T) -> Option<T> {
        let mut branches = self.branches.into_iter().rev();
        let (_, last) = branches.next()?;
        Some(branches.fold(last, |right, (_, left)| add(left, right)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of the tree, written out.
    fn shape(leaves: usize) -> String {
        let add = |left: String, right: String| format!("({left}{right})");
        let mut tree = Tree::default();
        for leaf in 0..leaves {
            tree.push(leaf.to_string(), add);
        }
        tree.finish(add).unwrap_or_default()
    }

    #[test]
    fn neighbours_are_combined_first() {
        assert_eq!(shape(0), "");
        assert_eq!(shape(1), "0");
        assert_eq!(shape(4), "((01)(23))");
        assert_eq!(shape(8), "(((01)(23))((45)(67)))");
        assert_eq!(shape(6), "(((01)(23))(45))");
    }

    #[test]
    fn blocks_of_a_power_of_two_give_the_bits_of_the_whole() {
        let term = |index: u32| vec![1.0 / (3 + index) as f32, 1e7 / (1 + index * index) as f32];
        let whole = tree_sum((0..8).map(term));
        for block in [1, 2, 4] {
            let blocks = (0..8).step_by(block).map(|first| {
                let block = first..first + block as u32;
                tree_sum(block.map(term)).unwrap_or_default()
            });
            assert_eq!(tree_sum(blocks), whole, "blocks of {block}");
        }
        // For comparison, summing from left to right rounds differently.
        let line = (0..8).map(term).reduce(add);
        assert_ne!(line, whole);
    }
}
