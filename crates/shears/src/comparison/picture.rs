//! One picture of a report.

use shears_figure::{Axis, Figure, Panel, Series};

/// A picture, and how it is read.
pub(super) struct Picture {
    /// Of its file.
    pub(super) name: String,
    pub(super) title: String,
    pub(super) reading: String,
    pub(super) svg: String,
}

/// One panel as a picture.
pub(super) fn chart(x: Axis, y: Axis, series: Vec<Series>) -> anyhow::Result<String> {
    Ok(Figure::of(Panel::new(x, y, series)).svg()?)
}
