//! Adam, with the two published ways of clipping within it.

use super::Parameter;

/// One update of Adam (Kingma and Ba 2015, algorithm 1), which has both moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// The learning rate.
    pub lr: f64,
    /// The decay of the first moment.
    pub beta1: f64,
    /// The decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator, to avoid division by zero.
    pub epsilon: f64,
    /// The number of this update, counted from 1, for the bias correction of the moments.
    pub updates: u64,
    /// AdamW (Loshchilov and Hutter 2019): weight decay multiplies the weight by `1 - lr *
    /// weight_decay`. Otherwise `weight_decay * w` is added to the gradient.
    pub decoupled: bool,
    /// A factor on the learning rate, but not on AdamW's weight decay.
    pub lr_factor: f64,
    /// The bound B of `g^2 / v`, with `v` from before the update: elements above it are clamped to
    /// `sqrt(B v)`, except where `v = 0` (Huang et al. 2025, equation 2).
    pub spike_bound: Option<f64>,
    /// The bound C of a parameter's update: it is divided by `max(1, RMS / C)`, where `RMS^2` is
    /// the mean of `g^2 / max(v, epsilon^2)` with the bias-corrected `v` of this update (Wortsman
    /// et al. 2023, algorithm 2).
    pub update_bound: Option<f64>,
}

/// What to compute of an update: with [`Adam::update_bound`], weights depend on a sum over the
/// whole parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// Moments and weights.
    Whole,
    /// The moments, and the sum of `g^2 / max(v, epsilon^2)`.
    Moments,
    /// The weights, with the divisor of the update.
    Weights(f32),
}

/// Sums that are independent of each other, so that the compiler can use vectors of any width; with
/// a fixed number, each instruction set gives the same bits.
const SUMS: usize = 16;

impl Adam {
    /// The divisor of the update of a parameter of `elements` elements, from the sum that
    /// [`Part::Moments`] returned.
    pub(super) fn divisor(sum: f64, elements: usize, bound: f64) -> f32 {
        let rms = (sum / elements.max(1) as f64).sqrt();
        (rms / bound).max(1.0) as f32
    }

    /// Computes a part of the update of one piece. `gradient` computes the gradient from the raw
    /// one and the weight. Returns the sum of [`Part::Moments`], otherwise zero.
    #[inline(always)]
    pub(super) fn pass(
        &self,
        part: Part,
        piece: &mut Parameter<'_>,
        gradient: impl Fn(f32, f32) -> f32,
    ) -> f64 {
        match self.spike_bound {
            None => self.pass_bounded(part, piece, gradient, |g, _| g),
            Some(bound) => {
                let bound = bound as f32;
                self.pass_bounded(part, piece, gradient, |g, v| {
                    // An element without a second moment has no scale yet.
                    let limit = if v == 0.0 {
                        f32::MAX
                    } else {
                        (v * bound).sqrt()
                    };
                    g.max(-limit).min(limit)
                })
            }
        }
    }

    #[inline(always)]
    fn pass_bounded(
        &self,
        part: Part,
        piece: &mut Parameter<'_>,
        gradient: impl Fn(f32, f32) -> f32,
        bounded: impl Fn(f32, f32) -> f32,
    ) -> f64 {
        let bias1 = 1.0 - self.beta1.powf(self.updates as f64);
        let bias2 = 1.0 - self.beta2.powf(self.updates as f64);
        let step = (self.lr * self.lr_factor / bias1) as f32;
        let (root, epsilon) = (bias2.sqrt() as f32, self.epsilon as f32);
        let (beta1, rest1) = (self.beta1 as f32, (1.0 - self.beta1) as f32);
        let (beta2, rest2) = (self.beta2 as f32, (1.0 - self.beta2) as f32);
        let shrink = match self.decoupled {
            true => (1.0 - self.lr * piece.weight_decay) as f32,
            false => 1.0,
        };
        let moments = |g: f32, m: &mut f32, v: &mut f32| {
            *v = *v * beta2 + g * g * rest2;
            *m = *m * beta1 + g * rest1;
        };
        let change = |m: f32, v: f32| m / (v.sqrt() / root + epsilon) * step;
        let weights = piece.weight.iter_mut();
        match part {
            Part::Whole => {
                let elements = weights.zip(piece.gradient);
                let elements = elements.zip(&mut *piece.first).zip(&mut *piece.second);
                for (((w, &g), m), v) in elements {
                    moments(bounded(gradient(g, *w), *v), m, v);
                    *w = *w * shrink - change(*m, *v);
                }
                0.0
            }
            Part::Moments => {
                // In f32 the square of a small epsilon underflows to zero, and 0 / 0 is NaN.
                let floor = (self.epsilon * self.epsilon).max(f64::from(f32::MIN_POSITIVE)) as f32;
                let bias2 = bias2 as f32;
                let term = |g: f32, w: f32, m: &mut f32, v: &mut f32| {
                    let g = bounded(gradient(g, w), *v);
                    moments(g, m, v);
                    f64::from(g * g / (*v / bias2).max(floor))
                };
                sum_of(piece, term)
            }
            Part::Weights(divisor) => {
                let elements = weights.zip(&*piece.first).zip(&*piece.second);
                for ((w, &m), &v) in elements {
                    *w = *w * shrink - change(m, v) / divisor;
                }
                0.0
            }
        }
    }
}

/// The sum of `term` over all elements: gradient, weight, and the moments, which it may change.
#[inline(always)]
fn sum_of(piece: &mut Parameter<'_>, term: impl Fn(f32, f32, &mut f32, &mut f32) -> f64) -> f64 {
    let (weights, last_w) = piece.weight.as_chunks::<SUMS>();
    let (gradients, last_g) = piece.gradient.as_chunks::<SUMS>();
    let (firsts, last_m) = piece.first.as_chunks_mut::<SUMS>();
    let (seconds, last_v) = piece.second.as_chunks_mut::<SUMS>();
    let mut sums = [0.0; SUMS];
    for (((w, g), m), v) in weights.iter().zip(gradients).zip(firsts).zip(seconds) {
        for lane in 0..SUMS {
            sums[lane] += term(g[lane], w[lane], &mut m[lane], &mut v[lane]);
        }
    }
    for (((w, g), m), v) in last_w.iter().zip(last_g).zip(last_m).zip(last_v) {
        sums[0] += term(*g, *w, m, v);
    }
    sums.iter().sum()
}
