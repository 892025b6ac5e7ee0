//! `shears demo`: what clipping does, seen in half a minute.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use burn::tensor::Device;
use clap::Args;
use shears_model::LanguageModel;
use shears_run::{Columns, EndReason, StepEvent, Subject, quoted};
use shears_train::{Corpora, Observer, Plan, RunFolder, Trainer, load_corpora, train};

use super::generate::write_sample;
use super::train::{batches_and_memory, new_folder};
use crate::exit::INTERRUPTED;
use crate::memory;
use crate::model::{Work, with_model_to_train};
use crate::output::{Colour, columns, paint, say, wrap, wrapped};
use crate::report;
use crate::run_log;
use crate::watch::{bar_of, brief, indent, stop_when_asked};

/// See what clipping does: one network trained without it and with it, side by side
///
/// The same vanilla RNN, text, seed and learning rate twice, without clipping and with
/// global-norm:1; then a short LSTM, which writes a text. Less than half a minute on two cores.
/// All three are ordinary runs in runs/, for `inspect`, `dash`, `compare` and `generate`.
#[derive(Args, Debug, Default)]
pub(crate) struct DemoArguments {
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Print one JSON object a run: what `train --json` prints at its end, and the LSTM's sample
    #[arg(long)]
    json: bool,
}

/// A learning rate that this network takes only if its gradients are clipped.
const RNN: &str = "preset = 'rnn-128'\nnonlinearity = 'relu'\noptimizer = 'sgd'\nlr = 2.0\n\
                   steps = 200";
const POLICIES: [&str; 2] = ["none", "global-norm:1"];

/// A learning rate above that of the preset, which serves longer runs.
const LSTM: &str = "preset = 'lstm-128'\nlr = 0.01\nsteps = 200";

