//! The two charts: losses, and gradient norms with the threshold.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart, Dataset, GraphType};

use shears_figure::{extent, usual_range};

use super::panel::{loss as words_of_loss, panel};
use super::state::{Picture, Points};
use crate::report::short;

/// A linear chart of norms leaves out a threshold this many times above the largest norm, because
/// the norms would be a flat line at the bottom.
const THRESHOLD_TOO_HIGH: f64 = 4.0;

/// Which charts are logarithmic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Only norms, which span decades.
    Norms,
    Both,
    Neither,
}

impl Scale {
    pub(super) fn next(self) -> Scale {
        match self {
            Scale::Norms => Scale::Both,
            Scale::Both => Scale::Neither,
            Scale::Neither => Scale::Norms,
        }
    }
}

/// The points of a curve, and its colour.
type Curve = (Color, Points);

/// The content of a chart.
struct Content {
    curves: Vec<Curve>,
    /// The range of the vertical axis; values above it are marked at its edge.
    range: (f64, f64),
    /// The values to mark if they are above the range.
    maxima: Points,
    logarithmic: bool,
}

/// Draws the training loss, raw and smoothed, and the validation loss.
pub(super) fn draw_losses(frame: &mut Frame<'_>, area: Rect, picture: &Picture, scale: Scale) {
    /// An untrained model begins at its first loss. Losses above twice that are off the chart.
    const WORST: f64 = 2.0;
    let logarithmic = scale == Scale::Both;
    let mut title = vec![Span::from(" loss ").bold()];
    if let Some(loss) = picture.loss {
        title.push(Span::from(format!("train {} ", words_of_loss(loss))).cyan());
    }
    if let Some((_, loss)) = picture.validation.last() {
        title.push(Span::from(format!("validation {} ", words_of_loss(*loss))).yellow());
    }
    title.extend(logarithmic.then(|| Span::from("log ").dim()));
    let Picture {
        losses,
        smoothed,
        validation,
        ..
    } = picture;
    let first = losses.first().map_or(f64::INFINITY, |point| point.1);
    let all = losses.iter().chain(smoothed).chain(validation);
    let (low, high) = extent(all.map(|point| point.1)).unwrap_or((0.0, 1.0));
    let content = Content {
        curves: vec![
            (Color::DarkGray, losses.clone()),
            (Color::Cyan, smoothed.clone()),
            (Color::Yellow, validation.clone()),
        ],
        range: (low, high.min(WORST * first.abs()).max(low)),
        maxima: picture.largest_losses.clone(),
        logarithmic,
    };
    content.draw(frame, area, Line::from(title));
}

/// Draws the norm before clipping, and the threshold.
pub(super) fn draw_norms(frame: &mut Frame<'_>, area: Rect, picture: &Picture, scale: Scale) {
    let logarithmic = scale != Scale::Neither;
    let mut title = vec![Span::from(" gradient norm ").bold()];
    if let Some(norm) = picture.norm {
        title.push(Span::from(format!("{} ", short(norm))).green());
    }
    let maxima = &picture.norms;
    let norms = maxima.iter().map(|point| point.1);
    let (low, high) = usual_range(norms.clone(), logarithmic).unwrap_or((0.1, 1.0));
    let mut thresholds = picture.thresholds.clone();
    let near = match logarithmic {
        true => low / 10.0..=high * 10.0,
        false => 0.0..=THRESHOLD_TOO_HIGH * high,
    };
    let newest = picture.threshold;
    let is_near = newest.is_some_and(|threshold| near.contains(&threshold));
    thresholds.retain(|point| near.contains(&point.1));
    if let Some(threshold) = newest {
        let place = match is_near {
            true => "",
            false if threshold > high => ", above",
            false => ", below",
        };
        title.push(Span::from(format!("threshold {}{place} ", short(threshold))).red());
    }
    title.extend(logarithmic.then(|| Span::from("log ").dim()));
    let (least, most) = extent(thresholds.iter().map(|point| point.1)).unwrap_or((low, high));
    let content = Content {
        range: (low.min(least), high.max(most)),
        curves: vec![(Color::Red, thresholds), (Color::Green, maxima.clone())],
        maxima: maxima.clone(),
        logarithmic,
    };
    content.draw(frame, area, Line::from(title));
}

