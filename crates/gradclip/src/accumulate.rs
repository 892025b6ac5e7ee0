//! Sums over micro-batches: in place for `f32` and `f64`, and in `f32` for half precision.

use alloc::vec::Vec;

use crate::element::{Element, Elements, for_each_type};
use crate::gradients::{Accumulate, Gradients};

/// The sums of the tensors of half precision, by their place in a visit.
///
/// Half precision cannot hold a sum of many: in `bf16`, 256 + 1 is 256, and in `f16` twice 40,000
/// is infinite. So such tensors are added up here, and their mean is rounded to storage once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WideSums {
    tensors: Vec<Option<Vec<f32>>>,
}

impl WideSums {
    /// Adds the gradients of another micro-batch to `sums`, or to the sums in here.
    pub(crate) fn add<G: Accumulate>(&mut self, sums: &mut G, other: G) {
        let mut index = 0;
        sums.visit_pairs(other, &mut |mut sum, term| {
            if self.tensors.len() == index {
                self.tensors.push(None);
            }
            match is_half(&sum) {
                true => add_wide(&mut self.tensors[index], &sum, &term),
                false => sum.add(&term),
            }
            index += 1;
        });
    }

    /// Leaves in `gradients` all sums divided, each element rounded to storage once.
    pub(crate) fn divide_into<G: Gradients>(self, gradients: &mut G, divisor: f64) {
        if divisor == 1.0 && self.tensors.iter().all(Option::is_none) {
            return;
        }
        let mut tensors = self.tensors.into_iter();
        gradients.visit(&mut |mut gradient| {
            let elements = gradient.elements_mut();
            match tensors.next().flatten() {
                Some(wide) => for_each_type!(Elements, elements, values => {
                    for (value, sum) in values.iter_mut().zip(&wide) {
                        *value = Element::from_f64(f64::from(*sum) / divisor);
                    }
                }),
                None => elements.divide(divisor),
            }
        });
    }
}

/// Whether the type is narrower than `f32`.
fn is_half(elements: &Elements<'_>) -> bool {
    fn is_half<E: Element>(_: &[E]) -> bool {
        E::LARGEST < f64::from(f32::MAX)
    }
    for_each_type!(Elements, elements, values => is_half(values))
}

/// Adds `term` to the sum, which is `first` as long as nothing was added.
fn add_wide(sum: &mut Option<Vec<f32>>, first: &Elements<'_>, term: &Elements<'_>) {
    fn widen(elements: &Elements<'_>) -> Vec<f32> {
        for_each_type!(Elements, elements, values => {
            values.iter().map(|value| value.to_f64() as f32).collect()
        })
    }
    let types = [first, term].map(core::mem::discriminant);
    assert_eq!(types[0], types[1], "tensors of different storage types");
    assert_eq!(first.len(), term.len(), "tensors of different length");
    let sum = sum.get_or_insert_with(|| widen(first));
    for_each_type!(Elements, term, values => for (sum, value) in sum.iter_mut().zip(values.iter()) {
        *sum += value.to_f64() as f32;
    });
}
