//! The norm of each layer's gradient over the steps, as colours.

use std::collections::BTreeMap;

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::figure::{WIDTH, text_style};

/// A picture, and what its lightest and its darkest colour stand for.
pub(super) struct Heat {
    pub(super) svg: String,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// A row for each layer; none where no norm is finite.
pub(super) fn heat(
    layers: &BTreeMap<String, Vec<f64>>,
    steps: usize,
) -> anyhow::Result<Option<Heat>> {
    const COLUMNS: usize = 120;
    const ROW: u32 = 26;
    const LEFT: u32 = 150;
    let per_column = steps.div_ceil(COLUMNS).max(1);
    let mut ordered: Vec<(&String, &Vec<f64>)> = layers.iter().collect();
    ordered.sort_by_key(|(name, _)| place(name));
    let rows: Vec<(&String, Vec<f64>)> = ordered
        .into_iter()
        .map(|(name, norms)| {
            let columns = norms.chunks(per_column).map(|part| {
                let finite = part
                    .iter()
                    .copied()
                    .filter(|norm| *norm > 0.0 && norm.is_finite());
                finite.fold(f64::NAN, f64::max).log10()
            });
            (name, columns.collect())
        })
        .collect();
    let all = || rows.iter().flat_map(|(_, columns)| columns).copied();
    let finite = || all().filter(|level| level.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), level| {
        (low.min(level), high.max(level))
    });
    if low > high {
        return Ok(None);
    }
    let mut svg = String::new();
    {
        let size = (WIDTH, ROW * rows.len() as u32 + 56);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let width = f64::from(WIDTH - LEFT - 20) / steps.div_ceil(per_column) as f64;
        for (row, (name, columns)) in rows.iter().enumerate() {
            let top = row as i32 * ROW as i32 + 4;
            let middle = (LEFT as i32 - 10, top + ROW as i32 / 2);
            root.draw_text(name, &text_style(HPos::Right), middle)?;
            for (column, level) in columns.iter().enumerate() {
                let left = f64::from(LEFT) + column as f64 * width;
                let corners = [
                    (left as i32, top),
                    ((left + width).ceil() as i32, top + ROW as i32 - 2),
                ];
                let colour = match level.is_finite() {
                    true => heat_colour((level - low) / (high - low).max(1e-9)),
                    false => RGBColor(0xd0, 0xd0, 0xd4),
                };
                root.draw(&Rectangle::new(corners, colour.filled()))?;
            }
        }
        let bottom = (ROW * rows.len() as u32) as i32 + 24;
        let ends = [
            (LEFT as i32, HPos::Left, "step 1".to_string()),
            (WIDTH as i32 - 20, HPos::Right, format!("step {steps}")),
        ];
        for (x, position, words) in ends {
            root.draw_text(&words, &text_style(position), (x, bottom - 8))?;
        }
        root.present()?;
    }
    Ok(Some(Heat {
        svg,
        low: 10_f64.powf(low),
        high: 10_f64.powf(high),
    }))
}

/// From input to output, and layers by their numbers: names alone have `blocks.10` before `blocks.2`.
fn place(layer: &str) -> (u8, &str, u64) {
    let (name, number) = layer.rsplit_once('.').unwrap_or((layer, ""));
    let part = match name {
        name if name.contains("embedding") => 0,
        "output" | "norm" => 2,
        _ => 1,
    };
    (part, name, number.parse().unwrap_or(0))
}

/// From a light yellow over red to a dark violet.
fn heat_colour(share: f64) -> RGBColor {
    const STOPS: [(f64, f64, f64); 4] = [
        (254.0, 240.0, 200.0),
        (245.0, 150.0, 90.0),
        (180.0, 50.0, 100.0),
        (50.0, 15.0, 80.0),
    ];
    let place = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let stop = (place.floor() as usize).min(STOPS.len() - 2);
    let part = place - stop as f64;
    let mix = |from: f64, to: f64| (from + part * (to - from)).round() as u8;
    let (from, to) = (STOPS[stop], STOPS[stop + 1]);
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn layers_stand_from_input_to_output() {
        let mut layers = ["blocks.10", "blocks.2", "norm", "output", "token_embedding"];
        layers.sort_by_key(|layer| place(layer));
        assert_eq!(
            layers,
            ["token_embedding", "blocks.2", "blocks.10", "norm", "output"]
        );
    }
}
