//! Optimizer updates in one pass over weight, gradient and moments, in place.
//!
//! Each element is read and written once: 28 bytes for Adam, which makes a second pass only to bound
//! its update. The clipping factor is applied on the fly, so that the gradients are never written.
//! The operations and their order match the composition in `shears-train`, in `f32` and without
//! fused multiply-adds, so that both give the same bits.

mod adam;

use std::sync::{Mutex, PoisonError};

use pulp::{Simd, WithSimd};

pub use self::adam::Adam;
use self::adam::Part;
use crate::cpu::Cpu;

/// Elements per work item of a thread.
const PIECE: usize = 32_768;

/// Up to this many elements, waking another thread costs more than it saves.
const MAX_FOR_ONE_THREAD: usize = 16_384;

/// An update rule with the settings of one step, with PyTorch's formulas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpdateRule {
    /// `w <- w - lr g`. No moments.
    Sgd {
        /// The learning rate.
        lr: f64,
    },
    /// `m <- mu m + g; w <- w - lr m`, where `m` is the first moment, initially zero.
    Momentum {
        /// The learning rate.
        lr: f64,
        /// The factor mu.
        momentum: f64,
        /// Nesterov's variant: `w <- w - lr (g + mu m)`.
        nesterov: bool,
    },
    /// `v <- a v + (1 - a) g^2; w <- w - lr g / (sqrt(v) + eps)`, where `v` is the second moment.
    RmsProp {
        /// The learning rate.
        lr: f64,
        /// The decay a.
        alpha: f64,
        /// Added to the denominator, to avoid division by zero.
        epsilon: f64,
    },
    /// Adam or AdamW.
    Adam(Adam),
}

impl UpdateRule {
    /// Whether the rule has a first moment.
    #[must_use]
    pub fn has_first_moment(&self) -> bool {
        matches!(self, UpdateRule::Momentum { .. } | UpdateRule::Adam(_))
    }

    /// Whether the rule has a second moment.
    #[must_use]
    pub fn has_second_moment(&self) -> bool {
        matches!(self, UpdateRule::RmsProp { .. } | UpdateRule::Adam(_))
    }
}

/// One parameter of an update. All slices have the same length, except that moments which the rule
/// does not have are empty.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// The weight, updated in place.
    pub weight: &'a mut [f32],
    /// The gradient, before clipping.
    pub gradient: &'a [f32],
    /// The clipping factor, see [`gradclip::Deferred`]: the gradient is multiplied by it in `f64`
    /// and rounded to `f32`.
    pub factor: f64,
    /// The first moment, updated in place.
    pub first: &'a mut [f32],
    /// The second moment, updated in place.
    pub second: &'a mut [f32],
    /// Weight decay; zero for none.
    pub weight_decay: f64,
}

/// Applies one update to all parameters, on all threads of the pool. The result is bitwise
/// identical for every number of threads.
///
/// # Panics
///
/// If the slices of a parameter have the wrong lengths.
pub fn update(rule: &UpdateRule, parameters: Vec<Parameter<'_>>) {
    update_on(Cpu::current(), rule, parameters);
}

fn update_on(cpu: Cpu, rule: &UpdateRule, parameters: Vec<Parameter<'_>>) {
    let sizes: Vec<usize> = parameters.iter().map(|p| p.weight.len()).collect();
    let elements: usize = sizes.iter().sum();
    let cpu = match elements <= MAX_FOR_ONE_THREAD {
        true => Cpu { threads: 1, ..cpu },
        false => cpu,
    };
    let mut pieces = Vec::with_capacity(sizes.len() + elements / PIECE);
    for (of, parameter) in parameters.into_iter().enumerate() {
        parameter.check(rule);
        parameter.split(of, &mut pieces);
    }
    let pieces: Vec<Mutex<Piece<'_>>> = pieces.into_iter().map(Mutex::new).collect();
    let piece = |index: usize| pieces[index].lock().unwrap_or_else(PoisonError::into_inner);
    let run = |part: &(dyn Fn(usize) -> Part + Sync)| {
        cpu.each(pieces.len(), |index| {
            let piece = &mut *piece(index);
            let part = part(piece.of);
            cpu.run(Pass { rule, piece, part });
        });
    };
    let bound = match rule {
        UpdateRule::Adam(adam) => adam.update_bound,
        _ => None,
    };
    let Some(bound) = bound else {
        return run(&|_| Part::Whole);
    };
    run(&|_| Part::Moments);
    let mut sums = vec![0.0; sizes.len()];
    for index in 0..pieces.len() {
        let piece = piece(index);
        sums[piece.of] += piece.sum;
    }
    let divisors = sums.iter().zip(&sizes);
    let divisors = divisors.map(|(sum, size)| Adam::divisor(*sum, *size, bound));
    let divisors: Vec<f32> = divisors.collect();
    run(&|of| Part::Weights(divisors[of]));
}

