//! `shears compare`: compares existing runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};
use shears_run::EndReason;
use shears_train::{Plan, RunFolder, Section, Setting};

use crate::comparison::{
    self, Comparison, MOST_VARIANTS, Outcome, Report, Run, SAME_START, Variant,
};
use crate::exit::{Misuse, misuse};
use crate::model::{edits, refuse_edited};
use crate::new_file;
use crate::output::{complain, say};
use crate::report::counted;
use crate::run_log::{self, without_header};
use crate::settings::plain;

/// Compare existing runs, with the report of `shears sweep`
///
/// Nothing is trained. Runs with the same clipping policy and learning rate are grouped as seeds;
/// other settings that differ, such as the optimizer, are named next to the policy, and so are
/// settings that a run had before it was resumed with others. If not all runs
/// finished, they are compared over the steps that all of them have. Runs on different text or with
/// different tokenizers are refused, because their losses are not comparable.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct CompareArguments {
    /// Folders of the runs
    #[arg(required = true, num_args = 2.., value_name = "RUN", value_hint = ValueHint::DirPath)]
    pub(crate) runs: Vec<PathBuf>,

    /// Folder for report.html, its figures as SVG, and report.json [default: not written]
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,

    /// Print report.json
    #[arg(long)]
    pub(crate) json: bool,

    #[arg(long = "clip", value_name = "POLICY", hide = true, value_parser = of_sweep,
          aliases = ["lr", "seeds", "steps", "preset", "tokenizer"])]
    _of_sweep: Option<String>,
}

