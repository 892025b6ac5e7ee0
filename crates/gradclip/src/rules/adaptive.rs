//! The rules whose threshold follows from the steps before.
//!
//! A step that is left out or damaged teaches them nothing, and neither does one whose gradients
//! are all zero. No number that is not finite reaches them.

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

/// `autoclip`.
#[derive(Clone, Debug)]
pub(super) struct AutoClip {
    percentile: Percentile,
    history: NormHistory,
}

impl AutoClip {
    pub(super) fn new(percentile: Percentile) -> AutoClip {
        AutoClip {
            percentile,
            history: NormHistory::EMPTY,
        }
    }
}

impl Rule for AutoClip {
    fn decide(&self, _: u64, measures: &[Measure]) -> Decided {
        let norm = norm_of_all(measures, NormOrder::TWO);
        let threshold = self
            .history
            .percentile_with(norm.value(), self.percentile.get());
        // A threshold of zero would silence every step until the zeros are outnumbered.
        let threshold = Some(threshold).filter(|threshold| *threshold > 0.0);
        Decided::together(threshold, norm, measures.len()).teaching(norm.value())
    }

    fn learn(&mut self, lesson: &Lesson) {
        if lesson.norm > 0.0 {
            self.history.insert(lesson.norm);
        }
    }

    fn state(&self) -> Vec<(String, Vec<f64>)> {
        let (name, numbers) = self.history.numbers();
        vec![(name.into(), numbers)]
    }

    fn restore(&mut self, lists: &mut Lists<'_, '_>) -> Result<(), StateError> {
        let (name, history) = match lists.has("buckets") {
            true => ("buckets", NormHistory::from_buckets(lists.take("buckets")?)),
            false => ("norms", NormHistory::from_norms(lists.take("norms")?)),
        };
        self.history = history.map_err(|problem| lists.wrong(name, problem))?;
        Ok(())
    }
}

/// `zclip`.
#[derive(Clone, Debug)]
pub(super) struct ZClip {
    z: Positive,
    alpha: Decay,
    warmup: Steps<1>,
    max: Threshold,
    score: ZScore,
}

/// The running mean and variance of ZClip.
#[derive(Clone, Debug)]
enum ZScore {
    /// The norms of the first steps.
    WarmingUp(Vec<f64>),
    Running {
        mean: f64,
        variance: f64,
    },
}

impl ZClip {
    /// The published code adds it to the deviation in the score, and only there.
    const EPSILON: f64 = 1e-6;

    pub(super) fn new(z: Positive, alpha: Decay, warmup: Steps<1>, max: Threshold) -> ZClip {
        ZClip {
            z,
            alpha,
            warmup,
            max,
            score: ZScore::WarmingUp(Vec::new()),
        }
    }

    /// The norm that a spike is clipped to, `None` for an ordinary norm.
    fn target(&self, norm: f64) -> Option<f64> {
        let ZScore::Running { mean, variance } = self.score else {
            return None;
        };
        let limit = self.z.get();
        let deviation = sqrt(variance);
        let score = (norm - mean) / (deviation + ZClip::EPSILON);
        if score <= limit {
            return None;
        }
        let target = mean + limit * deviation / (score / limit);
        // A mean that underflowed has a target of zero, which would stay there for ever.
        (target > 0.0).then_some(target)
    }
}

impl ZScore {
    /// Squares of norms near the end of the range would overflow.
    fn running(mean: f64, variance: f64) -> ZScore {
        ZScore::Running {
            mean,
            variance: variance.min(f64::MAX),
        }
    }
}

impl Rule for ZClip {
    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let norm = norm_of_all(measures, NormOrder::TWO);
        let target = self.target(norm.value());
        let threshold = target.unwrap_or(f64::INFINITY).min(self.max.at(step));
        let learned = target.unwrap_or(norm.value());
        Decided::together(Some(threshold), norm, measures.len()).teaching(learned)
    }

    fn learn(&mut self, lesson: &Lesson) {
        let norm = lesson.norm;
        if norm <= 0.0 {
            return;
        }
        match &mut self.score {
            ZScore::WarmingUp(norms) => {
                norms.push(norm);
                if norms.len() >= self.warmup.get() as usize {
                    let count = norms.len() as f64;
                    let mean = mean_of(norms.iter(), count);
                    let squares = norms.iter().map(|norm| (norm - mean) * (norm - mean));
                    let variance = squares.fold(0.0, |sum, square| sum + square / count);
                    self.score = ZScore::running(mean, variance);
                }
            }
            ZScore::Running { mean, variance } => {
                let mean = running_mean(*mean, self.alpha.get(), norm);
                let square = (norm - mean) * (norm - mean);
                let variance = running_mean(*variance, self.alpha.get(), square);
                self.score = ZScore::running(mean, variance);
            }
        }
    }

    fn state(&self) -> Vec<(String, Vec<f64>)> {
        match &self.score {
            ZScore::WarmingUp(norms) => vec![("norms".into(), norms.clone())],
            ZScore::Running { mean, variance } => {
                vec![("mean-and-variance".into(), vec![*mean, *variance])]
            }
        }
    }

    fn restore(&mut self, lists: &mut Lists<'_, '_>) -> Result<(), StateError> {
        const RUNNING: &str = "mean-and-variance";
        self.score = if lists.has(RUNNING) {
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
            if norms.len() >= self.warmup.get() as usize || !norms.iter().all(is_norm) {
                return Err(lists.wrong("norms", "must hold finite norms, fewer than the warm-up"));
            }
            ZScore::WarmingUp(norms.to_vec())
        };
        Ok(())
    }
}

