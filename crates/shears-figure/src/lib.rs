//! The plots of Shears as SVG: curves over axes ([`Figure`]), and heat maps over steps
//! ([`heat_map`]).
//!
//! A plot is as wide as a page ([`WIDTH`]), uses a system font, and has colours for light and dark
//! pages. Callers pass data; this crate decides on the ends and ticks of axes, and on which of a
//! million points are visible.

mod axis;
mod canvas;
mod colour;
mod curve;
mod heat;
mod panel;

pub use axis::{Axis, extent, number, range_with_near, usual_range};
pub use colour::{Colour, MOST_COLOURS};
pub use heat::heat_map;
pub use panel::{Figure, Panel, Series};

/// The width of every plot, in pixels.
pub const WIDTH: u32 = 960;

/// Why a plot could not be drawn. Drawing into a string fails only for lack of memory.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw: {0}")]
pub struct FigureError(String);

impl FigureError {
    fn of(error: impl std::fmt::Display) -> FigureError {
        FigureError(error.to_string())
    }
}
