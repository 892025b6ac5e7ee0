//! The chart of `shears replay`: the norm of each step, and the threshold of each policy, as SVG.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The most policies beside the run's own: there are no more colours that everybody can tell apart.
pub(crate) const MOST_CURVES: usize = 6;

/// What is to be drawn.
pub(crate) struct Chart {
    pub(crate) title: String,
    /// The number of each step.
    pub(crate) steps: Vec<u64>,
    pub(crate) norms: Vec<f64>,
    /// The steps with a spike's largest norm, as indices.
    pub(crate) peaks: Vec<usize>,
    /// The run's own thresholds, then those of the policies.
    pub(crate) curves: Vec<Curve>,
}

/// The thresholds of one policy.
pub(crate) struct Curve {
    /// What stands at its right end.
    pub(crate) label: String,
    /// What stands in the legend.
    pub(crate) name: String,
    /// The threshold of each step.
    pub(crate) values: Vec<Option<f64>>,
    /// What the legend says when there is none.
    pub(crate) why_none: &'static str,
}

/// A drawing in pixels.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// The part with the axes; upwards are the logarithms of norms.
type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const WIDTH: u32 = 960;
/// Of the part below the legend.
const HEIGHT: u32 = 420;
const LEFT: u32 = 76;
const MARGIN: u32 = 10;
const RIGHT: u32 = 44;
/// More points than columns of pixels would only make the file larger.
const COLUMNS: u32 = WIDTH - LEFT - RIGHT;
const ROW: i32 = 21;
/// The library draws letters at 1 / 1.24 of the size that it is given.
pub(crate) const TEXT: f64 = 12.5 * 1.24;
const TITLE: f64 = 14.5 * 1.24;
/// The usual width of a letter of that size, in pixels.
const LETTER: f64 = 6.9;

