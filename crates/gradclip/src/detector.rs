//! Detectors: what the rules that learn from past steps remember.
//!
//! A step that is left out or damaged teaches them nothing, and neither does one whose gradients are all zero: it
//! says nothing of how large ordinary ones are. No number that is not finite reaches them.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZeroU32;

use crate::math::sqrt;
use crate::percentile::NormHistory;
use crate::policy::ClipRule;

/// What a rule remembers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Detector {
    AutoClip(NormHistory),
    ZClip(ZScore),
    AdaGc(RunningNorms),
    Median(Window),
    Skip(Outliers),
}

/// What a step that was applied teaches a detector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lesson {
    None,
    /// The norm of all tensors, or what the rule counts it as.
    Norm(f64),
    /// The norm of each tensor after clipping.
    Tensors(Vec<(String, f64)>),
    /// The norm and the loss, and whether the step was taken only because too many were left out.
    Step {
        norm: f64,
        loss: Option<f64>,
        start_over: bool,
    },
}

impl Lesson {
    /// Whether it says how large gradients are.
    fn says_something(&self) -> bool {
        match self {
            Lesson::Norm(norm) | Lesson::Step { norm, .. } => *norm > 0.0,
            Lesson::None | Lesson::Tensors(_) => true,
        }
    }
}

impl Detector {
    /// The memory of a rule before its first step, if it has one.
    pub(crate) fn of(rule: &ClipRule) -> Option<Detector> {
        match rule {
            ClipRule::AutoClip { .. } => Some(Detector::AutoClip(NormHistory::EMPTY)),
            ClipRule::ZClip { .. } => Some(Detector::ZClip(ZScore::WarmingUp(Vec::new()))),
            ClipRule::AdaGc { .. } => Some(Detector::AdaGc(RunningNorms::default())),
            ClipRule::Median { .. } => Some(Detector::Median(Window::default())),
            ClipRule::Skip { .. } => Some(Detector::Skip(Outliers::default())),
            _ => None,
        }
    }

    /// Learns from a step that was applied.
    pub(crate) fn learn(&mut self, rule: &ClipRule, lesson: Lesson) {
        if !lesson.says_something() {
            return;
        }
        match (self, rule, lesson) {
            (Detector::AutoClip(history), _, Lesson::Norm(norm)) => history.insert(norm),
            (Detector::ZClip(score), ClipRule::ZClip { alpha, warmup, .. }, Lesson::Norm(norm)) => {
                score.learn(norm, alpha.get(), *warmup);
            }
            (
                Detector::AdaGc(norms),
                ClipRule::AdaGc { beta, warmup, .. },
                Lesson::Tensors(tensors),
            ) => norms.learn(tensors, beta.get(), *warmup),
            (Detector::Median(past), ClipRule::Median { window, .. }, Lesson::Norm(norm)) => {
                past.push(norm, *window);
            }
            (
                Detector::Skip(outliers),
                ClipRule::Skip { window, .. },
                Lesson::Step {
                    norm,
                    loss,
                    start_over,
                },
            ) => outliers.learn(norm, loss, start_over, *window),
            _ => {}
        }
    }
}

/// The running mean and variance of ZClip.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ZScore {
    /// The norms of the first steps.
    WarmingUp(Vec<f64>),
    Running {
        mean: f64,
        variance: f64,
    },
}

impl ZScore {
    /// The published code adds it to the deviation in the score, and only there.
    const EPSILON: f64 = 1e-6;

    /// The norm that a spike is clipped to, `None` for a norm that is none.
    pub(crate) fn target(&self, norm: f64, limit: f64) -> Option<f64> {
        let ZScore::Running { mean, variance } = *self else {
            return None;
        };
        let deviation = sqrt(variance);
        let score = (norm - mean) / (deviation + ZScore::EPSILON);
        if score <= limit {
            return None;
        }
        let target = mean + limit * deviation / (score / limit);
        // After a warm-up of zeros the published target is zero, and would stay there for ever.
        (target > 0.0).then_some(target)
    }

    fn learn(&mut self, norm: f64, alpha: f64, warmup: NonZeroU32) {
        match self {
            ZScore::WarmingUp(norms) => {
                norms.push(norm);
                if norms.len() >= warmup.get() as usize {
                    let count = norms.len() as f64;
                    let mean = mean_of(norms.iter(), count);
                    let squares = norms.iter().map(|norm| (norm - mean) * (norm - mean));
                    let variance = squares.fold(0.0, |sum, square| sum + square / count);
                    *self = ZScore::running(mean, variance);
                }
            }
            ZScore::Running { mean, variance } => {
                let mean = running_mean(*mean, alpha, norm);
                let square = (norm - mean) * (norm - mean);
                *self = ZScore::running(mean, running_mean(*variance, alpha, square));
            }
        }
    }