const EXAMPLES: &str = "Examples:
  shears compare runs/*
  shears compare runs/lstm-128-20260101-120000 runs/gru-128-20260101-130000 --out lstm-or-gru";

fn of_sweep(_: &str) -> Result<String, &'static str> {
    Err("`compare` takes runs, and `shears sweep` trains them")
}

/// Whether a setting is named next to the policy if it differs: neither what is compared anyway,
/// nor what does not change the result.
fn is_named(setting: &Setting) -> bool {
    match (setting.section, setting.name.as_str()) {
        (_, "clip" | "lr" | "preset") => false,
        (Section::Text | Section::Run, name) => name == "eval-tokens",
        _ => true,
    }
}

pub(crate) fn run(arguments: &CompareArguments) -> anyhow::Result<ExitCode> {
    if let Some(out) = &arguments.out {
        new_file::check_folder(out, &["report.json"])?;
        let held = ["sweep.toml", "compare.toml", "plan.toml"];
        if held.iter().any(|mark| out.join(mark).exists()) {
            let out = out.display();
            misuse!("{out} is the folder of a sweep or of a run; choose another --out");
        }
    }
    let runs = arguments.runs.iter().map(|path| read(path));
    let mut runs: Vec<Run> = runs.collect::<anyhow::Result<_>>()?;
    check_comparable(&runs)?;
    let cut = cut_to_common(&mut runs)?;
    for run in &mut runs {
        let last = run.outcome.columns.step.last().copied().unwrap_or(0);
        run.plan = run.plan.at_step(last);
    }
    let differing = differing(&runs);
    let report = Report::of(comparison(runs, &differing, cut.as_deref())?);
    if let Some(out) = &arguments.out {
        report.write(out)?;
    }
    match arguments.json {
        true => say!("{}", report.json()?),
        false => report.print(cut.as_deref(), arguments.out.as_deref()),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn read(path: &Path) -> anyhow::Result<Run> {
    let run = RunFolder::open_to_read(path)?;
    let log = run_log::read(&run)?;
    if let Some(missing) = without_header(&log.columns, "figure of its layers") {
        complain!("shears: warning: {}: {missing}", log.path().display());
    }
    let outcome = Outcome::of(log.columns, path);
    if outcome.columns.rows() == 0 {
        return Err(super::nothing_recorded(&run, "compare").into());
    }
    let plan = run.plan()?;
    refuse_edited(&run, edits(&run, &plan), "put it back")?;
    Ok(Run {
        plan,
        path: path.to_path_buf(),
        outcome,
        // Set when all runs are known.
        variant: 0,
        rate: 0,
    })
}

/// Refuses runs whose losses are not comparable.
fn check_comparable(runs: &[Run]) -> Result<(), Misuse> {
    let first = &runs[0];
    for other in &runs[1..] {
        let (left, right) = (&first.plan, &other.plan);
        let differing = [
            (left.text_sha256 != right.text_sha256, "on different text"),
            (
                left.val_sha256 != right.val_sha256,
                "with different validation text",
            ),
            (
                left.tokenizer != right.tokenizer,
                "with different tokenizers",
            ),
        ];
        if let Some((_, how)) = differing.iter().find(|(differs, _)| *differs) {
            misuse!(
                "{} and {} were trained {how}, so their losses are not comparable",
                first.path.display(),
                other.path.display()
            );
        }
    }
    Ok(())
}

/// Cuts the runs to the steps that all of them have, and returns a note about it. Nothing is cut if
/// all runs ended and planned the same number of steps. A diverged run is compared as far as it
/// got.
fn cut_to_common(runs: &mut [Run]) -> Result<Option<String>, Misuse> {
    let planned = runs[0].plan.steps;
    let is_over = |run: &Run| {
        let goes_on = [None, Some(EndReason::Stopped), Some(EndReason::Failed)];
        run.plan.steps == planned && !goes_on.contains(&run.outcome.end)
    };
    if runs.iter().all(is_over) {
        return Ok(None);
    }
    let whole = |run: &&Run| run.outcome.end != Some(EndReason::Diverged);
    let last_step = |run: &&Run| run.outcome.columns.step.last().copied();
    let Some(shortest) = runs.iter().filter(whole).min_by_key(last_step) else {
        return Ok(None);
    };
    let steps = last_step(&shortest).unwrap_or(0);
    let evaluations = |run: &Run| {
        let found = run.outcome.columns.evaluations.iter();
        found.map(|found| found.step).collect::<Vec<u64>>()
    };
    let mut of_shortest = evaluations(shortest).into_iter().rev();
    let has = |run: &Run, at| evaluations(run).contains(&at);
    let common = of_shortest.find(|at| runs.iter().filter(whole).all(|run| has(run, *at)));
    let Some(evaluation) = common else {
        let last = |run: &Run| match evaluations(run).last() {
            Some(step) => format!("{} last at step {step}", run.path.display()),
            None => format!("{} never", run.path.display()),
        };
        let evaluated: Vec<String> = runs.iter().filter(whole).map(last).collect();
        misuse!(
            "there is no step at which all runs were evaluated ({}); train them with the same \
             --eval-every",
            evaluated.join(", ")
        );
    };
    for run in &mut *runs {
        run.outcome.cut(steps, evaluation);
    }
    Ok(Some(format!(
        "Compared over the first {steps} steps; validation losses are those of step {evaluation}."
    )))
}

/// Groups the runs by policy, other settings that differ, and learning rate.
pub(super) fn comparison(
    mut runs: Vec<Run>,
    differing: &[&str],
    cut: Option<&str>,
) -> Result<Comparison, Misuse> {
    let seeds: BTreeSet<u64> = runs.iter().map(|run| run.plan.seed).collect();
    let seeds = counted(seeds.len() as u64, "seed");
    let model = match differing {
        [] => comparison::model(&runs[0].plan),
        _ => "models and settings as named".to_string(),
    };
    let mut about = match differing {
        [] => {
            let settings = comparison::settings(&runs[0].plan);
            format!("{settings}, {seeds}. {SAME_START}")
        }
        names => format!("Runs that differ in {}.", names.join(", ")),
    };
    if let Some(cut) = cut {
        about.push_str(&format!(" {cut}"));
    }
    let mut variants: Vec<Variant> = Vec::new();
    let mut rates: Vec<f64> = runs.iter().map(|run| run.plan.lr).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    runs.sort_by_key(|run| run.plan.seed);
    let mut taken = BTreeMap::new();
    for run in &mut runs {
        let its = variant(&run.plan, differing);
        let found = variants.iter().position(|other| *other == its);
        run.variant = found.unwrap_or(variants.len());
        if found.is_none() {
            variants.push(its);
        }
        run.rate = rates.iter().position(|lr| *lr == run.plan.lr).unwrap_or(0);
        let key = (run.variant, run.rate, run.plan.seed);
        if let Some(other) = taken.insert(key, run.path.clone()) {
            let (other, path) = (other.display(), run.path.display());
            misuse!(
                "{other} and {path} have the same settings and the same seed; leave one of them out"
            );
        }
    }
    if variants.len() > MOST_VARIANTS {
        misuse!(
            "the runs have {} different policies and settings; at most {MOST_VARIANTS} can be \
             compared",
            variants.len()
        );
    }
    Ok(Comparison {
        model,
        about,
        variants,
        rates,
        runs,
    })
}

/// The names of the settings to show next to the policy: those that differ between runs that have
/// them. A setting that only one of two optimizers has is not named.
fn differing(runs: &[Run]) -> Vec<&'static str> {
    let differs = |setting: &&Setting| {
        let plans = runs.iter().map(|run| &run.plan);
        let mut values = plans
            .filter(|plan| setting.belongs(plan))
            .map(|plan| setting.value_in(plan));
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    let named = Plan::settings().iter().filter(|setting| is_named(setting));
    named
        .filter(differs)
        .map(|setting| setting.name.as_str())
        .collect()
}

/// The policy of a run, with the other settings that differ, and with what it had before it was
/// resumed with other settings.
fn variant(plan: &Plan, differing: &[&str]) -> Variant {
    let table = toml::Table::try_from(plan.with_sizes()).unwrap_or_default();
    let mut name = plan.clip.to_string();
    for key in differing {
        if let Some(value) = table.get(*key) {
            name.push_str(&format!(", {key} {}", plain(value)));
        }
    }
    let is_compared = |name: &str| {
        let setting = Plan::setting(name);
        ["clip", "lr"].contains(&name) || setting.is_some_and(is_named)
    };
    let earlier = plan.changes.iter();
    for change in earlier.filter(|change| change.step > 0 && is_compared(&change.name)) {
        let (setting, before, step) = (&change.name, &change.before, change.step);
        name.push_str(&format!(", {setting} {before} up to step {step}"));
    }
    Variant {
        name,
        clip: plan.clip.clone(),
    }
}
