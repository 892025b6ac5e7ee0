//! Text that is printed more than once: tables, numbers, what a run has come to.

use std::path::Path;

use gradclip::ClipAction;
use gradclip_judge::statistics::mean;
use gradclip_judge::{Advice, GradientFlow, TimeFlow, Verdict};
use indicatif::HumanCount;
use shears_kernels::Bf16Unit;
use shears_run::{Columns, EndReason, Parameter};
use shears_train::{ClipPolicy, MemoryEstimate, Plan};

use crate::run_log::without_header;

/// A count with commas between thousands.
pub(crate) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// The number of a step at the axis of a picture; nothing between two steps.
pub(crate) fn step_number(place: f64) -> String {
    match place.fract() == 0.0 && place >= 0.0 {
        true => count(place as u64),
        false => String::new(),
    }
}

/// Bytes in the unit that leaves one to three digits before the point.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let mut value = number as f64 / 1e3;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// The table of parameters, one line a layer.
pub(crate) fn parameter_table(parameters: &[Parameter], vocabulary: usize) -> String {
    let mut rows: Vec<(String, String, u64)> = Vec::new();
    for parameter in parameters {
        let layer = parameter.layer.as_str();
        let rest = parameter
            .name
            .strip_prefix(layer)
            .unwrap_or("")
            .trim_start_matches('.');
        let shape: Vec<String> = parameter.shape.iter().map(usize::to_string).collect();
        let tensor = format!("{rest} {}", shape.join("x"));
        match rows.last_mut().filter(|(name, _, _)| name == layer) {
            Some((_, tensors, elements)) => {
                tensors.push_str(", ");
                tensors.push_str(&tensor);
                *elements += parameter.elements() as u64;
            }
            None => rows.push((layer.to_string(), tensor, parameter.elements() as u64)),
        }
    }
    let width = rows
        .iter()
        .map(|(name, _, _)| name.len())
        .max()
        .unwrap_or(0)
        .max(5);
    let total: u64 = rows.iter().map(|(_, _, elements)| elements).sum();
    let mut table = String::new();
    for (name, tensors, elements) in fold_alike(rows) {
        let tensors = shorten(&tensors, 72);
        table.push_str(&format!(
            "  {name:<width$}  {:>12}  {tensors}\n",
            count(elements)
        ));
    }
    let total = count(total);
    table.push_str(&format!(
        "  {:<width$}  {total:>12}  ({vocabulary} symbols)",
        "total"
    ));
    table
}

type Row = (String, String, u64);

/// Layers with the same tensors on one line: `blocks.0` and `blocks.1` as `blocks.0-1`.
fn fold_alike(rows: Vec<Row>) -> Vec<Row> {
    let mut folded: Vec<Row> = Vec::new();
    for (name, tensors, elements) in rows {
        let Some(last) = folded.last_mut().filter(|last| last.1 == tensors) else {
            folded.push((name, tensors, elements));
            continue;
        };
        let number = name.rsplit_once('.').map_or("", |(_, number)| number);
        let first = last.0.split('-').next().unwrap_or_default();
        *last = (format!("{first}-{number}"), tensors, last.2 + elements);
    }
    folded
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    text.chars().take(width - 3).chain("...".chars()).collect()
}

/// What training will take, in one line.
pub(crate) fn memory_line(memory: &MemoryEstimate) -> String {
    format!(
        "memory: about {} (weights {}, gradients {}, moments {}, activations {}, program {})",
        bytes(memory.total()),
        bytes(memory.parameters),
        bytes(memory.gradients),
        bytes(memory.moments),
        bytes(memory.activations),
        bytes(memory.program),
    )
}

/// What computes in bf16 here.
pub(crate) fn bf16_line() -> String {
    match Bf16Unit::here() {
        Bf16Unit::Widened => {
            "products in bf16 by f32 units: this processor has none for bf16, and f32 is \
                              faster"
                .to_string()
        }
        unit => format!("products in bf16 by {}", unit.name()),
    }
}

/// The settings that matter most, in two lines.
pub(crate) fn plan_lines(plan: &Plan) -> String {
    format!(
        "{} steps of {} x {} tokens{}, {} at {:?} ({})\nclipping {}, non-finite gradients: {}",
        count(plan.steps),
        plan.batch,
        plan.window,
        if plan.accumulate > 1 {
            format!(" x {}", plan.accumulate)
        } else {
            String::new()
        },
        plan.optimizer,
        plan.lr,
        plan.schedule,
        plan.clip,
        plan.non_finite,
    )
}

/// All that the log of a run says about its clipping and its gradients.
pub(crate) struct Judgement {
    verdict: Option<Verdict>,
    advice: Option<Advice>,
    layers: Option<GradientFlow>,
    /// Why there is no flow through the layers, where that needs a word.
    layers_missing: Option<String>,
    /// Of models that carry a state.
    time: Option<TimeFlow>,
}

