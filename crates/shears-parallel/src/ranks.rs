//! The interface to the other processes.

use std::fmt::Debug;

use crate::tree::tree_sum;

/// The processes that train one model, seen from one of them.
///
/// Every method but [`Ranks::rank`], [`Ranks::size`] and [`Ranks::abort`] is an exchange: all ranks
/// must call it, in the same order, from one thread at a time. Any condition for calling one must
/// therefore be the same in all ranks.
pub trait Ranks: Debug + Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks, at least 1.
    fn size(&self) -> usize;

    /// Replaces each element by its sum over all ranks, in `f32`, with the same bits in all ranks.
    /// All must pass the same number of elements.
    fn sum(&self, values: &mut [f32]);

    /// The bytes of each rank, in the order of the ranks. Their lengths may differ.
    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>>;

    /// Replaces `bytes` by those of rank 0.
    fn broadcast(&self, bytes: &mut Vec<u8>);

    /// Waits until all ranks have called it.
    fn barrier(&self);

    /// Ends all ranks at once with this exit code; unwritten data is lost.
    fn abort(&self, code: u8) -> !;
}

/// Whether all ranks say yes.
pub fn agree(ranks: &dyn Ranks, yes: bool) -> bool {
    let all = ranks.gather(&[u8::from(yes)]);
    all.iter().all(|answer| answer[..] == [1])
}

/// Lengths on both sides of those at which MPI libraries change their algorithm.
const LENGTHS: [usize; 4] = [1, 500, 5_000, 100_000];

/// Whether [`Ranks::sum`] adds like [`tree_sum`], so that a sum has the same bits however many
/// ranks share its terms. This is tried out, because no standard guarantees it. It requires that
/// the number of ranks is a power of two.
pub fn sums_like_tree(ranks: &dyn Ranks) -> bool {
    let size = ranks.size();
    if !size.is_power_of_two() {
        return false;
    }
    let mut equal = true;
    for length in LENGTHS {
        let mut found = noise(ranks.rank(), length);
        ranks.sum(&mut found);
        let expected = tree_sum((0..size).map(|rank| noise(rank, length)));
        let bits = |values: &[f32]| {
            values
                .iter()
                .map(|value| value.to_bits())
                .collect::<Vec<_>>()
        };
        equal &= Some(bits(&found)) == expected.as_deref().map(bits);
    }
    agree(ranks, equal)
}

/// Elements from 1e-3 to 1e3 in magnitude, whose sums are rounded (Marsaglia's xorshift64).
fn noise(rank: usize, length: usize) -> Vec<f32> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64 ^ ((rank as u64 + 1) << 17) ^ length as u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mantissa = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
        mantissa * 10_f32.powi((state % 7) as i32 - 3)
    };
    std::iter::repeat_with(next).take(length).collect()
}
