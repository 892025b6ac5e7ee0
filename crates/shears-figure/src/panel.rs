//! Curves, bands and points over axes.

use std::ops::Range;

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::axis::{Axis, Coordinates};
use crate::canvas::{
    AREA, Area, Drawn, Legend, ROW, Swatch, TEXT, label, peak, picture, text_width,
};
use crate::colour::{Colour, GRID, INK};
use crate::curve::{Place, column, visible};
use crate::{FigureError, WIDTH};

/// Panels side by side or below each other, with one legend for all.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The title above all panels; may be empty.
    pub title: String,
    /// Row by row.
    pub panels: Vec<Panel>,
    /// Panels in a row.
    pub columns: u32,
    /// The height of a panel with its axes, in pixels.
    pub height: u32,
}

/// Series over two axes.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The title; may be empty.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Drawn in order, the first below the others.
    pub series: Vec<Series>,
    /// Texts above positions.
    pub above: Vec<(f64, f64, String)>,
    /// Texts to the right of positions.
    pub beside: Vec<(f64, f64, String)>,
}

/// A line or points, with a band and marks, in the coordinates of the axes. Where a line exceeds
/// its axis, triangles mark it at the upper edge.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// The name in the legend, listed once for all panels; no entry if it is empty.
    pub name: String,
    /// The colour of everything in it.
    pub colour: Colour,
    /// A line, with gaps where a value is not finite.
    pub line: Vec<(f64, f64)>,
    /// The width of the line, in pixels; 0 is the usual 2.
    pub width: u32,
    /// Whether the line is dashed.
    pub dashed: bool,
    /// For each x, the range of values: pale behind a line, strong without one.
    pub band: Vec<(f64, f64, f64)>,
    /// Dots.
    pub points: Vec<(f64, f64)>,
    /// Positions marked by triangles from above.
    pub peaks: Vec<(f64, f64)>,
    /// Crosses at the upper edge, where something was not finite or diverged.
    pub crosses: Vec<f64>,
    /// The label at the right end of the line; may be empty.
    pub end: String,
}

type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Coordinates, Coordinates>>;

/// The space left of the vertical axis for tick labels and its name; more if its labels are wide.
const BESIDE: u32 = 76;
/// The space below the horizontal axis.
const BELOW: u32 = 44;
const RIGHT: u32 = 20;

impl Figure {
    /// A figure of one panel.
    pub fn of(panel: Panel) -> Figure {
        Figure {
            title: String::new(),
            panels: vec![panel],
            columns: 1,
            height: 346,
        }
    }

    /// The text of the SVG file.
    ///
    /// # Errors
    ///
    /// The drawing library's, for lack of memory.
    pub fn svg(&self) -> Result<String, FigureError> {
        let top = if self.title.is_empty() {
            4
        } else {
            2 * ROW - 6
        };
        let legend = Legend::new(top, self.entries());
        let top = legend.bottom().unwrap_or(top);
        let columns = self.columns.max(1);
        let rows = (self.panels.len() as u32).div_ceil(columns);
        let height = top + (rows * self.height) as i32;
        picture(height, &self.title, |root| {
            legend.draw(root)?;
            let width = WIDTH / columns;
            for (index, panel) in (0..).zip(&self.panels) {
                let left = (index % columns * width) as i32;
                let upper = top + (index / columns * self.height) as i32;
                let area = root.clone().shrink((left, upper), (width, self.height));
                panel.draw(root, &area)?;
            }
            Ok(())
        })
    }

    /// The entries of the legend: each name once.
    fn entries(&self) -> Vec<(Swatch, RGBColor, String)> {
        let mut entries: Vec<(Swatch, RGBColor, String)> = Vec::new();
        for series in self.panels.iter().flat_map(|panel| &panel.series) {
            if !series.name.is_empty() && entries.iter().all(|entry| entry.2 != series.name) {
                let (swatch, colour) = (series.swatch(), series.colour.rgb());
                entries.push((swatch, colour, series.name.clone()));
            }
        }
        entries
    }
}

impl Panel {
    /// A panel without texts, with a little room above and below the data.
    pub fn new(x: Axis, y: Axis, series: Vec<Series>) -> Panel {
        Panel {
            title: String::new(),
            x,
            y: y.with_room(0.04),
            series,
            above: Vec::new(),
            beside: Vec::new(),
        }
    }

