//! What the screen knows of a run.

use std::path::Path;

use gradclip::{ClipAction, ClipPolicy};
use gradclip_judge::statistics::{LATELY, share};
use gradclip_judge::{Run, StepRecord, TimeFlow, Verdict, judge};
use shears_run::{Change, Event, Header, StepEvent, stretches};
use shears_train::Plan;

use super::series::Series;
use crate::comparison::smoothed;
use crate::output::one_line;
use crate::report;

/// The weight of the newest step in the smoothed speed.
const SMOOTHING: f64 = 0.1;

/// What does not change while the run goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// The folder of the run.
    pub(crate) run: String,
    /// What its model is.
    pub(crate) title: String,
    pub(crate) policy: ClipPolicy,
    pub(crate) steps: u64,
    /// The layers of the model from input to output, and the names of the tensors of each.
    pub(crate) layers: Vec<(String, Vec<String>)>,
}

impl Setup {
    pub(crate) fn new(plan: &Plan, run: &Path, header: &Header) -> Setup {
        let layers = header.layers().into_iter().map(|(layer, parameters)| {
            let tensors = parameters.iter().map(|parameter| parameter.name.clone());
            (layer.to_string(), tensors.collect())
        });
        Setup {
            run: one_line(&run.display().to_string()),
            title: report::model_name(plan),
            policy: plan.clip.clone(),
            steps: plan.steps,
            layers: layers.collect(),
        }
    }
}

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) setup: Setup,
    pub(super) step: u64,
    /// The step that this program began with.
    pub(super) began_at: u64,
    pub(super) loss: Series,
    pub(super) validation: Series,
    pub(super) norm: Series,
    pub(super) threshold: Series,
    pub(super) newest_loss: Option<f64>,
    pub(super) newest_validation: Option<f64>,
    pub(super) newest_norm: Option<f64>,
    pub(super) newest_threshold: Option<f64>,
    pub(super) speed: Option<f64>,
    /// The norm of each layer at the newest step; NaN where that was not finite.
    pub(super) layers: Vec<f64>,
    pub(super) sample: Option<(u64, String)>,
    pub(super) clipped: u64,
    pub(super) left_out: u64,
    pub(super) verdict: Option<Verdict>,
    /// How gradients last flowed through time, in a model that carries a state.
    pub(super) time: Option<TimeFlow>,
    /// Changes of settings, of runs that were resumed with others.
    changes: Vec<Change>,
    records: Vec<StepRecord>,
    /// How many records the verdict is of.
    judged: usize,
}

impl State {
    pub(super) fn new(setup: Setup) -> State {
        State {
            layers: vec![0.0; setup.layers.len()],
            setup,
            ..State::default()
        }
    }

    /// Says that what was taken until now is what an earlier program did.
    pub(super) fn start(&mut self) {
        self.began_at = self.step;
        self.speed = None;
    }

    /// Takes what happened.
    pub(super) fn take(&mut self, event: &Event) {
        self.step = self.step.max(event.step());
        match event {
            Event::Step(step) => self.take_step(step),
            Event::Evaluation(found) => {
                self.validation.push(found.step, found.val_loss);
                self.newest_validation = Some(found.val_loss);
            }
            Event::Sample(sample) => {
                // What a model writes may have characters that a terminal obeys.
                let lines: Vec<String> = sample.text.lines().map(one_line).collect();
                self.sample = Some((sample.step, lines.join("\n")));
            }
            Event::StateGradients { step, layers } => {
                let layers: Vec<&[_]> = layers.values().map(Vec::as_slice).collect();
                self.time = TimeFlow::of(*step, &layers);
            }
            Event::Change(change) => self.changes.push(change.clone()),
            Event::Header(_) | Event::Resume(_) | Event::Ranks(_) | Event::End { .. } => {}
        }
    }

    fn take_step(&mut self, event: &StepEvent) {
        let (step, clip) = (event.step, &event.clip);
        let loss = event.loss.unwrap_or(f64::NAN);
        self.loss.push(step, loss);
        self.newest_loss = Some(loss);
        self.norm.push(step, clip.norm_before);
        self.newest_norm = Some(clip.norm_before);
        if let Some(threshold) = clip.threshold {
            self.threshold.push(step, threshold);
        }
        self.newest_threshold = clip.threshold;
        self.speed = Some(smooth(self.speed, event.tokens_per_second));
        for ((_, tensors), layer) in self.setup.layers.iter().zip(&mut self.layers) {
            let norms = tensors.iter().filter_map(|tensor| clip.tensors.get(tensor));
            let squares = norms
                .map(|norm| norm * norm)
                .reduce(|sum, square| sum + square);
            *layer = squares.map_or(f64::NAN, f64::sqrt);
        }
        self.clipped += u64::from(clip.action == ClipAction::Clip);
        self.left_out += u64::from(clip.action == ClipAction::Skip);
        self.records.push(event.record());
    }

    /// The loss as reports smooth it, and the newest of that; not finite if the newest loss is not.
    pub(super) fn smoothed_loss(&self) -> (Vec<(f64, f64)>, Option<f64>) {
        let mut curve = self.loss.means();
        let losses: Vec<f64> = curve.iter().map(|point| point.1).collect();
        for (point, level) in curve.iter_mut().zip(smoothed(&losses)) {
            point.1 = level;
        }
        let newest = curve.last().map(|point| point.1);
        let newest = match self.newest_loss {
            Some(loss) if loss.is_finite() => newest,
            other => other,
        };
        (curve, newest)
    }

    /// Judges the run anew, when enough has happened since the last time: it sorts all norms.
    pub(super) fn judge(&mut self) {
        let enough = self.judged + 1 + self.judged / 50;
        if self.records.len() >= enough {
            let stretches = stretches(&self.setup.policy, &self.changes);
            let run = Run::in_stretches(&stretches, self.records.iter().copied());
            self.verdict = run.map(|run| judge(&run).verdict);
            self.judged = self.records.len();
        }
    }

    /// The share of clipped steps of the whole run, and of the last steps.
    pub(super) fn shares_clipped(&self) -> (f64, f64) {
        let lately = self.records.iter().rev().take(LATELY);
        (
            self.clipped as f64 / self.records.len().max(1) as f64,
            share(lately.map(StepRecord::clipped)),
        )
    }
}

fn smooth(mean: Option<f64>, value: f64) -> f64 {
    mean.map_or(value, |mean| mean + SMOOTHING * (value - mean))
}
