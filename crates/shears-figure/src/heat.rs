//! Heat maps over steps.

use plotters::prelude::*;
use plotters::style::colors::colormaps::ViridisRGB;
use plotters::style::text_anchor::HPos;

use crate::axis::{extent, number};
use crate::canvas::{LEFT, ROW, label, picture, rectangle, text_width};
use crate::colour::{GRID, INK};
use crate::{FigureError, WIDTH};

/// The most columns; each shows the largest value of its steps.
const COLUMNS: usize = 240;
const RIGHT: i32 = WIDTH as i32 - 20;
/// The width of the colour scale.
const SCALE: i32 = 200;

/// A row for each name, with one value per step. Colours show the logarithm of the value, with a
/// scale below. `None` if no value is finite and positive.
///
/// # Errors
///
/// The drawing library's, for lack of memory.
pub fn heat_map(rows: &[(&str, &[f64])]) -> Result<Option<String>, FigureError> {
    let steps = rows
        .iter()
        .map(|(_, values)| values.len())
        .max()
        .unwrap_or(0);
    let per_column = steps.div_ceil(COLUMNS).max(1);
    let levels: Vec<Vec<f64>> = rows
        .iter()
        .map(|(_, values)| values.chunks(per_column).map(level).collect())
        .collect();
    let Some((low, high)) = extent(levels.iter().flatten().copied()) else {
        return Ok(None);
    };
    let colour = |level: f64| match level.is_finite() {
        true => ViridisRGB.get_color_normalized(level, low, high.max(low + 1e-9)),
        false => GRID,
    };
    let names = rows.iter().map(|(name, _)| text_width(name));
    let left = LEFT + names.max().unwrap_or(0) + 10;
    let bottom = 6 + rows.len() as i32 * (ROW + 4);
    let width = f64::from(RIGHT - left) / steps.div_ceil(per_column) as f64;
    let svg = picture(bottom + 2 * ROW + 14, "", |root| {
        for (row, ((name, _), levels)) in (0..).zip(rows.iter().zip(&levels)) {
            let top = 6 + row * (ROW + 4);
            label(root, name, (left - 10, top + ROW / 2), INK, HPos::Right)?;
            for (column, level) in levels.iter().enumerate() {
                let at = |column: usize| left + (column as f64 * width).round() as i32;
                let corners = [(at(column), top), (at(column + 1), top + ROW)];
                rectangle(root, corners, colour(*level))?;
            }
        }
        let y = bottom + ROW / 2;
        label(root, "step 1", (left, y), INK, HPos::Left)?;
        label(root, &format!("step {steps}"), (RIGHT, y), INK, HPos::Right)?;
        // The colour scale.
        let [low, high] = [low, high].map(|level| number(10_f64.powf(level)));
        let y = y + ROW;
        let begin = left + text_width(&low) + 8;
        label(root, &low, (begin - 8, y), INK, HPos::Right)?;
        for at in 0..SCALE {
            let share = f64::from(at) / f64::from(SCALE - 1);
            let corners = [(begin + at, y - 6), (begin + at + 1, y + 6)];
            rectangle(root, corners, ViridisRGB.get_color(share))?;
        }
        label(root, &high, (begin + SCALE + 8, y), INK, HPos::Left)
    })?;
    Ok(Some(svg))
}

/// The logarithm of the largest positive finite value; NaN if there is none.
fn level(part: &[f64]) -> f64 {
    let finite = part
        .iter()
        .copied()
        .filter(|value| *value > 0.0 && value.is_finite());
    finite.fold(f64::NAN, f64::max).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_name_and_the_scale_its_ends() {
        let rows: [(&str, &[f64]); 2] = [("first", &[0.5, f64::NAN]), ("second", &[20.0, 2.0])];
        let svg = heat_map(&rows).unwrap().unwrap();
        for part in ["first", "second", "step 2", ">\n0.5\n", ">\n20\n"] {
            assert!(svg.contains(part), "no {part:?} in {svg}");
        }
        assert_eq!(heat_map(&[("zero", &[0.0, f64::NAN])]).unwrap(), None);
        assert_eq!(heat_map(&[]).unwrap(), None);
    }
}