pub(crate) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const NORMS: RGBColor = RGBColor(0x77, 0x77, 0x77);
pub(crate) const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
/// Black for the run, then the colours of Okabe and Ito that are dark enough for lines.
pub(crate) const COLOURS: [RGBColor; MOST_CURVES + 1] = [
    RGBColor(0, 0, 0),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

/// How an entry of the legend is drawn.
#[derive(Clone, Copy)]
enum Swatch {
    Line(RGBColor, u32),
    Peak,
    NonFinite,
}

struct Entry {
    swatch: Swatch,
    text: String,
    at: (i32, i32),
}

impl Chart {
    /// The text of the SVG file.
    pub(crate) fn svg(&self) -> anyhow::Result<String> {
        let (low, high) = self.range();
        let entries = self.legend(low, high);
        let top = entries.last().map_or(0, |entry| entry.at.1) + ROW;
        let mut text = String::new();
        {
            let size = (WIDTH, HEIGHT + top.unsigned_abs());
            let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
            root.fill(&WHITE)?;
            let title = style(TITLE, INK, HPos::Left);
            root.draw_text(&self.title, &title, (LEFT as i32, 18))?;
            for entry in &entries {
                draw_entry(&root, entry)?;
            }
            let (_, body) = root.split_vertically(top);
            let first = self.steps.first().copied().unwrap_or(0) as f64;
            let last = self.steps.last().copied().unwrap_or(0) as f64;
            let mut plot = ChartBuilder::on(&body)
                .margin_top(8)
                .margin_left(MARGIN)
                .margin_right(RIGHT)
                .x_label_area_size(52)
                .y_label_area_size(LEFT - MARGIN)
                .build_cartesian_2d(first - 0.5..last + 0.5, low.log10()..high.log10())?;
            draw_axes(&mut plot)?;
            draw_levels(&root, &mut plot, low, high)?;
            self.draw_lines(&mut plot, low, high)?;
            self.draw_marks(&root, &plot, low)?;
            self.draw_labels(&root, &plot, low, high)?;
            root.present()?;
        }
        Ok(text)
    }

    /// The norms, and the thresholds as far as they are not too far away from all norms.
    fn range(&self) -> (f64, f64) {
        let norms = self.norms.iter().copied();
        let norms = norms.filter(|norm| norm.is_finite() && *norm > 0.0);
        let (min, max) = norms.fold((f64::INFINITY, 0.0_f64), |(min, max), norm| {
            (min.min(norm), max.max(norm))
        });
        if max == 0.0 {
            return (0.1, 10.0);
        }
        let thresholds = self.curves.iter().flat_map(|curve| &curve.values).flatten();
        let (low, high) = thresholds
            .filter(|threshold| (min / 10.0..=max * 10.0).contains(*threshold))
            .fold((min, max), |(low, high), threshold| {
                (low.min(*threshold), high.max(*threshold))
            });
        (low / 1.3, (high * 1.6).min(f64::MAX))
    }

    /// The legend, in rows that hold as many entries as there is room for.
    fn legend(&self, low: f64, high: f64) -> Vec<Entry> {
        let mut texts = vec![(Swatch::Line(NORMS, 1), "gradient norm".to_string())];
        if !self.peaks.is_empty() {
            texts.push((Swatch::Peak, format!("spike ({})", self.peaks.len())));
        }
        let non_finite = self.norms.iter().filter(|norm| !norm.is_finite()).count();
        if non_finite > 0 {
            texts.push((Swatch::NonFinite, format!("not finite ({non_finite})")));
        }
        for (index, curve) in self.curves.iter().enumerate() {
            let values = || curve.values.iter().flatten();
            let note = if values().next().is_none() {
                format!(" ({})", curve.why_none)
            } else if values().all(|value| *value > high) {
                " (above the picture)".to_string()
            } else if values().all(|value| *value < low) {
                " (below the picture)".to_string()
            } else {
                String::new()
            };
            let swatch = Swatch::Line(COLOURS[index % COLOURS.len()], self.stroke(index));
            texts.push((swatch, format!("{}{note}", curve.name)));
        }
        let (mut x, mut y) = (LEFT as i32, 30 + ROW / 2);
        let mut entries = Vec::new();
        for (swatch, text) in texts {
            let width = 34 + (LETTER * text.chars().count() as f64) as i32 + 18;
            if x > LEFT as i32 && x + width > (WIDTH - 10) as i32 {
                (x, y) = (LEFT as i32, y + ROW);
            }
            let at = (x, y);
            entries.push(Entry { swatch, text, at });
            x += width;
        }
        entries
    }

    /// Thinner from line to line, and thinnest for the run, which is drawn last, so that of lines
    /// that lie on each other all can be seen.
    fn stroke(&self, index: usize) -> u32 {
        match index {
            0 => 1,
            _ => (self.curves.len() - index + 1).clamp(2, 4) as u32,
        }
    }

    fn draw_lines(&self, plot: &mut Plot, low: f64, high: f64) -> anyhow::Result<()> {
        let norm = |norm: &f64| Some(norm.max(low)).filter(|_| norm.is_finite());
        self.draw_line(plot, self.norms.iter().map(norm).collect(), NORMS, 1)?;
        for (index, curve) in self
            .curves
            .iter()
            .enumerate()
            .cycle()
            .skip(1)
            .take(self.curves.len())
        {
            let shown = |value: &Option<f64>| value.filter(|v| (low..=high).contains(v));
            let values = curve.values.iter().map(shown).collect();
            let colour = COLOURS[index % COLOURS.len()];
            self.draw_line(plot, values, colour, self.stroke(index))?;
        }
        Ok(())
    }

    fn draw_line(
        &self,
        plot: &mut Plot,
        values: Vec<Option<f64>>,
        colour: RGBColor,
        width: u32,
    ) -> anyhow::Result<()> {
        let steps = self.steps.iter().map(|step| *step as f64);
        let points: Vec<(f64, Option<f64>)> = steps.zip(values).collect();
        let style = ShapeStyle::from(&colour).stroke_width(width);
        // What stands alone would not be seen.
        let least = 2.0 * points.len() as f64 / f64::from(COLUMNS);
        for mut line in thinned(&points, COLUMNS as usize) {
            if let &[(x, y)] = line.as_slice() {
                line = vec![(x - least, y), (x + least, y)];
            }
            let line = line.into_iter().map(|(x, y)| (x, y.log10()));
            plot.draw_series(LineSeries::new(line, style))?;
        }
        Ok(())
    }

    /// Spikes above their peaks, and steps that are not finite on the lower edge.
    fn draw_marks(&self, root: &Area, plot: &Plot, low: f64) -> anyhow::Result<()> {
        let place = |index: usize, value: f64| {
            plot.backend_coord(&(self.steps[index] as f64, value.log10()))
        };
        let mut last = None;
        for &peak in &self.peaks {
            let (x, y) = place(peak, self.norms[peak]);
            let corners = vec![(x - 4, y - 13), (x + 4, y - 13), (x, y - 5)];
            root.draw(&Polygon::new(corners, INK.filled()))?;
        }
        for index in (0..self.norms.len()).filter(|index| !self.norms[*index].is_finite()) {
            let (x, y) = place(index, low);
            if last != Some(x) {
                root.draw(&PathElement::new(vec![(x, y), (x, y - 10)], INK))?;
            }
            last = Some(x);
        }
        Ok(())
    }

    /// The label of each line at its right end, apart from each other.
    fn draw_labels(&self, root: &Area, plot: &Plot, low: f64, high: f64) -> anyhow::Result<()> {
        const APART: i32 = 15;
        let mut labels: Vec<(i32, usize)> = Vec::new();
        for (index, curve) in self.curves.iter().enumerate() {
            let end = curve.values.last().copied().flatten();
            if let Some(end) = end.filter(|end| (low..=high).contains(end)) {
                labels.push((plot.backend_coord(&(0.0, end.log10())).1, index));
            }
        }
        labels.sort_unstable();
        for next in 1..labels.len() {
            labels[next].0 = labels[next].0.max(labels[next - 1].0 + APART);
        }
        let lowest = plot.backend_coord(&(0.0, low.log10())).1;
        for (back, label) in labels.iter_mut().rev().enumerate() {
            label.0 = label.0.min(lowest - APART * back as i32);
        }
        for (y, index) in labels {
            let text = style(TEXT, COLOURS[index % COLOURS.len()], HPos::Left);
            let x = (WIDTH - RIGHT + 6) as i32;
            root.draw_text(&self.curves[index].label, &text, (x, y))?;
        }
        Ok(())
    }
}

pub(crate) fn style(size: f64, colour: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    let style = ("sans-serif", size).into_font().color(&colour);
    style.pos(Pos::new(horizontal, VPos::Center))
}

fn draw_axes(plot: &mut Plot) -> anyhow::Result<()> {
    let text = || ("sans-serif", TEXT).into_font().color(&INK);
    plot.configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .disable_y_mesh()
        .x_labels(10)
        .y_labels(0)
        .y_label_formatter(&|_| String::new())
        .set_tick_mark_size(LabelAreaPosition::Left, 0)
        .x_label_formatter(&|step| match step.fract() == 0.0 {
            true => crate::report::count(step.max(0.0) as u64),
            // A run of a few steps gets lines between them.
            false => String::new(),
        })
        .label_style(text())
        .axis_desc_style(text())
        .x_desc("step")
        .y_desc("norm of all gradients, log scale")
        .draw()?;
    Ok(())
}

/// Lines and numbers of the norm's axis. The library's own are too few below three decades, and
/// without end where the range is as wide as numbers go.
fn draw_levels(root: &Area, plot: &mut Plot, low: f64, high: f64) -> anyhow::Result<()> {
    let ends = plot.plotting_area().get_x_range();
    for level in levels(low, high) {
        let height = level.log10();
        let line = vec![(ends.start, height), (ends.end, height)];
        plot.draw_series(LineSeries::new(line, GRID))?;
        let name = match level {
            1e-3..1e5 => format!("{level}"),
            _ => format!("{level:e}"),
        };
        let (x, y) = plot.backend_coord(&(ends.start, height));
        let text = style(TEXT, INK, HPos::Right);
        root.draw_text(&name, &text, (x - 8, y))?;
        root.draw(&PathElement::new(vec![(x - 5, y), (x, y)], INK))?;
    }
    Ok(())
}

/// Round numbers in a range, about ten at most.
pub(crate) fn levels(low: f64, high: f64) -> Vec<f64> {
    const MOST: usize = 10;
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
        if levels.len() <= MOST {
            return levels;
        }
    }
    let every = levels.len().div_ceil(MOST);
    levels.into_iter().step_by(every).collect()
}

