//! The plots of docs/performance.md, as SVG: how the time of a step grows, and who is how fast.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::peers::{Comparison, Measured};
use super::rows::{Goal, Quantity, Side, three_digits};
use super::scaling::{Axis, Point, SIDES, Scaling};

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Drawing into a text fails only for want of memory, and is passed on all the same.
type Drawn = Result<(), String>;

const WIDTH: u32 = 960;
/// The library draws letters at 1 / 1.24 of the size that it is given.
const TEXT: f64 = 12.5 * 1.24;
const TITLE: f64 = 15.0 * 1.24;
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GREY: RGBColor = RGBColor(0x66, 0x66, 0x66);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);

/// Of Okabe and Ito, whose colours everybody can tell apart.
fn colour(side: Side) -> RGBColor {
    match side {
        Side::Shears => RGBColor(0x00, 0x72, 0xb2),
        Side::PyTorch => RGBColor(0xd5, 0x5e, 0x00),
        Side::PyTorchCompiled => RGBColor(0xe6, 0x9f, 0x00),
        Side::Burn => RGBColor(0x00, 0x9e, 0x73),
        Side::Candle => RGBColor(0xcc, 0x79, 0xa7),
    }
}

/// A preset's step against hidden size, window, batch and threads: four panels, logarithmic.
pub(super) fn scaling(scaling: &Scaling, preset: &str, title: &str) -> Result<String, String> {
    const HEAD: u32 = 56;
    const PANEL: (u32, u32) = (WIDTH / 2, 290);
    let points: Vec<&Point> = scaling
        .points
        .iter()
        .filter(|point| point.preset == preset)
        .collect();
    let medians = points
        .iter()
        .flat_map(|point| SIDES.map(|side| point.median(side)));
    let (low, high) = ends(medians.flatten())
        .ok_or_else(|| format!("benches/baselines has no points of {preset}"))?;
    let mut text = String::new();
    {
        let size = (WIDTH, HEAD + 2 * PANEL.1);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE).map_err(complaint)?;
        label(&root, title, (24, 24), TITLE, INK, HPos::Left)?;
        legend(&root, &SIDES, (WIDTH as i32 - 24, 24))?;
        for (index, axis) in Axis::ALL.into_iter().enumerate() {
            let corner = (
                (index as u32 % 2 * PANEL.0) as i32,
                (HEAD + index as u32 / 2 * PANEL.1) as i32,
            );
            let panel = Panel {
                points: points.iter().copied().filter(|p| p.axis == axis).collect(),
                // All panels have the same height of a millisecond.
                heights: Scale::new((low / 1.3, high * 1.6), (corner.1 + 232, corner.1 + 8)),
                left: corner.0 + 74,
                right: corner.0 + PANEL.0 as i32 - 24,
            };
            panel.draw(&root, axis)?;
        }
        root.present().map_err(complaint)?;
    }
    Ok(text)
}

/// From numbers to pixels, by their logarithms.
#[derive(Clone, Copy)]
struct Scale {
    numbers: (f64, f64),
    pixels: (i32, i32),
}

impl Scale {
    fn new(numbers: (f64, f64), pixels: (i32, i32)) -> Scale {
        Scale { numbers, pixels }
    }

    fn at(&self, number: f64) -> i32 {
        let (low, high) = (self.numbers.0.ln(), self.numbers.1.ln());
        let share = if high > low {
            (number.ln() - low) / (high - low)
        } else {
            0.5
        };
        let (from, to) = (f64::from(self.pixels.0), f64::from(self.pixels.1));
        (from + share * (to - from)).round() as i32
    }
}

/// One axis of a scaling plot.
struct Panel<'a> {
    points: Vec<&'a Point>,
    heights: Scale,
    left: i32,
    right: i32,
}

