//! `shears compare`: runs that exist beside each other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use shears_run::EndReason;
use shears_train::{Plan, RunFolder, Setting};

use crate::comparison::{
    self, Comparison, MOST_VARIANTS, Outcome, Report, Run, SAME_START, Variant, check_folder,
};
use crate::exit::{Misuse, misuse};
use crate::output::{complain, print_result, say};
use crate::run_log::{self, without_header};

/// Compare runs that exist, with the report of `shears sweep`
///
/// Nothing is trained. Runs with the same clipping policy and learning rate count as seeds of one
/// another; other settings in which runs differ, such as the optimizer, stand beside the policy.
/// Runs that did not all finish are compared over the steps that all of them have. Runs on
/// different text or with different tokens are refused: their losses are not comparable.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct CompareArguments {
    /// Folders of the runs
    #[arg(required = true, num_args = 2.., value_name = "RUN", value_hint = ValueHint::DirPath)]
    pub(crate) runs: Vec<PathBuf>,

    /// Folder for report.html, its pictures as SVG, and report.json [default: none is written]
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

/// What may differ without standing beside the policy: what is compared anyway, and what does not
/// change the numbers.
const NOT_IN_VARIANT_NAME: [&str; 15] = [
    "clip",
    "lr",
    "seed",
    "steps",
    "preset",
    "text",
    "val",
    "encoding",
    "lossy",
    "eval-every",
    "save-every",
    "sample-every",
    "patience",
    "keep",
    "device",
];

fn of_sweep(_: &str) -> Result<String, &'static str> {
    Err("`compare` takes runs, and `shears sweep` trains them")
}

/// A run as it was read.
struct Read {
    path: PathBuf,
    plan: Plan,
    outcome: Outcome,
}

pub(crate) fn run(arguments: &CompareArguments) -> anyhow::Result<ExitCode> {
    if let Some(out) = &arguments.out {
        check_folder(out, &["report.json"])?;
        let held = ["sweep.toml", "compare.toml", "plan.toml"];
        if held.iter().any(|mark| out.join(mark).exists()) {
            let out = out.display();
            misuse!("{out} is the folder of a sweep or of a run; choose another --out");
        }
    }
    let runs = arguments.runs.iter().map(|path| read(path.clone()));
    let mut runs: Vec<Read> = runs.collect::<anyhow::Result<_>>()?;
    check_comparable(&runs)?;
    let cut = cut_to_common(&mut runs)?;
    let report = Report::of(comparison(runs, cut.as_deref())?);
    if arguments.json {
        print_result(&report.json()?)?;
    } else {
        report.print();
        if let Some(cut) = cut {
            say!("{cut}\n");
        }
    }
    match &arguments.out {
        Some(out) => {
            report.write(out)?;
            if !arguments.json {
                say!("report: {}\n", out.join("report.html").display());
            }
        }
        None if arguments.json => {}
        None => say!("for a page with pictures: --out FOLDER\n"),
    }
    if !arguments.json {
        report.conclude();
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: PathBuf) -> anyhow::Result<Read> {
    let run = RunFolder::open_to_read(&path)?;
    let log = run_log::read(&run)?;
    if let Some(missing) = without_header(&log.columns, "picture of its layers") {
        complain!("shears: warning: {}: {missing}", log.path().display());
    }
    let outcome = Outcome::of(&log.columns, &path);
    if outcome.loss.is_empty() {
        return Err(super::nothing_recorded(&run, "compare").into());
    }
    Ok(Read {
        plan: run.plan()?,
        path,
        outcome,
    })
}

/// Refuses runs whose losses are of different things.
fn check_comparable(runs: &[Read]) -> Result<(), Misuse> {
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
                "{} and {} were trained {how}, so that their losses cannot be compared",
                first.path.display(),
                other.path.display()
            );
        }
    }
    Ok(())
}

