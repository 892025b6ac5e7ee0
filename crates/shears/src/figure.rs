//! Lines, bands and points over two axes, as SVG.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::chart::{COLOURS, GRID, INK, TEXT, levels, style};

pub(crate) const WIDTH: u32 = 960;
/// Of the part below the legend.
const HEIGHT: u32 = 346;
/// More points than this are thinned out.
pub(crate) const POINTS: usize = 400;
/// One line or row of points, with what surrounds it.
#[derive(Default)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) colour: usize,
    /// Parts of a line; a gap is where there is no number.
    pub(crate) lines: Vec<Vec<(f64, f64)>>,
    /// For each x, from where to where the seeds lie.
    pub(crate) band: Vec<(f64, f64, f64)>,
    pub(crate) points: Vec<(f64, f64)>,
    /// Where something diverged: drawn at the upper edge.
    pub(crate) crosses: Vec<f64>,
    pub(crate) dashed: bool,
}

/// Axes of a picture.
#[derive(Default)]
pub(crate) struct Axes {
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) log_x: bool,
    pub(crate) log_y: bool,
    /// Nothing above this is shown: a loss that flew away must not press all others flat.
    pub(crate) highest: Option<f64>,
}

/// The parts of a line between numbers that are not finite.
pub(crate) fn parts(points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    let parts = points.split(|(_, y)| !y.is_finite());
    parts
        .filter(|part| !part.is_empty())
        .map(<[_]>::to_vec)
        .collect()
}

pub(crate) fn text_style(position: HPos) -> TextStyle<'static> {
    style(TEXT, INK, position)
}

/// A number in as few letters as say it.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_string(),
        1e-3..1e5 => format!("{}", format!("{value:.3e}").parse::<f64>().unwrap_or(value)),
        _ => format!("{value:.1e}"),
    }
}

impl Axes {
    fn to_x(&self, x: f64) -> f64 {
        if self.log_x { x.log10() } else { x }
    }

