//! The pictures of Shears as SVG: curves over axes ([`Figure`]), and colours over steps
//! ([`heat_map`]).
//!
//! A picture is as wide as a page ([`WIDTH`]), needs no font of its own, and has the colours that
//! suit whether the reader's page is light or dark. What is drawn is given as data; where axes
//! begin and end, which round numbers stand at them, and which of a million points can be seen is
//! decided here.

mod axis;
mod canvas;
mod colour;
mod curve;
mod heat;
mod panel;

pub use axis::{Axis, extent, number, usual_range};
pub use colour::{Colour, MOST_COLOURS};
pub use heat::heat_map;
pub use panel::{Figure, Panel, Series};

/// The width of every picture, in pixels.
pub const WIDTH: u32 = 960;

/// Why a picture could not be drawn. Drawing into a text fails only for want of memory.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw: {0}")]
pub struct FigureError(String);

impl FigureError {
    fn of(error: impl std::fmt::Display) -> FigureError {
        FigureError(error.to_string())
    }
}
