//! A figure of a report.

use shears_figure::{Axis, Figure, Panel, Series};

/// A figure, and how to read it.
pub(super) struct Picture {
    /// The name of its file.
    pub(super) name: String,
    pub(super) title: String,
    pub(super) reading: String,
    pub(super) svg: String,
}

/// A figure with a single panel.
pub(super) fn chart(x: Axis, y: Axis, series: Vec<Series>) -> anyhow::Result<String> {
    Ok(Figure::of(Panel::new(x, y, series)).svg()?)
}
