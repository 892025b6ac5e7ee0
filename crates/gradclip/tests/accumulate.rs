//! Sums over micro-batches, which need `f32` for half precision.

use gradclip::{Accumulated, ClipPolicy, Clipper, Elements, NonFinite, Unscaled};
use half::{bf16, f16};

fn mean<Values>(value: impl Fn() -> Values, count: usize) -> Unscaled<Vec<(&'static str, Values)>>
where
    Values: gradclip::AsElements,
{
    let mut sum = Accumulated::new(vec![("w", value())]);
    (1..count).for_each(|_| sum.add(vec![("w", value())]));
    sum.in_one_process().without_loss_scale()
}

#[test]
fn the_mean_of_ones_is_one() {
    let value = || vec![bf16::ONE];
    assert_eq!(mean(value, 512).gradients()[0].1, value());
    let value = || vec![f16::ONE];
    assert_eq!(mean(value, 5000).gradients()[0].1, value());
}

#[test]
fn a_sum_that_f16_cannot_hold_has_a_mean_and_is_clipped() {
    let value = || vec![f16::from_f32(40_000.0)];
    let mean = mean(value, 2);
    assert_eq!(mean.gradients()[0].1, value());
    let policy: ClipPolicy = "global-norm:1".parse().unwrap();
    let outcome = Clipper::for_adam(policy, NonFinite::Error).clip(mean);
    assert_eq!(outcome.unwrap().report().norm_before, 40_000.0);
}

#[test]
fn the_mean_is_rounded_once() {
    // 1 + 3 / 256 lies between two neighbours in bf16, 1 + 1 / 128 and 1 + 2 / 128. The same
    // division removes the loss scale.
    let terms = [1.0, 1.0, 1.0, 1.0 + 3.0 / 64.0];
    let mut sum = Accumulated::new(vec![("w", vec![bf16::from_f64(3.0 * terms[0])])]);
    for term in &terms[1..] {
        sum.add(vec![("w", vec![bf16::from_f64(3.0 * term)])]);
    }
    let scaled: f64 = terms.iter().map(|t| bf16::from_f64(3.0 * t).to_f64()).sum();
    let mean = sum.in_one_process().unscale(3.0).unwrap();
    assert_eq!(mean.gradients()[0].1, [bf16::from_f64(scaled / 12.0)]);
}

#[test]
fn processes_exchange_sums_and_errors_propagate() {
    let sum = || {
        let mut sum = Accumulated::new(vec![("w", vec![f16::from_f32(40_000.0)])]);
        sum.add(vec![("w", vec![f16::from_f32(60_000.0)])]);
        sum
    };
    assert_eq!(sum().terms(), 2);
    // The other process also has two micro-batches, whose sum would overflow f16.
    let reduced = sum().reduce(4, |elements| match elements {
        Elements::F32(values) => {
            assert_eq!(**values, [100_000.0]);
            values[0] += 20_000.0;
            Ok(())
        }
        _ => Err("half precision is exchanged as f32"),
    });
    let mean = reduced.unwrap().unscale(10_000.0).unwrap();
    assert_eq!(mean.gradients()[0].1, [f16::from_f32(3.0)]);
    assert_eq!(sum().reduce(2, |_| Err("no network")), Err("no network"));
    // Also before anything was added.
    let single = Accumulated::new(vec![("w", vec![f16::from_f32(3.0)])]);
    let reduced = single.reduce(2, |elements| match elements {
        Elements::F32(values) => {
            values[0] -= 3.0;
            Ok(())
        }
        _ => Err("half precision is exchanged as f32"),
    });
    let mean = reduced.unwrap().without_loss_scale();
    assert_eq!(mean.gradients()[0].1, [f16::ZERO]);
}

/// The norm includes all processes: clipped before the all-reduce, gradients of 10 and 0 would have
/// a mean of 0.5, and 3 and -3 would be clipped although their mean is 0.
#[test]
fn the_mean_over_all_processes_is_clipped() {
    let clipped = |own: f32, other: f32| {
        let sum = Accumulated::new(vec![("w", vec![own])]);
        let reduced = sum.reduce(2, |elements| match elements {
            Elements::F32(values) => {
                values[0] += other;
                Ok(())
            }
            _ => Err("the tensor is f32"),
        });
        let policy = "global-norm:1".parse().unwrap();
        let mut clipper = Clipper::new(policy, NonFinite::Skip).unwrap();
        let outcome = clipper.clip(reduced.unwrap().without_loss_scale());
        let report = outcome.unwrap().report().clone();
        (report.norm_before, report.norm_after)
    };
    assert_eq!(clipped(10.0, 0.0), (5.0, 1.0));
    assert_eq!(clipped(3.0, -3.0), (0.0, 0.0));
}

#[test]
fn small_tensors_are_exchanged_together() {
    let large = 100_000;
    let sums = Accumulated::new(vec![
        ("a", vec![1.0_f32; 3]),
        ("b", vec![2.0; large]),
        ("c", vec![3.0; 2]),
    ]);
    let mut calls = Vec::new();
    let reduced = sums.reduce(1, |elements| match elements {
        Elements::F32(values) => {
            calls.push(values.len());
            for (index, value) in values.iter_mut().enumerate() {
                *value += index as f32 * 10.0;
            }
            Ok(())
        }
        _ => Err("the tensors are f32"),
    });
    let mean = reduced.unwrap().without_loss_scale();
    assert_eq!(calls, [large, 5]);
    let [(_, a), (_, b), (_, c)] = &mean.gradients()[..] else {
        panic!("three tensors: {mean:?}");
    };
    assert_eq!(
        (&a[..], &c[..]),
        (&[1.0, 11.0, 21.0][..], &[33.0, 43.0][..])
    );
    assert_eq!((b[0], b[large - 1]), (2.0, 10.0 * (large - 1) as f32 + 2.0));
}

#[test]
fn the_mean_after_an_exchange_is_rounded_once() {
    // 1 / 3 is not an f32, but 3 / 3 is.
    let single = Accumulated::new(vec![("w", vec![1.0_f32])]);
    let reduced = single.reduce(3, |elements| match elements {
        Elements::F32(values) => {
            values[0] += 2.0;
            Ok(())
        }
        _ => Err("the tensor is f32"),
    });
    assert_eq!(
        reduced.unwrap().without_loss_scale().gradients()[0].1,
        [1.0]
    );
}

#[test]
fn sums_are_merged_with_their_terms() {
    let sum =
        |value: f32, terms| Accumulated::from_sum(vec![("w", vec![bf16::from_f32(value)])], terms);
    let mut left = sum(256.0, 3);
    left.merge(sum(1.0, 1));
    let mut right = sum(1.0, 2);
    right.merge(sum(2.0, 2));
    left.merge(right);
    assert_eq!(left.terms(), 8);
    // In bf16, 256 + 1 would be 256.
    let mean = left.in_one_process().without_loss_scale();
    assert_eq!(mean.gradients()[0].1, [bf16::from_f32(260.0 / 8.0)]);
}

#[test]
#[should_panic(expected = "tensors of different storage types")]
fn different_types_cannot_be_added() {
    use gradclip::{Accumulate, Elements, Gradient, Gradients};
    #[derive(Debug)]
    struct Either(Result<Vec<f16>, Vec<bf16>>);
    impl Either {
        fn elements(&mut self) -> Elements<'_> {
            match &mut self.0 {
                Ok(values) => Elements::F16(values),
                Err(values) => Elements::Bf16(values),
            }
        }
    }
    impl Gradients for Either {
        fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
            visitor(Gradient::new("w", self.elements()));
        }
    }
    impl Accumulate for Either {
        fn visit_pairs(
            &mut self,
            mut other: Either,
            visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>),
        ) {
            visitor(self.elements(), other.elements());
        }
    }
    let mut sum = Accumulated::new(Either(Ok(vec![f16::ONE])));
    sum.add(Either(Err(vec![bf16::ONE])));
}
