//! Elementary functions of whole vectors, in single precision.
//!
//! The polynomials come from `tools/fit_kernels.py`. Errors are a few units in the last place, as
//! the tests measure; NaN propagates.

use pulp::Simd;

/// Adding this rounds to an integer and leaves the integer in the lowest bits of the mantissa.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

/// `(exp(r) - 1 - r) / r^2` for `r` within half of `ln 2`.
const EXPM1: [f32; 5] = [
    0.49999997,
    0.16666539,
    0.041667223,
    0.008367181,
    0.0013882396,
];

/// `exp(x)` as `2^n` and `exp(r) - 1`, with `x = n ln 2 + r`.
#[inline(always)]
fn split_exponential<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let splat = |value| simd.splat_f32s(value);
    let shifted = simd.mul_add_e_f32s(x, splat(std::f32::consts::LOG2_E), splat(ROUND));
    let n = simd.sub_f32s(shifted, splat(ROUND));
    // ln 2 in two parts; the first has trailing zeros, so that its products are exact.
    let r = simd.mul_add_e_f32s(n, splat(-0.693_359_4), x);
    let r = simd.mul_add_e_f32s(n, splat(2.121_944_4e-4), r);
    let mut sum = splat(EXPM1[4]);
    for coefficient in [EXPM1[3], EXPM1[2], EXPM1[1], EXPM1[0]] {
        sum = simd.mul_add_e_f32s(sum, r, splat(coefficient));
    }
    let expm1 = simd.mul_add_e_f32s(simd.mul_f32s(r, r), sum, r);
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(exponent, simd.splat_u32s(127 << 23)));
    (power, expm1)
}

/// `exp(x)`; zero where it would be subnormal, which is slow to compute with, and `exp(88)` above
/// 88.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let least = -87.336_54;
    let (power, expm1) = split_exponential(simd, clamp(simd, x, least, 88.0));
    let result = simd.mul_add_e_f32s(power, expm1, power);
    let too_small = simd.less_than_f32s(x, simd.splat_f32s(least));
    simd.select_f32s(too_small, simd.splat_f32s(0.0), result)
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let exp = exp(simd, simd.neg_f32s(x));
    simd.div_f32s(one, simd.add_f32s(one, exp))
}

/// `tanh(x) = (exp(2 x) - 1) / (exp(2 x) + 1)`, without cancellation near zero.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Above 9.02 the nearest f32 is 1.
    let x = clamp(simd, x, -9.1, 9.1);
    let (power, expm1) = split_exponential(simd, simd.add_f32s(x, x));
    let one = simd.splat_f32s(1.0);
    let expm1 = simd.mul_add_e_f32s(power, expm1, simd.sub_f32s(power, one));
    simd.div_f32s(expm1, simd.add_f32s(expm1, simd.splat_f32s(2.0)))
}

/// `Phi(-a) exp(a^2 / 2)` as a polynomial of `t = 1 / (1 + 0.3 a)`, without a constant term.
const NORMAL_TAIL: [f32; 8] = [
    0.11960549,
    0.1211057,
    0.09778394,
    0.1354202,
    -0.06640264,
    0.2199713,
    -0.16501968,
    0.037535712,
];

/// The distribution function and the density of the standard normal distribution.
#[inline(always)]
fn normal<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let splat = |value| simd.splat_f32s(value);
    let magnitude = simd.abs_f32s(x);
    let half_square = simd.mul_f32s(simd.mul_f32s(x, x), splat(-0.5));
    let bell = exp(simd, half_square);
    let t = simd.div_f32s(
        splat(1.0),
        simd.mul_add_e_f32s(magnitude, splat(0.3), splat(1.0)),
    );
    let mut sum = splat(NORMAL_TAIL[7]);
    for index in (0..7).rev() {
        sum = simd.mul_add_e_f32s(sum, t, splat(NORMAL_TAIL[index]));
    }
    let tail = simd.mul_f32s(simd.mul_f32s(sum, t), bell);
    let negative = simd.less_than_f32s(x, splat(0.0));
    let distribution = simd.select_f32s(negative, tail, simd.sub_f32s(splat(1.0), tail));
    (distribution, simd.mul_f32s(bell, splat(0.398_942_3)))
}

/// [`normal`] or [`normal_by_tanh`]. A constant chooses, because a function pointer would be called
/// without the vector instructions of its caller.
#[inline(always)]
pub(crate) fn normal_of<S: Simd, const BY_TANH: bool>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    match BY_TANH {
        false => normal(simd, x),
        true => normal_by_tanh(simd, x),
    }
}

/// The approximation of [`normal`] by `(1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2` (Hendrycks
/// & Gimpel 2016), a logistic function, and its derivative.
#[inline(always)]
fn normal_by_tanh<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let splat = |value| simd.splat_f32s(value);
    // 2 sqrt(2 / pi), the same times 0.044715, and times 3 x 0.044715.
    let (linear, cubic, slope) = (splat(1.595_769), splat(0.071_354_82), splat(0.214_064_47));
    let square = simd.mul_f32s(x, x);
    let argument = simd.mul_f32s(x, simd.mul_add_e_f32s(square, cubic, linear));
    let distribution = sigmoid(simd, argument);
    let rest = simd.sub_f32s(splat(1.0), distribution);
    let change = simd.mul_f32s(
        simd.mul_f32s(distribution, rest),
        simd.mul_add_e_f32s(square, slope, linear),
    );
    (distribution, change)
}

