//! Texts that several commands print: numbers, tables, the judgement of a run.

use std::path::Path;

use gradclip::significant;
use indicatif::HumanCount;
use shears_kernels::Bf16Unit;
use shears_model::Precision;
use shears_run::{Columns, EndReason, Header, Judgement, Parameter};
use shears_train::{MemoryEstimate, Plan};

use crate::output::{complain, paint, say, wrapped};
use crate::table::table;
pub(crate) use shears_run::{bytes, program};

/// A count with commas between thousands.
pub(crate) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// A count with its noun, singular or plural.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(number))
}

/// A number with three significant digits, or that it is not finite.
pub(crate) fn short(number: f64) -> String {
    match number.is_finite() {
        true => significant(number),
        false => "not finite".to_string(),
    }
}

/// A share as a percentage, which is 0 or 100 only if it is exactly that.
pub(crate) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    match percent {
        0.0 => "0 %".to_string(),
        _ if percent < 0.1 => "<0.1 %".to_string(),
        _ if percent < 9.95 => format!("{percent:.1} %"),
        _ if percent > 99.0 && percent < 100.0 => ">99 %".to_string(),
        _ => format!("{percent:.0} %"),
    }
}

/// The unit of bits per character: a tokenizer that alters the text changes its number of
/// characters.
pub(crate) fn unit_of_bits(is_altered: bool) -> &'static str {
    match is_altered {
        true => "bits per character of the altered text",
        false => "bits per character",
    }
}

/// A perplexity with this many decimals, unless it is huge.
pub(crate) fn perplexity(value: f64, decimals: usize) -> String {
    match value < 1e5 {
        true => format!("{value:.decimals$}"),
        false => significant(value),
    }
}

/// The label of a step on an axis; empty between two steps.
pub(crate) fn step_number(place: f64) -> String {
    match place.fract() == 0.0 && place >= 0.0 {
        true => count(place as u64),
        false => String::new(),
    }
}

/// The table of parameters, one line per layer. Consecutive layers with the same tensors share one:
/// `blocks.0` and `blocks.1` become `blocks.0-1`.
pub(crate) fn parameter_table(header: &Header, vocabulary: usize) -> String {
    let layers = header.layers().into_iter().map(|(layer, parameters)| {
        let tensor = |parameter: &&Parameter| {
            let rest = parameter.name.strip_prefix(layer).unwrap_or("");
            let shape: Vec<String> = parameter.shape.iter().map(usize::to_string).collect();
            format!("{} {}", rest.trim_start_matches('.'), shape.join("x"))
        };
        let elements: usize = parameters
            .iter()
            .map(|parameter| parameter.elements())
            .sum();
        let tensors: Vec<String> = parameters.iter().map(tensor).collect();
        (layer, tensors.join(", "), elements as u64)
    });
    let layers: Vec<(&str, String, u64)> = layers.collect();
    let alike = layers.chunk_by(|left, right| left.1 == right.1);
    let rows = alike.map(|layers| {
        let (first, last) = (layers[0].0, layers[layers.len() - 1].0);
        let name = match last.rsplit_once('.') {
            Some((_, number)) if layers.len() > 1 => format!("  {first}-{number}"),
            _ => format!("  {first}"),
        };
        let elements = layers.iter().map(|layer| layer.2).sum();
        vec![name, count(elements), shorten(&layers[0].1, 72)]
    });
    let total = layers.iter().map(|layer| layer.2).sum();
    let symbols = format!("({vocabulary} symbols)");
    let total = vec!["  total".to_string(), count(total), symbols];
    table("<><", &rows.chain([total]).collect::<Vec<_>>()).join("\n")
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_string();
    }
    text.chars().take(width - 3).chain("...".chars()).collect()
}

/// The name of a model: its preset if kind and size are those of the preset, otherwise kind and
/// size in words.
pub(crate) fn model_name(plan: &Plan) -> String {
    let of_preset = plan.preset.plan();
    let size = |plan: &Plan| (plan.model, plan.layers, plan.hidden);
    match size(plan) == size(&of_preset) {
        true => plan.preset.to_string(),
        false => {
            let layers = counted(plan.layers as u64, "layer");
            format!("{}, {layers} of {}", plan.model, plan.hidden)
        }
    }
}

/// The same, short enough to begin the name of a folder.
pub(crate) fn short_model_name(plan: &Plan) -> String {
    let name = model_name(plan);
    match name == plan.preset.to_string() {
        true => name,
        false => format!("{}-{}", plan.model, plan.hidden),
    }
}

/// The memory of each of `ranks` processes.
pub(crate) fn memory_of_each(memory: u64, ranks: usize) -> String {
    match ranks {
        1 => bytes(memory),
        _ => format!("{} in each of {ranks} processes", bytes(memory)),
    }
}

