//! The rows of the comparison: what is measured, the arguments of each program, and the goal.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A program that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub(super) enum Side {
    #[value(skip)]
    Shears,
    /// Eager
    PyTorch,
    /// With the model and its loss in `torch.compile`
    #[serde(rename = "pytorch-compile")]
    #[value(name = "pytorch-compile")]
    PyTorchCompiled,
    Burn,
    Candle,
}

impl Side {
    pub(super) const PEERS: [Side; 4] = [
        Side::PyTorch,
        Side::PyTorchCompiled,
        Side::Burn,
        Side::Candle,
    ];

    /// As in tables and plots.
    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Shears => "Shears",
            Side::PyTorch => "PyTorch",
            Side::PyTorchCompiled => "PyTorch, compiled",
            Side::Burn => "Burn",
            Side::Candle => "Candle",
        }
    }
}

/// What a row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Quantity {
    /// A whole training step, in milliseconds.
    Step,
    /// Measuring the gradients and deciding, in milliseconds.
    Norm,
    /// The same, and scaling the gradients in place, in milliseconds.
    ClipInPlace,
    /// Shears' `Norm` against PyTorch's `ClipInPlace`, in milliseconds: only in older files.
    Clip,
    /// Measuring, scaling and AdamW, in milliseconds.
    ClipAndUpdate,
    /// Tokens per second, one text at a time.
    Generate,
    /// Peak memory of the process, in bytes.
    PeakMemory,
}

impl Quantity {
    /// The JSON pointer to it in the output of a program.
    pub(super) fn pointer(self, side: Side) -> &'static str {
        match (self, side) {
            (Quantity::Step, _) => "/ms_per_step/median",
            // Shears' `clip` leaves the scaling to the update.
            (Quantity::Norm, Side::Shears) | (Quantity::Clip, _) => "/ms/clip/median",
            (Quantity::Norm, _) => "/ms/norm/median",
            (Quantity::ClipInPlace, Side::Shears) => "/ms/clip_in_place/median",
            (Quantity::ClipInPlace, _) => "/ms/clip/median",
            (Quantity::ClipAndUpdate, _) => "/ms/clip_and_update/median",
            (Quantity::Generate, _) => "/tokens_per_second/median",
            (Quantity::PeakMemory, _) => "/peak_rss_bytes",
        }
    }

    /// Whether more of it is better.
    pub(super) fn more_is_better(self) -> bool {
        self == Quantity::Generate
    }

    /// A measured value as people read it, with its unit.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Quantity::Generate => format!("{} tokens/s", three_digits(value)),
            Quantity::PeakMemory => format!("{} MB", three_digits(value / 1e6)),
            _ => format!("{} ms", three_digits(value)),
        }
    }
}

/// A measured number, which is never negative, with three significant digits or all digits before
/// the point.
pub(super) fn three_digits(value: f64) -> String {
    let decimals = match value {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if index > 0 && left.is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

/// When a row counts as reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Goal {
    /// This many times better than PyTorch: faster, or smaller.
    #[serde(rename = "times-pytorch")]
    TimesPyTorch(f64),
    /// At most this many times as long as one streaming read of the same gradients.
    TimesRead(f64),
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) quantity: Quantity,
    pub(super) goal: Goal,
}

/// A training step with this preset, `times` as fast as PyTorch's.
const fn step(name: &'static str, times: f64) -> Row {
    times_pytorch(name, Quantity::Step, times)
}

/// Generation, `times` as fast as PyTorch's.
const fn tokens(name: &'static str, times: f64) -> Row {
    times_pytorch(name, Quantity::Generate, times)
}

/// The norm of gradients, in the time of little more than one read of them.
const fn norm(name: &'static str) -> Row {
    Row {
        name,
        quantity: Quantity::Norm,
        goal: Goal::TimesRead(1.15),
    }
}

const fn times_pytorch(name: &'static str, quantity: Quantity, times: f64) -> Row {
    Row {
        name,
        quantity,
        goal: Goal::TimesPyTorch(times),
    }
}

/// One run of each program, and the rows that are read from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) preset: &'static str,
    /// Steps of training or clipping, or tokens.
    pub(super) steps: usize,
    /// What is timed if it is not training: `clip` or `generate`.
    pub(super) part: Option<&'static str>,
    /// Instead of the preset's.
    pub(super) batch: Option<usize>,
    /// More arguments of `shears bench`, and the same for `tools/pytorch_reference.py`.
    pub(super) model: Option<[&'static str; 2]>,
    pub(super) rows: &'static [Row],
}

const fn train(preset: &'static str, steps: usize, rows: &'static [Row]) -> Run {
    Run {
        preset,
        steps,
        part: None,
        batch: None,
        model: None,
        rows,
    }
}

const fn generate(preset: &'static str, steps: usize, rows: &'static [Row]) -> Run {
    Run {
        part: Some("generate"),
        ..train(preset, steps, rows)
    }
}