    fn draw(&self, root: &Area<'_>, area: &Area<'_>) -> Drawn {
        let (across, up) = self.ends();
        let (width, height) = area.dim_in_pixel();
        let ends = self.series.iter().map(|series| text_width(&series.end));
        let right = RIGHT + ends.max().unwrap_or(0).unsigned_abs();
        let names = self.y.names().map(|name| text_width(name) + 10);
        let left = BESIDE.max(names.max().unwrap_or(0).unsigned_abs());
        let columns = width.saturating_sub(left + right);
        let x = self.x.coordinates(across.clone(), columns as usize / 90);
        let y = self
            .y
            .coordinates(up.clone(), height.saturating_sub(BELOW) as usize / 32);
        let mut plot = ChartBuilder::on(area)
            .margin_top(if self.title.is_empty() { 12 } else { ROW + 6 })
            .margin_bottom(6)
            .margin_right(right)
            .x_label_area_size(BELOW)
            .y_label_area_size(left)
            .build_cartesian_2d(x, y)
            .map_err(FigureError::of)?;
        if !self.title.is_empty() {
            let (pixels, top) = area.get_pixel_range();
            let place = (pixels.start + left as i32, top.start + ROW / 2 + 2);
            label(root, &self.title, place, INK, HPos::Left)?;
        }
        let text = || ("sans-serif", TEXT).into_font().color(&INK);
        plot.configure_mesh()
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(text())
            .axis_desc_style(text())
            .x_label_formatter(&|place| self.x.words(*place))
            .y_label_formatter(&|place| self.y.words(*place))
            .x_desc(self.x.name())
            .y_desc(self.y.name())
            .draw()
            .map_err(FigureError::of)?;
        for series in &self.series {
            let seen = Seen {
                panel: self,
                across: &across,
                up: &up,
                columns,
            };
            seen.draw(series, &mut plot)?;
        }
        let notes = self.above.iter().map(|note| (note, (0, -13), HPos::Center));
        let beside = self.beside.iter().map(|note| (note, (6, 0), HPos::Left));
        for ((x, y, text), (right, down), position) in notes.chain(beside) {
            let (x, y) = plot.backend_coord(&(self.x.place(*x), self.y.place(*y)));
            label(root, text, (x + right, y + down), INK, position)?;
        }
        self.draw_end_labels(root, &plot, &up)
    }

    /// The ends of the axes.
    fn ends(&self) -> (Range<f64>, Range<f64>) {
        let all = || self.series.iter();
        let lines = || all().flat_map(|s| s.line.iter().chain(&s.points).chain(&s.peaks));
        let bands = || all().flat_map(|series| &series.band);
        let xs = lines().map(|(x, _)| *x).chain(bands().map(|(x, _, _)| *x));
        let xs = xs.chain(all().flat_map(|series| &series.crosses).copied());
        let ys = lines().map(|(_, y)| *y);
        let ys = ys.chain(bands().flat_map(|(_, low, high)| [*low, *high]));
        let across = self.x.ends(xs.map(|x| self.x.place(x)));
        (across, self.y.ends(ys.map(|y| self.y.place(y))))
    }

    /// Draws the label of each line at its right end, without overlaps.
    fn draw_end_labels(&self, root: &Area<'_>, plot: &Plot<'_, '_>, up: &Range<f64>) -> Drawn {
        const APART: i32 = 15;
        let mut labels: Vec<(i32, usize)> = Vec::new();
        for (index, series) in self.series.iter().enumerate() {
            let end = series.line.last().map(|(_, y)| self.y.place(*y));
            if let Some(end) = end.filter(|end| !series.end.is_empty() && up.contains(end)) {
                labels.push((plot.backend_coord(&(0.0, end)).1, index));
            }
        }
        labels.sort_unstable();
        for next in 1..labels.len() {
            labels[next].0 = labels[next].0.max(labels[next - 1].0 + APART);
        }
        let area = plot.plotting_area();
        let lowest = plot.backend_coord(&(0.0, up.start)).1;
        for (back, label) in labels.iter_mut().rev().enumerate() {
            label.0 = label.0.min(lowest - APART * back as i32);
        }
        let x = area.get_x_axis_pixel_range().end + 6;
        for (y, index) in labels {
            let series = &self.series[index];
            label(root, &series.end, (x, y), series.colour.rgb(), HPos::Left)?;
        }
        Ok(())
    }
}

