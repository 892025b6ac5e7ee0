//! Dropout (Srivastava et al. 2014) with masks that are recomputed instead of stored.
//!
//! A mask is a function of a key, the site in the model and the position in the tensor. The
//! backward pass, any number of threads and every device compute the same mask.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Tensor, TensorData};
use pulp::{Simd, WithSimd};

use crate::buffer::Buffer;
use crate::cpu::Cpu;
use crate::operation::{Forward, Operation, call_with_one_output};
use crate::tensor::{contiguous, is_ours, values};

/// The key of the masks of one forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey {
    words: [u32; 2],
    sequences: Option<Sequences>,
}

/// The sequences of a batch that a forward pass computes, if not all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sequences {
    first: usize,
    count: usize,
    /// The number of sequences of the whole batch.
    of: usize,
    /// Whether tensors are `[time, batch, ..]` instead of `[batch, time, ..]`.
    time_first: bool,
}

impl DropoutKey {
    /// Creates a key from any two words, such as the halves of a seed.
    pub fn of(words: [u32; 2]) -> DropoutKey {
        DropoutKey {
            words,
            sequences: None,
        }
    }

    /// The key for a forward pass over `count` sequences of a batch of `of`, starting with number
    /// `first`: they get the same masks as in a pass over the whole batch.
    #[must_use]
    pub fn for_sequences(self, first: usize, count: usize, of: usize) -> DropoutKey {
        let sequences = (count < of).then_some(Sequences {
            first,
            count,
            of,
            time_first: false,
        });
        DropoutKey { sequences, ..self }
    }

    /// Derives the key of part `number` of a step, such as a micro-batch. Different parts have
    /// statistically independent keys.
    #[must_use]
    pub fn part(self, number: u64) -> DropoutKey {
        // The output function of SplitMix64 (Steele, Lea & Flood 2014), a bijection of 64 bits.
        let mix = |mut word: u64| {
            word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            word ^ (word >> 31)
        };
        let [low, high] = self.words.map(u64::from);
        let word = (low | high << 32).wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = mix(mix(word) ^ number);
        DropoutKey {
            words: [word as u32, (word >> 32) as u32],
            ..self
        }
    }
}

/// The dropout of one forward pass, the same at all sites.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// The key of this forward pass.
    pub key: DropoutKey,
    /// The probability that an element becomes zero, in `[0, 1)`.
    pub probability: f64,
}

impl Dropout {
    /// The same for tensors `[time, batch, ..]`. The default is `[batch, time, ..]`.
    #[must_use]
    pub fn with_time_first(mut self) -> Dropout {
        if let Some(sequences) = &mut self.key.sequences {
            sequences.time_first = true;
        }
        self
    }

    /// The mask of a site in the model, for a tensor of `rows` rows.
    pub(crate) fn mask(self, site: u32, rows: usize) -> Mask {
        Mask {
            key: self.key.words,
            site,
            part: self.key.sequences.map(|part| {
                let rows_each = match part.time_first {
                    true => 1,
                    false => rows / part.count.max(1),
                };
                [part.first, part.count, part.of].map(|sequences| sequences * rows_each)
            }),
            // Elements with a random word below this are dropped.
            threshold: (self.probability * 2.0_f64.powi(32)) as u32,
            scale: (1.0 / (1.0 - self.probability)) as f32,
        }
    }
}

/// Sets each element to zero with the given probability and scales the others by `1 / (1 -
/// probability)`. The mask depends on the key, the site and the position of the element.
pub fn dropout<const D: usize>(input: Tensor<D>, dropout: Dropout, site: u32) -> Tensor<D> {
    if is_ours(&input) {
        let mask = dropout.mask(site, rows_of(&input));
        let output = call_with_one_output(mask, [input.into_dispatch()]);
        return Tensor::from_dispatch(output);
    }
    dropout_plain(input, dropout, site)
}

/// The product of all dimensions but the last.
fn rows_of<const D: usize>(tensor: &Tensor<D>) -> usize {
    tensor.dims().iter().rev().skip(1).product()
}

/// [`dropout`] composed of Burn's operations, on any device; the mask is computed on the host.
pub fn dropout_plain<const D: usize>(input: Tensor<D>, dropout: Dropout, site: u32) -> Tensor<D> {
    let shape = input.dims();
    let width = shape.last().copied().unwrap_or(1);
    let mut mask = vec![1.0; shape.iter().product()];
    let kept = Mask {
        scale: 1.0,
        ..dropout.mask(site, rows_of(&input))
    };
    kept.apply_to_rows(Cpu::current(), 0, &mut mask, width);
    let device = input.device().without_autodiff();
    let mask = Tensor::<D>::from_data(TensorData::new(mask, shape), (&device, input.dtype()));
    let mask = if input.is_autodiff() {
        mask.autodiff()
    } else {
        mask
    };
    input * mask / (1.0 - dropout.probability)
}

/// The mask of a tensor, whose rows run over all leading dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    key: [u32; 2],
    site: u32,
    /// For a part of a batch, in rows of the whole batch: the first row, the number of consecutive
    /// rows, and the distance between such runs.
    part: Option<[usize; 3]>,
    threshold: u32,
    scale: f32,
}