/// The memory estimate of training in each of `ranks` processes, on one line.
pub(crate) fn memory_line(memory: &MemoryEstimate, ranks: usize) -> String {
    format!(
        "memory: about {} (weights {}, gradients {}, moments {}, activations {}, checkpoints {}, log {}, \
         text {}, program {})",
        memory_of_each(memory.total(), ranks),
        bytes(memory.parameters),
        bytes(memory.gradients),
        bytes(memory.moments),
        bytes(memory.activations),
        bytes(memory.saving),
        bytes(memory.log),
        bytes(memory.text),
        bytes(memory.program),
    )
}

/// Which units of this processor compute in bf16; none for a run in f32.
pub(crate) fn bf16_line(plan: &Plan) -> Option<String> {
    let unit = (plan.precision == Precision::Bf16).then(Bf16Unit::detect)?;
    Some(match unit {
        Bf16Unit::Widened => {
            "products in bf16 by f32 units: this processor has none for bf16, and \
                              --precision f32 is faster"
                .to_string()
        }
        unit => format!("products in bf16 by {}", unit.name()),
    })
}

/// Warns, where [`bf16_line`] is not printed, that this processor has no units for bf16.
pub(crate) fn warn_of_bf16(plan: &Plan) {
    let line = bf16_line(plan).filter(|_| Bf16Unit::detect() == Bf16Unit::Widened);
    if let Some(line) = line {
        complain!("shears: warning: {line}");
    }
}

/// The most important settings, on two lines.
pub(crate) fn plan_lines(plan: &Plan) -> String {
    format!(
        "{} of {} x {} tokens{}, {} at {:?} ({})\nclipping {}, non-finite gradients: {}",
        counted(plan.steps, "step"),
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

/// Prints the verdict on a run: a sentence, a line of numbers and a command to try next; with
/// `all`, everything else that is known as well.
pub(crate) fn say_judgement(judgement: &Judgement, all: bool) {
    let verdict = &judgement.verdict;
    let sentence = wrapped(&verdict.sentence, 0);
    say!("{}", paint(verdict.class.tone(), &sentence));
    let lines = match all {
        true => judgement.lines().split_off(1),
        false => vec![verdict.numbers.to_string()],
    };
    for line in lines.iter().filter(|line| !line.starts_with("try next: ")) {
        say!("{}", wrapped(line, 2));
    }
    if let Some(next) = &judgement.next {
        say!("try next: {next}");
    }
}

/// The last line of a run as JSON.
pub(crate) fn end_line(
    judgement: &Judgement,
    columns: &Columns,
    how: EndReason,
    run: &Path,
) -> anyhow::Result<serde_json::Value> {
    let evaluation = columns.evaluations.last();
    let mut line = judgement.json();
    line["event"] = "end".into();
    line["reason"] = serde_json::to_value(how)?;
    line["step"] = columns.step.last().copied().unwrap_or(0).into();
    line["run"] = run.display().to_string().into();
    line["val_loss"] = evaluation.map(|evaluation| evaluation.val_loss).into();
    line["bits_per_char"] = evaluation.map(|evaluation| evaluation.bits_per_char).into();
    line["perplexity"] = evaluation.map(|evaluation| evaluation.perplexity).into();
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_readable() {
        assert_eq!(
            [count(7), count(1_234), count(12_345_678)],
            ["7", "1,234", "12,345,678"]
        );
        let steps = [0, 1, 1_234].map(|number| counted(number, "step"));
        assert_eq!(steps, ["0 steps", "1 step", "1,234 steps"]);
    }

    #[test]
    fn shares_are_rounded_to_0_or_100_only_if_exact() {
        let read = [0.0, 1e-5, 0.0456, 0.5, 0.999, 1.0].map(percent);
        assert_eq!(read, ["0 %", "<0.1 %", "4.6 %", "50 %", ">99 %", "100 %"]);
    }

    #[test]
    fn a_model_has_the_name_of_its_preset_only_if_it_is_that() {
        use shears_model::Architecture;
        use shears_train::Preset;

        let mut plan = Preset::Lstm128.plan();
        assert_eq!(model_name(&plan), "lstm-128");
        plan.dropout = 0.1;
        assert_eq!(model_name(&plan), "lstm-128");
        (plan.layers, plan.hidden) = (1, 16);
        assert_eq!(model_name(&plan), "lstm, 1 layer of 16");
        (plan.model, plan.layers, plan.hidden) = (Architecture::Rnn, 2, 128);
        assert_eq!(model_name(&plan), "rnn, 2 layers of 128");
    }

    #[test]
    fn alike_layers_share_a_line() {
        let info = |name: &str, layer: &str| Parameter {
            name: name.into(),
            layer: layer.into(),
            shape: vec![2, 3],
        };
        let header = Header {
            format: shears_run::FORMAT,
            parameters: vec![
                info("embedding.weight", "embedding"),
                info("layers.0.w", "layers.0"),
                info("layers.1.w", "layers.1"),
            ],
            device: "cpu".into(),
            precision: "f32".into(),
        };
        let table = parameter_table(&header, 5);
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
