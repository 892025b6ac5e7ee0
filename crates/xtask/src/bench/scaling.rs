//! `cargo xtask bench scaling`: how the time of a training step grows with the size of the work.

use std::collections::BTreeMap;

use gradclip_judge::statistics::median;
use serde::{Deserialize, Serialize};

use super::Against;
use super::machine::Machine;
use super::programs::{Programs, Request, number};
use super::rows::{Quantity, Side};
use super::statistics::ratio;

/// The file that the measurements are kept in.
pub(super) const FILE: &str = "scaling.json";

/// Those that are measured.
pub(super) const SIDES: [Side; 2] = [Side::Shears, Side::PyTorch];

/// All that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Scaling {
    pub(super) machine: Machine,
    /// Of every point, but those that vary it.
    pub(super) threads: usize,
    pub(super) rounds: usize,
    pub(super) points: Vec<Point>,
}

/// A preset with one of its sizes changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    pub(super) preset: String,
    pub(super) axis: Axis,
    pub(super) value: usize,
    /// Milliseconds a step, one number a round.
    pub(super) rounds: BTreeMap<Side, Vec<f64>>,
}

impl Point {
    /// The median of a program's rounds, in milliseconds.
    pub(super) fn median(&self, side: Side) -> Option<f64> {
        median(self.rounds.get(&side)?.iter().copied())
    }
}

/// What is varied, the rest staying as the preset has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Axis {
    /// Width of the embedding and of every layer.
    Hidden,
    /// Tokens of a window: the context of a Transformer.
    Window,
    Batch,
    Threads,
}

impl Axis {
    pub(super) const ALL: [Axis; 4] = [Axis::Hidden, Axis::Window, Axis::Batch, Axis::Threads];

    /// As at the axis of a plot.
    pub(super) fn title(self) -> &'static str {
        match self {
            Axis::Hidden => "hidden size",
            Axis::Window => "window, tokens",
            Axis::Batch => "batch, windows",
            Axis::Threads => "threads",
        }
    }
}

/// A preset, and what its sizes become.
pub(super) struct Series {
    pub(super) preset: &'static str,
    hidden: &'static [usize],
    window: &'static [usize],
    batch: &'static [usize],
    /// Its own window and batch.
    shape: [usize; 2],
}

pub(super) const SERIES: [Series; 2] = [
    Series {
        preset: "lstm-128",
        hidden: &[64, 128, 256, 512, 1024],
        window: &[25, 50, 100, 200, 400],
        batch: &[1, 4, 16, 50, 200],
        shape: [50, 50],
    },
    Series {
        preset: "gpt-128",
        hidden: &[64, 128, 256, 512],
        window: &[32, 64, 128, 256, 512],
        batch: &[1, 4, 12, 48],
        shape: [64, 12],
    },
];

impl Series {
    fn values(&self, axis: Axis, cores: usize) -> Vec<usize> {
        match axis {
            Axis::Hidden => self.hidden.to_vec(),
            Axis::Window => self.window.to_vec(),
            Axis::Batch => self.batch.to_vec(),
            Axis::Threads => threads(cores),
        }
    }

    fn request(&self, axis: Axis, value: usize, threads: usize) -> Request {
        let hidden = if axis == Axis::Hidden { value } else { 128 };
        let [window, batch] = match axis {
            Axis::Window => [value, self.shape[1]],
            Axis::Batch => [self.shape[0], value],
            _ => self.shape,
        };
        // About as long for every point: products grow with the square of the width, the rest
        // with the width.
        let width = hidden as f64 / 128.0;
        let work =
            width.powf(1.7) * (window * batch) as f64 / self.shape.iter().product::<usize>() as f64;
        let steps = (30.0 / work).clamp(4.0, 60.0) as usize;
        let words = |text: String| text.split_whitespace().map(str::to_string).collect();
        Request {
            preset: self.preset,
            steps,
            threads: if axis == Axis::Threads {
                value
            } else {
                threads
            },
            part: None,
            batch: Some(batch),
            shears: words(format!("--hidden {hidden} --window {window}")),
            pytorch: words(format!("--hidden {hidden} --window {window}")),
        }
    }
}

/// 1, 2, 4 and so on, and all cores.
fn threads(cores: usize) -> Vec<usize> {
    let mut powers: Vec<usize> = std::iter::successors(Some(1), |count| Some(2 * count))
        .take_while(|count| *count < cores)
        .collect();
    powers.push(cores);
    powers
}

/// Measures every point, both sides in turn, and writes the file.
pub(super) fn run(rounds: usize, against: &Against) -> Result<(), String> {
    let programs = Programs::prepare(against.python.as_deref(), &[Side::PyTorch])?;
    let machine = Machine::this(&programs.python)?;
    println!("{}", machine.describe());
    let mut points = Vec::new();
    for series in &SERIES {
        for axis in Axis::ALL {
            for value in series.values(axis, machine.cores) {
                let request = series.request(axis, value, against.threads);
                let mut times: BTreeMap<Side, Vec<f64>> = BTreeMap::new();
                for _ in 0..rounds {
                    for side in SIDES {
                        let answer = programs.ask(side, &request)?;
                        let ms = number(&answer, Quantity::Step.pointer(side))?;
                        times.entry(side).or_default().push(ms);
                    }
                }
                let quotient = ratio(&times[&Side::PyTorch], &times[&Side::Shears]);
                let point = Point {
                    preset: series.preset.to_string(),
                    axis,
                    value,
                    rounds: times,
                };
                println!(
                    "{:<9} {:<15} {value:>5}: Shears {:>9.3} ms, PyTorch {:>9.3} ms, ratio {:.2}",
                    point.preset,
                    axis.title(),
                    point.median(Side::Shears).unwrap_or(f64::NAN),
                    point.median(Side::PyTorch).unwrap_or(f64::NAN),
                    quotient.map_or(f64::NAN, |quotient| quotient.median),
                );
                points.push(point);
            }
        }
    }
    let scaling = Scaling {
        machine,
        threads: against.threads,
        rounds,
        points,
    };
    super::save(FILE, &scaling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_go_up_to_all_cores() {
        assert_eq!(threads(1), [1]);
        assert_eq!(threads(2), [1, 2]);
        assert_eq!(threads(6), [1, 2, 4, 6]);
    }

    #[test]
    fn one_size_changes_at_a_time() {
        let lstm = &SERIES[0];
        let wide = lstm.request(Axis::Hidden, 512, 2);
        assert_eq!(wide.shears.join(" "), "--hidden 512 --window 50");
        assert_eq!((wide.batch, wide.threads), (Some(50), 2));
        let long = lstm.request(Axis::Window, 400, 2);
        assert_eq!(long.pytorch.join(" "), "--hidden 128 --window 400");
        assert_eq!(lstm.request(Axis::Threads, 1, 2).threads, 1);
        // Wider models take fewer steps, none takes fewer than four.
        assert!(wide.steps < lstm.request(Axis::Hidden, 64, 2).steps);
        assert_eq!(lstm.request(Axis::Hidden, 1024, 2).steps, 4);
    }
}