    /// Squares of norms near the end of the range would overflow.
    fn running(mean: f64, variance: f64) -> ZScore {
        ZScore::Running {
            mean,
            variance: variance.min(f64::MAX),
        }
    }
}

/// The running norm of each tensor for AdaGC.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunningNorms {
    /// Steps that were applied.
    pub(crate) steps: u64,
    pub(crate) norms: BTreeMap<String, f64>,
}

impl RunningNorms {
    /// The running norm of a tensor, `None` as long as the bound of warm-up holds for it.
    pub(crate) fn of(&self, tensor: &str, warmup: u32) -> Option<f64> {
        if self.steps + 1 < u64::from(warmup) {
            return None;
        }
        self.norms.get(tensor).copied()
    }

    fn learn(&mut self, tensors: Vec<(String, f64)>, beta: f64, warmup: u32) {
        self.steps += 1;
        let warming_up = self.steps < u64::from(warmup);
        for (name, norm) in tensors {
            // A norm of zero says nothing about the scale of a tensor, and as a running minimum it
            // would silence the tensor for ever.
            if norm == 0.0 {
                continue;
            }
            match self.norms.get_mut(&name) {
                None => {
                    self.norms.insert(name, norm);
                }
                Some(running) if warming_up => *running = running.min(norm),
                Some(running) => *running = running_mean(*running, beta, norm),
            }
        }
    }
}

/// The last numbers of a series.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Window {
    pub(crate) numbers: VecDeque<f64>,
}

impl Window {
    /// The median of fewer numbers than this is no estimate of anything.
    const FEWEST_FOR_MEDIAN: usize = 10;

    /// The median, once there are enough numbers.
    pub(crate) fn median(&self, window: NonZeroU32) -> Option<f64> {
        let count = self.numbers.len();
        if count < Window::FEWEST_FOR_MEDIAN.min(window.get() as usize) {
            return None;
        }
        let mut sorted: Vec<f64> = self.numbers.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = count / 2;
        match count % 2 {
            1 => Some(sorted[middle]),
            // Halving first keeps norms near the end of the range in it.
            _ => Some(sorted[middle - 1] / 2.0 + sorted[middle] / 2.0),
        }
    }

    /// The number above which a new one is an outlier, once the window is half full.
    pub(crate) fn limit(&self, sigma: f64, window: NonZeroU32) -> Option<f64> {
        /// Numbers that hardly vary would make an outlier of every rounding error.
        const LEAST_RELATIVE_DEVIATION: f64 = 1e-6;
        let count = self.numbers.len();
        if count < (window.get() as usize / 2).max(2) {
            return None;
        }
        let mean = mean_of(self.numbers.iter(), count as f64);
        let squares = self
            .numbers
            .iter()
            .map(|number| (number - mean) * (number - mean));
        let variance = squares.fold(0.0, |sum, square| sum + square / (count - 1) as f64);
        let deviation = sqrt(variance).max(LEAST_RELATIVE_DEVIATION * mean.abs());
        if sigma == f64::INFINITY {
            // Infinity times a deviation of zero would be no number.
            return Some(f64::INFINITY);
        }
        Some(mean + sigma * deviation)
    }

    pub(crate) fn push(&mut self, number: f64, window: NonZeroU32) {
        while self.numbers.len() >= window.get() as usize {
            self.numbers.pop_front();
        }
        self.numbers.push_back(number);
    }
}

/// The memory of the rule that leaves out steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outliers {
    pub(crate) norms: Window,
    pub(crate) losses: Window,
    /// Steps left out in a row until now: the one thing that such a step changes.
    pub(crate) skipped: u32,
}

impl Outliers {
    fn learn(&mut self, norm: f64, loss: Option<f64>, start_over: bool, window: NonZeroU32) {
        if start_over {
            // So many outliers in a row are a new level, which the old numbers do not describe.
            *self = Outliers::default();
        }
        self.skipped = 0;
        self.norms.push(norm, window);
        if let Some(loss) = loss {
            self.losses.push(loss, window);
        }
    }
}

/// Dividing first keeps the sum of large norms finite.
fn mean_of<'a>(numbers: impl Iterator<Item = &'a f64>, count: f64) -> f64 {
    let mean = numbers.fold(0.0, |sum, number| sum + number / count);
    mean.clamp(f64::MIN, f64::MAX)
}

/// Rounding can lead a mean of the largest numbers out of the range.
fn running_mean(running: f64, decay: f64, new: f64) -> f64 {
    (decay * running + (1.0 - decay) * new).min(f64::MAX)
}
