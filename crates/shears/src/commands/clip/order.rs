//! The order of the files: a shell puts step10 before step2.

use std::path::{Path, PathBuf};

/// The files sorted by the numbers in their names, if they are in alphabetical order as from a
/// shell; none if that changes nothing, or if they were given in an order of their own.
pub(super) fn by_number(steps: &[PathBuf]) -> Option<Vec<PathBuf>> {
    if !steps.is_sorted() {
        return None;
    }
    let mut sorted = steps.to_vec();
    sorted.sort_by(|left, right| {
        let by_pieces = pieces(left).cmp(&pieces(right));
        by_pieces.then_with(|| left.cmp(right))
    });
    (sorted != steps).then_some(sorted)
}

/// Splits a path into characters and numbers. Without leading zeros, numbers compare by length
/// first; compared with other characters, they sort like the digit 0.
fn pieces(path: &Path) -> Vec<(u8, usize, &[u8])> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let in_number = |left: &u8, right: &u8| left.is_ascii_digit() && right.is_ascii_digit();
    let pieces = bytes.chunk_by(in_number).map(|piece| {
        let zeros = piece.iter().take_while(|byte| **byte == b'0').count();
        match piece[0].is_ascii_digit() {
            true => (b'0', piece.len() - zeros, &piece[zeros..]),
            false => (piece[0], 0, &piece[1..]),
        }
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(names: &[&str]) -> Option<Vec<String>> {
        let steps: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        let ordered = by_number(&steps)?;
        Some(
            ordered
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
        )
    }

    #[test]
    fn numbers_count_where_a_shell_has_sorted() {
        let sorted = ordered(&["g/step1.x", "g/step10.x", "g/step2.x"]).unwrap();
        assert_eq!(sorted, ["g/step1.x", "g/step2.x", "g/step10.x"]);
        assert_eq!(ordered(&["step01", "step02", "step10"]), None);
        // This order was chosen by hand.
        assert_eq!(ordered(&["step2", "step10", "step1"]), None);
        assert_eq!(ordered(&["a", "b"]), None);
    }
}
