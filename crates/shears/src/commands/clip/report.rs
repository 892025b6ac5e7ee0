//! What `shears clip` prints: JSON lines, or a report for people.

use std::path::{Path, PathBuf};

use gradclip::{
    ClipAction, ClipPolicy, ClipReport, NonFinite, NormOrder, SkipReason, TensorReport, significant,
};
use gradclip_judge::{Run, StepRecord, judge};
use serde::Serialize;
use shears_run::action_name;

use super::ClipArguments;
use crate::output::{one_line, say};
use crate::report::{count, counted};
use crate::table::table;

/// Maximum number of tensors listed under a step.
const ROWS: usize = 8;

/// Maximum width of the name of a tensor.
const WIDEST_NAME: usize = 48;

pub(super) struct Reporter {
    json: bool,
    title: String,
    policy: ClipPolicy,
    out: Option<PathBuf>,
    /// The width of the longest file name.
    width: usize,
    /// The width of the last step number.
    digits: usize,
    records: Vec<StepRecord>,
}

impl Reporter {
    pub(super) fn new(
        arguments: &ClipArguments,
        policy: &ClipPolicy,
        non_finite: NonFinite,
    ) -> Reporter {
        let names = arguments.steps.iter();
        let lengths = names.map(|path| one_line(&path.display().to_string()).chars().count());
        let last = arguments.steps.len().saturating_sub(1);
        let norms = match policy.order() {
            NormOrder::TWO => String::new(),
            order => format!(", norms with p={order}"),
        };
        Reporter {
            json: arguments.json,
            title: format!("clipping by {policy}, non-finite gradients: {non_finite}{norms}"),
            policy: policy.clone(),
            out: arguments.out.clone(),
            width: lengths.max().unwrap_or(0),
            digits: last.to_string().len(),
            records: Vec::new(),
        }
    }

    /// Reports one step, after its file was written.
    pub(super) fn step(
        &mut self,
        step: usize,
        path: &Path,
        report: &ClipReport,
    ) -> anyhow::Result<()> {
        self.records
            .push(StepRecord::new(step as u64, report, None));
        if self.json {
            say!("{}", serde_json::to_string(&StepLine::of(step, report))?);
            return Ok(());
        }
        if step == 0 {
            say!("{}\n", self.title);
        }
        let Reporter { width, digits, .. } = self;
        say!(
            "step {step:>digits$}  {:<width$}  {}  {}",
            one_line(&path.display().to_string()),
            action_name(report.action),
            what_was_done(report)
        );
        for line in tensors(report) {
            say!("  {line}");
        }
        Ok(())
    }

    /// Prints the summary of all steps.
    pub(super) fn end(&self) {
        if self.json {
            return;
        }
        let all = self.records.len() as u64;
        let of = |wanted: fn(&StepRecord) -> bool| {
            let found = self.records.iter().filter(|record| wanted(record));
            found.count() as u64
        };
        let (clipped, skipped) = (of(StepRecord::clipped), of(StepRecord::skipped));
        say!(
            "\n{}: {} kept, {} clipped, {} skipped; {}",
            counted(all, "step"),
            count(all - clipped - skipped),
            count(clipped),
            count(skipped),
            match &self.out {
                Some(folder) => {
                    let files = counted(all - skipped, "file");
                    format!("{files} written to {}", folder.display())
                }
                None => "no gradients were written (--out FOLDER writes them)".into(),
            }
        );
        if self.records.len() > 1 {
            let judged = judge(&Run::new(&self.policy, self.records.iter().copied()));
            for line in judged.verdict.to_string().lines() {
                say!("  {line}");
            }
        }
    }
}

/// A step in JSON, with its keys in this order. Values that are not finite are null.
#[derive(Serialize)]
struct StepLine<'a> {
    step: usize,
    action: &'static str,
    norm_before: f64,
    norm_after: f64,
    coefficient: f64,
    threshold: Option<f64>,
    non_finite: u64,
    rounded_to_zero: Option<u64>,
    tensors: Vec<TensorLine<'a>>,
}

#[derive(Serialize)]
struct TensorLine<'a> {
    name: &'a str,
    norm_before: f64,
    norm_after: f64,
    coefficient: f64,
    non_finite: u64,
}