/// Elements decided by 16 consecutive counters, with four random words each.
const GROUP: usize = 64;

impl Mask {
    /// Multiplies the elements of a row by zero or the scale.
    #[inline(always)]
    pub(crate) fn multiply<S: Simd>(&self, simd: S, row: usize, values: &mut [f32]) {
        for (group, values) in values.chunks_mut(GROUP).enumerate() {
            let factors = self.factors(simd, row, group);
            for (value, factor) in values.iter_mut().zip(factors) {
                *value *= factor;
            }
        }
    }

    /// Multiplies rows of `width` elements, the first of which is row `first` of the tensor.
    #[inline(always)]
    pub(crate) fn multiply_rows<S: Simd>(
        &self,
        simd: S,
        first: usize,
        (rows, width): (&mut [f32], usize),
    ) {
        for (row, values) in rows.chunks_exact_mut(width).enumerate() {
            self.multiply(simd, first + row, values);
        }
    }

    /// The factors of elements `64 group ..` of a row: element `16 i + j` is decided by output `i`
    /// of counter `16 group + j`.
    #[inline(always)]
    pub(crate) fn factors<S: Simd>(&self, simd: S, row: usize, group: usize) -> [f32; GROUP] {
        let row = match self.part {
            None => row,
            Some([first, count, of]) => row / count * of + first + row % count,
        };
        const FIRST: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let mut factors = [0.0; GROUP];
        let splat = |value| simd.splat_u32s(value);
        let (offsets, _) = S::as_simd_u32s(&FIRST);
        for (part, offsets) in offsets.iter().enumerate() {
            let counter = [
                simd.add_u32s(*offsets, splat(16 * group as u32)),
                splat(row as u32),
                splat(self.site),
                splat((row >> 32) as u32),
            ];
            for (output, random) in philox(simd, counter, self.key).into_iter().enumerate() {
                let kept = simd.greater_than_or_equal_u32s(random, splat(self.threshold));
                let scale = simd.splat_f32s(self.scale);
                let factor = simd.select_f32s(kept, scale, simd.splat_f32s(0.0));
                let (vectors, _) = S::as_mut_simd_f32s(&mut factors[16 * output..][..16]);
                vectors[part] = factor;
            }
        }
        factors
    }

    /// Applies the mask to a block of rows that starts with row `first`.
    pub(crate) fn apply_to_rows(self, cpu: Cpu, first: usize, rows: &mut [f32], width: usize) {
        // A single row is too little work for a thread.
        let grain = 16_384_usize.div_ceil(width.max(1));
        cpu.split_rows(rows, width, grain, |begin, rows| {
            cpu.run(ApplyToRows {
                mask: self,
                first: first + begin,
                rows,
                width,
            });
        });
    }
}

struct ApplyToRows<'a> {
    mask: Mask,
    first: usize,
    rows: &'a mut [f32],
    width: usize,
}

impl WithSimd for ApplyToRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = (self.rows, self.width);
        self.mask.multiply_rows(simd, self.first, rows);
    }
}

/// Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011): four random 32-bit words as a function of a
/// counter and a key.
#[inline(always)]
fn philox<S: Simd>(simd: S, counter: [S::u32s; 4], key: [u32; 2]) -> [S::u32s; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let [mut a, mut b, mut c, mut d] = counter;
    let [mut key_0, mut key_1] = key;
    for _ in 0..10 {
        let (low_0, high_0) = simd.widening_mul_u32s(a, simd.splat_u32s(MULTIPLIERS[0]));
        let (low_1, high_1) = simd.widening_mul_u32s(c, simd.splat_u32s(MULTIPLIERS[1]));
        a = simd.xor_u32s(simd.xor_u32s(high_1, b), simd.splat_u32s(key_0));
        c = simd.xor_u32s(simd.xor_u32s(high_0, d), simd.splat_u32s(key_1));
        (b, d) = (low_1, low_0);
        key_0 = key_0.wrapping_add(WEYL[0]);
        key_1 = key_1.wrapping_add(WEYL[1]);
    }
    [a, b, c, d]
}

/// Multiplies a tensor by its mask.
fn masked(input: FlexTensor, mask: Mask) -> FlexTensor {
    let input = contiguous(input);
    let shape = input.layout().shape().clone();
    let width = shape.last().copied().unwrap_or(1);
    let mut output = Buffer::copy_of(values(&input));
    mask.apply_to_rows(Cpu::current(), 0, &mut output, width);
    output.into_tensor(shape)
}

/// Dropout is linear: its backward pass applies the same mask.
impl Operation<1> for Mask {
    type Saved = Mask;

    fn forward(self, [input]: [FlexTensor; 1], _needs_backward: bool) -> Forward<Mask> {
        Forward::of(masked(input, self), self)
    }

    fn backward(mask: Mask, gradient: FlexTensor, _wanted: [bool; 1]) -> [Option<FlexTensor>; 1] {
        [Some(masked(gradient, mask))]
    }
}

#[cfg(test)]
mod tests;