/// Clamps `x`; NaN stays NaN.
#[inline(always)]
fn clamp<S: Simd>(simd: S, x: S::f32s, low: f32, high: f32) -> S::f32s {
    let (low, high) = (simd.splat_f32s(low), simd.splat_f32s(high));
    let x = simd.select_f32s(simd.less_than_f32s(x, low), low, x);
    simd.select_f32s(simd.less_than_f32s(high, x), high, x)
}

#[cfg(test)]
mod tests {
    use pulp::{Simd, WithSimd};

    use crate::cpu::Cpu;

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Sigmoid,
        Tanh,
        Distribution,
        Density,
        DistributionByTanh,
        DensityByTanh,
    }

    struct Apply<'a>(Function, &'a mut [f32]);

    impl WithSimd for Apply<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.1);
            assert!(rest.is_empty());
            for x in vectors {
                *x = match self.0 {
                    Function::Exp => super::exp(simd, *x),
                    Function::Sigmoid => super::sigmoid(simd, *x),
                    Function::Tanh => super::tanh(simd, *x),
                    Function::Distribution => super::normal(simd, *x).0,
                    Function::Density => super::normal(simd, *x).1,
                    Function::DistributionByTanh => super::normal_by_tanh(simd, *x).0,
                    Function::DensityByTanh => super::normal_by_tanh(simd, *x).1,
                }
            }
        }
    }

    /// The complementary error function to about 1e-15, by its series and its continued fraction.
    fn erfc(x: f64) -> f64 {
        if x < 0.0 {
            return 2.0 - erfc(-x);
        }
        let bell = (-x * x).exp() / std::f64::consts::PI.sqrt();
        if x < 2.5 {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= 2.0 * x * x / f64::from(2 * n + 1);
                sum += term;
            }
            return 1.0 - 2.0 * bell * sum;
        }
        let fraction = (1..=400)
            .rev()
            .fold(0.0, |f, k| f64::from(k) / 2.0 / (x + f));
        bell / (x + fraction)
    }

    /// The argument of the tanh in the approximation of the normal distribution, and its
    /// derivative.
    fn tanh_argument(x: f64) -> (f64, f64) {
        let factor = (2.0 / std::f64::consts::PI).sqrt();
        let argument = factor * (x + 0.044715 * x.powi(3));
        (argument, factor * (1.0 + 3.0 * 0.044715 * x * x))
    }

    fn exact(function: Function, x: f64) -> f64 {
        match function {
            Function::Exp => x.exp(),
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::Tanh => x.tanh(),
            Function::Distribution => 0.5 * erfc(-x / 2.0_f64.sqrt()),
            Function::Density => (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt(),
            Function::DistributionByTanh => 1.0 / (1.0 + (-2.0 * tanh_argument(x).0).exp()),
            Function::DensityByTanh => {
                let (argument, slope) = tanh_argument(x);
                slope / 2.0 / argument.cosh().powi(2)
            }
        }
    }

    /// Error relative to the value, over the range that matters to a network.
    #[test]
    fn errors_are_a_few_units_in_the_last_place() {
        for cpu in Cpu::all().into_iter().step_by(3) {
            for (function, range, bound) in [
                (Function::Exp, 87.0, 2.0e-7),
                (Function::Sigmoid, 60.0, 2.5e-7),
                (Function::Tanh, 20.0, 3.0e-7),
                // The left tail of the distribution is as exact as exp(-x^2/2).
                (Function::Distribution, 5.0, 2.0e-6),
                (Function::Density, 5.0, 2.0e-6),
                // Likewise exp(-2 z), and one minus a value near one.
                (Function::DistributionByTanh, 4.0, 2.0e-6),
                (Function::DensityByTanh, 1.5, 2.0e-6),
            ] {
                let inputs: Vec<f32> = (-80_000..80_000)
                    .map(|i| i as f32 / 80_000.0 * range)
                    .chain((0..160).map(|i| 1e-8 * 1.1_f32.powi(i)))
                    .collect();
                let mut outputs = inputs.clone();
                cpu.run(Apply(function, &mut outputs));
                let worst = inputs.iter().zip(&outputs).map(|(&x, &y)| {
                    let exact = exact(function, f64::from(x));
                    ((f64::from(y) - exact) / exact).abs()
                });
                let worst = worst.fold(0.0, f64::max);
                println!("{:?} {function:?}: {worst:.2e}", cpu.instructions);
                assert!(
                    worst < bound,
                    "{function:?} {worst:.2e} {:?}",
                    cpu.instructions
                );
            }
        }
    }

    #[test]
    fn ends_of_the_range_and_nan() {
        for cpu in Cpu::all().into_iter().step_by(3) {
            let (inf, nan) = (f32::INFINITY, f32::NAN);
            let apply = |function, value: f32| {
                let mut values = [value; 16];
                cpu.run(Apply(function, &mut values));
                values[0]
            };
            for function in [
                Function::Exp,
                Function::Sigmoid,
                Function::Tanh,
                Function::Distribution,
                Function::DistributionByTanh,
            ] {
                assert!(
                    apply(function, nan).is_nan(),
                    "{function:?} {:?}",
                    cpu.instructions
                );
            }
            assert_eq!(apply(Function::Exp, -inf), 0.0);
            assert!(apply(Function::Exp, inf) > 1e38);
            assert!(apply(Function::Sigmoid, -inf) < 1e-38);
            assert_eq!(apply(Function::Sigmoid, inf), 1.0);
            assert_eq!(apply(Function::Tanh, inf), 1.0);
            assert_eq!(apply(Function::Tanh, -inf), -1.0);
            assert_eq!(apply(Function::Distribution, inf), 1.0);
            assert_eq!(apply(Function::Distribution, -30.0), 0.0);
        }
    }
}
