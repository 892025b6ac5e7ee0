//! Sums over micro-batches, which half precision cannot hold and `f32` can.

use gradclip::{Accumulated, ClipPolicy, Clipper, NonFinite, Unscaled};
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
    let outcome = Clipper::beside_adam(policy, NonFinite::Error).clip(mean);
    assert_eq!(outcome.unwrap().report().norm_before, 40_000.0);
}

#[test]
fn the_mean_is_rounded_once() {
    // 1 + 3 / 256 lies between two neighbours in bf16, 1 + 1 / 128 and 1 + 2 / 128. The loss scale
    // is taken out in the same division.
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
fn processes_exchange_means_and_errors_go_through() {
    let sum = || {
        let mut sum = Accumulated::new(vec![("w", vec![f16::from_f32(40_000.0)])]);
        sum.add(vec![("w", vec![f16::from_f32(60_000.0)])]);
        sum
    };
    let reduced = sum().reduce(|gradients| {
        assert_eq!(gradients[0].1, [f16::from_f32(50_000.0)]);
        gradients[0].1[0] = f16::from_f32(30_000.0);
        Ok::<(), &str>(())
    });
    let mean = reduced.unwrap().unscale(10_000.0).unwrap();
    assert_eq!(mean.gradients()[0].1, [f16::from_f32(3.0)]);
    assert_eq!(sum().reduce(|_| Err("no network")), Err("no network"));
}

#[test]
#[should_panic(expected = "tensors of different storage types")]
fn another_type_cannot_be_added() {
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
