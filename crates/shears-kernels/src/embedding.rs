//! Rows of an embedding, and the gradient of one.

use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::{Cpu, Shared};
use crate::vector::{load, store};

/// The row of each token: `[tokens, size]` from `[vocabulary, size]`.
pub(crate) fn gather(cpu: Cpu, weight: &[f32], size: usize, tokens: &[u32]) -> Buffer {
    let mut rows = Buffer::stale(tokens.len() * size);
    let shared = Shared::new(&mut rows);
    cpu.split(tokens.len(), 64, |range| {
        // SAFETY: ranges do not overlap.
        let rows = unsafe { shared.part(range.start * size..range.end * size) };
        for (&token, row) in tokens[range].iter().zip(rows.chunks_exact_mut(size.max(1))) {
            row.copy_from_slice(&weight[token as usize * size..][..size]);
        }
    });
    rows
}

/// The gradient of an embedding of `len` numbers: the sum, for each token, of its rows, one after the other.
pub(crate) fn scatter(
    cpu: Cpu,
    gradients: &[f32],
    size: usize,
    tokens: &[u32],
    len: usize,
) -> Buffer {
    let mut weight = Buffer::zeros(len);
    add_by_token(cpu, (gradients, size), size, tokens, &mut weight);
    weight
}

/// Adds each row, the first `width` of every `stride` numbers, to the row of its token in a table `[vocabulary, width]`.
///
/// Threads share the columns, so that every sum is in the order of the rows.
pub(crate) fn add_by_token(
    cpu: Cpu,
    (rows, stride): (&[f32], usize),
    width: usize,
    tokens: &[u32],
    table: &mut [f32],
) {
    let shared = Shared::new(table);
    cpu.split(width, 64, |columns| {
        cpu.run(AddByToken {
            rows,
            stride,
            width,
            tokens,
            table: &shared,
            columns,
        });
    });
}

struct AddByToken<'a, 'b> {
    rows: &'a [f32],
    stride: usize,
    width: usize,
    tokens: &'a [u32],
    table: &'b Shared<'a, f32>,
    columns: std::ops::Range<usize>,
}

impl WithSimd for AddByToken<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let columns = self.columns;
        for (&token, row) in self.tokens.iter().zip(self.rows.chunks(self.stride)) {
            let first = token as usize * self.width;
            // SAFETY: these columns are this thread's, and one row is alive at a time.
            let sums = unsafe { self.table.part(first + columns.start..first + columns.end) };
            let row = &row[columns.clone()];
            for (sums, row) in sums.chunks_mut(S::F32_LANES).zip(row.chunks(S::F32_LANES)) {
                let sum = simd.add_f32s(load(simd, sums), load(simd, row));
                store(simd, sums, sum);
            }
        }
    }
}
