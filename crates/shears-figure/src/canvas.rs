//! The canvas of every plot.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::colour::{INK, PAPER, dark_style};
use crate::{FigureError, WIDTH};

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Drawn = Result<(), FigureError>;

/// The library draws letters at 1 / 1.24 of the requested size.
pub(crate) const TEXT: f64 = 12.5 * 1.24;
const TITLE: f64 = 14.5 * 1.24;
/// The height of a row of text, in pixels.
pub(crate) const ROW: i32 = 21;
/// The approximate width of a letter of [`TEXT`], in pixels.
const LETTER: f64 = 7.2;
/// The opacity of an area without a line.
pub(crate) const AREA: f64 = 0.55;
/// Where titles and legends start.
pub(crate) const LEFT: i32 = 24;

/// Draws a plot of this height, with the title in the first row.
pub(crate) fn picture(
    height: i32,
    title: &str,
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String, FigureError> {
    let mut svg = String::new();
    {
        let size = (WIDTH, height.unsigned_abs());
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&PAPER).map_err(FigureError::of)?;
        if !title.is_empty() {
            let style = style(TITLE, INK, HPos::Left);
            let place = (LEFT, ROW);
            root.draw_text(title, &style, place)
                .map_err(FigureError::of)?;
        }
        draw(&root)?;
        root.present().map_err(FigureError::of)?;
    }
    // Right after the opening tag.
    let begin = svg.find(">\n").map_or(0, |end| end + 2);
    svg.insert_str(begin, &dark_style());
    Ok(svg)
}

fn style(size: f64, colour: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    let style = ("sans-serif", size).into_font().color(&colour);
    style.pos(Pos::new(horizontal, VPos::Center))
}

/// Draws text beside or around a position, vertically centred.
pub(crate) fn label(
    root: &Area<'_>,
    text: &str,
    place: (i32, i32),
    colour: RGBColor,
    horizontal: HPos,
) -> Drawn {
    let style = style(TEXT, colour, horizontal);
    root.draw_text(text, &style, place).map_err(FigureError::of)
}

pub(crate) fn line(root: &Area<'_>, ends: [(i32, i32); 2], style: impl Into<ShapeStyle>) -> Drawn {
    let path = PathElement::new(ends.to_vec(), style);
    root.draw(&path).map_err(FigureError::of)
}

pub(crate) fn rectangle(root: &Area<'_>, corners: [(i32, i32); 2], colour: RGBColor) -> Drawn {
    let rectangle = Rectangle::new(corners, colour.filled());
    root.draw(&rectangle).map_err(FigureError::of)
}

/// The approximate width of a text.
pub(crate) fn text_width(text: &str) -> i32 {
    (LETTER * text.chars().count() as f64).ceil() as i32
}

/// How an entry of a legend is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Swatch {
    Line { width: u32, dashed: bool },
    Area,
    Peak,
    Cross,
}

/// The legend above a plot.
pub(crate) struct Legend(Vec<(Swatch, RGBColor, String, (i32, i32))>);

impl Legend {
    const SWATCH: i32 = 26;

    /// Places the entries in as many rows as they need, from `top` down.
    pub(crate) fn new(
        top: i32,
        entries: impl IntoIterator<Item = (Swatch, RGBColor, String)>,
    ) -> Legend {
        let (mut x, mut y) = (LEFT, top + ROW / 2);
        let mut placed = Vec::new();
        for (swatch, colour, text) in entries {
            let width = Self::SWATCH + 8 + text_width(&text) + 20;
            if x > LEFT && x + width > WIDTH as i32 {
                (x, y) = (LEFT, y + ROW);
            }
            placed.push((swatch, colour, text, (x, y)));
            x += width;
        }
        Legend(placed)
    }

    /// Its lower end; `None` if it is empty.
    pub(crate) fn bottom(&self) -> Option<i32> {
        self.0.last().map(|(_, _, _, (_, y))| y + ROW / 2 + 4)
    }

    pub(crate) fn draw(&self, root: &Area<'_>) -> Drawn {
        for (swatch, colour, text, (x, y)) in &self.0 {
            let (left, right, y) = (*x, x + Self::SWATCH, *y);
            let middle = (left + right) / 2;
            match *swatch {
                Swatch::Line { width, dashed } => {
                    let style = ShapeStyle::from(colour).stroke_width(width);
                    let dashes: &[(i32, i32)] = match dashed {
                        true => &[(0, 6), (10, 16), (20, 26)],
                        false => &[(0, Self::SWATCH)],
                    };
                    for (from, to) in dashes {
                        line(root, [(left + from, y), (left + to, y)], style)?;
                    }
                }
                Swatch::Area => {
                    let corners = [(left, y - 6), (right, y + 6)];
                    let area = Rectangle::new(corners, colour.mix(AREA).filled());
                    root.draw(&area).map_err(FigureError::of)?;
                }
                Swatch::Peak => root
                    .draw(&peak((middle, y + 4), 8, *colour))
                    .map_err(FigureError::of)?,
                Swatch::Cross => {
                    let style = ShapeStyle::from(colour).stroke_width(2);
                    root.draw(&Cross::new((middle, y), 5, style))
                        .map_err(FigureError::of)?;
                }
            }
            label(root, text, (right + 8, y), INK, HPos::Left)?;
        }
        Ok(())
    }
}

/// A triangle that points at a position from this far above, or from below if that is negative.
pub(crate) fn peak((x, y): (i32, i32), above: i32, colour: RGBColor) -> Polygon<(i32, i32)> {
    let base = y - above;
    Polygon::new(vec![(x - 4, base), (x + 4, base), (x, y)], colour.filled())
}
