//! `cargo xtask bench report`: the measurements as the tables and plots of the documentation.

use std::fs;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use super::machine::Machine;
use super::peers::{self, Comparison, HEAD, Measured};
use super::plot;
use super::ranks;
use super::rows::{Quantity, RUNS, Side};
use super::scaling::{self, SERIES, Scaling};
use super::statistics::spread;
use crate::markdown;

const PERFORMANCE: &str = "docs/performance.md";
const README: &str = "README.md";
const PARALLEL: &str = "docs/parallel.md";

/// The rows in the README: a small model, a large one, and generation.
const IN_README: [&str; 3] = ["train-lstm-128", "train-gpt-384", "generate-lstm-512"];

/// Writes every document whose numbers come from `benches/baselines`.
pub(super) fn run() -> Result<(), String> {
    for (path, text) in documents()? {
        super::write(&super::root().join(path), &text)?;
    }
    Ok(())
}

/// Every document with current numbers, by its path in the repository.
fn documents() -> Result<Vec<(String, String)>, String> {
    let comparisons = comparisons()?;
    let newest = comparisons
        .first()
        .ok_or("`cargo xtask bench peers` measures first")?;
    let scaling: Scaling = read(scaling::FILE)?;
    let scaling_conditions = conditions(
        &scaling.machine,
        ", unless they are what changes",
        scaling.threads,
        scaling.rounds,
    );
    let mut performance = text_of(&super::root().join(PERFORMANCE))?;
    for (section, body) in [
        ("peers", tables(&comparisons)),
        ("scaling", scaling_conditions),
    ] {
        performance = between_markers(&performance, section, &body)?;
    }
    let readme = text_of(&super::root().join(README))?;
    let readme = between_markers(&readme, "peers", &short_table(&comparisons, &IN_README))?;
    let mut documents = vec![
        (PERFORMANCE.to_string(), performance),
        (README.to_string(), readme),
        (
            "docs/training-speed.svg".to_string(),
            plot::training(newest)?,
        ),
    ];
    if super::baseline(ranks::FILE).exists() {
        let measured: ranks::Ranks = read(ranks::FILE)?;
        let parallel = text_of(&super::root().join(PARALLEL))?;
        let parallel = between_markers(&parallel, "ranks", &ranks::table(&measured))?;
        documents.push((PARALLEL.to_string(), parallel));
    }
    for series in &SERIES {
        let name = series.preset;
        let title = format!("{name}, one size changed at a time");
        let svg = plot::scaling(&scaling, name, &title)?;
        documents.push((format!("docs/scaling-{name}.svg"), svg));
    }
    Ok(documents)
}

/// The measurements of each kind of processor, newest first.
fn comparisons() -> Result<Vec<Comparison>, String> {
    let folder = super::baseline("");
    let entries = fs::read_dir(&folder)
        .map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    let mut found: Vec<Comparison> = names
        .filter(|name| name.starts_with(peers::FILES))
        .map(|name| read(&name))
        .collect::<Result<_, _>>()?;
    found.sort_by(|left, right| {
        let key = |of: &Comparison| (of.machine.date.clone(), of.machine.processor.clone());
        key(right).cmp(&key(left))
    });
    Ok(found)
}

fn text_of(path: &PathBuf) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn read<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    let path = super::baseline(name);
    let task = name.trim_end_matches(".json");
    let text = text_of(&path)
        .map_err(|error| format!("{error}; `cargo xtask bench {task}` measures it"))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Replaces the text between `<!-- NAME -->` and `<!-- end NAME -->`, each on a line of its own.
fn between_markers(text: &str, name: &str, body: &str) -> Result<String, String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end {name} -->"));
    let missing = || format!("there is no `{}` or no `{end}` after it", begin.trim());
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", body.trim()))
}

/// The line above measurements.
fn conditions(machine: &Machine, of: &str, threads: usize, rounds: usize) -> String {
    let machine = machine.describe();
    format!("Machine: {machine}. Threads{of}: {threads}. Rounds: {rounds}.")
}

/// How far apart two cores were, in a sentence; empty for older measurements.
fn distance(comparison: &Comparison) -> String {
    let trips = comparison.rows.iter().flat_map(|row| &row.round_trips);
    let ends = shears_figure::extent(trips.copied());
    ends.map_or(String::new(), |(min, max)| {
        format!(" A cache line goes from one core to another and back in {min:.0} to {max:.0} ns.")
    })
}

