//! What the screen knows of a run: the columns of its log, fed with events.

use std::collections::BTreeMap;
use std::path::Path;

use gradclip::ClipAction;
use gradclip_judge::Verdict;
use gradclip_judge::statistics::{LATELY, mean, share};
use shears_run::{Columns, Event, Header, Sample, Subject};
use shears_train::Plan;

use crate::comparison::smoothed;
use crate::output::one_line;
use crate::report;

/// The weight of the newest step in the smoothed speed.
const SMOOTHING: f64 = 0.1;

/// The most points of a curve; a terminal shows fewer.
const MOST_POINTS: usize = 1024;

/// What does not change during a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// The folder of the run.
    pub(crate) run: String,
    /// The name of its model.
    pub(crate) title: String,
    pub(crate) steps: u64,
    pub(crate) subject: Subject,
}

impl Setup {
    pub(crate) fn new(plan: &Plan, run: &Path) -> Setup {
        Setup {
            run: one_line(&run.display().to_string()),
            title: report::model_name(plan),
            steps: plan.steps,
            subject: Subject::of(run),
        }
    }
}

/// Everything that is drawn.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) setup: Setup,
    /// Without the norms of single tensors, which would be most of a long run's columns.
    pub(super) columns: Columns,
    header: Option<Header>,
    /// The norm of each tensor's gradient at the newest step.
    newest_norms: BTreeMap<String, f64>,
    /// The step at which this call began.
    pub(super) began_at: u64,
    pub(super) speed: Option<f64>,
    pub(super) verdict: Option<Verdict>,
    /// The number of steps that the verdict covers.
    judged: usize,
}

impl State {
    pub(super) fn new(setup: Setup, header: Header) -> State {
        State {
            setup,
            header: Some(header),
            ..State::default()
        }
    }

    /// Marks everything up to now as history of an earlier call.
    pub(super) fn start(&mut self) {
        self.began_at = self.step();
        self.speed = None;
    }

    /// Takes an event.
    pub(super) fn take(&mut self, mut event: Event) {
        match &mut event {
            Event::Step(step) => {
                let speed = step.tokens_per_second;
                let smooth = |mean: f64| mean + SMOOTHING * (speed - mean);
                self.speed = Some(self.speed.map_or(speed, smooth));
                self.newest_norms = std::mem::take(&mut step.clip.tensors);
                step.update_ratios.clear();
            }
            Event::Sample(Sample { text, .. }) => {
                // Generated text may contain control characters.
                *text = text.lines().map(one_line).collect::<Vec<_>>().join("\n");
            }
            Event::Header(header) => {
                self.header = Some(header.clone());
                return;
            }
            _ => {}
        }
        self.columns.take(event);
    }

    pub(super) fn step(&self) -> u64 {
        self.columns.step.last().copied().unwrap_or(0)
    }

    pub(super) fn newest_loss(&self) -> Option<f64> {
        self.columns.loss.last().copied().map(f64::from)
    }

    pub(super) fn newest_norm(&self) -> Option<f64> {
        self.columns.norm_before.last().copied()
    }

    pub(super) fn newest_threshold(&self) -> Option<f64> {
        let newest = self.columns.threshold.last().copied();
        newest.filter(|threshold| threshold.is_finite())
    }

    /// The norm of each layer at the newest step; NaN where it is not finite, and zero before the
    /// first step.
    pub(super) fn layers(&self) -> Vec<(String, f64)> {
        let Some(header) = &self.header else {
            return Vec::new();
        };
        let layers = header.layers().into_iter().map(|(layer, parameters)| {
            let norms = parameters.iter().map(|parameter| &parameter.name);
            let squares = norms.filter_map(|name| Some(self.newest_norms.get(name)?.powi(2)));
            let squares = squares.filter(|square| !square.is_nan());
            let sum = squares.reduce(|sum, square| sum + square);
            let before_first = if self.columns.rows() == 0 {
                0.0
            } else {
                f64::NAN
            };
            (layer.to_string(), sum.map_or(before_first, f64::sqrt))
        });
        layers.collect()
    }

