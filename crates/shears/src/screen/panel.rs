//! What every part of the screen looks like.

use ratatui::style::{Color, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, BorderType};

/// A frame with a title.
pub(super) fn panel<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(Color::DarkGray))
        .title(title)
}

/// A number in a few digits.
pub(super) fn short(number: f64) -> String {
    let size = number.abs();
    match size {
        _ if !number.is_finite() => "not finite".to_string(),
        0.0 => "0".to_string(),
        _ if !(9.995e-4..9999.5).contains(&size) => format!("{number:.1e}"),
        _ if size < 0.09995 => format!("{number:.4}"),
        _ if size < 9.995 => format!("{number:.3}"),
        _ if size < 99.95 => format!("{number:.2}"),
        _ => format!("{number:.0}"),
    }
}
