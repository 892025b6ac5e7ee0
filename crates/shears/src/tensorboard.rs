//! `shears train --tensorboard`: event files that TensorBoard reads, in the run's folder.
//!
//! The messages are encoded by hand, because they are few and fixed (TensorFlow's `event.proto` and
//! `summary.proto`, TensorBoard's `hparams/api.proto`). The number of each field is next to its
//! value.

mod event_file;
mod hyperparameters;
mod layout;
mod message;
mod summary;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use anyhow::Context;
use gradclip::ClipAction;
use gradclip_judge::statistics::{LATELY, share};
use shears_run::{Event, RunError, StepEvent, create_folders};
use shears_train::{End, Plan, RunFolder};

use crate::output::complain;
use crate::watch::Listener;
use event_file::{EventFile, earlier_files};
use message::Message;
use summary::{histogram, scalar, text};

/// Steps per histogram of norms.
const WINDOW: u64 = 50;

/// Writes the events of a run to `tensorboard/` in its folder.
pub(crate) struct TensorBoard {
    file: EventFile,
    /// The first error. Nothing is written after it, and the run continues.
    failure: Option<std::io::Error>,
    /// Whether each of the last steps was clipped.
    clipped: VecDeque<bool>,
    /// The norms of each tensor since the last histogram.
    norms: BTreeMap<String, Vec<f64>>,
    /// The last step.
    step: u64,
}

impl TensorBoard {
    /// Creates a file for a run that has taken `done` steps, which are in `history`.
    ///
    /// TensorBoard discards later steps of earlier files, because those steps are repeated. If
    /// there are no earlier files, the history is written to this one.
    pub(crate) fn create(
        run: &RunFolder,
        plan: &Plan,
        done: u64,
        history: impl Iterator<Item = Result<Event, RunError>>,
    ) -> anyhow::Result<Self> {
        let folder = run.path().join("tensorboard");
        Self::create_in(&folder, plan, done, history)
            .with_context(|| format!("cannot write to {}", folder.display()))
    }

    fn create_in(
        folder: &Path,
        plan: &Plan,
        done: u64,
        history: impl Iterator<Item = Result<Event, RunError>>,
    ) -> anyhow::Result<Self> {
        create_folders(folder)?;
        let goes_on = earlier_files(folder)? > 0;
        let mut board = TensorBoard {
            file: EventFile::create(folder)?,
            failure: None,
            clipped: VecDeque::new(),
            norms: BTreeMap::new(),
            step: 0,
        };
        if goes_on {
            board.file.start_again_at(done + 1)?;
            for event in history {
                board.remember(&event?);
            }
        } else {
            board.file.summary(0, [layout::layout()])?;
            let description = hyperparameters::experiment_and_session(plan)?;
            board.file.summary(0, description)?;
            for event in history {
                board.event(&event?);
            }
        }
        match board.failure.take() {
            Some(error) => return Err(error.into()),
            None => board.file.appear()?,
        }
        Ok(board)
    }

    /// Adds a step of the history to the windows without writing anything.
    fn remember(&mut self, event: &Event) {
        self.step = event.step();
        if let Event::Step(step) = event {
            self.note(step);
            if step.step.is_multiple_of(WINDOW) {
                self.norms.clear();
            }
        }
    }

    fn note(&mut self, event: &StepEvent) {
        if self.clipped.len() == LATELY {
            self.clipped.pop_front();
        }
        self.clipped
            .push_back(event.clip.action == ClipAction::Clip);
        for (tensor, norm) in &event.clip.tensors {
            match self.norms.get_mut(tensor) {
                Some(norms) => norms.push(*norm),
                None => drop(self.norms.insert(tensor.clone(), vec![*norm])),
            }
        }
    }

    fn of_step(&mut self, event: &StepEvent) -> Vec<Message> {
        self.note(event);
        let clip = &event.clip;
        let scalars = [
            ("loss/train", event.loss),
            ("training/lr", Some(event.lr)),
            ("training/tokens_per_second", Some(event.tokens_per_second)),
            ("gradient_norm/before", Some(clip.norm_before)),
            ("gradient_norm/after", Some(clip.norm_after)),
            ("gradient_norm/threshold", clip.threshold),
            ("clipping/coefficient", Some(clip.coefficient)),
            (
                "clipping/share_clipped",
                Some(share(self.clipped.iter().copied())),
            ),
        ];
        let mut values: Vec<Message> = finite(scalars).collect();
        if event.step.is_multiple_of(WINDOW) {
            values.extend(self.histograms());
        }
        values
    }

    /// The histograms of the norms since the last ones.
    fn histograms(&mut self) -> Vec<Message> {
        let norms = std::mem::take(&mut self.norms);
        let histograms = norms.iter();
        histograms
            .map(|(tensor, norms)| histogram(&format!("norm/{tensor}"), norms))
            .collect()
    }

    fn write(&mut self, step: u64, values: Vec<Message>) {
        if self.failure.is_none() && !values.is_empty() {
            self.failure = self.file.summary(step, values).err();
        }
    }
}

/// The scalars that are present and finite; elsewhere a chart has a gap.
fn finite<'a>(
    scalars: impl IntoIterator<Item = (&'a str, Option<f64>)>,
) -> impl Iterator<Item = Message> {
    let scalars = scalars.into_iter();
    scalars
        .filter_map(|(tag, value)| Some((tag, value.filter(|value| value.is_finite())?)))
        .map(|(tag, value)| scalar(tag, value))
}

impl Listener for TensorBoard {
    fn event(&mut self, event: &Event) {
        self.step = event.step();
        let values = match event {
            Event::Step(step) => self.of_step(step),
            Event::Evaluation(found) => finite([
                ("loss/validation", Some(found.val_loss)),
                ("validation/bits_per_character", Some(found.bits_per_char)),
                ("validation/perplexity", Some(found.perplexity)),
            ])
            .collect(),
            Event::Sample(sample) => vec![text("sample", &sample.text)],
            Event::Header(_)
            | Event::StateGradients { .. }
            | Event::Resume(_)
            | Event::Change(_)
            | Event::Ranks(_)
            | Event::End { .. } => Vec::new(),
        };
        self.write(event.step(), values);
    }

    fn saving(&mut self) {
        if self.failure.is_none() {
            self.failure = self.file.sync().err();
        }
    }

    fn end(&mut self, end: Option<End>) {
        // A stopped run will fill its window when it is resumed.
        if end != Some(End::Stopped) {
            let histograms = self.histograms();
            self.write(self.step, histograms);
        }
        if let Some(session) = hyperparameters::session_end(end) {
            self.write(0, vec![session]);
        }
        if let Some(error) = self.failure.take() {
            let path = self.file.path().display();
            complain!(
                "shears: warning: cannot write {path}: {error}; the run continued without it"
            );
        }
    }
}
