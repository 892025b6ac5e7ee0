//! The rules that learn from earlier gradients: `autoclip`, `zclip`, `median` and `adagc`.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::running::{Window, mean_of, running_mean};
use super::{Decided, Lesson, Rule, shorten, shorten_alone};
use crate::change::Change;
use crate::math::sqrt;
use crate::measure::{Measure, norm_of_all};
use crate::percentile::NormHistory;
use crate::state::{Lists, StateError, is_norm, number_of};
use crate::threshold::{Decay, NormOrder, Percentile, Positive, Steps, Threshold};

/// `autoclip`
#[derive(Clone, Debug)]
pub(super) struct AutoClip {
    pub(super) percentile: Percentile,
    pub(super) history: NormHistory,
}

impl Rule for AutoClip {
    fn decide(&self, _step: u64, measures: &[Measure]) -> Decided {
        let norm = norm_of_all(measures, NormOrder::TWO);
        let percentile = self.percentile.get();
        let threshold = self.history.percentile_with(norm.value(), percentile);
        // A threshold of zero would zero every step.
        let threshold = Some(threshold).filter(|threshold| *threshold > 0.0);
        Decided::uniform(threshold, norm, measures.len()).learning(norm.value())
    }

    fn learn(&mut self, lesson: &Lesson) {
        if let Some(norm) = lesson.norm {
            self.history.insert(norm);
        }
    }

    fn state(&self) -> Vec<(String, Vec<f64>)> {
        vec![self.history.state()]
    }

    fn restore(&mut self, lists: &mut Lists<'_>) -> Result<(), StateError> {
        self.history.restore(lists)
    }
}

/// `median`
#[derive(Clone, Debug)]
pub(super) struct Median {
    pub(super) factor: Threshold,
    pub(super) norms: Window,
}

impl Rule for Median {
    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let median = self.norms.median().filter(|median| *median > 0.0);
        let threshold = median.map(|median| self.factor.at(step) * median);
        let norm = norm_of_all(measures, NormOrder::TWO);
        Decided::uniform(threshold, norm, measures.len()).learning(norm.value())
    }

    fn learn(&mut self, lesson: &Lesson) {
        if let Some(norm) = lesson.norm {
            self.norms.push(norm);
        }
    }

    fn state(&self) -> Vec<(String, Vec<f64>)> {
        vec![("norms".into(), self.norms.to_vec())]
    }

    fn restore(&mut self, lists: &mut Lists<'_>) -> Result<(), StateError> {
        self.norms.restore(lists, "norms", is_norm)
    }
}

/// `zclip`
#[derive(Clone, Debug)]
pub(super) struct ZClip {
    pub(super) z: Positive,
    pub(super) alpha: Decay,
    pub(super) warmup: Steps<1>,
    pub(super) max: Threshold,
    pub(super) score: ZScore,
}

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

impl ZClip {
    /// Added to the deviation in the score only, as in the published code.
    const EPSILON: f64 = 1e-6;

    /// The target norm of a spike, a norm with a score above `z`; `None` for an ordinary norm.
    fn target(&self, norm: f64) -> Option<f64> {
        let ZScore::Running { mean, variance } = self.score else {
            return None;
        };
        let z = self.z.get();
        let deviation = sqrt(variance);
        let score = (norm - mean) / (deviation + ZClip::EPSILON);
        if score <= z {
            return None;
        }
        let target = mean + z * deviation / (score / z);
        // With an underflowed mean the target would be zero, and stay zero forever.
        (target > 0.0).then_some(target)
    }
}

impl Rule for ZClip {
    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let norm = norm_of_all(measures, NormOrder::TWO);
        let target = self.target(norm.value());
        let threshold = target.unwrap_or(f64::INFINITY).min(self.max.at(step));
        let learned = target.unwrap_or(norm.value());
        Decided::uniform(Some(threshold), norm, measures.len()).learning(learned)
    }

    fn learn(&mut self, lesson: &Lesson) {
        let Some(norm) = lesson.norm else { return };
        let alpha = self.alpha.get();
        let (mean, variance) = match &mut self.score {
            ZScore::WarmingUp(norms) => {
                norms.push(norm);
                if norms.len() < self.warmup.get() as usize {
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
        self.score = ZScore::Running {
            mean,
            // Squares of norms near the largest `f64` overflow.
            variance: variance.min(f64::MAX),
        };
    }

    fn state(&self) -> Vec<(String, Vec<f64>)> {
        vec![match &self.score {
            ZScore::WarmingUp(norms) => ("norms".into(), norms.clone()),
            ZScore::Running { mean, variance } => (RUNNING.into(), vec![*mean, *variance]),
        }]
    }

    fn restore(&mut self, lists: &mut Lists<'_>) -> Result<(), StateError> {
        self.score = if lists.has(RUNNING) {
            match *lists.take(RUNNING)? {
                [mean, variance] if is_norm(&mean) && is_norm(&variance) => {
                    ZScore::Running { mean, variance }
                }
                _ => {
                    return Err(lists.wrong(RUNNING, "must hold two numbers that are not negative"));
                }
            }
        } else {
            let norms = lists.take("norms")?;
            if norms.len() >= self.warmup.get() as usize || !norms.iter().all(is_norm) {
                return Err(lists.wrong("norms", "must hold finite norms, fewer than the warm-up"));
            }
            ZScore::WarmingUp(norms.to_vec())
        };
        Ok(())
    }
}

/// `adagc`
#[derive(Clone, Debug)]
pub(super) struct AdaGc {
    pub(super) absolute: Threshold,
    pub(super) relative: Threshold,
    pub(super) beta: Decay,
    pub(super) warmup: u32,
    /// The number of steps it has learned from.
    pub(super) steps: u64,
    /// The running norm of each tensor.
    pub(super) norms: BTreeMap<String, f64>,
}

impl Rule for AdaGc {
    /// Clips tensors that have their own bound to it, and the others by the norm of all tensors.
    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let (absolute, relative) = (self.absolute.at(step), self.relative.at(step));
        let all = norm_of_all(measures, NormOrder::TWO);
        let has_bounds = self.steps + 1 >= u64::from(self.warmup);
        let mut decided = Decided::default();
        for measure in measures {
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
            let learned = (measure.name.clone(), norm.value());
            decided.lesson.tensors.push(learned);
            decided.changes.push(change);
            decided.tensor_thresholds.push(bound);
        }
        let warming_up = decided.tensor_thresholds.iter().all(Option::is_none);
        decided.threshold = warming_up.then_some(absolute);
        decided
    }

    fn learn(&mut self, lesson: &Lesson) {
        self.steps += 1;
        let warming_up = self.steps < u64::from(self.warmup);
        for (name, norm) in &lesson.tensors {
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
                Some(running) => *running = running_mean(*running, self.beta.get(), *norm),
            }
        }
    }

    fn state(&self) -> Vec<(String, Vec<f64>)> {
        let steps = ("steps".into(), vec![number_of(self.steps)]);
        let named = |(tensor, norm): (&String, &f64)| (String::from("norm.") + tensor, vec![*norm]);
        core::iter::once(steps)
            .chain(self.norms.iter().map(named))
            .collect()
    }

    fn restore(&mut self, lists: &mut Lists<'_>) -> Result<(), StateError> {
        self.steps = lists.count("steps")?;
        self.norms = lists.norms("norm.")?;
        Ok(())
    }
}
