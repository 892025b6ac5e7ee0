//! Axes: their ends, and their ticks.

use std::ops::Range;

use plotters::coord::ranged1d::{BoldPoints, DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;

/// An axis. On a logarithmic one, values that are not positive are gaps.
#[derive(Clone, Debug)]
pub struct Axis {
    name: String,
    log: bool,
    range: Option<(f64, f64)>,
    highest: f64,
    room: f64,
    ticks: Vec<(f64, String)>,
    format: fn(f64) -> String,
}

impl Axis {
    /// An axis with a linear scale.
    pub fn linear(name: impl Into<String>) -> Axis {
        Axis {
            name: name.into(),
            log: false,
            range: None,
            highest: f64::INFINITY,
            room: 0.0,
            ticks: Vec::new(),
            format: number,
        }
    }

    /// An axis with a logarithmic scale.
    pub fn log(name: impl Into<String>) -> Axis {
        Axis {
            log: true,
            ..Axis::linear(name)
        }
    }

    /// Sets the ends, instead of deriving them from the data.
    pub fn within(self, low: f64, high: f64) -> Axis {
        Axis {
            range: Some((low, high)),
            ..self
        }
    }

    /// Ends at this value at most, so that a divergence does not flatten everything else.
    pub fn at_most(self, highest: f64) -> Axis {
        Axis { highest, ..self }
    }

    /// Leaves this share of the length free at each end.
    pub fn with_room(self, room: f64) -> Axis {
        Axis { room, ..self }
    }

    /// Puts ticks with these labels at these values, instead of round numbers.
    pub fn marked_at(self, ticks: Vec<(f64, String)>) -> Axis {
        Axis { ticks, ..self }
    }

    /// Formats tick labels with this function instead of [`number`].
    pub fn written_as(self, format: fn(f64) -> String) -> Axis {
        Axis { format, ..self }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The labels of its own ticks, if it has any.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.ticks.iter().map(|(_, name)| name.as_str())
    }

    /// The position of a value before it becomes pixels; NaN if it has none.
    pub(crate) fn place(&self, value: f64) -> f64 {
        match self.log {
            true if value > 0.0 => value.log10(),
            true => f64::NAN,
            false => value,
        }
    }

    /// The tick label at a position.
    pub(crate) fn words(&self, place: f64) -> String {
        let mut ticks = self.ticks.iter();
        match self.log {
            _ if !self.ticks.is_empty() => ticks
                .find(|(value, _)| self.place(*value) == place)
                .map_or(String::new(), |(_, name)| name.clone()),
            // Rounded, because 10 to the power of log10(3) is not 3.
            true => (self.format)(rounded(10_f64.powf(place), 12)),
            false => (self.format)(place),
        }
    }

    /// The ends of the axis, for these positions.
    pub(crate) fn ends(&self, places: impl Iterator<Item = f64>) -> Range<f64> {
        if let Some((low, high)) = self.range {
            return self.place(low)..self.place(high);
        }
        let highest = self.place(self.highest);
        let (low, high) = match extent(places).map(|(low, high)| (low, high.min(highest))) {
            Some((low, high)) if low < high => (low, high),
            Some((low, high)) if low == high => (low - 0.5, high + 0.5),
            _ => (0.0, 1.0),
        };
        let room = self.room * (high - low);
        low - room..high + room
    }

    /// The axis as the library needs it, with about this many ticks.
    pub(crate) fn coordinates(&self, ends: Range<f64>, marks: usize) -> Coordinates {
        let ticks: Vec<f64> = match (self.ticks.is_empty(), self.log) {
            (false, _) => self
                .ticks
                .iter()
                .map(|(value, _)| self.place(*value))
                .collect(),
            (true, true) => {
                let levels = levels(10_f64.powf(ends.start), 10_f64.powf(ends.end), marks);
                levels.into_iter().map(f64::log10).collect()
            }
            (true, false) => RangedCoordf64::from(ends.clone()).key_points(BoldPoints(marks)),
        };
        Coordinates { ends, ticks }
    }
}

/// An axis as the library needs it.
pub(crate) struct Coordinates {
    ends: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Coordinates {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, pixels: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.ends.clone()).map(place, pixels)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => Vec::new(),
            false => self.ticks.clone(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.ends.clone()
    }
}

/// The smallest and the largest finite value; `None` if there are none.
pub fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.into_iter().filter(|value| value.is_finite());
    let ends = finite.map(|value| (value, value));
    ends.reduce(|(low, high), (value, _)| (low.min(value), high.max(value)))
}

/// The usual range of a curve: from two spans below its 5 % quantile to two spans above its 95 %
/// quantile, where a span is the distance between these; on a logarithmic axis by logarithms, and
/// at least a decade to each side. Spikes lie outside, however large. `None` if no value has a
/// position.
pub fn usual_range(values: impl IntoIterator<Item = f64>, log: bool) -> Option<(f64, f64)> {
    const SPANS: f64 = 2.0;
    let place = |value: f64| if log { value.log10() } else { value };
    let mut places: Vec<f64> = values.into_iter().map(place).collect();
    places.retain(|place| place.is_finite());
    places.sort_by(f64::total_cmp);
    let last = places.len().checked_sub(1)?;
    let tail = (last as f64 * 0.05) as usize;
    let (low, high) = (places[tail], places[last - tail]);
    let room = (SPANS * (high - low)).max(if log { 1.0 } else { 0.0 });
    let (low, high) = (places[0].max(low - room), places[last].min(high + room));
    match log {
        true => Some((10_f64.powf(low), 10_f64.powf(high))),
        false => Some((low, high)),
    }
}

