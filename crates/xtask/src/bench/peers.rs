//! `cargo xtask bench peers`: every row, both sides in turn, several rounds.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use clap::builder::PossibleValuesParser;
use gradclip_judge::statistics::median;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Against;
use super::cores::round_trip;
use super::machine::Machine;
use super::programs::{Programs, Request, number};
use super::rows::{self, Goal, Quantity, RUNS, Row, Run, Side, three_digits};
use super::statistics::{Spread, ratio};

/// Prefix of the files with measurements, one for each kind of processor.
pub(super) const FILES: &str = "peers-";

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = super::at_least_one(),
          help = super::ROUNDS)]
    rounds: usize,

    #[command(flatten)]
    against: Against,

    /// Only these rows, shown and not written
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', hide_possible_values = true,
          value_parser = PossibleValuesParser::new(rows::names()))]
    rows: Vec<String>,

    /// Only these programs; without pytorch, shown and not written
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_enum,
          default_values_t = Side::PEERS)]
    peers: Vec<Side>,
}

impl Options {
    /// Whether all rows are measured, and against PyTorch: only then is the file useful.
    fn everything(&self) -> bool {
        self.rows.is_empty() && self.peers.contains(&Side::PyTorch)
    }
}

/// All measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Comparison {
    pub(super) machine: Machine,
    pub(super) threads: usize,
    pub(super) rounds: usize,
    pub(super) rows: Vec<Measured>,
}

/// The head of the table of rows.
pub(super) const HEAD: [&str; 9] = [
    "",
    "Shears",
    "PyTorch",
    "improvement",
    "goal",
    "reached",
    "PyTorch, compiled",
    "Burn",
    "Candle",
];

/// A row with every round's number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) quantity: Quantity,
    pub(super) goal: Goal,
    /// One number per round, in milliseconds, tokens per second or bytes.
    pub(super) rounds: BTreeMap<Side, Vec<f64>>,
    /// How long Shears takes to read the same gradients once, in milliseconds; for their norm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) read: Vec<f64>,
    /// Bytes of PyTorch's process before it had a model; for memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) importing: Vec<f64>,
    /// How PyTorch computed, if each round takes the fastest of several ways; for generation.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) forms: BTreeSet<String>,
    /// The share of clipping in a step of Shears, from 0 to 1; for training.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) clip_share: Vec<f64>,
    /// Nanoseconds that a cache line took to another core and back, the median of each round.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) round_trips: Vec<f64>,
    /// Why a program has no number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) missing: BTreeMap<Side, String>,
}

impl Measured {
    fn new(row: &Row) -> Measured {
        Measured {
            name: row.name.to_string(),
            quantity: row.quantity,
            goal: row.goal,
            rounds: BTreeMap::new(),
            read: Vec::new(),
            importing: Vec::new(),
            forms: BTreeSet::new(),
            clip_share: Vec::new(),
            round_trips: Vec::new(),
            missing: BTreeMap::new(),
        }
    }

    /// Takes this row's numbers from a program's answer.
    fn take(&mut self, side: Side, answer: &Value) -> Result<(), String> {
        let value = number(answer, self.quantity.pointer(side))?;
        match (side, self.quantity) {
            (Side::Shears, Quantity::Norm) => {
                self.read.push(number(answer, "/ms/read/median")?);
            }
            (Side::Shears, Quantity::Step) => {
                let clip = number(answer, "/phases/clip/median")?;
                self.clip_share.push(clip / value);
            }
            (Side::PyTorch, Quantity::PeakMemory) => {
                self.importing
                    .push(number(answer, "/rss_before_model_bytes")?);
            }
            (Side::PyTorch, Quantity::Generate) => {
                self.forms
                    .extend(answer["form"].as_str().map(str::to_string));
            }
            _ => {}
        }
        self.rounds.entry(side).or_default().push(value);
        Ok(())
    }

    /// The median of a program's rounds.
    pub(super) fn median(&self, side: Side) -> Option<f64> {
        median(self.rounds.get(&side)?.iter().copied())
    }

