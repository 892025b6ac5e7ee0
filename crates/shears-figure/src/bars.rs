//! Groups of bars that lie below each other.

use plotters::prelude::ShapeStyle;
use plotters::style::text_anchor::HPos;

use crate::canvas::{
    Area, Drawn, LEFT, Legend, ROW, Swatch, label, line, picture, rectangle, text_width,
};
use crate::colour::{Colour, GREY, GRID, INK};
use crate::{FigureError, WIDTH};

/// Groups of bars with one legend and one scale, which begins at 0.
#[derive(Clone, Debug)]
pub struct Bars {
    /// Stands above all.
    pub title: String,
    /// Names and colours; those that no bar has are left out.
    pub legend: Vec<(Colour, String)>,
    /// From top to bottom.
    pub groups: Vec<BarGroup>,
    /// What the mark of a group says.
    pub mark: String,
    /// A value that all are compared with, its colour, and what stands at the scale there.
    pub reference: (f64, Colour, String),
}

/// Bars that belong together.
#[derive(Clone, Debug)]
pub struct BarGroup {
    /// Stands beside the bars.
    pub name: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
    /// A place that the first bar should reach.
    pub mark: Option<f64>,
}

/// A bar.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// Its colour.
    pub colour: Colour,
    /// Its length, which is also written at its end.
    pub value: f64,
}

const BAR: i32 = 17;
const GAP: i32 = 14;

impl Bars {
    /// The text of the SVG file.
    ///
    /// # Errors
    ///
    /// The drawing library's, for want of memory.
    pub fn svg(&self) -> Result<String, FigureError> {
        let bars = || self.groups.iter().flat_map(|group| &group.bars);
        let drawn = |(colour, _): &&(Colour, String)| bars().any(|bar| bar.colour == *colour);
        let entries = self.legend.iter().filter(drawn);
        let entries = entries.map(|(colour, name)| (Swatch::Block, colour.rgb(), name.clone()));
        let legend = Legend::new(2 * ROW - 6, entries);
        let top = legend.bottom().unwrap_or(2 * ROW) + GAP;
        let bars = |group: &BarGroup| BAR * group.bars.len() as i32 + GAP;
        let bottom = top + self.groups.iter().map(bars).sum::<i32>();
        let scale = self.scale();
        picture(bottom + ROW + 8, &self.title, |root| {
            legend.draw(root)?;
            let right = (WIDTH as i32 - 24, ROW);
            label(root, &self.mark, right, GREY, HPos::Right)?;
            let (value, colour, name) = &self.reference;
            let wholes = (0..=scale.widest as i32).map(f64::from);
            let wholes = wholes.filter(|whole| whole != value);
            let lines = wholes.map(|whole| (whole, GRID, whole.to_string()));
            for (value, colour, name) in lines.chain([(*value, colour.rgb(), name.clone())]) {
                let x = scale.at(value);
                line(root, [(x, top - 8), (x, bottom)], colour)?;
                label(root, &name, (x, bottom + 12), GREY, HPos::Center)?;
            }
            let mut y = top;
            for group in &self.groups {
                group.draw(root, &scale, scale.at(*value), y)?;
                y += bars(group);
            }
            Ok(())
        })
    }

    fn scale(&self) -> Scale {
        let values = self.groups.iter().flat_map(|group| {
            let bars = group.bars.iter().map(|bar| bar.value);
            bars.chain(group.mark)
        });
        let names = self.groups.iter().map(|group| text_width(&group.name));
        Scale {
            left: LEFT + names.max().unwrap_or(0) + 12,
            widest: values.fold(self.reference.0, f64::max),
        }
    }
}

/// From values to pixels.
struct Scale {
    left: i32,
    widest: f64,
}

impl Scale {
    fn at(&self, value: f64) -> i32 {
        // Room for the number at the end of the longest bar.
        let width = WIDTH as i32 - self.left - 64;
        self.left + (value / self.widest * f64::from(width)).round() as i32
    }
}

impl BarGroup {
    fn draw(&self, root: &Area<'_>, scale: &Scale, reference: i32, mut y: i32) -> Drawn {
        let middle = y + BAR * self.bars.len() as i32 / 2;
        let place = (scale.left - 12, middle);
        label(root, &self.name, place, INK, HPos::Right)?;
        for (index, bar) in self.bars.iter().enumerate() {
            let end = scale.at(bar.value);
            let corners = [(scale.left, y + 1), (end, y + BAR - 1)];
            rectangle(root, corners, bar.colour.rgb())?;
            let mark = self.mark.filter(|_| index == 0).map(|mark| scale.at(mark));
            if let Some(x) = mark {
                let style = ShapeStyle::from(&INK).stroke_width(2);
                line(root, [(x, y - 3), (x, y + BAR + 3)], style)?;
            }
            // The number stands beside what is there, not on it.
            let near = mark.into_iter().chain([reference]);
            let near = near.filter(|x| (end - 4..end + 40).contains(x));
            let beside = near.fold(end, i32::max);
            let place = (beside + 6, y + BAR / 2);
            label(root, &format!("{:.2}", bar.value), place, INK, HPos::Left)?;
            y += BAR;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_number() {
        let bar = |value| Bar {
            colour: Colour::Series(1),
            value,
        };
        let bars = Bars {
            title: "speed".into(),
            legend: vec![(Colour::Series(1), "ours".into())],
            groups: vec![BarGroup {
                name: "small".into(),
                bars: vec![bar(2.5), bar(1.25)],
                mark: Some(3.0),
            }],
            mark: "black mark: the goal".into(),
            reference: (1.0, Colour::Series(2), "1 = theirs".into()),
        };
        let svg = bars.svg().unwrap();
        for part in [
            "speed",
            "ours",
            "small",
            "2.50",
            "1.25",
            "the goal",
            "1 = theirs",
        ] {
            assert!(svg.contains(part), "no {part:?} in {svg}");
        }
    }
}
