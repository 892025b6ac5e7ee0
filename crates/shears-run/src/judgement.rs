//! The judgement of a run, which `shears train` (at its end), `inspect`, `sweep`, `compare`, the
//! screen and the page all print.

use std::path::{Path, PathBuf};

use gradclip::{ClipAction, ClipPolicy};
use gradclip_judge::statistics::mean;
use gradclip_judge::{Advice, GradientFlow, Next, Run, TimeFlow, Tone, UpdatePace, Verdict, judge};
use serde_json::{Value, json};

use crate::columns::Columns;
use crate::event::{Change, EndReason};
use crate::plan::read_plan;

/// What a judgement needs besides the log, and to suggest the next command.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The folder.
    pub folder: PathBuf,
    /// The policy that clips.
    pub policy: ClipPolicy,
    /// The learning rate.
    pub lr: Option<f64>,
    /// Whether the optimizer is one of Adam's kind ([`ADAPTIVE_OPTIMIZERS`]).
    pub adaptive: bool,
    /// Whether the learning rate depends on the number of steps.
    pub scheduled: bool,
    /// Whether the text came from standard input.
    pub standard_input: bool,
}

impl Subject {
    /// Reads the plan in a folder. Settings that are missing, or that this program does not know,
    /// get their defaults.
    pub fn of(folder: &Path) -> Subject {
        let plan = read_plan(folder).unwrap_or_default();
        let number = |value: &toml::Value| match value {
            toml::Value::Float(number) => Some(*number),
            toml::Value::Integer(number) => Some(*number as f64),
            _ => None,
        };
        let policy = plan.get("clip").and_then(toml::Value::as_str);
        let text = plan.get("text").and_then(toml::Value::as_array);
        Subject {
            folder: folder.to_path_buf(),
            policy: policy
                .and_then(|text| text.parse().ok())
                .unwrap_or_default(),
            lr: plan.get("lr").and_then(number),
            adaptive: plan
                .get("optimizer")
                .and_then(toml::Value::as_str)
                .is_some_and(|name| ADAPTIVE_OPTIMIZERS.contains(&name)),
            scheduled: plan
                .get("schedule")
                .and_then(toml::Value::as_str)
                .is_some_and(|name| name != "constant"),
            standard_input: text
                .is_some_and(|files| files.iter().any(|file| file.as_str() == Some("-"))),
        }
    }

    /// The command that resumes the run.
    pub fn resume(&self) -> String {
        format!("{} train --resume {}", program(), quoted(&self.folder))
    }

    /// The command that trains the run again with other settings.
    pub fn command(&self, next: &Next) -> String {
        let plan = quoted(&self.folder.join(crate::PLAN));
        let input = match self.standard_input {
            true => format!(" < {}", quoted(&self.folder.join(crate::INPUT))),
            false => String::new(),
        };
        format!("{} train --config {plan} {next}{input}", program())
    }
}

/// The optimizers that divide each element of a gradient by its usual size, so that their steps have
/// about the same length whatever the gradient's.
pub const ADAPTIVE_OPTIMIZERS: [&str; 3] = ["rmsprop", "adam", "adamw"];

/// How the user started this program, for suggested commands.
pub fn program() -> &'static str {
    // Cargo sets `CARGO` for the programs that it runs.
    match std::env::var_os("CARGO") {
        Some(_) => "cargo run --release --",
        None => "shears",
    }
}

/// Quotes a path for the shell, if necessary.
pub fn quoted(path: &Path) -> String {
    let mut path = path.display().to_string();
    if path.starts_with('-') {
        // Otherwise a command takes it for a flag.
        path.insert_str(0, "./");
    }
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+:,=@%".contains(letter);
    match path.chars().all(plain) && !path.is_empty() {
        true => path,
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}

/// The policies of a run with the first step of each: those that resumed runs have changed, and
/// finally the one in its plan.
pub fn stretches(newest: &ClipPolicy, changes: &[Change]) -> Vec<(u64, ClipPolicy)> {
    let mut all: Vec<(u64, ClipPolicy)> = Vec::new();
    let mut from = 1;
    for change in changes.iter().filter(|change| change.name == "clip") {
        let Ok(before) = change.before.parse() else {
            continue;
        };
        // A policy that was changed before its first step does not count.
        if change.step + 1 > from {
            all.push((from, before));
            from = change.step + 1;
        }
    }
    all.push((from, newest.clone()));
    all
}

/// The whole judgement of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Judgement {
    /// What clipping did.
    pub verdict: Verdict,
    /// One command to try next.
    pub next: Option<String>,
    /// What to clip with next time.
    pub advice: Option<Advice>,
    /// How gradients flow through the layers; `None` without a header.
    pub layers: Option<GradientFlow>,
    /// How fast the weights change.
    pub pace: Option<UpdatePace>,
    /// How gradients last flowed through time, in a model that carries a state.
    pub time: Option<TimeFlow>,
}

