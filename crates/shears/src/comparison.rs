//! Comparing runs: the results of each clipping policy as tables, words and figures.

mod page;
mod picture;
mod plots;
mod results;
mod smooth;
mod time;
mod words;

use std::path::{Path, PathBuf};

use anyhow::Context;
use gradclip_judge::Tone;
use shears_run::create_folders;
use shears_train::{ClipPolicy, Plan};

use crate::new_file;
use crate::output::{columns, paint, say, wrapped};
use crate::report;
pub(crate) use results::Outcome;
pub(crate) use smooth::{Newest, smoothed};
use words::Findings;

/// Maximum number of variants: each is a line in a figure.
pub(crate) const MOST_VARIANTS: usize = shears_figure::MOST_COLOURS;

/// Why runs of one model can be compared seed by seed.
pub(crate) const SAME_START: &str =
    "With the same seed, all runs start from the same weights and read the same batches.";

/// The model and optimizer of the runs.
pub(crate) fn model(plan: &Plan) -> String {
    format!("{} by {}", report::model_name(plan), plan.optimizer)
}

/// The settings in the head of a report.
pub(crate) fn settings(plan: &Plan) -> String {
    format!(
        "{}, {} steps of {} × {} tokens, {}",
        report::model_name(plan),
        plan.steps,
        plan.batch,
        plan.window,
        plan.optimizer
    )
}

/// Runs that are compared, from their event logs alone.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// The model, for the title of a figure.
    pub(crate) model: String,
    /// What the runs have in common, for the head of the page.
    pub(crate) about: String,
    pub(crate) variants: Vec<Variant>,
    /// Learning rates.
    pub(crate) rates: Vec<f64>,
    pub(crate) runs: Vec<Run>,
}

/// What a line in the figures stands for: a policy, and other settings that differ.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) clip: ClipPolicy,
}

/// One run that is compared.
#[derive(Debug)]
pub(crate) struct Run {
    /// Index into [`Comparison::variants`].
    pub(crate) variant: usize,
    /// Index into [`Comparison::rates`].
    pub(crate) rate: usize,
    pub(crate) path: PathBuf,
    pub(crate) plan: Plan,
    pub(crate) outcome: Outcome,
}

impl Comparison {
    /// The runs of a variant at a learning rate, one per seed.
    fn seeds_of(&self, variant: usize, rate: usize) -> Vec<&Run> {
        let its = |run: &&Run| run.variant == variant && run.rate == rate;
        self.runs.iter().filter(its).collect()
    }

    /// Whether a variant was trained with more than one learning rate.
    fn has_rates(&self) -> bool {
        let rates = |variant| self.runs.iter().filter(move |run| run.variant == variant);
        (0..self.variants.len()).any(|variant| {
            let mut rates = rates(variant).map(|run| run.rate);
            let first = rates.next();
            rates.any(|rate| Some(rate) != first)
        })
    }
}

/// The report of a comparison.
pub(crate) struct Report {
    comparison: Comparison,
    findings: Findings,
}

impl Report {
    pub(crate) fn of(comparison: Comparison) -> Report {
        Report {
            findings: Findings::of(&comparison),
            comparison,
        }
    }

    /// Prints the table, a note on it, where the report is, and how it ends, as a training does: a
    /// sentence, numbers and a command.
    pub(crate) fn print(&self, note: Option<&str>, out: Option<&Path>) {
        say!("\n{}", page::table(&self.findings, columns()));
        if let Some(note) = note {
            say!("{note}\n");
        }
        match out {
            Some(out) => say!("report: {}\n", out.join("report.html").display()),
            None => say!("for a page with figures: --out FOLDER\n"),
        }
        let findings = &self.findings;
        let tone = findings.winner.map_or(Tone::Bad, |_| Tone::Good);
        say!("{}", paint(tone, &wrapped(&findings.recommendation, 0)));
        if let Some(judged) = findings.judgement_of_winner(&self.comparison) {
            say!("{}", wrapped(&judged.verdict.numbers.to_string(), 2));
        }
        if let Some(next) = &findings.next {
            say!("try next: {next}");
        }
    }

    /// All numbers, as JSON.
    pub(crate) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(&self.findings)?)
    }

    /// Writes report.html, its figures as SVG, overview.svg and report.json to a folder.
    pub(crate) fn write(&self, out: &Path) -> anyhow::Result<()> {
        create_folders(out).with_context(|| format!("cannot make {}", out.display()))?;
        let pictures = plots::draw(&self.comparison, &self.findings)?;
        for old in ["report.json", "report.html"] {
            // Not to be taken for new if one of the others cannot be written.
            let old = out.join(old);
            if old.symlink_metadata().is_ok_and(|found| found.is_file()) {
                std::fs::remove_file(&old)
                    .with_context(|| format!("cannot replace {}", old.display()))?;
            }
        }
        let write = |name: &str, text: &str| new_file::write(&out.join(name), text, true);
        for picture in &pictures {
            write(&format!("{}.svg", picture.name), &picture.svg)?;
        }
        let overview = plots::overview(&self.comparison, &self.findings)?;
        write("overview.svg", &overview)?;
        write("report.json", &self.json()?)?;
        let html = page::html(&self.comparison.about, &self.findings, &pictures);
        write("report.html", &html)?;
        Ok(())
    }
}
