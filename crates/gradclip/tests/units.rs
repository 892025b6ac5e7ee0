//! The output units of `agc`: the tensor's, unless the policy overrides them.

use std::ops::Range;

use gradclip::{ClipError, Clipper, Gradient, Gradients, NonFinite, Unscaled};

/// One tensor with its parameter and optional units.
struct Tensor {
    shape: Vec<usize>,
    units: Option<Range<usize>>,
    gradient: Vec<f64>,
    parameter: Vec<f64>,
}

impl Gradients for Tensor {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        let gradient = Gradient::new("w", &mut self.gradient[..])
            .with_shape(&self.shape)
            .with_parameter(&self.parameter[..]);
        visitor(match &self.units {
            Some(axes) => gradient.with_units(axes.clone()),
            None => gradient,
        });
    }
}

fn tensor(shape: &[usize], units: Option<Range<usize>>) -> Tensor {
    let elements = shape.iter().product::<usize>();
    let values = |factor: f64| (0..elements).map(move |i| (factor * (i + 1) as f64).sin());
    Tensor {
        shape: shape.to_vec(),
        units,
        gradient: values(1.7).map(|number| 10.0 * number).collect(),
        parameter: values(0.9).collect(),
    }
}

fn clip(policy: &str, mut tensor: Tensor) -> Result<Vec<f64>, ClipError> {
    let mut clipper =
        Clipper::new(policy.parse().expect(policy), NonFinite::Error).expect("no rule inside Adam");
    clipper.clip(Unscaled::single(&mut tensor)).map(drop)?;
    Ok(tensor.gradient)
}

/// Equation 3 of Brock et al., with the unit of each element computed from its indices.
fn expected(tensor: &Tensor, axes: Range<usize>) -> Vec<f64> {
    let inner: usize = tensor.shape[axes.end..].iter().product();
    let units: usize = tensor.shape[axes].iter().product();
    let unit = |element: usize| element / inner % units;
    let norm_of = |values: &[f64], of: usize| {
        let own = values.iter().enumerate().filter(|(i, _)| unit(*i) == of);
        own.map(|(_, value)| value * value).sum::<f64>().sqrt()
    };
    let clipped = tensor.gradient.iter().enumerate().map(|(i, value)| {
        let bound = 0.5 * norm_of(&tensor.parameter, unit(i)).max(1e-3);
        value * (bound / norm_of(&tensor.gradient, unit(i))).min(1.0)
    });
    clipped.collect()
}

#[track_caller]
fn assert_clipped(policy: &str, shape: &[usize], units: Option<Range<usize>>, axes: Range<usize>) {
    let expected = expected(&tensor(shape, None), axes);
    let clipped = clip(policy, tensor(shape, units)).expect(policy);
    for (clipped, expected) in clipped.iter().zip(&expected) {
        assert!((clipped - expected).abs() <= 1e-12 * expected.abs());
    }
    assert_ne!(clipped, tensor(shape, None).gradient);
}

#[test]
fn units_come_from_the_tensor() {
    // The layouts of PyTorch, its transposed convolution, optax at rank 3, JAX.
    for units in [0..1, 1..2, 1..3, 2..3] {
        assert_clipped("agc:0.5", &[3, 4, 5], Some(units.clone()), units);
    }
    // A convolution's filter with its whole kernel is one unit.
    assert_clipped("agc:0.5", &[4, 3, 2, 2], Some(0..1), 0..1);
}

#[test]
fn the_default_is_the_last_axis_and_a_policy_overrides_both() {
    assert_clipped("agc:0.5", &[3, 4, 5], None, 2..3);
    assert_clipped("agc:0.5,unit=first", &[3, 4, 5], None, 0..1);
    assert_clipped("agc:0.5,unit=first", &[3, 4, 5], Some(1..2), 0..1);
    assert_clipped("agc:0.5,unit=last", &[3, 4, 5], Some(0..1), 2..3);
}

#[test]
fn axes_out_of_range_are_refused() {
    let error = clip("agc:0.5", tensor(&[2, 3], Some(1..3))).unwrap_err();
    assert!(error.to_string().contains("are out of range"));
}