    /// The median of a program's rounds as people read it.
    pub(super) fn show(&self, side: Side) -> Option<String> {
        let mut shown = self.quantity.show(self.median(side)?);
        if side == Side::PyTorch {
            if let Some(bytes) = median(self.importing.iter().copied()) {
                let megabytes = three_digits(bytes / 1e6);
                shown += &format!(", {megabytes} of it by importing torch");
            }
            if !self.forms.is_empty() {
                let forms: Vec<&str> = self.forms.iter().map(String::as_str).collect();
                shown += &format!(", {}", forms.join(" or "));
            }
        }
        Some(shown)
    }

    /// Its cells under [`HEAD`].
    pub(super) fn cells(&self) -> [String; HEAD.len()] {
        let value = |side| self.show(side).unwrap_or("-".to_string());
        let times = shown(self.times_pytorch(Side::Shears), " x");
        let (better, goal) = match self.goal {
            Goal::TimesPyTorch(goal) => (times, format!("{goal} x")),
            Goal::TimesRead(goal) => {
                let reads = shown(self.times_read(), " reads");
                (format!("{times}; {reads}"), format!("at most {goal} reads"))
            }
        };
        let reached = match self.reached() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        [
            format!("`{}`", self.name),
            value(Side::Shears),
            value(Side::PyTorch),
            better,
            goal,
            reached.to_string(),
            value(Side::PyTorchCompiled),
            value(Side::Burn),
            value(Side::Candle),
        ]
    }

    /// Why cells are empty that could have a number.
    pub(super) fn reasons(&self) -> impl Iterator<Item = String> {
        let missing = self.missing.iter();
        missing.map(|(side, reason)| format!("- `{}`, {}: {reason}.", self.name, side.name()))
    }

    /// How many times better than PyTorch a program is, by each round.
    pub(super) fn times_pytorch(&self, side: Side) -> Option<Spread> {
        let (ours, theirs) = (self.rounds.get(&side)?, self.rounds.get(&Side::PyTorch)?);
        if self.quantity.more_is_better() {
            ratio(ours, theirs)
        } else {
            ratio(theirs, ours)
        }
    }

    /// How many times as long as a streaming read measuring takes, by each round.
    pub(super) fn times_read(&self) -> Option<Spread> {
        ratio(self.rounds.get(&Side::Shears)?, &self.read)
    }

    /// Whether the median of the rounds reaches the goal; nothing if it could not be measured.
    pub(super) fn reached(&self) -> Option<bool> {
        match self.goal {
            Goal::TimesPyTorch(goal) => Some(self.times_pytorch(Side::Shears)?.median >= goal),
            Goal::TimesRead(goal) => Some(self.times_read()?.median <= goal),
        }
    }
}

/// Measures, prints each row as it comes, and writes the file if all rows were measured.
pub(super) fn run(options: &Options) -> Result<(), String> {
    let programs = Programs::prepare(options.against.python.as_deref(), &options.peers)?;
    let machine = Machine::this(&programs.python)?;
    println!("{}", machine.describe());
    println!(
        "threads: {}, rounds: {}; medians, and the median of the ratios (smallest to largest)",
        options.against.threads, options.rounds
    );
    println!("{}", HEAD.join(" | "));
    let mut rows = Vec::new();
    for run in RUNS {
        let wanted: Vec<&Row> = run
            .rows
            .iter()
            .filter(|row| options.rows.is_empty() || options.rows.iter().any(|n| n == row.name))
            .collect();
        if !wanted.is_empty() {
            let measured = measure(&programs, options, run, &wanted);
            for row in &measured {
                println!("{}", row.cells().join(" | "));
                row.reasons().for_each(|reason| println!("{reason}"));
            }
            rows.extend(measured);
        }
    }
    if !options.everything() {
        return Ok(());
    }
    let comparison = Comparison {
        machine,
        threads: options.against.threads,
        rounds: options.rounds,
        rows,
    };
    let file = format!("{FILES}{}.json", comparison.machine.slug());
    super::save(&file, &comparison)
}