/// One table for each kind of processor.
fn tables(comparisons: &[Comparison]) -> String {
    let sections = comparisons.iter().map(|comparison| {
        format!(
            "### {}\n\n{}{}\n\n{}\n\n{}",
            comparison.machine.processor,
            conditions(
                &comparison.machine,
                " of every program",
                comparison.threads,
                comparison.rounds
            ),
            distance(comparison),
            table(comparison),
            clip_share(comparison)
        )
    });
    sections.collect::<Vec<_>>().join("\n\n")
}

/// Every row with every program.
fn table(comparison: &Comparison) -> String {
    let below = format!("|{}", "---|".repeat(HEAD.len()));
    let rows = comparison.rows.iter().map(Measured::cells);
    let mut lines = vec![markdown::table(HEAD, &below, rows)];
    let reasons: Vec<String> = comparison.rows.iter().flat_map(Measured::reasons).collect();
    if !reasons.is_empty() {
        lines.push(String::new());
        lines.extend(reasons);
    }
    lines.join("\n")
}

/// The share of clipping in a training step.
fn clip_share(comparison: &Comparison) -> String {
    let shares = comparison.rows.iter().filter_map(|row| {
        let share = spread(&row.clip_share)?;
        let name = row.name.trim_start_matches("train-");
        Some(format!("`{name}` {:.2} %", 100.0 * share.median))
    });
    let shares: Vec<String> = shares.collect();
    format!(
        "Clipping's share of a training step: {}.",
        shares.join(", ")
    )
}

/// A short table of Shears and PyTorch only: one column for each kind of processor, for the wanted
/// rows.
fn short_table(comparisons: &[Comparison], wanted: &[&str]) -> String {
    let heads = comparisons.iter().map(|comparison| {
        let Machine {
            processor,
            instructions,
            ..
        } = &comparison.machine;
        format!("{processor}, {}", instructions.join(", "))
    });
    let head = [String::new()].into_iter().chain(heads);
    let rows = RUNS.iter().flat_map(|run| run.rows);
    let rows = rows
        .filter(|row| wanted.contains(&row.name))
        .filter_map(|row| {
            let measured = |comparison: &Comparison| {
                let mut rows = comparison.rows.iter();
                rows.find(|measured| measured.name == row.name).cloned()
            };
            let found: Vec<Option<Measured>> = comparisons.iter().map(measured).collect();
            let label = words(found.iter().flatten().next()?);
            Some(
                [label]
                    .into_iter()
                    .chain(found.iter().map(cell).collect::<Vec<String>>()),
            )
        });
    let below = format!("|---|{}", "---|".repeat(comparisons.len()));
    let mut lines = vec![markdown::table(head, &below, rows)];
    lines.push(String::new());
    lines.extend(comparisons.iter().map(|comparison| {
        let machine = &comparison.machine;
        format!(
            "{}: {} threads, PyTorch {}, {}.",
            machine.processor,
            comparison.threads,
            machine.torch,
            machine.when()
        )
    }));
    lines.join("\n")
}

/// How much better Shears is, and both numbers.
fn cell(row: &Option<Measured>) -> String {
    let text = row.as_ref().and_then(|row| {
        let value = |side| Some(row.quantity.show(row.median(side)?));
        let (ours, theirs) = (value(Side::Shears)?, value(Side::PyTorch)?);
        let times = row.times_pytorch(Side::Shears)?;
        let better = comparative(row.quantity, times.median);
        Some(format!("{better} ({ours}, {theirs})"))
    });
    text.unwrap_or("-".to_string())
}

/// A row's name as a phrase.
fn words(row: &Measured) -> String {
    let (_, of) = row.name.split_once('-').unwrap_or(("", &row.name));
    let (_, size) = row.name.rsplit_once('-').unwrap_or(("", of));
    let (of, precision) = match of.strip_suffix("-bf16") {
        Some(of) => (of, ", both in bf16"),
        None => (of, ""),
    };
    match row.quantity {
        Quantity::Step => format!("training step, `{of}`{precision}"),
        Quantity::Generate => format!("generating, `{of}`{precision}"),
        Quantity::PeakMemory => format!("peak memory of training, `{of}`"),
        Quantity::Norm => format!("gradient norm, {size} parameters"),
        Quantity::ClipInPlace => format!("clip in place, {size} parameters"),
        Quantity::Clip => format!("clip, {size} parameters"),
        Quantity::ClipAndUpdate => format!("clip and AdamW, {size} parameters"),
    }
}

