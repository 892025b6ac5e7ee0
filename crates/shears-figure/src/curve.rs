//! The visible points of a line.

use std::ops::Range;

/// A position, before it becomes pixels.
pub(crate) type Place = (f64, f64);

/// The visible parts of a line in this many columns of pixels, separated where a value is not
/// finite. Each column keeps its smallest and its largest value; of consecutive points at one
/// height only the ends are kept. Values beyond the edges are moved to them.
pub(crate) fn visible(
    line: &[Place],
    columns: u32,
    across: &Range<f64>,
    up: &Range<f64>,
) -> Vec<Vec<Place>> {
    let parts = line.split(|(x, y)| !(x.is_finite() && y.is_finite()));
    let parts = parts.filter(|part| !part.is_empty());
    let mut parts: Vec<Vec<Place>> = parts.map(|part| thinned(part, columns, across)).collect();
    for part in &mut parts {
        part.iter_mut()
            .for_each(|place| place.1 = place.1.clamp(up.start, up.end));
        *part = without_level(part);
    }
    parts
}

/// The column of pixels of a position.
pub(crate) fn column(x: f64, columns: u32, across: &Range<f64>) -> u32 {
    ((x - across.start) / (across.end - across.start) * f64::from(columns)) as u32
}

fn thinned(part: &[Place], columns: u32, across: &Range<f64>) -> Vec<Place> {
    let of = |place: &Place| column(place.0, columns, across);
    let mut kept = Vec::new();
    for column in part.chunk_by(|left, right| of(left) == of(right)) {
        let heights = || column.iter().enumerate();
        let smallest = heights().min_by(|left, right| left.1.1.total_cmp(&right.1.1));
        let largest = heights().max_by(|left, right| left.1.1.total_cmp(&right.1.1));
        let mut ends: Vec<usize> = smallest
            .into_iter()
            .chain(largest)
            .map(|end| end.0)
            .collect();
        ends.sort_unstable();
        ends.dedup();
        kept.extend(ends.into_iter().map(|at| column[at]));
    }
    kept
}

/// Removes the points between two of the same height.
fn without_level(part: &[Place]) -> Vec<Place> {
    let level = |at: usize| {
        let height = |at: usize| part.get(at).map(|place| place.1);
        at > 0 && height(at - 1) == height(at) && height(at + 1) == height(at)
    };
    let kept = (0..part.len()).filter(|at| !level(*at));
    kept.map(|at| part[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Range<f64> = -1e9..1e9;

    #[test]
    fn few_points_are_all_kept_and_gaps_separate_lines() {
        let line = [(1.0, 3.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, 2.0)];
        let lines = visible(&line, 100, &(1.0..4.0), &WIDE);
        assert_eq!(lines, [vec![(1.0, 3.0)], vec![(3.0, 1.0), (4.0, 2.0)]]);
        assert!(visible(&[], 100, &(0.0..1.0), &WIDE).is_empty());
    }

    #[test]
    fn many_points_keep_every_extreme() {
        let value = |index: usize| 1.0 + (index * index % 997) as f64;
        let line: Vec<Place> = (0..50_000)
            .map(|index| (index as f64, value(index)))
            .collect();
        let kept = visible(&line, 800, &(0.0..50_000.0), &WIDE).concat();
        assert!(kept.len() <= 1600, "{}", kept.len());
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let largest = |line: &[Place]| line.iter().map(|point| point.1).fold(0.0, f64::max);
        assert_eq!(largest(&kept), largest(&line));
    }

    #[test]
    fn a_level_line_is_two_points() {
        let line: Vec<Place> = (0..5000).map(|x| (f64::from(x), 5.0)).collect();
        assert_eq!(visible(&line, 800, &(0.0..5000.0), &WIDE).concat().len(), 2);
    }

    #[test]
    fn values_beyond_the_edges_are_moved_to_them() {
        let line = [(0.0, 5.0), (1.0, 15.0), (2.0, 25.0), (3.0, -9.0)];
        let lines = visible(&line, 100, &(0.0..3.0), &(0.0..10.0));
        assert_eq!(lines, [[(0.0, 5.0), (1.0, 10.0), (2.0, 10.0), (3.0, 0.0)]]);
    }
}