impl StepLine<'_> {
    fn of(step: usize, report: &ClipReport) -> StepLine<'_> {
        let tensors = report.tensors.iter().map(|tensor| TensorLine {
            name: &tensor.name,
            norm_before: tensor.norm_before,
            norm_after: tensor.norm_after,
            coefficient: tensor.coefficient,
            non_finite: tensor.non_finite,
        });
        StepLine {
            step,
            action: action_name(report.action),
            norm_before: report.norm_before,
            norm_after: report.norm_after,
            coefficient: report.coefficient,
            threshold: report.threshold,
            non_finite: report.non_finite,
            rounded_to_zero: report.rounded_to_zero,
            tensors: tensors.collect(),
        }
    }
}

/// The rest of the line of a step.
fn what_was_done(report: &ClipReport) -> String {
    let non_finite = counted(report.non_finite, "non-finite value");
    match report.skip_reason {
        Some(SkipReason::NonFinite) => return non_finite,
        Some(reason) => return reason.to_string(),
        None => {}
    }
    let mut words = format!("norm {}", significant(report.norm_before));
    if report.action == ClipAction::Clip {
        let after = significant(report.norm_after);
        words.push_str(&format!(
            " -> {after} (x {})",
            significant(report.coefficient)
        ));
    }
    if let Some(threshold) = report.threshold {
        words.push_str(&format!(", threshold {}", significant(threshold)));
    }
    if report.non_finite > 0 {
        words.push_str(&format!(", {non_finite} set to zero"));
    }
    if let Some(lost @ 1..) = report.rounded_to_zero {
        let elements = counted(lost, "element");
        let whose = if lost == 1 { "its" } else { "their" };
        words.push_str(&format!(
            ", {elements} too small for {whose} type became zero"
        ));
    }
    words
}

/// The tensors that were changed or are not finite, those with the largest share first.
fn tensors(report: &ClipReport) -> Vec<String> {
    let only_non_finite = report.skip_reason == Some(SkipReason::NonFinite);
    let changed = |tensor: &&TensorReport| {
        tensor.non_finite > 0 || (tensor.coefficient != 1.0 && !only_non_finite)
    };
    let mut tensors: Vec<&TensorReport> = report.tensors.iter().filter(changed).collect();
    let weight = |tensor: &TensorReport| match only_non_finite {
        true => tensor.non_finite as f64 / tensor.elements.max(1) as f64,
        false => tensor.square_share,
    };
    tensors.sort_by(|left, right| weight(right).total_cmp(&weight(left)));
    let more = tensors.len().saturating_sub(ROWS);
    tensors.truncate(ROWS);
    let rows: Vec<Vec<String>> = tensors.iter().map(|tensor| row(report, tensor)).collect();
    let mut lines = table("<>><<<", &rows);
    if more > 0 {
        lines.push(format!("... and {more} more"));
    }
    lines
}

/// Name, share of the squared norm, norm before and after, coefficient, and non-finite values; for
/// a skipped step only what explains the skip.
fn row(report: &ClipReport, tensor: &TensorReport) -> Vec<String> {
    let mut cells = vec![shortened(&tensor.name)];
    let non_finite = match tensor.non_finite {
        0 => String::new(),
        some => {
            let all = count(tensor.elements as u64);
            format!("{} of {all} values non-finite", count(some))
        }
    };
    if report.skip_reason == Some(SkipReason::NonFinite) {
        cells.push(non_finite);
        return cells;
    }
    cells.push(format!("{:.1} %", 100.0 * tensor.square_share));
    cells.push(format!("norm {}", significant(tensor.norm_before)));
    if report.action != ClipAction::Skip {
        cells.push(format!("-> {}", significant(tensor.norm_after)));
        cells.push(format!("x {}", significant(tensor.coefficient)));
        cells.push(non_finite);
    }
    cells
}

/// Shortens a long name at its start, because the end says more.
fn shortened(name: &str) -> String {
    let name = one_line(name);
    let excess = name.chars().count().saturating_sub(WIDEST_NAME);
    match excess {
        0 => name,
        _ => "...".chars().chain(name.chars().skip(excess + 3)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_to_fit() {
        assert_eq!(shortened("layers.0\n"), "layers.0 ");
        let long = format!("{}.weight", "x".repeat(100));
        assert_eq!(shortened(&long).chars().count(), WIDEST_NAME);
        assert!(shortened(&long).ends_with("x.weight"));
    }
}