    fn to_y(&self, y: f64) -> f64 {
        if self.log_y { y.max(1e-30).log10() } else { y }
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

impl Series {
    fn colour(&self) -> RGBColor {
        COLOURS[self.colour % COLOURS.len()]
    }

    /// Draws everything; crosses stand at `high`.
    fn draw(
        &self,
        plot: &mut Plot<'_, '_>,
        axes: &Axes,
        high: f64,
        room: f64,
    ) -> anyhow::Result<()> {
        let colour = self.colour();
        let at = |x: f64, y: f64| (axes.to_x(x), axes.to_y(y));
        let upper = self.band.iter().map(|(x, _, high)| at(*x, *high));
        let lower = self.band.iter().rev().map(|(x, low, _)| at(*x, *low));
        let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
        if outline.len() > 3 {
            plot.draw_series([Polygon::new(outline, colour.mix(0.15).filled())])?;
        }
        let style = ShapeStyle::from(&colour).stroke_width(2);
        for line in &self.lines {
            let line = line.iter().map(|(x, y)| at(*x, *y));
            match self.dashed {
                true => plot.draw_series(DashedLineSeries::new(line, 6, 4, style))?,
                false => plot.draw_series(LineSeries::new(line, style))?,
            };
        }
        let points = self.points.iter().map(|(x, y)| at(*x, *y));
        let inside = points.filter(|(_, y)| *y <= high + room);
        plot.draw_series(inside.map(|place| Circle::new(place, 4, colour.filled())))?;
        let style = style.stroke_width(3);
        let crosses = self.crosses.iter().map(|x| (axes.to_x(*x), high));
        plot.draw_series(crosses.map(|place| Cross::new(place, 6, style)))?;
        Ok(())
    }
}

/// Lines over axes, with a legend of the series' names.
pub(crate) fn chart(axes: &Axes, series: &[Series]) -> anyhow::Result<String> {
    let (to_x, to_y) = (|x| axes.to_x(x), |y| axes.to_y(y));
    let lines = || {
        series
            .iter()
            .flat_map(|series| series.lines.iter().flatten())
    };
    let points = || series.iter().flat_map(|series| &series.points);
    let crosses = series.iter().flat_map(|series| &series.crosses).copied();
    let xs = lines()
        .chain(points())
        .map(|(x, _)| *x)
        .chain(crosses)
        .map(to_x);
    let bands = || series.iter().flat_map(|series| &series.band);
    let mut ys: Vec<f64> = lines().chain(points()).map(|(_, y)| to_y(*y)).collect();
    ys.extend(bands().flat_map(|(_, low, high)| [to_y(*low), to_y(*high)]));
    ys.retain(|y| y.is_finite());
    ys.sort_by(f64::total_cmp);
    let (left, right) = ends(xs.collect());
    let (low, high) = ends(ys.clone());
    let high = axes.highest.map_or(high, |highest| high.min(highest));
    let room = 0.04 * (high - low).max(1e-9);
    let mut svg = String::new();
    {
        let places = legend_places(series);
        let legend_height = places.last().map_or(0, |(_, y)| y + 16);
        let size = (WIDTH, HEIGHT + legend_height.unsigned_abs());
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (legend, body) = root.split_vertically(legend_height);
        let mut plot = ChartBuilder::on(&body)
            .margin_right(20)
            .margin_top(6)
            .x_label_area_size(48)
            .y_label_area_size(78)
            .build_cartesian_2d(left..right, low - room..high + room)?;
        let name = |value: &f64| number(*value);
        plot.configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            // The library's own marks of a logarithmic axis are no round numbers.
            .x_labels(if axes.log_x { 0 } else { 8 })
            .y_labels(if axes.log_y { 0 } else { 6 })
            .x_label_formatter(&name)
            .y_label_formatter(&name)
            .label_style(("sans-serif", TEXT).into_font().color(&INK))
            .axis_desc_style(("sans-serif", TEXT).into_font().color(&INK))
            .x_desc(axes.x)
            .y_desc(axes.y)
            .draw()?;
        draw_levels(&root, &plot, axes)?;
        for series in series {
            series.draw(&mut plot, axes, high, room)?;
        }
        for (series, (x, y)) in series.iter().zip(places) {
            let style = ShapeStyle::from(&series.colour()).stroke_width(3);
            let swatch: &[(i32, i32)] = match series.dashed {
                true => &[(0, 6), (9, 15), (18, 24)],
                false => &[(0, 24)],
            };
            for (from, to) in swatch {
                let line = vec![(x + from, y), (x + to, y)];
                legend.draw(&PathElement::new(line, style))?;
            }
            legend.draw_text(&series.name, &text_style(HPos::Left), (x + 30, y))?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// Where each entry of the legend begins, in as many rows as it takes.
fn legend_places(series: &[Series]) -> Vec<(i32, i32)> {
    const LEFT: i32 = 80;
    const ROW: i32 = 20;
    let (mut x, mut y) = (LEFT, 18);
    let mut places = Vec::new();
    for series in series {
        let width = 54 + 7 * series.name.chars().count() as i32;
        if x > LEFT && x + width > WIDTH as i32 {
            (x, y) = (LEFT, y + ROW);
        }
        places.push((x, y));
        x += width;
    }
    places
}

/// Lines and round numbers of the axes that are logarithmic.
fn draw_levels(root: &Area<'_>, plot: &Plot<'_, '_>, axes: &Axes) -> anyhow::Result<()> {
    let area = plot.plotting_area();
    let (xs, ys) = (area.get_x_range(), area.get_y_range());
    let of = |range: &std::ops::Range<f64>, log: bool| match log {
        true => levels(10_f64.powf(range.start), 10_f64.powf(range.end)),
        false => Vec::new(),
    };
    for level in of(&xs, axes.log_x) {
        let ends = [ys.start, ys.end].map(|y| plot.backend_coord(&(level.log10(), y)));
        root.draw(&PathElement::new(ends.to_vec(), GRID))?;
        let below = (ends[0].0, ends[0].1 + 14);
        root.draw_text(&number(level), &text_style(HPos::Center), below)?;
    }
    for level in of(&ys, axes.log_y) {
        let ends = [xs.start, xs.end].map(|x| plot.backend_coord(&(x, level.log10())));
        root.draw(&PathElement::new(ends.to_vec(), GRID))?;
        let left = (ends[0].0 - 8, ends[0].1);
        root.draw_text(&number(level), &text_style(HPos::Right), left)?;
    }
    Ok(())
}

/// The smallest and the largest, a little apart if they are one.
fn ends(values: Vec<f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    match low < high {
        true => (low, high),
        false if low == high => (low - 0.5, high + 0.5),
        false => (0.0, 1.0),
    }
}