/// Runs every program in turn, round by round.
fn measure(programs: &Programs, options: &Options, run: &Run, rows: &[&Row]) -> Vec<Measured> {
    let request = Request::of(run, options.against.threads);
    let mut measured: Vec<Measured> = rows.iter().map(|row| Measured::new(row)).collect();
    let mut sides = vec![Side::Shears];
    sides.extend(options.peers.iter().filter(|peer| request.concerns(**peer)));
    for _ in 0..options.rounds {
        let (answers, round_trip) = round(programs, &request, &sides);
        for row in &mut measured {
            row.round_trips.push(round_trip);
        }
        for (side, answer) in answers {
            let taken = answer.and_then(|answer| {
                let mut rows = measured.iter_mut();
                rows.try_for_each(|row| row.take(side, &answer))
            });
            let Err(reason) = taken else { continue };
            // A program that failed once is not run again, and has no numbers.
            sides.retain(|other| *other != side);
            for row in &mut measured {
                row.rounds.remove(&side);
                row.missing.insert(side, reason.clone());
            }
        }
        // The order changes, so that none always runs after the slowest.
        let next = usize::from(!sides.is_empty());
        sides.rotate_left(next);
    }
    measured
}

/// What each program answered.
type Answers = Vec<(Side, Result<Value, String>)>;

/// How often a round is run at most, if the cores are moved during each.
const ROUND_TRIES: usize = 2;

/// Runs each program once. Returns their answers, and the nanoseconds of a round trip between two
/// cores. If the host moved the cores in the meantime, the programs did not run on the same machine,
/// and all of them run again.
fn round(programs: &Programs, request: &Request, sides: &[Side]) -> (Answers, f64) {
    let mut tries = 0;
    loop {
        let mut trips = vec![round_trip()];
        let answers = sides.iter().map(|&side| {
            let answer = programs.ask(side, request);
            trips.push(round_trip());
            (side, answer)
        });
        let answers = answers.collect();
        tries += 1;
        let (min, max) = shears_figure::extent(trips.iter().copied()).unwrap_or_default();
        if max < 2.0 * min || tries == ROUND_TRIES {
            return (answers, median(trips).unwrap_or(f64::NAN));
        }
    }
}

/// How many times better, or how many reads, with the spread of the rounds.
fn shown(times: Option<Spread>, of: &str) -> String {
    times.map_or("-".to_string(), |times| {
        let Spread { min, median, max } = times;
        format!("**{median:.2}**{of} ({min:.2} to {max:.2})")
    })
}

#[cfg(test)]
pub(super) mod tests {
    use clap::FromArgMatches;
    use serde_json::json;

    use super::*;

    pub(in crate::bench) fn machine() -> Machine {
        Machine {
            processor: "some processor".to_string(),
            cores: 2,
            instructions: vec!["AVX2".to_string(), "FMA".to_string()],
            system: "some system".to_string(),
            rustc: "1.95.0".to_string(),
            torch: "2.15.0".to_string(),
            date: "2026-11-24".to_string(),
            commit: None,
        }
    }

    /// A row whose Shears takes 10, 20, 10 and whose PyTorch takes 25, 50, 25 milliseconds.
    pub(in crate::bench) fn step_row() -> Measured {
        let mut row = Measured::new(&Row {
            name: "train-lstm-128",
            quantity: Quantity::Step,
            goal: Goal::TimesPyTorch(2.5),
        });
        for ms in [10.0, 20.0, 10.0] {
            let ours = json!({
                "ms_per_step": {"median": ms},
                "phases": {"clip": {"median": ms / 200.0}},
            });
            row.take(Side::Shears, &ours).unwrap();
            let theirs = json!({"ms_per_step": {"median": 2.5 * ms}});
            row.take(Side::PyTorch, &theirs).unwrap();
        }
        row.missing
            .insert(Side::Candle, "candle_nn has no vanilla RNN".to_string());
        row
    }

    /// A row whose measuring takes 1.1 and 1.3 times a read.
    pub(in crate::bench) fn norm_row() -> Measured {
        let mut row = Measured::new(&Row {
            name: "norm-10.8M",
            quantity: Quantity::Norm,
            goal: Goal::TimesRead(1.15),
        });
        for ms in [1.1, 1.3] {
            let ours = json!({"ms": {"clip": {"median": ms}, "read": {"median": 1.0}}});
            row.take(Side::Shears, &ours).unwrap();
            let theirs = json!({"ms": {"norm": {"median": 3.6}}});
            row.take(Side::PyTorch, &theirs).unwrap();
        }
        row
    }

    /// A row whose Shears has 165 MB and whose PyTorch 981, of which 310 were there before the
    /// model.
    pub(in crate::bench) fn memory_row() -> Measured {
        let mut row = Measured::new(&Row {
            name: "memory-lstm-512",
            quantity: Quantity::PeakMemory,
            goal: Goal::TimesPyTorch(2.0),
        });
        let ours = json!({"peak_rss_bytes": 165e6});
        row.take(Side::Shears, &ours).unwrap();
        let theirs = json!({"peak_rss_bytes": 981e6, "rss_before_model_bytes": 310e6});
        row.take(Side::PyTorch, &theirs).unwrap();
        row
    }