/// A part of a parameter.
struct Piece<'a> {
    parameter: Parameter<'a>,
    /// The position of the parameter among all.
    of: usize,
    /// The sum of [`Part::Moments`].
    sum: f64,
}

impl<'a> Parameter<'a> {
    fn check(&self, rule: &UpdateRule) {
        let len = self.weight.len();
        let moment = |has: bool| if has { len } else { 0 };
        assert_eq!(self.gradient.len(), len, "a gradient of another size");
        let (first, second) = (self.first.len(), self.second.len());
        assert_eq!(first, moment(rule.has_first_moment()), "a first moment");
        assert_eq!(second, moment(rule.has_second_moment()), "a second moment");
    }

    /// Splits parameter number `of` into pieces of at most [`PIECE`] elements.
    fn split(self, of: usize, pieces: &mut Vec<Piece<'a>>) {
        let mut first = self.first.chunks_mut(PIECE);
        let mut second = self.second.chunks_mut(PIECE);
        let gradients = self.gradient.chunks(PIECE);
        for (weight, gradient) in self.weight.chunks_mut(PIECE).zip(gradients) {
            let parameter = Parameter {
                weight,
                gradient,
                first: first.next().unwrap_or_default(),
                second: second.next().unwrap_or_default(),
                ..self
            };
            let sum = 0.0;
            pieces.push(Piece { parameter, of, sum });
        }
    }
}

/// One update of one piece, compiled for each instruction set.
struct Pass<'a, 'b> {
    rule: &'a UpdateRule,
    piece: &'a mut Piece<'b>,
    part: Part,
}

impl WithSimd for Pass<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Pass { rule, piece, part } = self;
        let Piece { parameter, sum, .. } = piece;
        let decoupled = matches!(rule, UpdateRule::Adam(adam) if adam.decoupled);
        let factor = parameter.factor;
        let scaled = |gradient: f32| (f64::from(gradient) * factor) as f32;
        *sum = match parameter.weight_decay {
            decay if decay != 0.0 && !decoupled => {
                let decay = decay as f32;
                pass(rule, part, parameter, |gradient, weight| {
                    scaled(gradient) + weight * decay
                })
            }
            _ => pass(rule, part, parameter, |gradient, _| scaled(gradient)),
        };
    }
}