fn draw_entry(root: &Area, entry: &Entry) -> anyhow::Result<()> {
    let (x, y) = entry.at;
    match entry.swatch {
        Swatch::Line(colour, width) => {
            let style = ShapeStyle::from(&colour).stroke_width(width);
            root.draw(&PathElement::new(vec![(x, y), (x + 26, y)], style))?;
        }
        Swatch::Peak => {
            let corners = vec![(x + 18, y - 4), (x + 26, y - 4), (x + 22, y + 4)];
            root.draw(&Polygon::new(corners, INK.filled()))?;
        }
        Swatch::NonFinite => {
            let line = vec![(x + 22, y - 5), (x + 22, y + 5)];
            root.draw(&PathElement::new(line, INK))?;
        }
    }
    let text = style(TEXT, INK, HPos::Left);
    root.draw_text(&entry.text, &text, (x + 34, y))?;
    Ok(())
}

/// The lines between gaps. With more points than columns, each column keeps its smallest and its
/// largest; of points on one level only the ends are kept.
pub(crate) fn thinned(points: &[(f64, Option<f64>)], columns: usize) -> Vec<Vec<(f64, f64)>> {
    let per_column = points.len().div_ceil(columns.max(1)).max(1);
    let mut lines = Vec::new();
    let indexed: Vec<(usize, f64, Option<f64>)> = points
        .iter()
        .enumerate()
        .map(|(index, (x, y))| (index, *x, *y))
        .collect();
    for part in indexed.split(|(_, _, y)| y.is_none()) {
        let part: Vec<(usize, f64, f64)> = part
            .iter()
            .filter_map(|(index, x, y)| Some((*index, *x, (*y)?)))
            .collect();
        let mut kept: Vec<(usize, f64, f64)> = Vec::new();
        for column in part.chunk_by(|left, right| left.0 / per_column == right.0 / per_column) {
            let smallest = column
                .iter()
                .min_by(|left, right| left.2.total_cmp(&right.2));
            let largest = column
                .iter()
                .max_by(|left, right| left.2.total_cmp(&right.2));
            let mut ends: Vec<(usize, f64, f64)> =
                smallest.into_iter().chain(largest).copied().collect();
            ends.sort_unstable_by_key(|(index, _, _)| *index);
            ends.dedup_by_key(|(index, _, _)| *index);
            kept.extend(ends);
        }
        let level = |at: usize| {
            let neighbours = (
                at.checked_sub(1).and_then(|left| kept.get(left)),
                kept.get(at + 1),
            );
            matches!(neighbours, (Some(left), Some(right)) if left.2 == kept[at].2 && right.2 == kept[at].2)
        };
        let line: Vec<(f64, f64)> = (0..kept.len())
            .filter(|at| !level(*at))
            .map(|at| (kept[at].1, kept[at].2))
            .collect();
        if !line.is_empty() {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_points_are_all_kept_and_gaps_part_lines() {
        let points = [
            (1.0, Some(3.0)),
            (2.0, None),
            (3.0, Some(1.0)),
            (4.0, Some(2.0)),
        ];
        let lines = thinned(&points, 100);
        assert_eq!(lines, [vec![(1.0, 3.0)], vec![(3.0, 1.0), (4.0, 2.0)]]);
        assert!(thinned(&[], 100).is_empty());
    }

    #[test]
    fn many_points_keep_every_extreme() {
        let value = |index: usize| 1.0 + (index * index % 997) as f64;
        let points: Vec<(f64, Option<f64>)> = (0..50_000)
            .map(|index| (index as f64, Some(value(index))))
            .collect();
        let line = thinned(&points, 800).concat();
        assert!(line.len() <= 1600, "{}", line.len());
        assert!(line.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let largest = |line: &[(f64, f64)]| line.iter().map(|point| point.1).fold(0.0, f64::max);
        let all: Vec<(f64, f64)> = points
            .iter()
            .filter_map(|(x, y)| Some((*x, (*y)?)))
            .collect();
        assert_eq!(largest(&line), largest(&all));
    }

    #[test]
    fn a_level_line_is_two_points() {
        let points: Vec<(f64, Option<f64>)> =
            (0..5000).map(|x| (f64::from(x), Some(5.0))).collect();
        assert_eq!(thinned(&points, 800).concat().len(), 2);
    }

    #[test]
    fn levels_are_round_and_few() {
        assert_eq!(levels(0.45, 2.2), [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0]);
        assert_eq!(levels(0.15, 25.0), [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(
            levels(0.5, 2e4),
            [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4]
        );
        assert_eq!(levels(0.5, 2e7).len(), 8);
        assert!((5..=10).contains(&levels(1e-30, 1e30).len()));
    }

    #[test]
    fn whatever_the_numbers_are_there_is_a_chart() {
        let zeros = vec![0.0; 20];
        let wild = vec![f64::NAN, 1e-300, f64::INFINITY, 1e300, 1.0];
        for norms in [zeros, wild, vec![f64::NAN], vec![2.0]] {
            let curve = |value: f64| Curve {
                label: "A".into(),
                name: "A: <policy> & more".into(),
                values: vec![Some(value); norms.len()],
                why_none: "no threshold",
            };
            let chart = Chart {
                title: "title".into(),
                steps: (1..=norms.len() as u64).collect(),
                peaks: Vec::new(),
                curves: vec![curve(1.0), curve(1e308)],
                norms,
            };
            let svg = chart.svg().unwrap();
            assert!(svg.starts_with("<svg width=\"960\"") && svg.trim_end().ends_with("</svg>"));
            assert!(
                svg.contains("&lt;policy&gt; &amp; more") && !svg.contains("NaN"),
                "{svg}"
            );
        }
    }
}
