//! The plots of docs/performance.md: how the time of a step grows, and who is how fast.

use shears_figure::{Axis, Bar, BarGroup, Bars, Colour, Figure, Panel, Series};

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
    let ends = medians
        .flatten()
        .fold(None, |ends: Option<(f64, f64)>, median| {
            let (low, high) = ends.unwrap_or((median, median));
            Some((low.min(median), high.max(median)))
        });
    let (low, high) = ends.ok_or_else(|| format!("benches/baselines has no points of {preset}"))?;
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

/// What changes with one of the sizes, and PyTorch's time as a multiple of ours above the upper point.
fn panel(points: &[&Point], name: &str, milliseconds: Axis) -> Panel {
    let values = points.iter().map(|point| point.value as f64);
    let x = Axis::log(name).marked_at(values.collect()).with_room(0.07);
    // Ours is drawn last, and lies above.
    let series = SIDES.into_iter().rev().map(|side| {
        let line = points
            .iter()
            .filter_map(|point| Some((point.value as f64, point.median(side)?)));
        let line: Vec<(f64, f64)> = line.collect();
        Series {
            name: side.name().to_string(),
            colour: colour(side),
            points: line.clone(),
            line,
            ..Series::default()
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
        notes: notes.collect(),
        ..Panel::new(x, milliseconds, series.collect())
    }
}

/// How many times as fast as PyTorch everybody trains: a group of bars for each preset.
pub(super) fn training(comparison: &Comparison) -> Result<String, String> {
    const SIDES: [Side; 4] = [
        Side::Shears,
        Side::PyTorchCompiled,
        Side::Burn,
        Side::Candle,
    ];
    let rows = comparison
        .rows
        .iter()
        .filter(|row| row.quantity == Quantity::Step);
    let groups = rows.map(|row| {
        let bar = |side| {
            let value = row.times_pytorch(side)?.median;
            Some(Bar {
                colour: colour(side),
                value,
            })
        };
        BarGroup {
            name: row.name.trim_start_matches("train-").to_string(),
            bars: SIDES.into_iter().filter_map(bar).collect(),
            mark: goal(row),
        }
    });
    let bars = Bars {
        title: "Training speed, as a multiple of PyTorch's".into(),
        legend: SIDES
            .map(|side| (colour(side), side.name().to_string()))
            .into(),
        groups: groups.collect(),
        mark: "upright mark: the goal".into(),
        reference: (1.0, colour(Side::PyTorch), "1 = PyTorch".into()),
    };
    bars.svg().map_err(|error| error.to_string())
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