    #[test]
    fn only_all_rows_against_pytorch_are_everything() {
        let everything = |arguments: &str| {
            let command = Options::augment_args(clap::Command::new("peers").no_binary_name(true));
            let matches = command.try_get_matches_from(arguments.split_whitespace());
            Options::from_arg_matches(&matches.unwrap())
                .unwrap()
                .everything()
        };
        assert!(everything("") && everything("--peers candle,pytorch --rounds 1"));
        assert!(!everything("--rows train-lstm-128,norm-163M"));
        assert!(!everything("--peers pytorch-compile,candle"));
    }

    #[test]
    fn ratios_say_how_many_times_better() {
        let row = step_row();
        let times = row.times_pytorch(Side::Shears).unwrap();
        assert_eq!((times.min, times.median, times.max), (2.5, 2.5, 2.5));
        assert_eq!(row.reached(), Some(true));
        assert_eq!(row.clip_share, [0.005; 3]);
    }

    #[test]
    fn higher_throughput_is_better() {
        let mut row = step_row();
        row.quantity = Quantity::Generate;
        let times = row.times_pytorch(Side::Shears).unwrap();
        assert_eq!(times.median, 0.4);
        assert_eq!(row.reached(), Some(false));
    }

    #[test]
    fn measuring_is_compared_with_one_read() {
        let row = norm_row();
        let times = row.times_read().unwrap();
        assert!((times.median - 1.2).abs() < 1e-12);
        assert_eq!(row.reached(), Some(false));
    }

    #[test]
    fn clipping_in_place_is_beside_clip_grad_norm() {
        let mut row = norm_row();
        row.quantity = Quantity::ClipInPlace;
        row.rounds.clear();
        let answer = json!({"ms": {"clip": {"median": 4.0}, "clip_in_place": {"median": 2.0}}});
        row.take(Side::Shears, &answer).unwrap();
        row.take(Side::PyTorch, &answer).unwrap();
        assert_eq!(row.times_pytorch(Side::Shears).unwrap().median, 2.0);
    }

    #[test]
    fn importing_is_shown_apart() {
        let row = memory_row();
        let shown = row.show(Side::PyTorch).unwrap();
        assert_eq!(shown, "981 MB, 310 of it by importing torch");
        assert_eq!(row.show(Side::Shears).unwrap(), "165 MB");
        assert_eq!(row.show(Side::Burn), None);
    }

    #[test]
    fn the_form_of_generation_is_shown() {
        let mut row = memory_row();
        row.quantity = Quantity::Generate;
        row.importing.clear();
        let answer = json!({"tokens_per_second": {"median": 500}, "form": "compiled"});
        row.rounds.clear();
        row.take(Side::PyTorch, &answer).unwrap();
        assert_eq!(row.show(Side::PyTorch).unwrap(), "500 tokens/s, compiled");
        // Older files do not have it.
        row.forms.clear();
        assert_eq!(row.show(Side::PyTorch).unwrap(), "500 tokens/s");
    }

    #[test]
    fn unmeasured_rows_are_not_judged() {
        let mut row = step_row();
        row.rounds.remove(&Side::PyTorch);
        assert_eq!(row.reached(), None);
        assert_eq!(row.cells()[3..6], ["-", "2.5 x", "-"]);
    }

    #[test]
    fn an_answer_without_the_number_is_an_error() {
        let answer = json!({"ms_per_step": 3});
        let error = step_row().take(Side::PyTorch, &answer).unwrap_err();
        assert!(error.contains("/ms_per_step/median"), "{error}");
    }

    #[test]
    fn the_file_is_read_back() {
        let comparison = Comparison {
            machine: machine(),
            threads: 2,
            rounds: 3,
            rows: vec![step_row(), norm_row(), memory_row()],
        };
        let text = serde_json::to_string(&comparison).unwrap();
        assert!(text.contains("\"goal\":{\"times-pytorch\":2.5}"), "{text}");
        assert_eq!(
            serde_json::from_str::<Comparison>(&text).unwrap(),
            comparison
        );
    }
}