const fn clip(steps: usize, rows: &'static [Row]) -> Run {
    Run {
        part: Some("clip"),
        ..train("gpt-384", steps, rows)
    }
}

/// GPT-2 small with an output layer of its own: 163 million parameters.
const GPT_2: [&str; 2] = [
    "--vocabulary 50257 --layers 12 --hidden 768 --heads 12 --window 1024 --tied=false",
    "--vocabulary 50257 --layers 12 --hidden 768 --heads 12 --window 1024 --untied",
];

/// Three heads of queries for each of keys and values.
const GROUPED: [&str; 2] = ["--kv-heads 2", "--kv-heads 2"];

/// Products in bf16: in Shears with `--precision`, in PyTorch with autocast, or for generation with
/// a model entirely in bf16.
const BF16: [&str; 2] = ["--precision bf16", "--bf16"];

impl Run {
    const fn of_batch(self, batch: usize) -> Run {
        Run {
            batch: Some(batch),
            ..self
        }
    }

    const fn of_model(self, model: [&'static str; 2]) -> Run {
        Run {
            model: Some(model),
            ..self
        }
    }
}

const PEAK: Quantity = Quantity::PeakMemory;

/// Everything that is compared, in the order of the table.
pub(super) const RUNS: &[Run] = &[
    train("rnn-128", 40, &[step("train-rnn-128", 2.5)]),
    train("lstm-128", 30, &[step("train-lstm-128", 2.2)]),
    train("gru-128", 30, &[step("train-gru-128", 2.5)]),
    train(
        "lstm-512",
        6,
        &[
            step("train-lstm-512", 1.7),
            times_pytorch("memory-lstm-512", PEAK, 2.0),
        ],
    ),
    train("gru-512", 6, &[step("train-gru-512", 1.8)]),
    train("gpt-128", 40, &[step("train-gpt-128", 1.8)]),
    train(
        "gpt-384",
        4,
        &[
            step("train-gpt-384", 1.3),
            times_pytorch("memory-gpt-384", PEAK, 2.0),
        ],
    )
    .of_batch(16),
    train("llama-128", 40, &[step("train-llama-128", 1.8)]),
    train("llama-384", 4, &[step("train-llama-384", 1.3)]).of_batch(16),
    train("llama-384", 4, &[step("train-llama-384-gqa", 1.3)])
        .of_batch(16)
        .of_model(GROUPED),
    train("lstm-128", 30, &[step("train-lstm-128-bf16", 1.0)]).of_model(BF16),
    train("lstm-512", 6, &[step("train-lstm-512-bf16", 1.0)]).of_model(BF16),
    train("gpt-128", 40, &[step("train-gpt-128-bf16", 1.0)]).of_model(BF16),
    train("gpt-384", 4, &[step("train-gpt-384-bf16", 1.0)])
        .of_model(BF16)
        .of_batch(16),
    clip(
        30,
        &[
            norm("norm-10.8M"),
            times_pytorch("clip-in-place-10.8M", Quantity::ClipInPlace, 1.0),
            times_pytorch("clip-and-adamw-10.8M", Quantity::ClipAndUpdate, 1.6),
        ],
    ),
    clip(
        6,
        &[
            norm("norm-163M"),
            times_pytorch("clip-in-place-163M", Quantity::ClipInPlace, 1.0),
        ],
    )
    .of_model(GPT_2),
    generate("lstm-128", 2048, &[tokens("generate-lstm-128", 5.0)]),
    generate("lstm-512", 512, &[tokens("generate-lstm-512", 8.0)]),
    generate("gpt-128", 640, &[tokens("generate-gpt-128", 4.0)]),
    generate("gpt-384", 512, &[tokens("generate-gpt-384", 1.8)]),
    generate("llama-128", 640, &[tokens("generate-llama-128", 4.0)]),
    generate("lstm-512", 512, &[tokens("generate-lstm-512-bf16", 1.0)]).of_model(BF16),
    generate("gpt-384", 512, &[tokens("generate-gpt-384-bf16", 1.0)]).of_model(BF16),
];

/// The names of all rows.
pub(super) fn names() -> Vec<&'static str> {
    let rows = RUNS.iter().flat_map(|run| run.rows);
    rows.map(|row| row.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_names_are_unique() {
        let mut names = names();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), count), (count, 28));
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.123_45, "0.123"),
            (1.234_5, "1.23"),
            (12.345, "12.3"),
            (123.45, "123"),
            (12_345.6, "12,346"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(three_digits(value), text);
        }
        assert_eq!(Quantity::PeakMemory.show(985_000_000.0), "985 MB");
        assert_eq!(Quantity::Step.show(39.84), "39.8 ms");
    }

    #[test]
    fn sides_have_the_same_key_in_files_and_on_the_command_line() {
        for side in Side::PEERS {
            let key = serde_json::to_value(side).unwrap();
            assert_eq!(key, side.to_possible_value().unwrap().get_name());
        }
    }
}