/// The range of an axis for curves in `range` and lines such as thresholds, which widen it only up
/// to a factor of ten.
pub fn range_with_near(
    (low, high): (f64, f64),
    lines: impl IntoIterator<Item = f64>,
) -> (f64, f64) {
    let near = low / 10.0..=high * 10.0;
    let near = lines.into_iter().filter(|line| near.contains(line));
    extent(near.chain([low, high])).unwrap_or((low, high))
}

/// A short form of a number: up to four digits, and with a power of ten if it is very small or very
/// large.
pub fn number(value: f64) -> String {
    let rounded = rounded(value, 3);
    match rounded.abs() {
        0.0 => "0".to_string(),
        1e-3..1e6 => rounded.to_string(),
        _ => format!("{rounded:e}"),
    }
}

/// Rounds to this many digits after the first.
fn rounded(value: f64, digits: usize) -> f64 {
    format!("{value:.digits$e}").parse().unwrap_or(value)
}

/// Round numbers in a range: the digits 1 to 9 of each decade, or fewer of them, or fewer decades.
/// The library's own never end for the widest ranges.
fn levels(low: f64, high: f64, most: usize) -> Vec<f64> {
    // With room added, the ends may not be finite.
    let (low, high) = (low.max(f64::MIN_POSITIVE), high.min(f64::MAX));
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let with = |digits: &[u8]| -> Vec<f64> {
        let all = decades.clone().flat_map(|decade| {
            let number = move |digit: &u8| format!("{digit}e{decade}").parse().ok();
            digits.iter().filter_map(number)
        });
        all.filter(|level| (low..=high).contains(level)).collect()
    };
    let choices: [&[u8]; 4] = [&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[1, 2, 5], &[1, 3], &[1]];
    let mut levels = Vec::new();
    for digits in choices {
        levels = with(digits);
        if levels.len() <= most {
            return levels;
        }
    }
    let every = levels.len().div_ceil(most.max(1));
    levels.into_iter().step_by(every).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_round_and_few() {
        let levels = |low, high| levels(low, high, 10);
        assert_eq!(levels(0.45, 2.2), [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0]);
        assert_eq!(levels(0.15, 25.0), [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(
            levels(0.5, 2e4),
            [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4]
        );
        assert_eq!(levels(0.5, 2e7).len(), 8);
        assert!((5..=10).contains(&levels(1e-30, 1e30).len()));
        assert!((5..=10).contains(&levels(0.0, f64::INFINITY).len()));
    }

    #[test]
    fn formatted_values_are_short() {
        let words = [0.0, 0.1 + 0.2, 1234.5678, 2e5, 1e7, 1.5e-9].map(number);
        assert_eq!(words, ["0", "0.3", "1235", "200000", "1e7", "1.5e-9"]);
    }

    #[test]
    fn an_axis_has_ends_for_any_values() {
        let log = Axis::log("");
        let ends = |axis: &Axis, values: &[f64]| axis.ends(values.iter().map(|v| axis.place(*v)));
        assert_eq!(ends(&log, &[1.0, 100.0, 0.0, f64::NAN]), 0.0..2.0);
        assert_eq!(ends(&log, &[10.0]), 0.5..1.5);
        assert_eq!(ends(&log, &[]), 0.0..1.0);
        let linear = Axis::linear("").at_most(5.0).with_room(0.1);
        assert_eq!(ends(&linear, &[0.0, 1e9]), -0.5..5.5);
    }

    #[test]
    fn a_spike_is_outside_the_usual_range() {
        let mut norms: Vec<f64> = (0..100).map(|i| 0.4 + 0.002 * f64::from(i)).collect();
        let (low, high) = usual_range(norms.clone(), false).unwrap();
        assert!(low == 0.4 && (high - 0.598).abs() < 1e-12, "{low} {high}");
        norms[40] = 3e6;
        norms[41] = f64::NAN;
        let (low, high) = usual_range(norms.clone(), false).unwrap();
        assert!(low == 0.4 && high < 1.0, "{low} {high}");
        let (low, high) = usual_range(norms, true).unwrap();
        assert!((low - 0.4).abs() < 1e-12 && high < 10.0, "{low} {high}");
        assert_eq!(usual_range([0.0, f64::NAN], true), None);
        assert_eq!(usual_range([5.0], false), Some((5.0, 5.0)));
    }

    #[test]
    fn marks_of_a_logarithmic_axis_are_written_exactly() {
        let axis = Axis::log("");
        let words: Vec<String> = [0.3, 3.0, 700.0].map(|v| axis.words(axis.place(v))).into();
        assert_eq!(words, ["0.3", "3", "700"]);
    }
}
