//! Compares attention with its definition, computed in double precision.

use super::backward::Mixture;
use super::{Attention, Rows, backward, forward};
use crate::cpu::Cpu;
use crate::dropout::{Dropout, DropoutKey};
use crate::testing::{assert_close, elements};

/// Batch, time, past, heads, key heads, width: ones, odd sizes, more than a block, the presets'
/// widths, groups of heads.
const SHAPES: [[usize; 6]; 11] = [
    [1, 1, 0, 1, 1, 1],
    [2, 3, 0, 1, 1, 5],
    [1, 1, 7, 2, 2, 3],
    [2, 25, 0, 3, 3, 8],
    [1, 49, 0, 2, 2, 33],
    [2, 64, 0, 4, 4, 32],
    [1, 30, 41, 2, 2, 20],
    [1, 97, 0, 1, 1, 64],
    [2, 26, 0, 4, 2, 8],
    [2, 9, 4, 6, 2, 5],
    [1, 25, 0, 3, 1, 32],
];

struct Case {
    attention: Attention,
    /// Key and value heads.
    shared: usize,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    gradient: Vec<f32>,
}

/// Values, and gradients of queries, keys and values.
type Found = [Vec<f32>; 4];

impl Case {
    fn new(
        [batch, time, past, heads, shared, width]: [usize; 6],
        dropout: Option<Dropout>,
    ) -> Case {
        let attention = Attention {
            batch,
            time,
            past,
            heads,
            width,
            mask: dropout.map(|dropout| dropout.mask(3, batch * heads * time)),
        };
        let (hidden, narrow) = (heads * width, shared * width);
        let scale = |values: Vec<f32>| values.into_iter().map(|x| 3.0 * x).collect();
        Case {
            attention,
            shared,
            queries: scale(elements(batch * time * hidden, 1)),
            keys: scale(elements(batch * (past + time) * narrow, 2)),
            values: elements(batch * (past + time) * narrow, 3),
            gradient: elements(batch * time * hidden, 4),
        }
    }

    /// The total widths of the query heads and of the key heads.
    fn widths(&self) -> [usize; 2] {
        [self.attention.heads, self.shared].map(|heads| heads * self.attention.width)
    }

    fn fused(&self, cpu: Cpu) -> Found {
        let Attention {
            batch,
            time,
            past,
            heads,
            ..
        } = self.attention;
        let [hidden, narrow] = self.widths();
        let rows = |elements, count: usize, heads: usize| {
            let row = heads * self.attention.width;
            Rows {
                elements,
                row,
                batch: count * row,
                heads,
            }
        };
        let parts = [
            rows(&self.queries, time, heads),
            rows(&self.keys, past + time, self.shared),
            rows(&self.values, past + time, self.shared),
        ];
        // The initial contents must not matter.
        let mut mixed = vec![f32::NAN; batch * time * hidden];
        let mut softmax = vec![f32::NAN; 2 * batch * heads * time];
        forward(cpu, self.attention, parts, &mut mixed, &mut softmax);
        let mut found = [mixed, Vec::new(), Vec::new(), Vec::new()];
        if past == 0 {
            let mut out = vec![f32::NAN; batch * time * (hidden + 2 * narrow)];
            let mixture = Mixture {
                mixed: rows(&found[0], time, heads),
                gradient: rows(&self.gradient, time, heads),
                softmax: &softmax,
            };
            backward(cpu, self.attention, parts, mixture, &mut out);
            for row in out.chunks(hidden + 2 * narrow) {
                let (queries, others) = row.split_at(hidden);
                let (keys, values) = others.split_at(narrow);
                for (part, values) in [queries, keys, values].into_iter().enumerate() {
                    found[part + 1].extend_from_slice(values);
                }
            }
        }
        found
    }

    fn defined(&self) -> Found {
        let Attention {
            batch,
            time,
            past,
            heads,
            width,
            mask,
        } = self.attention;
        let ([hidden, narrow], end) = (self.widths(), past + time);
        let mut found = [
            vec![0.0; batch * time * hidden],
            vec![0.0; batch * time * hidden],
            vec![0.0; batch * end * narrow],
            vec![0.0; batch * end * narrow],
        ];
        let kept = mask.map(|mask| {
            let mut kept = vec![1.0; batch * heads * time * end];
            mask.apply_to_rows(Cpu::current(), 0, &mut kept, end);
            kept
        });
        for index in 0..batch * heads * time {
            let (row, head) = (index / time, index % time);
            let (element, head, query) = (row / heads, row % heads, head);
            // Adjacent query heads share a key head.
            let shared = head / (heads / self.shared);
            let place = |key: usize| (element * end + key) * narrow + shared * width;
            let dot = |a: &[f32], a_place: usize, b: &[f32], b_place: usize| {
                let pairs = a[a_place..a_place + width].iter().zip(&b[b_place..]);
                pairs
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum::<f64>()
            };
            let scale = 1.0 / (width as f64).sqrt();
            let seen = past + query + 1;
            let at = (element * time + query) * hidden + head * width;
            let scores: Vec<f64> = (0..seen)
                .map(|key| scale * dot(&self.queries, at, &self.keys, place(key)))
                .collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
            let factor = |key: usize| {
                kept.as_ref()
                    .map_or(1.0, |kept| f64::from(kept[index * end + key]))
            };
            let weight = |key: usize| (scores[key] - most).exp() / sum;
            // The gradient of each weight, and its mean.
            let changes: Vec<f64> = (0..seen)
                .map(|key| factor(key) * dot(&self.gradient, at, &self.values, place(key)))
                .collect();
            let mean: f64 = (0..seen).map(|key| weight(key) * changes[key]).sum();
            for (key, change) in changes.iter().enumerate() {
                let other = place(key);
                let mixing = weight(key) * factor(key);
                let change = weight(key) * (change - mean) * scale;
                for i in 0..width {
                    found[0][at + i] += mixing * f64::from(self.values[other + i]);
                    found[1][at + i] += change * f64::from(self.keys[other + i]);
                    found[2][other + i] += change * f64::from(self.queries[at + i]);
                    found[3][other + i] += mixing * f64::from(self.gradient[at + i]);
                }
            }
        }
        found.map(|values| values.into_iter().map(|x| x as f32).collect())
    }
}

fn check(case: &Case, bound: f32) {
    let expected = case.defined();
    let names = ["values", "queries", "keys", "values' gradients"];
    for cpus in Cpu::all().chunks(3) {
        let one = case.fused(cpus[0]);
        for ((name, found), expected) in names.iter().zip(&one).zip(&expected) {
            // With earlier keys there are no gradients. With a single key, the gradient of the
            // scores is zero up to rounding.
            let single = expected.iter().all(|&x| x == 0.0);
            if !found.is_empty() && !single {
                let what = format!("{name} {:?} {:?}", case.attention, cpus[0]);
                assert_close(&what, found, expected, bound);
            }
        }
        for cpu in &cpus[1..] {
            assert_eq!(case.fused(*cpu), one, "{cpu:?}");
        }
    }
}

#[test]
fn values_and_gradients_match_the_definition() {
    for shape in SHAPES {
        check(&Case::new(shape, None), 5e-6);
    }
}

#[test]
fn masked_weights_match_the_definition() {
    let dropout = Dropout {
        key: DropoutKey::of([5, 6]),
        probability: 0.3,
    };
    for shape in SHAPES {
        check(&Case::new(shape, Some(dropout)), 5e-6);
    }
}

#[test]
fn a_long_context_is_as_exact_as_a_short_one() {
    check(&Case::new([1, 1000, 0, 1, 1, 32], None), 5e-6);
}