pub(crate) fn run(arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    let threads = super::set_threads(arguments.threads)?;
    let demo = Demo {
        json: arguments.json,
        threads,
        stop: stop_when_asked(!arguments.json)?,
    };
    let interrupted = Ok(ExitCode::from(INTERRUPTED));
    let Some([free, clipped]) = demo.race()? else {
        return interrupted;
    };
    let Some(lstm) = demo.lstm()? else {
        return interrupted;
    };
    if !arguments.json {
        conclude(&free, &clipped, &lstm)?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Demo {
    json: bool,
    threads: usize,
    stop: Arc<AtomicBool>,
}

/// A run that has ended.
struct Ended {
    plan: Plan,
    folder: RunFolder,
    columns: Columns,
    how: EndReason,
    /// What the model writes.
    sample: String,
}

impl Demo {
    /// The two runs whose clipping alone differs; none if somebody has stopped them.
    fn race(&self) -> anyhow::Result<Option<[Ended; 2]>> {
        let plans = POLICIES.map(|policy| plan(RNN, Some(policy)));
        let [free_plan, clipped_plan] = plans;
        let (free_plan, clipped_plan) = (free_plan?, clipped_plan?);
        let mut seen: Vec<StepEvent> = Vec::new();
        if !self.json {
            let lr = free_plan.lr;
            let what = format!(
                "one {} (relu, {} at {lr}), one text, one seed; trained without clipping and with {}",
                free_plan.preset, free_plan.optimizer, POLICIES[1],
            );
            say!("{}\n", wrapped(&what, 0));
        }
        // It is over after a few steps.
        let free = self.train(free_plan, "demo-none", &mut |event| {
            seen.push(event.clone())
        })?;
        let Some(free) = free else {
            return Ok(None);
        };
        if !self.json {
            let names = POLICIES.map(|policy| format!("{policy:^22}"));
            say!("        {}", names.join("   ").trim_end());
            let head = format!("{:>10}  {:>10}", "loss", "norm");
            say!(
                "{}",
                paint(Colour::Dim, &format!("  step  {head}   {head}"))
            );
        }
        let mut tell = |event: &StepEvent| {
            if !self.json && is_shown(event.step) {
                let left = seen.get(event.step as usize - 1);
                let gone = paint(Colour::Bad, &format!("{:>22}", "-"));
                let left = left.map_or(gone, row);
                say!("{:>6}  {left}   {}", event.step, row(event));
            }
        };
        let clipped = self.train(clipped_plan, "demo-clipped", &mut tell)?;
        Ok(clipped.map(|clipped| [free, clipped]))
    }

    fn lstm(&self) -> anyhow::Result<Option<Ended>> {
        let plan = plan(LSTM, None)?;
        let steps = plan.steps;
        // Hidden where standard error is no terminal.
        let bar = bar_of(steps, "{bar:24.cyan/dim} {pos}/{len}  {msg}", !self.json);
        let mut tell = |event: &StepEvent| {
            let loss = event.loss.unwrap_or(f64::NAN);
            bar.set_message(format!("an LSTM for something to read: loss {loss:.3}"));
            bar.inc(1);
        };
        let ended = self.train(plan, "demo-lstm", &mut tell)?;
        bar.finish_and_clear();
        Ok(ended)
    }

    /// A new run, to its end; none if somebody has stopped it.
    fn train(
        &self,
        mut plan: Plan,
        name: &str,
        tell: &mut dyn FnMut(&StepEvent),
    ) -> anyhow::Result<Option<Ended>> {
        let corpora = load_corpora(&plan, None, None, &mut |_, _| Ok(()))?;
        corpora.identify(&mut plan);
        let vocabulary = corpora.tokenizer.vocab_size();
        let work = Lesson {
            demo: self,
            plan: plan.clone(),
            corpora,
            name,
            tell,
        };
        let ended = with_model_to_train(&plan, vocabulary, work)?;
        if ended.how == EndReason::Stopped {
            let path = quoted(ended.folder.path());
            if !self.json {
                let program = report::program();
                say!("\nstopped; to go on: {program} train --resume {path}");
            }
            return Ok(None);
        }
        if self.json {
            let path = ended.folder.path();
            let judgement = ended.columns.judge(&Subject::of(path));
            let mut line = report::end_line(&judgement, &ended.columns, ended.how, path)?;
            line["sample"] = Some(ended.sample.as_str()).filter(|s| !s.is_empty()).into();
            say!("{line}");
        }
        Ok(Some(ended))
    }
}

fn plan(settings: &str, clip: Option<&str>) -> anyhow::Result<Plan> {
    let mut settings: toml::Table = settings.parse()?;
    if let Some(clip) = clip {
        settings.insert("clip".into(), clip.into());
    }
    Ok(Plan::resolve(&settings)?)
}

/// The training of one of the runs.
struct Lesson<'a> {
    demo: &'a Demo,
    plan: Plan,
    corpora: Corpora,
    name: &'a str,
    tell: &'a mut dyn FnMut(&StepEvent),
}

impl Work for Lesson<'_> {
    type Output = anyhow::Result<Ended>;

    fn with<M: LanguageModel>(self, model: M, device: &Device) -> Self::Output {
        let (demo, plan, corpora, name) = (self.demo, self.plan, self.corpora, self.name);
        let (batches, memory) = batches_and_memory(&plan, &model, &corpora)?;
        memory::refuse_too_large(memory.total())?;
        let folder = RunFolder::create(&new_folder(name)?, &plan, &corpora.tokenizer, None)?;
        let mut trainer = Trainer::new(plan.clone(), model, batches, demo.threads, device);
        let mut watch = DemoWatch {
            stop: &demo.stop,
            tell: self.tell,
        };
        let how = match train(&mut trainer, &folder, &corpora, device, &mut watch) {
            Ok(end) => end.into(),
            // This is what is to be seen.
            Err(error) if error.is_divergence() => EndReason::Diverged,
            Err(error) => return Err(error).context(name.to_string()),
        };
        let sample = match plan.model.is_recurrent() && how == EndReason::Finished {
            true => {
                let plain = device.clone().without_autodiff();
                write_sample(
                    &trainer.model().valid(),
                    &corpora.tokenizer,
                    None,
                    &plain,
                    300,
                )?
            }
            false => String::new(),
        };
        Ok(Ended {
            columns: run_log::read(&folder)?.columns,
            plan,
            folder,
            how,
            sample,
        })
    }
}

struct DemoWatch<'a> {
    stop: &'a AtomicBool,
    tell: &'a mut dyn FnMut(&StepEvent),
}

impl Observer for DemoWatch<'_> {
    fn step(&mut self, event: &StepEvent) {
        (self.tell)(event);
    }

    fn wants_to_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// The steps of the table: the first ones, in which the unclipped run dies, and some after them.
fn is_shown(step: u64) -> bool {
    step <= 5 || [10, 20, 50].contains(&step) || step.is_multiple_of(100)
}

/// Loss and norm of a step.
fn row(event: &StepEvent) -> String {
    let norm = event.clip.norm_before;
    match event.loss.filter(|_| norm.is_finite()) {
        Some(loss) => format!("{:>10}  {:>10}", brief(loss), brief(norm)),
        None => paint(Colour::Bad, &format!("{:>22}", "not finite")),
    }
}

