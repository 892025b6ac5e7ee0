//! Optimizer updates in one pass over weight, gradient and moments, in place.
//!
//! Each element is read and written once: 28 bytes for Adam. The clipping factor is applied on the
//! fly, so that the gradients are never written. The operations and their order match the
//! composition in `shears-train`, in `f32` and without fused multiply-adds, so that both give the
//! same bits.

use std::sync::{Mutex, PoisonError};

use pulp::{Simd, WithSimd};

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
    /// Adam (Kingma and Ba 2015, algorithm 1), with both moments.
    Adam {
        /// The learning rate.
        lr: f64,
        /// The decay of the first moment.
        beta1: f64,
        /// The decay of the second moment.
        beta2: f64,
        /// Added to the denominator, to avoid division by zero.
        epsilon: f64,
        /// The number of this update, counted from 1, for the bias correction of the moments.
        updates: u64,
        /// AdamW (Loshchilov and Hutter 2019): weight decay multiplies the weight by `1 - lr *
        /// weight_decay`. Otherwise `weight_decay * w` is added to the gradient.
        decoupled: bool,
    },
}

impl UpdateRule {
    /// Whether the rule has a first moment.
    #[must_use]
    pub fn has_first_moment(&self) -> bool {
        matches!(self, UpdateRule::Momentum { .. } | UpdateRule::Adam { .. })
    }

    /// Whether the rule has a second moment.
    #[must_use]
    pub fn has_second_moment(&self) -> bool {
        matches!(self, UpdateRule::RmsProp { .. } | UpdateRule::Adam { .. })
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
    let elements: usize = parameters.iter().map(|p| p.weight.len()).sum();
    if cpu.threads == 1 || elements <= MAX_FOR_ONE_THREAD {
        for parameter in parameters {
            parameter.check(rule);
            cpu.run(Pass { rule, parameter });
        }
        return;
    }
    let mut pieces = Vec::with_capacity(parameters.len() + elements / PIECE);
    for parameter in parameters {
        parameter.check(rule);
        parameter.split(&mut pieces);
    }
    let pieces: Vec<_> = pieces.into_iter().map(|p| Mutex::new(Some(p))).collect();
    cpu.each(pieces.len(), |index| {
        let piece = &pieces[index];
        let piece = piece.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(parameter) = piece {
            cpu.run(Pass { rule, parameter });
        }
    });
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

    /// Splits the parameter into pieces of at most [`PIECE`] elements.
    fn split(self, pieces: &mut Vec<Parameter<'a>>) {
        let mut first = self.first.chunks_mut(PIECE);
        let mut second = self.second.chunks_mut(PIECE);
        let gradients = self.gradient.chunks(PIECE);
        for (weight, gradient) in self.weight.chunks_mut(PIECE).zip(gradients) {
            pieces.push(Parameter {
                weight,
                gradient,
                first: first.next().unwrap_or_default(),
                second: second.next().unwrap_or_default(),
                ..self
            });
        }
    }
}

/// One update of one piece, compiled for each instruction set.
struct Pass<'a> {
    rule: &'a UpdateRule,
    parameter: Parameter<'a>,
}

impl WithSimd for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Pass { rule, parameter } = self;
        let decoupled = matches!(rule, UpdateRule::Adam { decoupled, .. } if *decoupled);
        let factor = parameter.factor;
        let scaled = |gradient: f32| (f64::from(gradient) * factor) as f32;
        match parameter.weight_decay {
            decay if decay != 0.0 && !decoupled => {
                let decay = decay as f32;
                pass(rule, parameter, |gradient, weight| {
                    scaled(gradient) + weight * decay
                });
            }
            _ => pass(rule, parameter, |gradient, _| scaled(gradient)),
        }
    }
}

/// `gradient` computes the gradient that the rule uses from the raw gradient and the weight.
#[inline(always)]
fn pass(rule: &UpdateRule, parameter: Parameter<'_>, gradient: impl Fn(f32, f32) -> f32) {
    let Parameter {
        weight,
        gradient: raw,
        first,
        second,
        weight_decay,
        ..
    } = parameter;
    match *rule {
        UpdateRule::Sgd { lr } => {
            let lr = lr as f32;
            for (w, &g) in weight.iter_mut().zip(raw) {
                *w -= gradient(g, *w) * lr;
            }
        }
        UpdateRule::Momentum {
            lr,
            momentum,
            nesterov,
        } => {
            let (lr, momentum) = (lr as f32, momentum as f32);
            let elements = weight.iter_mut().zip(raw).zip(first);
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
            for ((w, &g), v) in weight.iter_mut().zip(raw).zip(second) {
                let g = gradient(g, *w);
                *v = *v * alpha + g * g * rest;
                *w -= g / (v.sqrt() + epsilon) * lr;
            }
        }
        UpdateRule::Adam {
            lr,
            beta1,
            beta2,
            epsilon,
            updates,
            decoupled,
        } => {
            let bias1 = 1.0 - beta1.powf(updates as f64);
            let bias2 = 1.0 - beta2.powf(updates as f64);
            let (step, root, epsilon) = ((lr / bias1) as f32, bias2.sqrt() as f32, epsilon as f32);
            let (beta1, rest1) = (beta1 as f32, (1.0 - beta1) as f32);
            let (beta2, rest2) = (beta2 as f32, (1.0 - beta2) as f32);
            let shrink = match decoupled {
                true => (1.0 - lr * weight_decay) as f32,
                false => 1.0,
            };
            let elements = weight.iter_mut().zip(raw).zip(first).zip(second);
            for (((w, &g), m), v) in elements {
                let g = gradient(g, *w);
                *v = *v * beta2 + g * g * rest2;
                *m = *m * beta1 + g * rest1;
                *w = *w * shrink - *m / (v.sqrt() / root + epsilon) * step;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Parameter, UpdateRule, update_on};
    use crate::cpu::Cpu;
    use crate::testing::elements;

    const RULES: [UpdateRule; 6] = [
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
        UpdateRule::Adam {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            updates: 1,
            decoupled: false,
        },
        UpdateRule::Adam {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            updates: 7,
            decoupled: true,
        },
    ];

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
    fn formula(rule: &UpdateRule, of: &Owned, index: usize) -> [f64; 3] {
        let at = |values: &[f32]| values.get(index).map_or(0.0, |value| f64::from(*value));
        let (w, m, v) = (at(&of.weight), at(&of.first), at(&of.second));
        let decoupled = matches!(rule, UpdateRule::Adam { decoupled, .. } if *decoupled);
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
            UpdateRule::Adam {
                lr,
                beta1,
                beta2,
                epsilon,
                updates,
                ..
            } => {
                let m = beta1 * m + (1.0 - beta1) * g;
                let v = beta2 * v + (1.0 - beta2) * g * g;
                let m_hat = m / (1.0 - beta1.powi(updates as i32));
                let v_hat = v / (1.0 - beta2.powi(updates as i32));
                let shrunk = if decoupled { w * (1.0 - lr * decay) } else { w };
                [shrunk - lr * m_hat / (v_hat.sqrt() + epsilon), m, v]
            }
        }
    }

    /// To 1e-6 relative to 1, which bounds the inputs.
    #[test]
    fn each_rule_matches_its_formula() {
        for rule in RULES {
            let before = parameters(&rule);
            let mut after = before.clone();
            update_on(Cpu::current(), &rule, borrowed(&mut after));
            for (before, after) in before.iter().zip(&after) {
                for index in 0..before.weight.len() {
                    let [w, m, v] = formula(&rule, before, index);
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