impl Series {
    /// An empty series.
    pub fn named(name: impl Into<String>, colour: Colour) -> Series {
        Series {
            name: name.into(),
            colour,
            ..Series::default()
        }
    }

    /// Its symbol in the legend.
    fn swatch(&self) -> Swatch {
        let has_line = !self.line.is_empty();
        match self {
            _ if !has_line && !self.band.is_empty() => Swatch::Area,
            _ if !has_line && !self.crosses.is_empty() => Swatch::Cross,
            _ if !has_line && !self.peaks.is_empty() => Swatch::Peak,
            _ => Swatch::Line {
                width: self.stroke().max(2),
                dashed: self.dashed,
            },
        }
    }

    fn stroke(&self) -> u32 {
        if self.width == 0 { 2 } else { self.width }
    }
}

/// The visible part of a panel.
struct Seen<'a> {
    panel: &'a Panel,
    across: &'a Range<f64>,
    up: &'a Range<f64>,
    /// Of pixels.
    columns: u32,
}

impl Seen<'_> {
    fn place(&self, (x, y): (f64, f64)) -> Place {
        (self.panel.x.place(x), self.panel.y.place(y))
    }

    fn inside(&self, place: &Place) -> bool {
        let (across, up) = (self.across, self.up);
        (across.start..=across.end).contains(&place.0) && (up.start..=up.end).contains(&place.1)
    }

    fn draw(&self, series: &Series, plot: &mut Plot<'_, '_>) -> Drawn {
        let colour = series.colour.rgb();
        self.draw_band(series, plot)?;
        let stroke = ShapeStyle::from(&colour).stroke_width(series.stroke());
        let line: Vec<Place> = series.line.iter().map(|place| self.place(*place)).collect();
        // A line of one point would be invisible.
        let least = (self.across.end - self.across.start) / f64::from(self.columns.max(1));
        for mut part in visible(&line, self.columns, self.across, self.up) {
            if let &[(x, y)] = part.as_slice() {
                part = vec![(x - least, y), (x + least, y)];
            }
            match series.dashed {
                true => plot.draw_series(DashedLineSeries::new(part, 6, 4, stroke)),
                false => plot.draw_series(LineSeries::new(part, stroke)),
            }
            .map_err(FigureError::of)?;
        }
        self.draw_outliers(&line, colour, plot)?;
        let dots = self
            .shown(&series.points)
            .map(|place| Circle::new(place, 4, colour.filled()));
        plot.draw_series(dots).map_err(FigureError::of)?;
        let peaks = self.shown(&series.peaks);
        let peaks = peaks.map(|place| EmptyElement::at(place) + peak((0, -5), 8, colour));
        plot.draw_series(peaks).map_err(FigureError::of)?;
        self.draw_crosses(series, plot)
    }

    /// Draws crosses at the upper edge, each below those of other series.
    fn draw_crosses(&self, series: &Series, plot: &mut Plot<'_, '_>) -> Drawn {
        const APART: i32 = 12;
        let of = |x: f64| column(self.panel.x.place(x), self.columns, self.across);
        let has = |other: &&Series, x: f64| other.crosses.iter().any(|cross| of(*cross) == of(x));
        let all = &self.panel.series;
        let before = all.iter().take_while(|other| !std::ptr::eq(*other, series));
        let mut crosses = series.crosses.clone();
        crosses.retain(|x| self.panel.x.place(*x).is_finite());
        // One per column of pixels is enough.
        crosses.dedup_by_key(|x| of(*x));
        let thick = ShapeStyle::from(&series.colour.rgb()).stroke_width(2);
        let crosses = crosses.into_iter().map(|x| {
            let below = APART * before.clone().filter(|other| has(other, x)).count() as i32;
            let place = (self.panel.x.place(x), self.up.end);
            EmptyElement::at(place) + Cross::new((0, below), 5, thick)
        });
        plot.draw_series(crosses).map_err(FigureError::of)?;
        Ok(())
    }

    fn shown<'s>(&'s self, places: &'s [(f64, f64)]) -> impl Iterator<Item = Place> + 's {
        let places = places.iter().map(|place| self.place(*place));
        places.filter(|place| self.inside(place))
    }

    /// Marks where a line exceeds the upper edge, as many as fit side by side.
    fn draw_outliers(&self, line: &[Place], colour: RGBColor, plot: &mut Plot<'_, '_>) -> Drawn {
        const WIDTH: u32 = 8;
        let above = line.iter().filter(|place| place.1 > self.up.end);
        let mut above: Vec<f64> = above.map(|place| place.0).collect();
        above.dedup_by_key(|x| column(*x, self.columns / WIDTH, self.across));
        let marks = above.into_iter().map(|x| (x, self.up.end));
        let marks = marks.map(|place| EmptyElement::at(place) + peak((0, 1), -8, colour));
        plot.draw_series(marks).map_err(FigureError::of)?;
        Ok(())
    }

    /// Draws the band as one area, with the widest range of each column of pixels.
    fn draw_band(&self, series: &Series, plot: &mut Plot<'_, '_>) -> Drawn {
        let band = series.band.iter().map(|(x, low, high)| {
            let clamp = |y: f64| self.panel.y.place(y).clamp(self.up.start, self.up.end);
            (self.panel.x.place(*x), clamp(*low), clamp(*high))
        });
        let band: Vec<_> = band
            .filter(|(x, low, high)| (x + low + high).is_finite())
            .collect();
        let of = |x: f64| column(x, self.columns, self.across);
        let columns = band.chunk_by(|left, right| of(left.0) == of(right.0));
        let (mut upper, mut lower) = (Vec::new(), Vec::new());
        for part in columns {
            let x = part[0].0;
            upper.push((x, part.iter().map(|place| place.2).fold(f64::MIN, f64::max)));
            lower.push((x, part.iter().map(|place| place.1).fold(f64::MAX, f64::min)));
        }
        if upper.len() > 1 {
            upper.extend(lower.into_iter().rev());
            let cover = if series.line.is_empty() { AREA } else { 0.15 };
            let area = Polygon::new(upper, series.colour.rgb().mix(cover).filled());
            plot.draw_series([area]).map_err(FigureError::of)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_values_give_a_plot() {
        let zeros = vec![0.0; 20];
        let wild = vec![f64::NAN, 1e-300, f64::INFINITY, 1e300, 1.0];
        for values in [zeros, wild, vec![f64::NAN], vec![2.0], Vec::new()] {
            let line: Vec<(f64, f64)> = (1..).map(f64::from).zip(values).collect();
            let series = Series {
                name: "A: <policy> & more".into(),
                points: line.clone(),
                peaks: line.clone(),
                crosses: line.iter().map(|(x, _)| *x).collect(),
                band: line.iter().map(|(x, y)| (*x, *y, 2.0 * y)).collect(),
                end: "A".into(),
                line,
                ..Series::default()
            };
            for y in [
                Axis::log("y"),
                Axis::linear("y"),
                Axis::log("y").within(1e-3, 1e3),
            ] {
                let panel = Panel::new(Axis::linear("x"), y, vec![series.clone()]);
                let svg = Figure::of(panel).svg().unwrap();
                assert!(
                    svg.starts_with("<svg width=\"960\"") && svg.trim_end().ends_with("</svg>")
                );
                assert!(
                    svg.contains("&lt;policy&gt; &amp; more") && !svg.contains("NaN"),
                    "{svg}"
                );
            }
        }
    }

    #[test]
    fn values_above_the_axis_are_marked_at_its_edge() {
        let line: Vec<(f64, f64)> = (1..100)
            .map(|x| (f64::from(x), if x % 40 == 0 { 1e9 } else { 1.0 }))
            .collect();
        let series = Series {
            line,
            ..Series::default()
        };
        let triangles = |y: Axis| {
            let panel = Panel::new(Axis::linear("x"), y, vec![series.clone()]);
            Figure::of(panel).svg().unwrap().matches("<polygon").count()
        };
        assert_eq!(triangles(Axis::log("y").at_most(10.0)), 2);
        assert_eq!(triangles(Axis::log("y")), 0);
    }

    #[test]
    fn panels_share_a_legend() {
        let series = |colour| Series {
            name: format!("series {colour}"),
            colour: Colour::Series(colour),
            line: vec![(1.0, 1.0), (2.0, 2.0)],
            ..Series::default()
        };
        let (x, y) = (Axis::linear("x"), Axis::linear("y"));
        let panel = Panel::new(x, y, vec![series(1), series(2)]);
        let figure = Figure {
            title: "two of them".into(),
            panels: vec![panel.clone(), panel],
            columns: 2,
            height: 290,
        };
        let svg = figure.svg().unwrap();
        assert_eq!(svg.matches("series 1").count(), 1);
        assert!(svg.contains("two of them") && svg.contains("prefers-color-scheme"));
    }
}
