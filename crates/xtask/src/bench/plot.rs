//! The plots of docs/performance.md: how the time of a step grows, and how fast each program is.

use shears_figure::{Axis, Colour, Figure, Panel, Series, extent};

use super::peers::{Comparison, Measured};
use super::rows::{Goal, Quantity, Side};
use super::scaling::{self, Point, SIDES, Scaling};
use super::statistics::ratio;

fn colour(side: Side) -> Colour {
    Colour::Series(match side {
        Side::Shears => 1,
        Side::PyTorch => 2,
        Side::PyTorchCompiled => 5,
        Side::Burn => 3,
        Side::Candle => 4,
    })
}

/// A preset's step against hidden size, window, batch and threads: four panels, logarithmic.
pub(super) fn scaling(scaling: &Scaling, preset: &str, title: &str) -> Result<String, String> {
    let points = scaling.points.iter().filter(|point| point.preset == preset);
    let points: Vec<&Point> = points.collect();
    let medians = points
        .iter()
        .flat_map(|point| SIDES.map(|side| point.median(side)));
    let range = extent(medians.flatten());
    let (low, high) = range.ok_or(format!("benches/baselines has no points of {preset}"))?;
    // All panels have the same height of a millisecond, and room for the ratios.
    let milliseconds = Axis::log("ms a step").within(low / 1.3, high * 1.8);
    let panels = scaling::Axis::ALL.into_iter().map(|axis| {
        let points = points.iter().copied().filter(|point| point.axis == axis);
        panel(
            &points.collect::<Vec<_>>(),
            axis.title(),
            milliseconds.clone(),
        )
    });
    let figure = Figure {
        title: title.to_string(),
        panels: panels.collect(),
        columns: 2,
        height: 290,
    };
    figure.svg().map_err(|error| error.to_string())
}

/// The time against one of the sizes, and PyTorch's time as a multiple of ours above the upper
/// point.
fn panel(points: &[&Point], name: &str, milliseconds: Axis) -> Panel {
    let values = points
        .iter()
        .map(|point| (point.value as f64, point.value.to_string()));
    let x = Axis::log(name).marked_at(values.collect()).with_room(0.07);
    // Ours is drawn last, on top.
    let series = SIDES.into_iter().rev().map(|side| {
        let line = points
            .iter()
            .filter_map(|point| Some((point.value as f64, point.median(side)?)));
        let line: Vec<(f64, f64)> = line.collect();
        Series {
            points: line.clone(),
            line,
            ..Series::named(side.name(), colour(side))
        }
    });
    let notes = points.iter().filter_map(|point| {
        let rounds = |side| point.rounds.get(&side).map_or(&[][..], Vec::as_slice);
        let times = ratio(rounds(Side::PyTorch), rounds(Side::Shears))?;
        let medians = SIDES.into_iter().filter_map(|side| point.median(side));
        let upper = medians.reduce(f64::max)?;
        Some((point.value as f64, upper, format!("{:.1}×", times.median)))
    });
    Panel {
        above: notes.collect(),
        ..Panel::new(x, milliseconds, series.collect())
    }
}

/// Training speed as a multiple of PyTorch: a group of bars for each preset.
pub(super) fn training(comparison: &Comparison) -> Result<String, String> {
    let mut bars = Bars::default();
    let rows = comparison.rows.iter();
    rows.filter(|row| row.quantity == Quantity::Step)
        .for_each(|row| bars.add(row));
    let (bottom, top) = (bars.y + Bars::GAP, 1.0);
    let mut pytorch = Series::named(Side::PyTorch.name(), colour(Side::PyTorch));
    pytorch.line = vec![(1.0, bottom), (1.0, top)];
    let ends = bars.numbers.iter().map(|(times, ..)| *times);
    let longest = ends.fold(1.0, f64::max);
    let all = [pytorch].into_iter().chain(bars.lines).chain(bars.goals);
    let panel = Panel {
        beside: bars.numbers,
        ..Panel::new(
            Axis::linear("times as fast as PyTorch").within(0.0, longest + Bars::NUMBER),
            Axis::linear("").marked_at(bars.names).within(bottom, top),
            all.collect(),
        )
    };
    let figure = Figure {
        title: "Training speed, as a multiple of PyTorch's".into(),
        height: 64 + (f64::from(Bars::WIDTH + 2) * (top - bottom)) as u32,
        ..Figure::of(panel)
    };
    figure.svg().map_err(|error| error.to_string())
}

