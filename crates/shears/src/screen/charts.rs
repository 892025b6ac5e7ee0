//! The two charts: losses, and gradient norms with the threshold.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart, Dataset, GraphType};

use super::panel::{panel, short};
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

/// The loss of each step, smoothed, and that of the validation text.
pub(super) fn draw_losses(frame: &mut Frame<'_>, area: Rect, state: &State, scale: Scale) {
    let logarithmic = scale == Scale::Both;
    let mut title = vec![Span::from(" loss ").bold()];
    if let Some(loss) = state.newest_loss {
        title.push(Span::from(format!("train {} ", short(loss))).cyan());
    }
    if let Some(loss) = state.newest_validation {
        title.push(Span::from(format!("validation {} ", short(loss))).yellow());
    }
    title.extend(logarithmic.then(|| Span::from("log ").dim()));
    let curves = vec![
        Curve::new(Color::DarkGray, state.loss.means()),
        Curve::new(Color::Cyan, state.smoothed.means()),
        Curve::new(Color::Yellow, state.validation.means()),
    ];
    draw(frame, area, Line::from(title), curves, logarithmic);
}

/// The norm before clipping, and the threshold.
pub(super) fn draw_norms(frame: &mut Frame<'_>, area: Rect, state: &State, scale: Scale) {
    let logarithmic = scale != Scale::Neither;
    let mut title = vec![Span::from(" gradient norm ").bold()];
    if let Some(norm) = state.newest_norm {
        title.push(Span::from(format!("{} ", short(norm))).green());
    }
    let norms = state.norm.maxima();
    let mut thresholds = state.threshold.means();
    let highest = norms.iter().map(|point| point.1).fold(0.0, f64::max);
    if !logarithmic
        && thresholds
            .iter()
            .any(|point| point.1 > THRESHOLD_TOO_HIGH * highest)
    {
        thresholds.clear();
    }
    if let Some(threshold) = state.newest_threshold {
        let place = if thresholds.is_empty() { ", above" } else { "" };
        title.push(Span::from(format!("threshold {}{place} ", short(threshold))).red());
    }
    title.extend(logarithmic.then(|| Span::from("log ").dim()));
    let curves = vec![
        Curve::new(Color::Red, thresholds),
        Curve::new(Color::Green, norms),
    ];
    draw(frame, area, Line::from(title), curves, logarithmic);
}

fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    title: Line<'_>,
    mut curves: Vec<Curve>,
    logarithmic: bool,
) {
    if logarithmic {
        for curve in &mut curves {
            curve.points.retain(|point| point.1 > 0.0);
            for point in &mut curve.points {
                point.1 = point.1.log10();
            }
        }
    }
    let all = || curves.iter().flat_map(|curve| curve.points.iter());
    let [first, last] = bounds(all().map(|point| point.0), 0.0, 1.0);
    let [low, high] = bounds(all().map(|point| point.1), 0.05, 0.0);
    let datasets = curves.iter().map(|curve| {
        Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(curve.colour))
            .data(&curve.points)
    });
    let datasets = datasets.collect();
    let value = |place: f64| {
        let value = low + place * (high - low);
        short(if logarithmic {
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
    let muted = Style::new().fg(Color::DarkGray);
    let steps = [format!("{first:.0}"), format!("{last:.0}")];
    let chart = Chart::new(datasets)
        .block(panel(title))
        .legend_position(None)
        .x_axis(
            Axis::default()
                .style(muted)
                .bounds([first, last])
                .labels(steps),
        )
        .y_axis(
            Axis::default()
                .style(muted)
                .bounds([low, high])
                .labels(labels),
        );
    frame.render_widget(chart, area);
}

/// The least and the greatest, with a share of their distance as room, and not less than `distance`
/// apart.
fn bounds(values: impl Iterator<Item = f64>, room: f64, distance: f64) -> [f64; 2] {
    let extremes = values.fold(None, |extremes: Option<(f64, f64)>, value| {
        let (low, high) = extremes.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    });
    let (low, high) = extremes.unwrap_or((0.0, 1.0));
    // A curve that is level gets room, too.
    let room = match high > low {
        true => room * (high - low),
        false if room > 0.0 => (0.1 * high.abs()).max(1e-9),
        false => 0.0,
    };
    [low - room, (high + room).max(low + distance)]
}
