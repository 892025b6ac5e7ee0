//! The few functions of `f64` that `core` does not have.

#[cfg(all(not(feature = "std"), not(feature = "libm")))]
compile_error!("gradclip needs one of its features `std` (the default) and `libm`");

#[cfg(feature = "std")]
mod functions {
    pub(crate) fn sqrt(value: f64) -> f64 {
        value.sqrt()
    }

    pub(crate) fn powf(base: f64, exponent: f64) -> f64 {
        base.powf(exponent)
    }

    pub(crate) fn ln(value: f64) -> f64 {
        value.ln()
    }

    pub(crate) fn exp(value: f64) -> f64 {
        value.exp()
    }

    pub(crate) fn cos(value: f64) -> f64 {
        value.cos()
    }

    pub(crate) fn floor(value: f64) -> f64 {
        value.floor()
    }
}

#[cfg(all(not(feature = "std"), feature = "libm"))]
mod functions {
    pub(crate) use libm::{cos, exp, floor, log as ln, pow as powf, sqrt};
}

pub(crate) use functions::{cos, exp, floor, ln, powf, sqrt};