/// Horizontal bars, drawn as thick lines one unit apart.
#[derive(Default)]
struct Bars {
    lines: Vec<Series>,
    goals: Option<Series>,
    /// Of the groups, at their middles.
    names: Vec<(f64, String)>,
    /// How long each bar is.
    numbers: Vec<(f64, f64, String)>,
    /// Where the next bar lies.
    y: f64,
}

impl Bars {
    /// Between two groups.
    const GAP: f64 = 0.8;
    /// Of a bar, in pixels.
    const WIDTH: u32 = 15;
    /// What a number at the end of a bar takes.
    const NUMBER: f64 = 0.18;

    /// The bars of a preset.
    fn add(&mut self, row: &Measured) {
        const SIDES: [Side; 4] = [
            Side::Shears,
            Side::PyTorchCompiled,
            Side::Burn,
            Side::Candle,
        ];
        const NOTHING: (f64, f64) = (f64::NAN, f64::NAN);
        let top = self.y;
        for side in SIDES {
            let Some(times) = row.times_pytorch(side).map(|times| times.median) else {
                continue;
            };
            let y = self.y;
            let known = self.lines.iter().position(|line| line.name == side.name());
            let index = known.unwrap_or(self.lines.len());
            if known.is_none() {
                let mut line = Series::named(side.name(), colour(side));
                line.width = Self::WIDTH;
                self.lines.push(line);
            }
            let bar = [(0.0, y), (times, y), NOTHING];
            self.lines[index].line.extend(bar);
            let goal = goal(row).filter(|_| side == Side::Shears);
            if let Some(goal) = goal {
                let empty = || Series::named("goal", Colour::Ink);
                let goals = self.goals.get_or_insert_with(empty);
                let mark = [(goal, y + 0.7), (goal, y - 0.7), NOTHING];
                goals.line.extend(mark);
            }
            // The number is next to the bar, not on it.
            let marks = goal.into_iter().chain([1.0]);
            let near = marks.filter(|x| (times..times + Self::NUMBER).contains(x));
            let place = near.fold(times, f64::max);
            self.numbers.push((place, y, format!("{times:.2}")));
            self.y -= 1.0;
        }
        let name = row.name.trim_start_matches("train-").to_string();
        self.names.push(((top + self.y + 1.0) / 2.0, name));
        self.y -= Self::GAP;
    }
}

fn goal(row: &Measured) -> Option<f64> {
    match row.goal {
        Goal::TimesPyTorch(goal) => Some(goal),
        Goal::TimesRead(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::peers::tests::{machine, norm_row, step_row};

    fn point(axis: scaling::Axis, value: usize, ours: f64) -> Point {
        Point {
            preset: "lstm-128".to_string(),
            axis,
            value,
            rounds: [
                (Side::Shears, vec![ours]),
                (Side::PyTorch, vec![2.0 * ours]),
            ]
            .into(),
        }
    }

    #[test]
    fn every_panel_shows_its_points_and_ratios() {
        let points = scaling::Axis::ALL
            .into_iter()
            .flat_map(|axis| [point(axis, 1, 3.0), point(axis, 2, 5.0)]);
        let measured = Scaling {
            machine: machine(),
            threads: 2,
            rounds: 1,
            points: points.collect(),
        };
        let svg = super::scaling(&measured, "lstm-128", "LSTM").unwrap();
        assert_eq!(svg.matches("2.0×").count(), 8);
        assert_eq!(svg.matches("<circle").count(), 16);
        for axis in scaling::Axis::ALL {
            assert!(svg.contains(axis.title()), "{}", axis.title());
        }
        let error = scaling(&measured, "gpt-128", "GPT").unwrap_err();
        assert!(error.contains("no points of gpt-128"), "{error}");
    }

    #[test]
    fn bars_are_drawn_for_training_and_only_for_what_was_measured() {
        let comparison = Comparison {
            machine: machine(),
            threads: 2,
            rounds: 3,
            rows: vec![step_row(), norm_row()],
        };
        let svg = training(&comparison).unwrap();
        assert!(svg.contains("lstm-128") && svg.contains("2.50"), "{svg}");
        assert!(!svg.contains("norm-10.8M"));
    }
}