/// `gradient` computes the gradient that the rule uses from the raw gradient and the weight.
/// Returns the sum of [`Part::Moments`], otherwise zero.
#[inline(always)]
fn pass(
    rule: &UpdateRule,
    part: Part,
    parameter: &mut Parameter<'_>,
    gradient: impl Fn(f32, f32) -> f32,
) -> f64 {
    let Parameter {
        weight,
        gradient: raw,
        first,
        second,
        ..
    } = &mut *parameter;
    let elements = weight.iter_mut().zip(*raw);
    match *rule {
        UpdateRule::Adam(adam) => return adam.pass(part, parameter, gradient),
        UpdateRule::Sgd { lr } => {
            let lr = lr as f32;
            for (w, &g) in elements {
                *w -= gradient(g, *w) * lr;
            }
        }
        UpdateRule::Momentum {
            lr,
            momentum,
            nesterov,
        } => {
            let (lr, momentum) = (lr as f32, momentum as f32);
            let elements = elements.zip(&mut **first);
            if nesterov {
                for ((w, &g), m) in elements {
                    let g = gradient(g, *w);
                    *m = *m * momentum + g;
                    *w -= (g + *m * momentum) * lr;
                }
            } else {
                for ((w, &g), m) in elements {
                    *m = *m * momentum + gradient(g, *w);
                    *w -= *m * lr;
                }
            }
        }
        UpdateRule::RmsProp { lr, alpha, epsilon } => {
            let (lr, epsilon) = (lr as f32, epsilon as f32);
            let (alpha, rest) = (alpha as f32, (1.0 - alpha) as f32);
            for ((w, &g), v) in elements.zip(&mut **second) {
                let g = gradient(g, *w);
                *v = *v * alpha + g * g * rest;
                *w -= g / (v.sqrt() + epsilon) * lr;
            }
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::{Adam, Parameter, UpdateRule, update_on};
    use crate::cpu::Cpu;
    use crate::testing::elements;

    const RULES: [UpdateRule; 9] = [
        UpdateRule::Sgd { lr: 0.1 },
        UpdateRule::Momentum {
            lr: 0.1,
            momentum: 0.9,
            nesterov: false,
        },
        UpdateRule::Momentum {
            lr: 0.1,
            momentum: 0.9,
            nesterov: true,
        },
        UpdateRule::RmsProp {
            lr: 0.01,
            alpha: 0.99,
            epsilon: 1e-8,
        },
        UpdateRule::Adam(ADAM),
        UpdateRule::Adam(Adam {
            beta2: 0.99,
            updates: 7,
            decoupled: true,
            ..ADAM
        }),
        UpdateRule::Adam(Adam {
            spike_bound: Some(1.5),
            lr_factor: 0.3,
            ..ADAM
        }),
        UpdateRule::Adam(Adam {
            decoupled: true,
            spike_bound: Some(2.0),
            update_bound: Some(0.5),
            updates: 3,
            ..ADAM
        }),
        UpdateRule::Adam(Adam {
            update_bound: Some(0.01),
            ..ADAM
        }),
    ];

    const ADAM: Adam = Adam {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        updates: 1,
        decoupled: false,
        lr_factor: 1.0,
        spike_bound: None,
        update_bound: None,
    };

    #[derive(Clone)]
    struct Owned {
        weight: Vec<f32>,
        gradient: Vec<f32>,
        first: Vec<f32>,
        second: Vec<f32>,
        factor: f64,
        weight_decay: f64,
    }

    /// Parameters of sizes around the edges of vectors and pieces.
    fn parameters(rule: &UpdateRule) -> Vec<Owned> {
        let sizes = [0, 1, 7, 8, 9, 31, 33, 1000, 32_767, 32_768, 32_769, 100_003];
        let owned = |(index, size): (usize, usize)| {
            let seed = index as u64;
            let moment = |has: bool| if has { size } else { 0 };
            let squares = elements(moment(rule.has_second_moment()), seed + 300);
            Owned {
                weight: elements(size, seed),
                gradient: elements(size, seed + 100),
                first: elements(moment(rule.has_first_moment()), seed + 200),
                second: squares.into_iter().map(|value| value * value).collect(),
                factor: [1.0, 0.123_456_789, 1e-30][index % 3],
                weight_decay: [0.0, 0.1][index % 2],
            }
        };
        sizes.into_iter().enumerate().map(owned).collect()
    }

    fn borrowed(owned: &mut [Owned]) -> Vec<Parameter<'_>> {
        fn borrow(owned: &mut Owned) -> Parameter<'_> {
            let Owned {
                weight,
                gradient,
                first,
                second,
                factor,
                weight_decay,
            } = owned;
            Parameter {
                weight,
                gradient,
                factor: *factor,
                first,
                second,
                weight_decay: *weight_decay,
            }
        }
        owned.iter_mut().map(borrow).collect()
    }

    /// One element by the formula, in f64: the new weight and the new moments.
    fn formula(rule: &UpdateRule, of: &Owned, index: usize, divisor: f64) -> [f64; 3] {
        let at = |values: &[f32]| values.get(index).map_or(0.0, |value| f64::from(*value));
        let (w, m, v) = (at(&of.weight), at(&of.first), at(&of.second));
        let decoupled = matches!(rule, UpdateRule::Adam(adam) if adam.decoupled);
        let decay = of.weight_decay;
        let added = if decoupled { 0.0 } else { decay * w };
        let g = at(&of.gradient) * of.factor + added;
        match *rule {
            UpdateRule::Sgd { lr } => [w - lr * g, m, v],
            UpdateRule::Momentum {
                lr,
                momentum,
                nesterov,
            } => {
                let m = momentum * m + g;
                let direction = if nesterov { g + momentum * m } else { m };
                [w - lr * direction, m, v]
            }
            UpdateRule::RmsProp { lr, alpha, epsilon } => {
                let v = alpha * v + (1.0 - alpha) * g * g;
                [w - lr * g / (v.sqrt() + epsilon), m, v]
            }
            UpdateRule::Adam(adam) => {
                let Adam { beta1, beta2, .. } = adam;
                let g = spikes_bounded(&adam, g, v);
                let m = beta1 * m + (1.0 - beta1) * g;
                let v = beta2 * v + (1.0 - beta2) * g * g;
                let m_hat = m / (1.0 - beta1.powi(adam.updates as i32));
                let v_hat = v / (1.0 - beta2.powi(adam.updates as i32));
                let decayed = if decoupled { adam.lr * decay } else { 0.0 };
                let change = adam.lr * adam.lr_factor * m_hat / (v_hat.sqrt() + adam.epsilon);
                [w * (1.0 - decayed) - change / divisor, m, v]
            }
        }
    }

    fn spikes_bounded(adam: &Adam, g: f64, v: f64) -> f64 {
        match adam.spike_bound {
            Some(bound) if v > 0.0 && g * g > bound * v => g.signum() * (bound * v).sqrt(),
            _ => g,
        }
    }

    /// The divisor of the update of a whole parameter, by the formula.
    fn divisor(rule: &UpdateRule, of: &Owned) -> f64 {
        let UpdateRule::Adam(adam) = rule else {
            return 1.0;
        };
        let Some(bound) = adam.update_bound else {
            return 1.0;
        };
        let bias = 1.0 - adam.beta2.powi(adam.updates as i32);
        let elements = of.weight.iter().zip(&of.gradient).zip(&of.second);
        let terms = elements.map(|((w, g), v)| {
            let decay = if adam.decoupled { 0.0 } else { of.weight_decay };
            let g = f64::from(*g) * of.factor + decay * f64::from(*w);
            let g = spikes_bounded(adam, g, f64::from(*v));
            let v = adam.beta2 * f64::from(*v) + (1.0 - adam.beta2) * g * g;
            g * g / (v / bias).max(f64::from(f32::MIN_POSITIVE))
        });
        let mean = terms.sum::<f64>() / of.weight.len().max(1) as f64;
        (mean.sqrt() / bound).max(1.0)
    }

    /// To 1e-6 relative to 1, which bounds the inputs.
    #[test]
    fn each_rule_matches_its_formula() {
        for rule in RULES {
            let before = parameters(&rule);
            let mut after = before.clone();
            update_on(Cpu::current(), &rule, borrowed(&mut after));
            for (before, after) in before.iter().zip(&after) {
                let divisor = divisor(&rule, before);
                for index in 0..before.weight.len() {
                    let [w, m, v] = formula(&rule, before, index, divisor);
                    let given = [&after.weight, &after.first, &after.second];
                    for (given, wanted) in given.into_iter().zip([w, m, v]) {
                        let Some(given) = given.get(index) else {
                            continue;
                        };
                        let error = (f64::from(*given) - wanted).abs();
                        assert!(
                            error <= 1e-6 * wanted.abs().max(1.0),
                            "{rule:?}: {given} {wanted}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn instructions_and_threads_change_no_bit() {
        let bits = |owned: &[Owned]| -> Vec<u32> {
            let values = owned.iter().flat_map(|o| [&o.weight, &o.first, &o.second]);
            values.flatten().map(|value| value.to_bits()).collect()
        };
        for rule in RULES {
            let results = Cpu::all().into_iter().map(|cpu| {
                let mut owned = parameters(&rule);
                update_on(cpu, &rule, borrowed(&mut owned));
                bits(&owned)
            });
            let results: Vec<_> = results.collect();
            assert_ne!(results[0], bits(&parameters(&rule)));
            for other in &results[1..] {
                assert_eq!(*other, results[0], "{rule:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a second moment")]
    fn a_missing_moment_is_refused() {
        let rule = RULES[3];
        let mut owned = parameters(&rule);
        owned[2].second.clear();
        update_on(Cpu::current(), &rule, borrowed(&mut owned));
    }
}
