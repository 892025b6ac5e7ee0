//! Rotary position embedding (Su et al. 2021, RoFormer): queries and keys are rotated by angles
//! proportional to their position, so that a score depends only on the distance.

use std::sync::{Arc, Mutex, PoisonError};

use pulp::Simd;

use crate::vector::{load, store};

/// The rotation angle of a pair of elements at a position, in radians. A head of `width` elements
/// has `width / 2` pairs.
pub(super) fn angle(position: usize, pair: usize, width: usize, theta: f64) -> f64 {
    position as f64 / theta.powf(2.0 * pair as f64 / width as f64)
}

/// Cosines and sines for positions starting at 0.
#[derive(Debug)]
pub(super) struct RotaryTable {
    /// The width of a head.
    width: usize,
    theta: f64,
    /// For each position, `width / 2` cosines, then as many sines.
    elements: Vec<f32>,
}

/// The direction of rotation; gradients are rotated back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Back,
}

impl RotaryTable {
    /// A table of at least `positions` positions. Tables are cached, and recomputed when they must
    /// be longer.
    pub(super) fn of(width: usize, theta: f64, positions: usize) -> Arc<RotaryTable> {
        static TABLES: Mutex<Vec<Arc<RotaryTable>>> = Mutex::new(Vec::new());
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let place = tables
            .iter()
            .position(|table| table.width == width && table.theta.to_bits() == theta.to_bits());
        if let Some(place) = place {
            if tables[place].elements.len() >= positions * width {
                return tables[place].clone();
            }
            tables.swap_remove(place);
        }
        let table = Arc::new(RotaryTable::new(
            width,
            theta,
            positions.next_power_of_two(),
        ));
        tables.push(table.clone());
        table
    }

    fn new(width: usize, theta: f64, positions: usize) -> RotaryTable {
        let mut elements = Vec::with_capacity(positions * width);
        for position in 0..positions {
            let angles = (0..width / 2).map(|pair| angle(position, pair, width, theta));
            elements.extend(angles.clone().map(|angle| angle.cos() as f32));
            elements.extend(angles.map(|angle| angle.sin() as f32));
        }
        RotaryTable {
            width,
            theta,
            elements,
        }
    }

    /// Rotates adjacent heads. Element `i` of the first half of a head and element `i` of the
    /// second form a pair, as in Hugging Face's models.
    #[inline(always)]
    pub(super) fn rotate<S: Simd>(
        &self,
        simd: S,
        position: usize,
        heads: &mut [f32],
        direction: Direction,
    ) {
        let (width, half) = (self.width, self.width / 2);
        let (cosines, sines) = self.elements[position * width..][..width].split_at(half);
        for first in (0..half).step_by(S::F32_LANES) {
            let end = half.min(first + S::F32_LANES);
            let cosine = load(simd, &cosines[first..end]);
            let (sine, minus_sine) = {
                let sine = load(simd, &sines[first..end]);
                match direction {
                    Direction::Forward => (sine, simd.neg_f32s(sine)),
                    Direction::Back => (simd.neg_f32s(sine), sine),
                }
            };
            for head in heads.chunks_exact_mut(width) {
                let (left, right) = head.split_at_mut(half);
                let (left, right) = (&mut left[first..end], &mut right[first..end]);
                let (x, y) = (load(simd, left), load(simd, right));
                let rotated = simd.mul_add_e_f32s(y, minus_sine, simd.mul_f32s(x, cosine));
                store(simd, left, rotated);
                let rotated = simd.mul_add_e_f32s(x, sine, simd.mul_f32s(y, cosine));
                store(simd, right, rotated);
            }
        }
    }
}