impl Content {
    /// Draws the chart in a frame that describes the marks.
    fn draw(mut self, frame: &mut Frame<'_>, area: Rect, title: Line<'_>) {
        let place = |value: f64| {
            if self.logarithmic {
                value.log10()
            } else {
                value
            }
        };
        let [low, high] = with_room(place(self.range.0), place(self.range.1), self.logarithmic);
        let above = |point: &&(f64, f64)| place(point.1) > high;
        let marks: Vec<(f64, f64)> = self.maxima.iter().filter(above).copied().collect();
        let words = words_of_marks(&marks);
        let marks: Vec<(f64, f64)> = marks.iter().map(|mark| (mark.0, high)).collect();
        for (_, points) in &mut self.curves {
            for point in &mut *points {
                point.1 = place(point.1).min(high);
            }
            points.retain(|point| point.1.is_finite());
        }
        let all = self.curves.iter().flat_map(|(_, points)| points);
        let steps = all.chain(&marks).map(|point| point.0);
        let (first, last) = extent(steps).unwrap_or((0.0, 1.0));
        let datasets = self.curves.iter().map(|(colour, points)| {
            Dataset::default()
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(*colour))
                .data(points)
        });
        let marked = Dataset::default()
            .marker(Marker::Dot)
            .graph_type(GraphType::Scatter)
            .style(Style::new().fg(Color::Magenta))
            .data(&marks);
        let value = |share: f64| {
            let value = low + share * (high - low);
            short(if self.logarithmic {
                10_f64.powf(value)
            } else {
                value
            })
        };
        let labels: Vec<String> = match area.height {
            0..=6 => vec![value(0.0), value(1.0)],
            _ => vec![value(0.0), value(0.5), value(1.0)],
        };
        // Labels of equal width, so that the axis does not move.
        let labels = labels.into_iter().map(|label| format!("{label:>6}"));
        let axis = || Axis::default().style(Style::new().fg(Color::DarkGray));
        let ends = [format!("{first:.0}"), format!("{last:.0}")];
        let chart = Chart::new(datasets.chain([marked]).collect())
            .block(panel(title).title_bottom(Line::from(words.magenta()).right_aligned()))
            .legend_position(None)
            .x_axis(axis().bounds([first, last.max(first + 1.0)]).labels(ends))
            .y_axis(axis().bounds([low, high]).labels(labels));
        frame.render_widget(chart, area);
    }
}

/// The meaning of the marks at the upper edge; empty without marks.
fn words_of_marks(marks: &[(f64, f64)]) -> String {
    let finite = marks
        .iter()
        .map(|mark| mark.1)
        .filter(|max| max.is_finite());
    let largest = finite.reduce(f64::max);
    let endless = marks.iter().any(|mark| mark.1.is_infinite());
    match (largest, endless) {
        (None, false) => String::new(),
        (None, true) => " • not finite ".to_string(),
        (Some(largest), false) => format!(" • above, up to {} ", short(largest)),
        (Some(largest), true) => format!(" • above, up to {}, or not finite ", short(largest)),
    }
}

/// The range with a margin of a twentieth at each end; a level curve gets a margin, too. No loss or
/// norm is below zero, so a linear axis is not either.
fn with_room(low: f64, high: f64, logarithmic: bool) -> [f64; 2] {
    let room = match high > low {
        true => 0.05 * (high - low),
        false => (0.1 * high.abs()).max(1e-9),
    };
    match logarithmic {
        true => [low - room, high + room],
        false => [(low - room).max(0.0), high + room],
    }
}
