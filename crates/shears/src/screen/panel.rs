//! The look of every part of the screen.

use ratatui::style::{Color, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, BorderType};

use crate::report::short;

/// A frame with a title.
pub(super) fn panel<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(Color::DarkGray))
        .title(title)
}

/// A loss with three decimals.
pub(super) fn loss(number: f64) -> String {
    match number.abs() < 100.0 {
        true => format!("{number:.3}"),
        false => short(number),
    }
}