impl Panel<'_> {
    fn draw(&self, root: &Drawing, axis: Axis) -> Drawn {
        let Some(values) = ends(self.points.iter().map(|point| point.value as f64)) else {
            return Ok(());
        };
        let across = Scale::new(values, (self.left + 26, self.right - 26));
        let (bottom, top) = self.heights.pixels;
        for level in levels(self.heights.numbers) {
            let y = self.heights.at(level);
            line(root, &[(self.left, y), (self.right, y)], GRID, 1)?;
            let name = three_significant(level);
            label(root, &name, (self.left - 8, y), TEXT, GREY, HPos::Right)?;
        }
        line(root, &[(self.left, bottom), (self.right, bottom)], INK, 1)?;
        for point in &self.points {
            let x = across.at(point.value as f64);
            line(root, &[(x, bottom), (x, bottom + 5)], INK, 1)?;
            let name = point.value.to_string();
            label(root, &name, (x, bottom + 16), TEXT, GREY, HPos::Center)?;
        }
        let middle = (self.left + self.right) / 2;
        label(
            root,
            axis.title(),
            (middle, bottom + 36),
            TEXT,
            INK,
            HPos::Center,
        )?;
        let unit = (self.left + 6, top + 4);
        label(root, "ms a step", unit, TEXT, GREY, HPos::Left)?;
        // Ours is drawn last, and lies above.
        for side in SIDES.into_iter().rev() {
            let places: Vec<(i32, i32)> = self
                .points
                .iter()
                .filter_map(|point| {
                    Some((across.at(point.value as f64), self.height(point, side)?))
                })
                .collect();
            line(root, &places, colour(side), 2)?;
            for place in places {
                let dot = Circle::new(place, 4, colour(side).filled());
                root.draw(&dot).map_err(complaint)?;
            }
        }
        self.draw_ratios(root, &across)
    }

    fn height(&self, point: &Point, side: Side) -> Option<i32> {
        Some(self.heights.at(point.median(side)?))
    }

    /// PyTorch's time as a multiple of ours, above the upper point.
    fn draw_ratios(&self, root: &Drawing, across: &Scale) -> Drawn {
        for point in &self.points {
            let times = super::statistics::ratio(
                point.rounds.get(&Side::PyTorch).map_or(&[], Vec::as_slice),
                point.rounds.get(&Side::Shears).map_or(&[], Vec::as_slice),
            );
            let upper = SIDES
                .iter()
                .filter_map(|side| self.height(point, *side))
                .min();
            if let (Some(times), Some(upper)) = (times, upper) {
                let text = format!("{:.1}×", times.median);
                let place = (across.at(point.value as f64), upper - 13);
                label(root, &text, place, TEXT, INK, HPos::Center)?;
            }
        }
        Ok(())
    }
}

/// How many times as fast as PyTorch everybody trains: a group of bars for each preset.
pub(super) fn training(comparison: &Comparison) -> Result<String, String> {
    let bars = Bars::of(comparison);
    let mut text = String::new();
    {
        let size = (WIDTH, bars.height().unsigned_abs());
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE).map_err(complaint)?;
        let title = "Training speed, as a multiple of PyTorch's";
        label(&root, title, (24, 24), TITLE, INK, HPos::Left)?;
        let right = WIDTH as i32 - 24;
        legend(&root, &Bars::SIDES, (right, 24))?;
        let note = "black mark: the goal";
        label(&root, note, (right, 44), TEXT, GREY, HPos::Right)?;
        bars.draw_scale(&root)?;
        let mut top = Bars::TOP;
        for group in &bars.groups {
            top = bars.draw_group(&root, group, top)?;
        }
        root.present().map_err(complaint)?;
    }
    Ok(text)
}

/// Rows of training, each with who was measured and how fast they were.
struct Bars<'a> {
    groups: Vec<(&'a Measured, Vec<(Side, f64)>)>,
    /// What the right end stands for.
    widest: f64,
}

impl Bars<'_> {
    const SIDES: [Side; 4] = [
        Side::Shears,
        Side::PyTorchCompiled,
        Side::Burn,
        Side::Candle,
    ];
    const TOP: i32 = 62;
    const LEFT: i32 = 110;
    const BAR: i32 = 17;
    const GAP: i32 = 14;

    fn of(comparison: &Comparison) -> Bars<'_> {
        let rows = comparison.rows.iter();
        let groups: Vec<_> = rows
            .filter(|row| row.quantity == Quantity::Step)
            .map(|row| {
                let times = |side| Some((side, row.times_pytorch(side)?.median));
                (row, Self::SIDES.into_iter().filter_map(times).collect())
            })
            .collect();
        let measured = groups.iter().flat_map(|(_, bars): &(_, Vec<_>)| bars);
        let goals = groups.iter().filter_map(|(row, _)| goal(row));
        let times = measured.map(|(_, times)| *times).chain(goals);
        // Room for the number at the end of the longest bar.
        let widest = times.fold(1.0, f64::max) * 1.12;
        Bars { groups, widest }
    }

    fn height(&self) -> i32 {
        let group = |(_, bars): &(_, Vec<_>)| Self::BAR * bars.len() as i32 + Self::GAP;
        Self::TOP + self.groups.iter().map(group).sum::<i32>() + 40
    }

    fn across(&self, times: f64) -> i32 {
        let width = f64::from(WIDTH as i32 - Self::LEFT - 60);
        Self::LEFT + (times / self.widest * width) as i32
    }

    fn draw_scale(&self, root: &Drawing) -> Drawn {
        let bottom = self.height() - 34;
        for whole in 0..=self.widest as i32 {
            let x = self.across(f64::from(whole));
            let (shade, name) = match whole {
                1 => (colour(Side::PyTorch), "1 = PyTorch".to_string()),
                _ => (GRID, whole.to_string()),
            };
            line(root, &[(x, Self::TOP - 12), (x, bottom)], shade, 1)?;
            label(root, &name, (x, bottom + 14), TEXT, GREY, HPos::Center)?;
        }
        Ok(())
    }

    /// Draws one preset, and says where the next one begins.
    fn draw_group(
        &self,
        root: &Drawing,
        (row, bars): &(&Measured, Vec<(Side, f64)>),
        mut y: i32,
    ) -> Result<i32, String> {
        let name = row.name.trim_start_matches("train-");
        let middle = y + Self::BAR * bars.len() as i32 / 2;
        let place = (Self::LEFT - 12, middle);
        label(root, name, place, TEXT, INK, HPos::Right)?;
        for (side, times) in bars {
            let end = self.across(*times);
            let corners = [(Self::LEFT, y + 1), (end, y + Self::BAR - 1)];
            let bar = Rectangle::new(corners, colour(*side).filled());
            root.draw(&bar).map_err(complaint)?;
            let mut right = end;
            if let Some(goal) = goal(row).filter(|_| *side == Side::Shears) {
                let x = self.across(goal);
                line(root, &[(x, y - 3), (x, y + Self::BAR + 3)], INK, 2)?;
                // The number stands beside the mark, not on it.
                if (end - 4..end + 40).contains(&x) {
                    right = x;
                }
            }
            let place = (right + 6, y + Self::BAR / 2);
            let number = format!("{times:.2}");
            label(root, &number, place, TEXT, INK, HPos::Left)?;
            y += Self::BAR;
        }
        Ok(y + Self::GAP)
    }
}