/// Cuts runs to the steps that all have, and says so; none is cut if all ended and the same number
/// of steps was planned. A run that diverged is compared with what it came to.
fn cut_to_common(runs: &mut [Read]) -> Result<Option<String>, Misuse> {
    let planned = runs[0].plan.steps;
    let is_over = |run: &Read| {
        let goes_on = [None, Some(EndReason::Stopped), Some(EndReason::Failed)];
        run.plan.steps == planned && !goes_on.contains(&run.outcome.end)
    };
    if runs.iter().all(is_over) {
        return Ok(None);
    }
    let whole = |run: &&Read| run.outcome.end != Some(EndReason::Diverged);
    let steps_of = |run: &&Read| run.outcome.loss.len();
    let Some(shortest) = runs.iter().filter(whole).min_by_key(steps_of) else {
        return Ok(None);
    };
    let steps = shortest.outcome.loss.len();
    let mut evaluations = shortest.outcome.evaluations.iter().rev();
    let common = evaluations.find(|(at, _)| {
        let has = |run: &Read| run.outcome.evaluations.iter().any(|(step, _)| step == at);
        runs.iter().filter(whole).all(has)
    });
    let Some(&(evaluation, _)) = common else {
        let last = |run: &Read| match run.outcome.evaluations.last() {
            Some((step, _)) => format!("{} last at step {step}", run.path.display()),
            None => format!("{} never", run.path.display()),
        };
        let evaluated: Vec<String> = runs.iter().filter(whole).map(last).collect();
        misuse!(
            "the runs have no step in common after which each was evaluated ({}); train them with \
             the same --eval-every",
            evaluated.join(", ")
        );
    };
    for run in &mut *runs {
        run.outcome.cut(steps, evaluation);
    }
    Ok(Some(format!(
        "Compared over the first {steps} steps; validation losses are of step {evaluation}."
    )))
}

/// Sorts the runs by what they have in common.
fn comparison(mut runs: Vec<Read>, cut: Option<&str>) -> Result<Comparison, Misuse> {
    let differing = differing(&runs);
    let model = match differing.as_slice() {
        [] => comparison::model(&runs[0].plan),
        _ => "models and settings as named".to_string(),
    };
    let mut about = match differing.as_slice() {
        [] => format!("{}. {SAME_START}", comparison::settings(&runs[0].plan)),
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
    let mut sorted = Vec::new();
    for run in runs {
        let plan = run.plan;
        let its = variant(&plan, &differing);
        let found = variants.iter().position(|other| *other == its);
        let variant = found.unwrap_or(variants.len());
        if found.is_none() {
            variants.push(its);
        }
        let rate = rates.iter().position(|lr| *lr == plan.lr).unwrap_or(0);
        let seed = plan.seed;
        if let Some(other) = taken.insert((variant, rate, seed), run.path.clone()) {
            let (other, path) = (other.display(), run.path.display());
            misuse!(
                "{other} and {path} have the same settings and the same seed; leave one of them out"
            );
        }
        sorted.push(Run {
            variant,
            rate,
            seed,
            outcome: run.outcome,
        });
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
        runs: sorted,
    })
}

/// The names of the settings that have to stand beside the policy: those in which runs differ that
/// have them. What only one of two optimizers has goes without saying.
fn differing(runs: &[Read]) -> Vec<&'static str> {
    let differs = |setting: &&Setting| {
        let plans = runs.iter().map(|run| &run.plan);
        let mut values = plans
            .filter(|plan| setting.belongs(plan))
            .map(|plan| setting.value_in(plan));
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    let names = Plan::settings().iter().filter(differs);
    let names = names.map(|setting| setting.name.as_str());
    names
        .filter(|name| !NOT_IN_VARIANT_NAME.contains(name))
        .collect()
}

/// The policy of a run, with the other settings in which runs differ.
fn variant(plan: &Plan, differing: &[&str]) -> Variant {
    let table = toml::Table::try_from(plan).unwrap_or_default();
    let mut name = plan.clip.to_string();
    for key in differing {
        match table.get(*key) {
            Some(toml::Value::String(text)) => name.push_str(&format!(", {key} {text}")),
            Some(value) => name.push_str(&format!(", {key} {value}")),
            None => {}
        }
    }
    Variant {
        name,
        clip: plan.clip.clone(),
    }
}
