//! The state of `zclip` and `adagc`.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::running::{mean_of, running_mean};
use super::{Decided, Lesson, shorten, shorten_alone};
use crate::change::Change;
use crate::math::sqrt;
use crate::measure::{Measure, norm_of_all};
use crate::state::{Lists, StateError, is_norm, number_of};
use crate::threshold::NormOrder;

/// The running mean and variance of `zclip`.
#[derive(Clone, Debug)]
pub(super) enum ZScore {
    /// The norms of the first steps.
    WarmingUp(Vec<f64>),
    Running {
        mean: f64,
        variance: f64,
    },
}

const RUNNING: &str = "mean-and-variance";

impl ZScore {
    /// Added to the deviation in the score only, as in the published code.
    const EPSILON: f64 = 1e-6;

    /// The target norm of a spike, a norm with a score above `z`; `None` for an ordinary norm.
    pub(super) fn target(&self, norm: f64, z: f64) -> Option<f64> {
        let ZScore::Running { mean, variance } = self else {
            return None;
        };
        let deviation = sqrt(*variance);
        let score = (norm - mean) / (deviation + ZScore::EPSILON);
        if score <= z {
            return None;
        }
        let target = mean + z * deviation / (score / z);
        // With an underflowed mean the target would be zero, and stay zero forever.
        (target > 0.0).then_some(target)
    }

    pub(super) fn learn(&mut self, norm: f64, alpha: f64, warmup: u32) {
        let (mean, variance) = match self {
            ZScore::WarmingUp(norms) => {
                norms.push(norm);
                if norms.len() < warmup as usize {
                    return;
                }
                let count = norms.len() as f64;
                let mean = mean_of(norms.iter(), count);
                let squares = norms.iter().map(|norm| (norm - mean) * (norm - mean));
                (mean, squares.fold(0.0, |sum, square| sum + square / count))
            }
            ZScore::Running { mean, variance } => {
                let mean = running_mean(*mean, alpha, norm);
                let square = (norm - mean) * (norm - mean);
                (mean, running_mean(*variance, alpha, square))
            }
        };
        *self = ZScore::Running {
            mean,
            // Squares of norms near the largest `f64` overflow.
            variance: variance.min(f64::MAX),
        };
    }

    pub(super) fn state(&self) -> (String, Vec<f64>) {
        match self {
            ZScore::WarmingUp(norms) => ("norms".into(), norms.clone()),
            ZScore::Running { mean, variance } => (RUNNING.into(), vec![*mean, *variance]),
        }
    }

    pub(super) fn restore(&mut self, lists: &mut Lists<'_>, warmup: u32) -> Result<(), StateError> {
        *self = if lists.has(RUNNING) {
            match lists.take(RUNNING)? {
                [mean, variance] if is_norm(mean) && is_norm(variance) => ZScore::Running {
                    mean: *mean,
                    variance: *variance,
                },
                _ => {
                    return Err(lists.wrong(RUNNING, "must hold two numbers that are not negative"));
                }
            }
        } else {
            let norms = lists.take("norms")?;
            if norms.len() >= warmup as usize || !norms.iter().all(is_norm) {
                return Err(lists.wrong("norms", "must hold finite norms, fewer than the warm-up"));
            }
            ZScore::WarmingUp(norms.to_vec())
        };
        Ok(())
    }
}

/// The state of `adagc`.
#[derive(Clone, Debug, Default)]
pub(super) struct AdaGc {
    /// The number of steps it has learned from.
    steps: u64,
    /// The running norm of each tensor.
    norms: BTreeMap<String, f64>,
}

impl AdaGc {
    /// Clips tensors that have their own bound to it, and the others by the norm of all tensors.
    pub(super) fn decide(
        &self,
        absolute: f64,
        relative: f64,
        warmup: u32,
        measures: &[Measure],
    ) -> Decided {
        let all = norm_of_all(measures, NormOrder::TWO);
        let has_bounds = self.steps + 1 >= u64::from(warmup);
        let mut decided = Decided::keep(measures.len());
        let mut learned = Vec::with_capacity(measures.len());
        for (index, measure) in measures.iter().enumerate() {
            let running = self.norms.get(&measure.name).filter(|_| has_bounds);
            let bound = running.map(|running| relative * running);
            let change = match bound {
                Some(bound) => shorten_alone(measure, bound),
                None => shorten(all, absolute),
            };
            let norm = match change {
                Change::Scale { by, .. } => by.scale(measure.norm),
                _ => measure.norm,
            };
            learned.push((measure.name.clone(), norm.value()));
            decided.changes[index] = change;
            decided.tensor_thresholds[index] = bound;
        }
        let warming_up = decided.tensor_thresholds.iter().all(Option::is_none);
        Decided {
            threshold: warming_up.then_some(absolute),
            lesson: Lesson::Tensors(learned),
            ..decided
        }
    }

    pub(super) fn learn(&mut self, norms: &[(String, f64)], beta: f64, warmup: u32) {
        self.steps += 1;
        let warming_up = self.steps < u64::from(warmup);
        for (name, norm) in norms {
            // A zero norm says nothing about the scale of a tensor, and as a running minimum it
            // would zero the tensor's gradient forever.
            if *norm == 0.0 {
                continue;
            }
            match self.norms.get_mut(name) {
                None => {
                    self.norms.insert(name.clone(), *norm);
                }
                Some(running) if warming_up => *running = running.min(*norm),
                Some(running) => *running = running_mean(*running, beta, *norm),
            }
        }
    }

    pub(super) fn state(&self) -> Vec<(String, Vec<f64>)> {
        let steps = ("steps".into(), vec![number_of(self.steps)]);
        let named = |(tensor, norm): (&String, &f64)| (String::from("norm.") + tensor, vec![*norm]);
        core::iter::once(steps)
            .chain(self.norms.iter().map(named))
            .collect()
    }

    pub(super) fn restore(&mut self, lists: &mut Lists<'_>) -> Result<(), StateError> {
        self.steps = lists.count("steps")?;
        self.norms = lists.norms("norm.")?;
        Ok(())
    }
}
