//! The layout of the screen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gradclip_judge::statistics::LATELY;
use gradclip_judge::{Class, TimeFlow, Tone};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Stylize;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Paragraph, Wrap};

use shears_run::Sample;

use super::charts::{Scale, draw_losses, draw_norms};
use super::panel::{loss, panel};
use super::state::{Picture, Setup};
use crate::report::{count, percent, short};

/// Smaller terminals get words only.
const SMALLEST_FOR_CHARTS: (u16, u16) = (60, 16);
const SIDE_WIDTH: u16 = 34;
/// Height of the panel with a sample.
const MORE_HEIGHT: u16 = 6;
/// Height of the panel for gradients through time: a curve and a line of words.
const TIME_HEIGHT: u16 = 4;

/// The state that keys control.
pub(super) struct View {
    setup: Setup,
    began: Instant,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) scale: Scale,
    pub(super) paused: bool,
}

impl View {
    pub(super) fn new(setup: Setup, began: Instant, stop: Arc<AtomicBool>) -> View {
        View {
            setup,
            began,
            stop,
            scale: Scale::Norms,
            paused: false,
        }
    }

    /// Draws everything that fits.
    pub(super) fn draw(&self, frame: &mut Frame<'_>, picture: &Picture) {
        let area = frame.area();
        let steps = self.setup.steps;
        let left = time_left(picture, steps, self.began.elapsed());
        if area.width < SMALLEST_FOR_CHARTS.0 || area.height < SMALLEST_FOR_CHARTS.1 {
            draw_words(frame, area, picture, steps, left);
            return;
        }
        let [head, progress, body, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(area);
        draw_head(frame, head, picture, &self.setup);
        draw_progress(frame, progress, picture, steps, left);
        let has_more = picture.sample.is_some() || picture.time_flow.is_some();
        let with_more = has_more && body.height >= 3 * MORE_HEIGHT;
        let more_height = match picture.sample {
            _ if !with_more => 0,
            Some(_) => MORE_HEIGHT,
            None => TIME_HEIGHT,
        };
        let [figures, more] =
            Layout::vertical([Constraint::Min(1), Constraint::Length(more_height)]).areas(body);
        let [charts, side] =
            Layout::horizontal([Constraint::Min(1), Constraint::Length(SIDE_WIDTH)]).areas(figures);
        let [losses, norms] =
            Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(charts);
        let [clipping, layers] =
            Layout::vertical([Constraint::Length(9), Constraint::Min(0)]).areas(side);
        draw_losses(frame, losses, picture, self.scale);
        draw_norms(frame, norms, picture, self.scale);
        draw_clipping(frame, clipping, picture, &self.setup);
        draw_layers(frame, layers, picture);
        if with_more {
            draw_more(frame, more, picture);
        }
        frame.render_widget(self.keys(), keys);
    }

    fn keys(&self) -> Line<'static> {
        if self.stop.load(Ordering::SeqCst) {
            let text = " saving and stopping; again to exit at once";
            return Line::from(text.yellow());
        }
        let pause = if self.paused { "resume" } else { "pause" };
        let mut spans = Vec::new();
        for (key, what) in [("q", "save and stop"), ("l", "log scale"), ("p", pause)] {
            spans.push(Span::from(format!(" {key} ")).bold().cyan());
            spans.push(Span::from(format!("{what}  ")).dark_gray());
        }
        if self.paused {
            spans.push(Span::from("the display is paused, the run continues").yellow());
        }
        Line::from(spans)
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, picture: &Picture, setup: &Setup) {
    let speed = picture.speed.map_or(String::new(), |speed| {
        format!("{} tokens/s ", count(speed as u64))
    });
    let [left, right] =
        Layout::horizontal([Constraint::Min(1), Constraint::Length(speed.len() as u16)])
            .areas(area);
    let words = vec![
        Span::from(" shears ").bold().cyan(),
        Span::from(format!("{}  ", setup.title)).bold(),
        Span::from(setup.run.clone()).dark_gray(),
    ];
    frame.render_widget(Line::from(words), left);
    frame.render_widget(Line::from(speed.dark_gray()), right);
}

fn draw_progress(
    frame: &mut Frame<'_>,
    area: Rect,
    picture: &Picture,
    steps: u64,
    left: Option<Duration>,
) {
    let share = picture.step as f64 / steps.max(1) as f64;
    let left = left.map_or(String::new(), |left| format!(", {} left", clock(left)));
    let words = format!(
        " {} of {} steps, {}{left} ",
        count(picture.step),
        count(steps),
        percent(share)
    );
    let width = usize::from(area.width).saturating_sub(words.len() + 1);
    let filled = ((share * width as f64) as usize).min(width);
    let line = vec![
        Span::from(" "),
        Span::from("━".repeat(filled)).cyan(),
        Span::from("━".repeat(width - filled)).dark_gray(),
        Span::from(words),
    ];
    frame.render_widget(Line::from(line), area);
}

fn draw_clipping(frame: &mut Frame<'_>, area: Rect, picture: &Picture, setup: &Setup) {
    let (all, lately) = picture.clipped;
    let verdict = picture.verdict.as_ref();
    let norms = verdict.and_then(|verdict| verdict.numbers.norms.as_ref());
    let or_dash = |text: Option<String>| text.unwrap_or("-".into());
    let rows = [
        (
            "clipped",
            format!("{}, last {LATELY} {}", percent(all), percent(lately)).into(),
        ),
        ("skipped", count(picture.skipped).into()),
        (
            "median",
            or_dash(norms.map(|norms| short(norms.p50))).into(),
        ),
        (
            "largest",
            or_dash(norms.map(|norms| short(norms.max))).into(),
        ),
        ("threshold", or_dash(picture.threshold.map(short)).into()),
        ("verdict", class(verdict.map(|verdict| verdict.class))),
    ];
    let lines = rows.map(|(name, value): (&str, Span<'_>)| {
        Line::from(vec![Span::from(format!(" {name:<10}")).dark_gray(), value])
    });
    let title = vec![
        Span::from(" clipping ").bold(),
        Span::from(format!("{} ", setup.subject.policy)).dark_gray(),
    ];
    let text = Text::from(lines.to_vec());
    frame.render_widget(Paragraph::new(text).block(panel(Line::from(title))), area);
}

/// The class of the verdict; its sentence is printed at the end of the run.
fn class(class: Option<Class>) -> Span<'static> {
    let Some(class) = class else {
        return "-".into();
    };
    match class.tone() {
        Tone::Plain => class.words().dark_gray(),
        Tone::Good => class.words().green(),
        Tone::Warning => class.words().yellow(),
        Tone::Bad => class.words().red(),
    }
}