impl Judgement {
    pub(crate) fn of(columns: &Columns) -> Judgement {
        let cosines = columns.cosine.iter().zip(&columns.action);
        let clipped = cosines.filter(|(_, action)| **action == ClipAction::Clip);
        let cosines = clipped.map(|(cosine, _)| f64::from(*cosine));
        // Where two rules of a chain turned the gradient, it is not known.
        let cosine = mean(cosines.filter(|cosine| cosine.is_finite()));
        Judgement {
            verdict: columns.verdict(),
            advice: Advice::of(columns.records(), cosine),
            layers: columns.gradient_flow(),
            layers_missing: without_header(columns, "flow of gradients through the layers"),
            time: columns.time_flows.last().cloned(),
        }
    }

    /// For people, indented.
    pub(crate) fn lines(&self, policy: &ClipPolicy) -> String {
        let verdict = self.verdict.as_ref();
        let verdict = verdict.map_or("no step was taken".to_string(), Verdict::to_string);
        let mut words = verdict.trim_end().to_string();
        for rule in policy.rules_inside_adam() {
            let name = rule.name();
            words.push_str(&format!(
                "\n`{name}` works inside Adam, on the update, and is not part of these numbers"
            ));
        }
        if let Some(layers) = &self.layers {
            words.push_str(&format!("\n{layers}"));
        }
        if let Some(missing) = &self.layers_missing {
            words.push_str(&format!("\n{missing}"));
        }
        if let Some(time) = &self.time {
            words.push_str(&format!("\n{time}"));
        }
        if let Some(advice) = &self.advice {
            words.push_str(&format!("\n{advice}"));
        }
        let lines = words.lines().map(|line| format!("  {line}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The last line of a run as JSON.
    pub(crate) fn end_line(
        &self,
        columns: &Columns,
        how: EndReason,
        run: &Path,
    ) -> anyhow::Result<serde_json::Value> {
        let evaluation = columns.evaluations.last();
        let mut line = self.json();
        line["event"] = "end".into();
        line["reason"] = serde_json::to_value(how)?;
        line["step"] = columns.step.last().copied().unwrap_or(0).into();
        line["run"] = run.display().to_string().into();
        line["val_loss"] = evaluation.map(|evaluation| evaluation.val_loss).into();
        line["bits_per_char"] = evaluation.map(|evaluation| evaluation.bits_per_char).into();
        line["perplexity"] = evaluation.map(|evaluation| evaluation.perplexity).into();
        Ok(line)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let verdict = self.verdict.as_ref().map(|verdict| {
            serde_json::json!({
                "steps": verdict.steps,
                "clipped": verdict.clipped,
                "clipped_share": verdict.clipped_share,
                "skipped": verdict.skipped,
                "outliers": verdict.outliers,
                "threshold": verdict.threshold,
                "norm": verdict.norms.as_ref().map(|norms| serde_json::json!({
                    "p10": norms.p10, "p50": norms.p50, "p90": norms.p90,
                    "max": norms.max, "mean": norms.mean,
                })),
                "assessment": format!("{:?}", verdict.assessment).to_lowercase(),
                "suggested": verdict.suggested.as_ref().map(|range| [*range.start(), *range.end()]),
                "words": verdict.to_string(),
            })
        });
        serde_json::json!({
            "verdict": verdict,
            "advice": self.advice.as_ref().map(|advice| serde_json::json!({
                "policy": advice.policy, "reasons": advice.reasons,
            })),
            "gradient_flow": self.layers.as_ref().map(|layers| serde_json::json!({
                "first_to_last": layers.first_to_last,
                "vanishing": layers.vanishing.as_ref().map(|finding| &finding.layer),
                "exploding": layers.exploding.as_ref().map(|finding| &finding.layer),
                "words": layers.to_string(),
            })),
            "gradient_flow_through_time": self.time.as_ref().map(|time| serde_json::json!({
                "step": time.step,
                "norms": time.norms,
                "reach": time.reach(),
                "far_to_near": time.far_to_near(),
                "words": time.to_string(),
            })),
        })
    }
}

/// How the user started this program, for commands to type next.
pub(crate) fn program() -> &'static str {
    // Cargo tells the programs that it runs where its own binary is.
    match std::env::var_os("CARGO") {
        Some(_) => "cargo run --release --",
        None => "shears",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [count(7), count(1_234), count(12_345_678)],
            ["7", "1,234", "12,345,678"]
        );
        assert_eq!(
            [bytes(999), bytes(1_500_000), bytes(999_960_000)],
            ["1.0 kB", "1.5 MB", "1.0 GB"]
        );
    }

    #[test]
    fn alike_layers_share_a_line() {
        let info = |name: &str, layer: &str| Parameter {
            name: name.into(),
            layer: layer.into(),
            shape: vec![2, 3],
        };
        let parameters = [
            info("embedding.weight", "embedding"),
            info("layers.0.w", "layers.0"),
            info("layers.1.w", "layers.1"),
        ];
        let table = parameter_table(&parameters, 5);
        let lines: Vec<&str> = table.lines().map(str::trim).collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].starts_with("layers.0-1") && lines[1].contains("12"),
            "{table}"
        );
        assert!(
            lines[2].contains("18") && lines[2].contains("5 symbols"),
            "{table}"
        );
    }
}
