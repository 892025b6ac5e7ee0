//! Logits, cross-entropy and gradients, one block of rows at a time.

use std::sync::atomic::{AtomicU32, Ordering};

use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::math::exp;
use crate::matmul::{Initial, Packed, transposed_product};
use crate::vector::sum_columns;

/// The most logits in memory at a time, 64 MB. With fewer, the gradient of the weights is read and
/// written more often.
const MAX_LOGITS: usize = 1 << 24;

/// The fewest rows of a block.
const MIN_ROWS: usize = 64;

/// The number of rows, of `rows`, whose logits [`output_loss`](crate::output_loss) holds in memory
/// at a time. A row has `vocabulary` (at least 1) `f32` elements.
pub fn logit_rows_at_once(rows: usize, vocabulary: usize) -> usize {
    let at_once = MAX_LOGITS / vocabulary;
    at_once.max(MIN_ROWS).min(rows)
}

/// The inputs of a loss.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem<'a> {
    /// `[rows, size]`
    pub(super) hidden: &'a [f32],
    /// `[vocabulary, size]`
    pub(super) weight: &'a [f32],
    /// `[vocabulary]`, or empty
    pub(super) bias: &'a [f32],
    /// `[rows]`
    pub(super) targets: &'a [u32],
    pub(super) size: usize,
    pub(super) vocabulary: usize,
}

/// The loss, and its gradients if requested.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) loss: f32,
    pub(super) gradients: Option<LossGradients>,
}

/// Gradients of the mean loss, with the shapes of the inputs.
#[derive(Debug)]
pub(super) struct LossGradients {
    pub(super) hidden: Buffer,
    pub(super) weight: Buffer,
    pub(super) bias: Buffer,
}

impl Problem<'_> {
    pub(super) fn solve(self, cpu: Cpu, with_gradients: bool) -> Found {
        let (size, vocabulary) = (self.size, self.vocabulary);
        let rows = self.targets.len();
        let at_once = logit_rows_at_once(rows, vocabulary);
        // Rows are padded to whole vectors; the padding gets probability zero.
        let stride = vocabulary.next_multiple_of(cpu.lanes());
        let mut logits = Buffer::uninitialised(at_once * stride);
        // The bits of one `f32` per row, written by the threads that share the logits.
        let losses: Vec<AtomicU32> = (0..rows).map(|_| AtomicU32::new(0)).collect();
        let forward = Packed::transposed(cpu, self.weight, vocabulary, size);
        let mut back = with_gradients.then(|| {
            let packed = Packed::plain(cpu, self.weight, vocabulary, size);
            let gradients = LossGradients {
                hidden: Buffer::uninitialised(rows * size),
                weight: Buffer::uninitialised(vocabulary * size),
                bias: Buffer::zeros(self.bias.len()),
            };
            (packed, gradients)
        });
        for first in (0..rows).step_by(at_once) {
            let block = first..rows.min(first + at_once);
            let hidden = &self.hidden[block.start * size..block.end * size];
            let targets = &self.targets[block.clone()];
            let logits = &mut logits[..block.len() * stride];
            let losses = &losses[block.clone()];
            let initial = match self.bias {
                [] => Initial::Zero,
                bias => Initial::Bias(bias),
            };
            forward.multiply_then(
                cpu,
                (hidden, size),
                (logits, stride),
                initial,
                |first, logits| {
                    let rows = first..first + logits.len() / stride;
                    cpu.run(CrossEntropy {
                        logits,
                        vocabulary,
                        targets: &targets[rows.clone()],
                        losses: &losses[rows],
                        scale: with_gradients.then_some(1.0 / self.targets.len() as f32),
                    });
                },
            );
            let Some((packed, gradients)) = &mut back else {
                continue;
            };
            let result = &mut gradients.hidden[block.start * size..block.end * size];
            packed.multiply(cpu, (logits, stride), (result, size), Initial::Zero);
            transposed_product(
                cpu,
                block.len(),
                ((logits, stride, vocabulary), (hidden, size, size)),
                &mut gradients.weight,
                first > 0,
            );
            if !self.bias.is_empty() {
                let sums = sum_columns(cpu, logits, stride, 0..vocabulary);
                for (total, sum) in gradients.bias.iter_mut().zip(&sums[..]) {
                    *total += sum;
                }
            }
        }
        // Sums in f64, because a long f32 sum loses digits.
        let losses = losses.into_iter().map(AtomicU32::into_inner);
        let total: f64 = losses.map(|bits| f64::from(f32::from_bits(bits))).sum();
        Found {
            loss: (total / rows as f64) as f32,
            gradients: back.map(|(_, gradients)| gradients),
        }
    }
}

/// Computes the loss of each row. With a scale, replaces the logits by the gradients of the losses,
/// times the scale.
struct CrossEntropy<'a> {
    /// `[rows, stride]`, where the stride is the vocabulary padded to whole vectors.
    logits: &'a mut [f32],
    vocabulary: usize,
    targets: &'a [u32],
    losses: &'a [AtomicU32],
    scale: Option<f32>,
}

impl WithSimd for CrossEntropy<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let stride = self.vocabulary.next_multiple_of(S::F32_LANES);
        let rows = self.logits.chunks_exact_mut(stride).zip(self.targets);
        for ((row, &target), loss) in rows.zip(self.losses) {
            row[self.vocabulary..].fill(f32::NEG_INFINITY);
            let (row_vectors, _) = S::as_mut_simd_f32s(row);
            let mut largest = simd.splat_f32s(f32::NEG_INFINITY);
            for logit in &*row_vectors {
                largest = simd.max_f32s(largest, *logit);
            }
            let largest = simd.reduce_max_f32s(largest);
            let shift = simd.splat_f32s(-largest);
            let chosen = row[target as usize] - largest;
            let (row_vectors, _) = S::as_mut_simd_f32s(row);
            let mut sum = simd.splat_f32s(0.0);
            for logit in &mut *row_vectors {
                *logit = exp(simd, simd.add_f32s(*logit, shift));
                sum = simd.add_f32s(sum, *logit);
            }
            let sum = simd.reduce_sum_f32s(sum);
            loss.store((sum.ln() - chosen).to_bits(), Ordering::Relaxed);
            if let Some(scale) = self.scale {
                let share = simd.splat_f32s(scale / sum);
                for exponential in row_vectors {
                    *exponential = simd.mul_f32s(*exponential, share);
                }
                row[target as usize] -= scale;
            }
        }
    }
}