/// `median`.
#[derive(Clone, Debug)]
pub(super) struct Median {
    factor: Threshold,
    past: Window,
}

impl Median {
    pub(super) fn new(factor: Threshold, window: Steps<1>) -> Median {
        Median {
            factor,
            past: Window::new(window.get()),
        }
    }
}

impl Rule for Median {
    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let norm = norm_of_all(measures, NormOrder::TWO);
        let median = self.past.median().filter(|median| *median > 0.0);
        let threshold = median.map(|median| self.factor.at(step) * median);
        Decided::together(threshold, norm, measures.len()).teaching(norm.value())
    }

    fn learn(&mut self, lesson: &Lesson) {
        if lesson.norm > 0.0 {
            self.past.push(lesson.norm);
        }
    }

    fn state(&self) -> Vec<(String, Vec<f64>)> {
        vec![("norms".into(), self.past.numbers())]
    }

    fn restore(&mut self, lists: &mut Lists<'_, '_>) -> Result<(), StateError> {
        self.past
            .set_numbers(lists.window("norms", self.past.length, is_norm)?);
        Ok(())
    }
}

/// `adagc`.
#[derive(Clone, Debug)]
pub(super) struct AdaGc {
    absolute: Threshold,
    relative: Threshold,
    beta: Decay,
    warmup: u32,
    /// Steps that were applied.
    steps: u64,
    /// The running norm of each tensor.
    norms: BTreeMap<String, f64>,
}

impl AdaGc {
    pub(super) fn new(absolute: Threshold, relative: Threshold, beta: Decay, warmup: u32) -> AdaGc {
        AdaGc {
            absolute,
            relative,
            beta,
            warmup,
            steps: 0,
            norms: BTreeMap::new(),
        }
    }

    /// The running norm of a tensor, `None` as long as the bound of warm-up holds for it.
    fn running(&self, tensor: &str) -> Option<f64> {
        if self.steps + 1 < u64::from(self.warmup) {
            return None;
        }
        self.norms.get(tensor).copied()
    }
}

impl Rule for AdaGc {
    fn can_turn(&self) -> bool {
        true
    }

    /// Tensors with a bound of their own by that, and the others by the norm of all.
    fn decide(&self, step: u64, measures: &[Measure]) -> Decided {
        let (absolute, relative) = (self.absolute.at(step), self.relative.at(step));
        let bound = |measure: &Measure| Some(relative * self.running(&measure.name)?);
        let bounds: Vec<Option<f64>> = measures.iter().map(bound).collect();
        let all = norm_of_all(measures, NormOrder::TWO);
        let change = |(measure, bound): (&Measure, &Option<f64>)| match bound {
            Some(bound) => shorten_alone(measure, *bound),
            None => shorten(all, absolute),
        };
        let changes: Vec<Change> = measures.iter().zip(&bounds).map(change).collect();
        let learned = measures.iter().zip(&changes).map(|(measure, change)| {
            let norm = match change {
                Change::Scale { by, .. } => by.scale(measure.norm),
                _ => measure.norm,
            };
            (measure.name.clone(), norm.value())
        });
        let lesson = Lesson {
            norm: all.value(),
            tensors: learned.collect(),
        };
        let warming_up = bounds.iter().all(Option::is_none);
        Decided {
            changes,
            threshold: Some(absolute).filter(|_| warming_up),
            tensor_thresholds: bounds,
            lesson,
            ..Decided::keep(measures.len())
        }
    }

    fn learn(&mut self, lesson: &Lesson) {
        self.steps += 1;
        let warming_up = self.steps < u64::from(self.warmup);
        for (name, norm) in &lesson.tensors {
            // A norm of zero says nothing about the scale of a tensor, and as a running minimum it
            // would silence the tensor for ever.
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

    fn restore(&mut self, lists: &mut Lists<'_, '_>) -> Result<(), StateError> {
        self.steps = lists.count("steps")?;
        self.norms = lists.norms("norm.")?;
        Ok(())
    }
}
