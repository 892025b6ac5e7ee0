//! The two charts: losses, and gradient norms with the threshold.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart, Dataset, GraphType};

use shears_figure::usual_range;

use super::panel::{loss as words_of_loss, panel, short};
use super::state::State;

/// A threshold so many times above the largest norm is not in a linear chart of norms: they would
/// be a flat line at its bottom.
const THRESHOLD_TOO_HIGH: f64 = 4.0;

/// Which of the charts are logarithmic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Norms, which go over decades, and not losses.
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

struct Curve {
    colour: Color,
    points: Vec<(f64, f64)>,
}

impl Curve {
    fn new(colour: Color, points: Vec<(f64, f64)>) -> Curve {
        Curve { colour, points }
    }
}

/// What a chart has beside its frame.
struct Content {
    curves: Vec<Curve>,
    /// Where the vertical axis ends; what is above is marked at its edge.
    range: (f64, f64),
    /// The numbers of steps among which those are that have to be marked.
    maxima: Vec<(f64, f64)>,
    logarithmic: bool,
}

/// The loss of each step, smoothed, and that of the validation text.
pub(super) fn draw_losses(frame: &mut Frame<'_>, area: Rect, state: &State, scale: Scale) {
    /// A model that knows nothing begins at its first loss; how much worse it is than twice that
    /// does not matter.
    const WORST: f64 = 2.0;
    let logarithmic = scale == Scale::Both;
    let (smoothed, newest) = state.smoothed_loss();
    let mut title = vec![Span::from(" loss ").bold()];
    if let Some(loss) = newest {
        title.push(Span::from(format!("train {} ", words_of_loss(loss))).cyan());
    }
    if let Some(loss) = state.newest_validation {
        title.push(Span::from(format!("validation {} ", words_of_loss(loss))).yellow());
    }
    title.extend(logarithmic.then(|| Span::from("log ").dim()));
    let (losses, validation) = (state.loss.means(), state.validation.means());
    let first = losses.first().map_or(f64::INFINITY, |point| point.1);
    let all = losses.iter().chain(&smoothed).chain(&validation);
    let (low, high) = extent(all.map(|point| point.1)).unwrap_or((0.0, 1.0));
    let content = Content {
        curves: vec![
            Curve::new(Color::DarkGray, losses),
            Curve::new(Color::Cyan, smoothed),
            Curve::new(Color::Yellow, validation),
        ],
        range: (low, high.min(WORST * first.abs()).max(low)),
        maxima: state.loss.maxima(),
        logarithmic,
    };
    content.draw(frame, area, Line::from(title));
}

/// The norm before clipping, and the threshold.
pub(super) fn draw_norms(frame: &mut Frame<'_>, area: Rect, state: &State, scale: Scale) {
    let logarithmic = scale != Scale::Neither;
    let mut title = vec![Span::from(" gradient norm ").bold()];
    if let Some(norm) = state.newest_norm {
        title.push(Span::from(format!("{} ", short(norm))).green());
    }
    let maxima = state.norm.maxima();
    let norms = maxima.iter().map(|point| point.1);
    let (low, high) = usual_range(norms.clone(), logarithmic).unwrap_or((0.1, 1.0));
    let mut thresholds = state.threshold.means();
    let near = match logarithmic {
        true => low / 10.0..=high * 10.0,
        false => 0.0..=THRESHOLD_TOO_HIGH * high,
    };
    let newest = state.newest_threshold;
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
        curves: vec![
            Curve::new(Color::Red, thresholds),
            Curve::new(Color::Green, maxima.clone()),
        ],
        maxima,
        logarithmic,
    };
    content.draw(frame, area, Line::from(title));
}

impl Content {
    /// Draws it in a frame that says what is above.
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
        for curve in &mut self.curves {
            for point in &mut curve.points {
                point.1 = place(point.1).min(high);
            }
            curve.points.retain(|point| point.1.is_finite());
        }
        let all = self.curves.iter().flat_map(|curve| &curve.points);
        let steps = all.chain(&marks).map(|point| point.0);
        let (first, last) = extent(steps).unwrap_or((0.0, 1.0));
        let datasets = self.curves.iter().map(|curve| {
            Dataset::default()
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(curve.colour))
                .data(&curve.points)
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
        // Labels of one width, so that the axis stays where it is while numbers change.
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

/// What the marks at the upper edge stand for; nothing without any.
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

/// The least and the greatest that is finite.
fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|value| value.is_finite());
    finite.fold(None, |extremes: Option<(f64, f64)>, value| {
        let (low, high) = extremes.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// The ends with a twentieth of their distance as room; a curve that is level gets room, too. No
/// loss and no norm is below zero, and so is no linear axis.
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