impl Columns {
    /// Judges the run.
    pub fn judge(&self, subject: &Subject) -> Judgement {
        let stretches = stretches(&subject.policy, &self.changes);
        let run = Run::in_stretches(&stretches, self.records());
        let mut run = run.unwrap_or_else(|| Run::new(&subject.policy, self.records()));
        run.lr = subject.lr;
        run.adaptive = subject.adaptive;
        run.scheduled = subject.scheduled;
        let end = self.end.as_ref();
        run.diverged = end.is_some_and(|end| end.how == EndReason::Diverged);
        run.val_loss = self.evaluations.last().map(|last| last.val_loss);
        let losses = self.evaluations.iter().map(|at| (at.step, at.val_loss));
        let losses = losses.filter(|(_, loss)| loss.is_finite());
        run.best_val_loss = losses.min_by(|left, right| left.1.total_cmp(&right.1));
        run.first_non_finite.clone_from(&self.first_non_finite);
        run.cosine = self.cosine_of_clipped();
        run.pace = self.update_pace();
        let judged = judge(&run);
        let pace = run.pace.take();
        let lost = judged.verdict.class.tone() == Tone::Bad;
        let next = judged.verdict.next.as_ref();
        Judgement {
            next: match end.is_some_and(|end| end.how == EndReason::Stopped) {
                true => Some(subject.resume()),
                false => next.map(|next| subject.command(next)),
            },
            // After a divergence these figures mean nothing.
            layers: self.gradient_flow().filter(|_| !lost),
            pace: pace.filter(|_| !lost),
            time: self.time_flows.last().filter(|_| !lost).cloned(),
            verdict: judged.verdict,
            advice: judged.advice,
        }
    }

    /// The mean cosine between gradients before and after, over clipped steps where it is known.
    pub fn cosine_of_clipped(&self) -> Option<f64> {
        let cosines = self.cosine.iter().zip(&self.action);
        let clipped = cosines.filter(|(_, action)| **action == ClipAction::Clip);
        let cosines = clipped.map(|(cosine, _)| f64::from(*cosine));
        // Where two rules of a chain turned the gradient, the cosine is NaN.
        mean(cosines.filter(|cosine| cosine.is_finite()))
    }
}

impl Judgement {
    /// The judgement of a log without an end: a run that is training has nothing to try yet, and a
    /// killed one is to be resumed.
    pub fn without_end(self, trains: bool, subject: &Subject) -> Judgement {
        Judgement {
            next: (!trains).then(|| subject.resume()),
            ..self
        }
    }

    /// The whole judgement as text; the first line is the sentence.
    pub fn lines(&self) -> Vec<String> {
        let verdict = self.verdict.to_string();
        let parts = [
            self.layers.as_ref().map(ToString::to_string),
            self.time.as_ref().map(ToString::to_string),
            self.pace.as_ref().map(ToString::to_string),
            self.advice.as_ref().map(ToString::to_string),
            self.next.as_ref().map(|next| format!("try next: {next}")),
        ];
        let parts = std::iter::once(verdict).chain(parts.into_iter().flatten());
        let lines = parts.flat_map(|part| part.lines().map(String::from).collect::<Vec<_>>());
        lines.collect()
    }

    /// As in `shears inspect --json` and in the last line of `shears train --json`.
    pub fn json(&self) -> Value {
        let numbers = &self.verdict.numbers;
        let norms = numbers.norms.map(|norms| {
            json!({
                "p10": norms.p10, "p50": norms.p50, "p90": norms.p90,
                "max": norms.max, "max_at": norms.max_at,
                "order": numbers.order.to_string(),
            })
        });
        json!({
            "verdict": {
                "class": self.verdict.class.name(),
                "tone": self.verdict.class.tone().name(),
                "sentence": self.verdict.sentence,
                "numbers": numbers.to_string(),
                "notes": self.verdict.notes,
                "next": self.next,
                "steps": numbers.steps,
                "clipped": numbers.clipped,
                "clipped_share": numbers.clipped_share(),
                "skipped": numbers.skipped,
                "outliers": numbers.outliers,
                "non_finite": numbers.non_finite,
                "threshold": numbers.threshold,
                "norm": norms,
            },
            "advice": self.advice.as_ref().map(|advice| json!({
                "policy": advice.policy,
                "reasons": advice.reasons,
                "confidence": advice.confidence.name(),
            })),
            "gradient_flow": self.layers.as_ref().map(|layers| json!({
                "first_to_last": layers.first_to_last,
                "vanishing": layers.vanishing.as_ref().map(|finding| &finding.layer),
                "exploding": layers.exploding.as_ref().map(|finding| &finding.layer),
                "words": layers.to_string(),
            })),
            "update_pace": self.pace.as_ref().map(|pace| json!({
                "slowest": pace.slowest,
                "fastest": pace.fastest,
                "ordinary": [UpdatePace::ORDINARY.start(), UpdatePace::ORDINARY.end()],
                "words": pace.to_string(),
            })),
            "gradient_flow_through_time": self.time.as_ref().map(|time| json!({
                "step": time.step,
                "norms": time.norms,
                "reach": time.reach(),
                "far_to_near": time.far_to_near(),
                "words": time.to_string(),
            })),
        })
    }
}