fn comparative(quantity: Quantity, times: f64) -> String {
    // Equal when written with one digit.
    if (0.95..1.05).contains(&times) {
        return match quantity {
            Quantity::PeakMemory => "as large".to_string(),
            _ => "as fast".to_string(),
        };
    }
    match (quantity, times >= 1.0) {
        (Quantity::PeakMemory, true) => format!("{times:.1} times smaller"),
        (Quantity::PeakMemory, false) => format!("{:.1} times larger", 1.0 / times),
        (_, true) => format!("{times:.1} times faster"),
        (_, false) => format!("{:.1} times slower", 1.0 / times),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::peers::tests::{machine, memory_row, norm_row, step_row};

    fn comparison() -> Comparison {
        Comparison {
            machine: machine(),
            threads: 2,
            rounds: 3,
            rows: vec![step_row(), norm_row(), memory_row()],
        }
    }

    #[test]
    fn the_table_has_goals_ratios_and_reasons() {
        let table = table(&comparison());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[2],
            "| `train-lstm-128` | 10.0 ms | 25.0 ms | **2.50** x (2.50 to 2.50) | 2.5 x | yes | - | - | - |"
        );
        assert_eq!(
            lines[3],
            "| `norm-10.8M` | 1.20 ms | 3.60 ms | **3.02** x (2.77 to 3.27); \
             **1.20** reads (1.10 to 1.30) | at most 1.15 reads | no | - | - | - |"
        );
        let reason = "- `train-lstm-128`, Candle: candle_nn has no vanilla RNN.";
        assert_eq!(lines[6], reason);
    }

    #[test]
    fn the_short_table_is_in_words() {
        let mut other = comparison();
        other.rows.truncate(1);
        let named = comparison().rows.into_iter().map(|row| row.name);
        let named: Vec<String> = named.collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let table = short_table(&[comparison(), other], &named);
        let cell = "2.5 times faster (10.0 ms, 25.0 ms)";
        let row = format!("| training step, `lstm-128` | {cell} | {cell} |");
        assert!(table.contains(&row), "{table}");
        for row in [
            "| gradient norm, 10.8M parameters | 3.0 times faster (1.20 ms, 3.60 ms) | - |",
            "| 5.9 times smaller (165 MB, 981 MB) | - |",
        ] {
            assert!(table.contains(row), "{table}");
        }
        assert_eq!(comparative(Quantity::Step, 0.5), "2.0 times slower");
        assert_eq!(comparative(Quantity::Step, 1.03), "as fast");
        assert_eq!(comparative(Quantity::PeakMemory, 3.0), "3.0 times smaller");
        let mut both = norm_row();
        both.quantity = Quantity::ClipAndUpdate;
        both.name = "clip-and-adamw-10.8M".to_string();
        assert_eq!(words(&both), "clip and AdamW, 10.8M parameters");
    }

    #[test]
    fn the_share_of_clipping_is_reported_for_training() {
        let text = clip_share(&comparison());
        let expected = "Clipping's share of a training step: `lstm-128` 0.50 %.";
        assert_eq!(text, expected);
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = "a\n<!-- peers -->\nold\n<!-- end peers -->\nb\n";
        let new = between_markers(text, "peers", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- peers -->\n\nnew\n\n<!-- end peers -->\nb\n");
        assert_eq!(between_markers(&new, "peers", "new").unwrap(), new);
        let error = between_markers(text, "scaling", "new").unwrap_err();
        assert!(error.contains("<!-- scaling -->"), "{error}");
    }

    #[test]
    fn the_documents_say_what_was_measured() {
        for (path, expected) in documents().unwrap() {
            let found = text_of(&crate::bench::root().join(&path)).unwrap();
            // Not `assert_eq`: a plot would fill the terminal.
            assert!(
                found == expected,
                "{path} is not what benches/baselines says: run `cargo xtask bench report`"
            );
        }
    }
}