/// What became of the three, and what to do next.
fn conclude(free: &Ended, clipped: &Ended, lstm: &Ended) -> anyhow::Result<()> {
    let name_width = POLICIES.map(str::len).into_iter().max().unwrap_or(0);
    let outcomes = [free, clipped].map(outcome);
    let outcome_width = outcomes.iter().map(|outcome| outcome.chars().count()).max();
    let taken = name_width + outcome_width.unwrap_or(0) + 6;
    let cells = columns().unwrap_or(80).saturating_sub(taken).clamp(10, 60);
    let range = range_of(&clipped.columns);
    say!(
        "\nloss over {} steps, both on the scale of the second",
        clipped.plan.steps
    );
    for ((run, policy), outcome) in [free, clipped].into_iter().zip(POLICIES).zip(outcomes) {
        let died = run.how == EndReason::Diverged;
        let (curve, width) = sparkline(&run.columns, run.plan.steps, cells, range);
        let colour = if died { Colour::Bad } else { Colour::Good };
        let gap = " ".repeat(cells - width);
        let curve = paint(colour, &curve);
        say!("  {policy:<name_width$}  {curve}{gap}  {outcome}");
    }
    let loss = lstm.columns.evaluations.last();
    let loss = loss.map_or(String::new(), |e| format!(", val loss {:.2},", e.val_loss));
    say!("\nan LSTM of {} steps{loss} writes:", lstm.plan.steps);
    let sample = lstm.sample.split_whitespace().collect::<Vec<_>>().join(" ");
    let sample = wrap(&sample, columns().unwrap_or(80).saturating_sub(4), 0);
    let lines: Vec<&str> = sample.lines().take(3).collect();
    say!("{}", indent(&lines.join("\n")));
    let program = report::program();
    let config = free.folder.path().join("plan.toml");
    let next = [
        ("your own text", format!("{program} train book.txt")),
        ("the page", format!("{program} dash")),
        (
            "another policy",
            format!("{program} train --config {} --clip adagc", quoted(&config)),
        ),
    ];
    say!("\nnext:\n{}", labelled(&next, columns()));
    Ok(())
}

/// Commands with their labels before them; without, where a line would not fit.
fn labelled(commands: &[(&str, String)], columns: Option<usize>) -> String {
    let width = commands.iter().map(|(label, _)| label.len()).max();
    let width = width.unwrap_or(0);
    let with_labels = commands
        .iter()
        .map(|(label, command)| format!("  {label:<width$}  {command}"));
    let fits = |line: String| columns.is_none_or(|columns| line.chars().count() <= columns);
    let lines: Vec<String> = match with_labels.clone().all(fits) {
        true => with_labels.collect(),
        false => commands
            .iter()
            .map(|(_, command)| format!("  {command}"))
            .collect(),
    };
    lines.join("\n")
}

/// Where a run died, or from what loss it went to what.
fn outcome(run: &Ended) -> String {
    let columns = &run.columns;
    let finite = |row: usize| columns.loss[row].is_finite() && columns.norm_before[row].is_finite();
    let lost = (0..columns.rows()).find(|row| !finite(*row));
    match (run.how, lost, columns.loss.first()) {
        (EndReason::Diverged, Some(row), _) => {
            format!("not finite from step {}", columns.step[row])
        }
        (_, _, Some(first)) => {
            let last = columns.loss.last().unwrap_or(first);
            format!("from {first:.2} to {last:.2}")
        }
        (_, _, None) => "no step was taken".into(),
    }
}

/// The logarithms of the least loss and of the first one: a spike above that is not to flatten what
/// was learned.
fn range_of(columns: &Columns) -> (f32, f32) {
    let finite = columns.loss.iter().copied().filter(|loss| loss.is_finite());
    let first = columns.loss.first().copied().unwrap_or(1.0);
    (finite.fold(first, f32::min).ln(), first.ln())
}

/// The mean logarithm of the loss in each of `cells` stretches of a run, up to a cross where it is
/// not finite; and how many characters that is.
fn sparkline(
    columns: &Columns,
    steps: u64,
    cells: usize,
    (low, high): (f32, f32),
) -> (String, usize) {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut curve = String::new();
    let per_cell = (steps as f64 / cells as f64).max(1.0);
    for cell in 0..cells {
        let first = (cell as f64 * per_cell) as usize;
        let end = ((cell + 1) as f64 * per_cell) as usize;
        let Some(losses) = columns.loss.get(first..end.min(columns.rows())) else {
            break;
        };
        let finite: Vec<f32> = losses
            .iter()
            .copied()
            .filter(|loss| loss.is_finite())
            .collect();
        if !finite.is_empty() {
            let mean = finite.iter().map(|loss| loss.ln()).sum::<f32>() / finite.len() as f32;
            let height = ((mean - low) / (high - low).max(f32::EPSILON) * 7.0).round();
            curve.push(BARS[height.clamp(0.0, 7.0) as usize]);
        }
        if finite.len() < losses.len() || losses.is_empty() {
            curve.push('✗');
            break;
        }
    }
    let width = curve.chars().count();
    (curve, width)
}

#[cfg(test)]
mod tests {
    use super::labelled;

    #[test]
    fn a_label_gives_way_to_its_command() {
        let commands = [
            ("text", "shears train".to_string()),
            ("a page", "shears dash".into()),
        ];
        let wide = "  text    shears train\n  a page  shears dash";
        assert_eq!(labelled(&commands, None), wide);
        assert_eq!(labelled(&commands, Some(22)), wide);
        assert_eq!(
            labelled(&commands, Some(21)),
            "  shears train\n  shears dash"
        );
    }
}