fn goal(row: &Measured) -> Option<f64> {
    match row.goal {
        Goal::TimesPyTorch(goal) => Some(goal),
        Goal::TimesRead(_) => None,
    }
}

/// Names and colours, ending at the given place.
fn legend(root: &Drawing, sides: &[Side], (mut x, y): (i32, i32)) -> Drawn {
    for side in sides.iter().rev() {
        label(root, side.name(), (x, y), TEXT, INK, HPos::Right)?;
        x -= 8 * side.name().len() as i32 + 8;
        let swatch = Rectangle::new([(x - 12, y - 6), (x, y + 6)], colour(*side).filled());
        root.draw(&swatch).map_err(complaint)?;
        x -= 34;
    }
    Ok(())
}

fn label(
    root: &Drawing,
    text: &str,
    place: (i32, i32),
    size: f64,
    colour: RGBColor,
    horizontal: HPos,
) -> Drawn {
    let style = ("sans-serif", size).into_font().color(&colour);
    let style = style.pos(Pos::new(horizontal, VPos::Center));
    root.draw_text(text, &style, place).map_err(complaint)
}

fn line(root: &Drawing, places: &[(i32, i32)], colour: RGBColor, width: u32) -> Drawn {
    let style = ShapeStyle::from(&colour).stroke_width(width);
    let path = PathElement::new(places.to_vec(), style);
    root.draw(&path).map_err(complaint)
}

fn complaint(error: impl std::fmt::Display) -> String {
    format!("cannot draw: {error}")
}

/// The smallest and the largest of some numbers.
fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |ends, value| {
        let (low, high) = ends.unwrap_or((value, value));
        Some((f64::min(low, value), f64::max(high, value)))
    })
}

/// Powers of ten in a range, and between them 3 or 2 and 5, as long as there is room.
fn levels((low, high): (f64, f64)) -> Vec<f64> {
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let digits: &[u8] = match (high / low).log10() {
        range if range < 2.0 => &[1, 2, 5],
        range if range < 3.5 => &[1, 3],
        _ => &[1],
    };
    // Read as text, because 3 * 0.1 is not 0.3.
    let level = |digit: &u8, decade: i32| format!("{digit}e{decade}").parse::<f64>().ok();
    decades
        .flat_map(|decade| digits.iter().filter_map(move |digit| level(digit, decade)))
        .filter(|level| (low..=high).contains(level))
        .collect()
}

/// A round number without the zeros after its point.
fn three_significant(level: f64) -> String {
    if level >= 1.0 {
        return three_digits(level.round())
            .split('.')
            .next()
            .unwrap_or_default()
            .to_string();
    }
    let text = format!("{level:.3}");
    text.trim_end_matches('0').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::peers::tests::{machine, norm_row, step_row};

    fn point(axis: Axis, value: usize, ours: f64) -> Point {
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
    fn levels_are_round_and_few() {
        assert_eq!(levels((4.0, 60.0)), [5.0, 10.0, 20.0, 50.0]);
        assert_eq!(
            levels((0.2, 400.0)),
            [0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]
        );
        assert_eq!(three_significant(1000.0), "1,000");
        assert_eq!(three_significant(5.0), "5");
        assert_eq!(three_significant(0.3), "0.3");
    }

    #[test]
    fn logarithms_space_evenly() {
        let scale = Scale::new((1.0, 100.0), (0, 200));
        assert_eq!([1.0, 10.0, 100.0].map(|n| scale.at(n)), [0, 100, 200]);
        // A single point stands in the middle.
        assert_eq!(Scale::new((2.0, 2.0), (0, 200)).at(2.0), 100);
    }

    #[test]
    fn every_panel_shows_its_points_and_ratios() {
        let points = Axis::ALL
            .into_iter()
            .flat_map(|axis| [point(axis, 1, 3.0), point(axis, 2, 5.0)]);
        let measured = Scaling {
            machine: machine(),
            threads: 2,
            rounds: 1,
            points: points.collect(),
        };
        let svg = scaling(&measured, "lstm-128", "LSTM").unwrap();
        assert_eq!(svg.matches("2.0×").count(), 8);
        assert_eq!(svg.matches("<circle").count(), 16);
        for axis in Axis::ALL {
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