    /// A column as a curve of at most [`MOST_POINTS`] means of consecutive values, without those
    /// that are not finite.
    pub(super) fn means<T: Copy + Into<f64>>(&self, column: &[T]) -> Vec<(f64, f64)> {
        let finite = |part: &[T]| {
            let values = part.iter().map(|value| (*value).into());
            mean(values.filter(|value: &f64| value.is_finite()))
        };
        let parts = self.parts(column);
        parts
            .filter_map(|(step, part)| Some((step, finite(part)?)))
            .collect()
    }

    /// The same with maxima, so that a spike stays visible in a run of any length; infinite if a
    /// value was not finite.
    pub(super) fn maxima<T: Copy + Into<f64>>(&self, column: &[T]) -> Vec<(f64, f64)> {
        let largest = |part: &[T]| {
            let values = part.iter().map(|value| {
                let value: f64 = (*value).into();
                if value.is_finite() {
                    value
                } else {
                    f64::INFINITY
                }
            });
            values.fold(f64::NEG_INFINITY, f64::max)
        };
        let parts = self.parts(column);
        parts.map(|(step, part)| (step, largest(part))).collect()
    }

    /// A column in pieces, each with its first step.
    fn parts<'a, T>(&'a self, column: &'a [T]) -> impl Iterator<Item = (f64, &'a [T])> {
        let size = column.len().div_ceil(MOST_POINTS).max(1);
        let steps = self.columns.step.chunks(size).map(|steps| steps[0] as f64);
        steps.zip(column.chunks(size))
    }

    /// The loss, smoothed as in reports, and its newest value, which is not finite if the newest
    /// loss is not.
    pub(super) fn smoothed_loss(&self) -> (Vec<(f64, f64)>, Option<f64>) {
        let mut curve = self.means(&self.columns.loss);
        let losses: Vec<f64> = curve.iter().map(|point| point.1).collect();
        for (point, level) in curve.iter_mut().zip(smoothed(&losses)) {
            point.1 = level;
        }
        let newest = match self.newest_loss() {
            Some(loss) if loss.is_finite() => curve.last().map(|point| point.1),
            other => other,
        };
        (curve, newest)
    }

    /// Updates the verdict, if there are enough new steps: judging sorts all norms.
    pub(super) fn judge(&mut self) {
        let enough = self.judged + 1 + self.judged / 50;
        if self.columns.rows() >= enough {
            self.verdict = Some(self.columns.judge(&self.setup.subject).verdict);
            self.judged = self.columns.rows();
        }
    }

    /// The share of clipped steps in the whole run, and in the last steps.
    pub(super) fn shares_clipped(&self) -> (f64, f64) {
        let clipped = |action: &ClipAction| *action == ClipAction::Clip;
        let all = &self.columns.action;
        let lately = all.iter().rev().take(LATELY);
        (share(all.iter().map(clipped)), share(lately.map(clipped)))
    }

    pub(super) fn skipped(&self) -> u64 {
        let skipped = |action: &&ClipAction| **action == ClipAction::Skip;
        self.columns.action.iter().filter(skipped).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_its_mean_and_its_spike() {
        const STEPS: usize = 100_001;
        let mut state = State::default();
        state.columns.step = (1..=STEPS as u64).collect();
        let mut values = vec![1.0; STEPS];
        values[54_321] = 1000.0;
        values[STEPS - 1] = f64::NAN;
        let means = state.means(&values);
        assert!(means.len() > MOST_POINTS / 2 && means.len() <= MOST_POINTS);
        assert!(means.is_sorted_by(|left, right| left.0 < right.0));
        let raised: Vec<f64> = means
            .iter()
            .map(|p| p.1)
            .filter(|mean| *mean != 1.0)
            .collect();
        assert!(raised.len() == 1 && raised[0] > 10.0, "{raised:?}");
        let maxima = state.maxima(&values);
        assert_eq!(maxima.iter().filter(|point| point.1 == 1000.0).count(), 1);
        assert_eq!(
            maxima.iter().filter(|point| point.1.is_infinite()).count(),
            1
        );
    }
}