/// Draws a bar for each layer, from input to output.
fn draw_layers(frame: &mut Frame<'_>, area: Rect, picture: &Picture) {
    let title = Line::from(" gradient norm by layer ".bold());
    let block = panel(title);
    let inner = block.inner(area);
    let layers = &picture.layers;
    let widest = layers.iter().map(|(name, _)| name.len()).max();
    let name_width = widest.unwrap_or(0).min(14);
    let finite = layers
        .iter()
        .map(|(_, norm)| *norm)
        .filter(|norm| norm.is_finite());
    let largest = finite.fold(0.0, f64::max);
    let bar_width = usize::from(inner.width).saturating_sub(name_width + 10);
    let row = |(name, norm): &(String, f64)| {
        let share = if largest > 0.0 { norm / largest } else { 0.0 };
        Line::from(vec![
            Span::from(format!(" {name:<name_width$.name_width$} ")).dark_gray(),
            Span::from(format!("{:<bar_width$}", bar(share, bar_width))).green(),
            Span::from(format!(
                " {}",
                if norm.is_finite() {
                    short(*norm)
                } else {
                    "-".into()
                }
            )),
        ])
    };
    let mut lines: Vec<Line<'_>> = layers.iter().map(row).collect();
    let room = usize::from(inner.height);
    if lines.len() > room && room > 0 {
        let more = lines.len() + 1 - room;
        lines.truncate(room - 1);
        lines.push(Line::from(format!(" and {more} more").dark_gray()));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Draws what not every run has: a sample of its text, gradients through time.
fn draw_more(frame: &mut Frame<'_>, area: Rect, picture: &Picture) {
    let share = |drawn: bool| Constraint::Fill(u16::from(drawn));
    let (sample, flow) = (&picture.sample, &picture.time_flow);
    let shares = [share(sample.is_some()), share(flow.is_some())];
    let [left, right] = Layout::horizontal(shares).areas(area);
    if let Some(Sample { step, text }) = sample {
        draw_sample(frame, left, *step, text);
    }
    if let Some(flow) = flow {
        draw_time(frame, right, flow);
    }
}

/// Draws the gradient against the distance back in time, and what it means.
fn draw_time(frame: &mut Frame<'_>, area: Rect, flow: &TimeFlow) {
    let title = vec![
        Span::from(" gradients through time ").bold(),
        Span::from(format!("step {} ", count(flow.step))).dark_gray(),
    ];
    let width = usize::from(area.width.saturating_sub(4));
    let lines = vec![
        Line::from(decay(&flow.norms, width).green()),
        Line::from(flow.short()),
    ];
    let drawn = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(panel(Line::from(title)));
    frame.render_widget(drawn, area);
}

/// A bar for each number of tokens back, as many as fit, on a logarithmic scale: full height is the
/// gradient one token back, zero is a thousandth of it, which counts as vanished.
fn decay(norms: &[f64], width: usize) -> String {
    const HEIGHTS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let near = norms.first().copied().unwrap_or(0.0);
    let bars = norms.len().min(width);
    let bar = |place: usize| {
        let norm = norms[place * norms.len() / bars];
        let share = 1.0 + (norm / near).log10() / 3.0;
        HEIGHTS[(8.0 * share.clamp(0.0, 1.0)).round() as usize]
    };
    (0..bars).map(bar).collect()
}

fn draw_sample(frame: &mut Frame<'_>, area: Rect, step: u64, text: &str) {
    let title = vec![
        Span::from(" sample ").bold(),
        Span::from(format!("step {} ", count(step))).dark_gray(),
    ];
    let sample = Paragraph::new(text)
        .wrap(Wrap { trim: false })
        .block(panel(Line::from(title)));
    frame.render_widget(sample, area);
}

/// Draws the most important values, as many lines as fit.
fn draw_words(
    frame: &mut Frame<'_>,
    area: Rect,
    picture: &Picture,
    steps: u64,
    left: Option<Duration>,
) {
    let or_dash = |number: Option<f64>, words: fn(f64) -> String| number.map_or("-".into(), words);
    let mut lines = vec![
        Line::from(format!("step {} of {}", count(picture.step), count(steps)).bold()),
        Line::from(format!("loss {}", or_dash(picture.loss, loss)).cyan()),
        Line::from(format!("norm {}", or_dash(picture.norm, short)).green()),
        Line::from(format!("clipped {}", percent(picture.clipped.0))),
    ];
    lines.extend(left.map(|left| Line::from(format!("{} left", clock(left)))));
    lines.push(Line::from("q save and stop".dark_gray()));
    frame.render_widget(Paragraph::new(lines), area);
}

/// A bar in eighths of a character.
fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * 8.0 * width as f64).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// The estimated time for the remaining steps, from the speed of this call.
fn time_left(picture: &Picture, steps: u64, elapsed: Duration) -> Option<Duration> {
    let taken = picture.step.saturating_sub(picture.began_at);
    let to_come = steps.saturating_sub(picture.step);
    let seconds = elapsed.as_secs_f64() / taken as f64 * to_come as f64;
    (taken > 0).then(|| Duration::try_from_secs_f64(seconds).ok())?
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests;
