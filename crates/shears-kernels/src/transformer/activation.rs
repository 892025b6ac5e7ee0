//! The activations of the MLP, forward and backward.

use pulp::Simd;

use super::Mlp;
use crate::math::{normal_of, sigmoid};
use crate::vector::{load, store};

/// Computes the input of the second product from the output of the first.
#[inline(always)]
pub(super) fn activate<S: Simd>(simd: S, (mlp, inner): (Mlp, usize), x: &[f32], out: &mut [f32]) {
    match mlp {
        Mlp::Gelu => gelu::<S, false>(simd, x, out),
        Mlp::GeluTanh => gelu::<S, true>(simd, x, out),
        Mlp::Swiglu => swiglu(simd, inner, x, out),
    }
}

/// `gate / (1 + exp(-gate)) up` for rows of `gate` and `up` (Shazeer 2020).
#[inline(always)]
fn swiglu<S: Simd>(simd: S, inner: usize, x: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks_exact(2 * inner).zip(out.chunks_exact_mut(inner)) {
        let (gate, up) = x.split_at(inner);
        let vectors = gate.chunks(S::F32_LANES).zip(up.chunks(S::F32_LANES));
        for ((gate, up), out) in vectors.zip(out.chunks_mut(S::F32_LANES)) {
            let gate = load(simd, gate);
            let open = simd.mul_f32s(gate, sigmoid(simd, gate));
            store(simd, out, simd.mul_f32s(open, load(simd, up)));
        }
    }
}

/// `x` times the normal distribution function of `x` (Hendrycks & Gimpel 2016).
#[inline(always)]
fn gelu<S: Simd, const BY_TANH: bool>(simd: S, x: &[f32], out: &mut [f32]) {
    let rows = x.chunks(S::F32_LANES).zip(out.chunks_mut(S::F32_LANES));
    for (x, out) in rows {
        let x = load(simd, x);
        let (distribution, _) = normal_of::<S, BY_TANH>(simd, x);
        store(simd, out, simd.mul_f32s(x, distribution));
    }
}

/// Replaces `x` by its activation, and the gradient of the activation by the gradient of `x`, whose
/// rows it adds to `sum`. The activation and its gradient are the first `inner` elements of a row.
#[inline(always)]
pub(super) fn activate_backward<S: Simd>(
    simd: S,
    (mlp, inner): (Mlp, usize),
    x: &mut [f32],
    gradient: &mut [f32],
    sum: &mut [f32],
) {
    match mlp {
        Mlp::Gelu => gelu_backward::<S, false>(simd, x, gradient, sum),
        Mlp::GeluTanh => gelu_backward::<S, true>(simd, x, gradient, sum),
        Mlp::Swiglu => {
            swiglu_backward(simd, inner, x, gradient);
            add_rows(gradient, sum);
        }
    }
}

/// [`activate_backward`] for SwiGLU.
#[inline(always)]
fn swiglu_backward<S: Simd>(simd: S, inner: usize, x: &mut [f32], gradient: &mut [f32]) {
    let rows = x.chunks_exact_mut(2 * inner);
    for (x, gradient) in rows.zip(gradient.chunks_exact_mut(2 * inner)) {
        let (gate, up) = x.split_at_mut(inner);
        let (gate_gradient, up_gradient) = gradient.split_at_mut(inner);
        let values = gate
            .chunks_mut(S::F32_LANES)
            .zip(up.chunks_mut(S::F32_LANES));
        let gradients = gate_gradient
            .chunks_mut(S::F32_LANES)
            .zip(up_gradient.chunks_mut(S::F32_LANES));
        for ((gate, up), (gate_gradient, up_gradient)) in values.zip(gradients) {
            let (x, through) = (load(simd, gate), load(simd, up));
            let change = load(simd, gate_gradient);
            let share = sigmoid(simd, x);
            let open = simd.mul_f32s(x, share);
            store(simd, gate, simd.mul_f32s(open, through));
            store(simd, up_gradient, simd.mul_f32s(change, open));
            // The derivative of `x share` is `share + x share (1 - share)`.
            let slope =
                simd.mul_add_e_f32s(open, simd.sub_f32s(simd.splat_f32s(1.0), share), share);
            let change = simd.mul_f32s(simd.mul_f32s(change, through), slope);
            store(simd, gate_gradient, change);
        }
    }
}

/// [`activate_backward`] for GELU.
#[inline(always)]
fn gelu_backward<S: Simd, const BY_TANH: bool>(
    simd: S,
    x: &mut [f32],
    gradient: &mut [f32],
    sum: &mut [f32],
) {
    let width = sum.len();
    let rows = x
        .chunks_exact_mut(width)
        .zip(gradient.chunks_exact_mut(width));
    for (x, gradient) in rows {
        let vectors = x
            .chunks_mut(S::F32_LANES)
            .zip(gradient.chunks_mut(S::F32_LANES));
        for ((x, gradient), sum) in vectors.zip(sum.chunks_mut(S::F32_LANES)) {
            let value = load(simd, x);
            let (distribution, density) = normal_of::<S, BY_TANH>(simd, value);
            store(simd, x, simd.mul_f32s(value, distribution));
            let slope = simd.mul_add_e_f32s(value, density, distribution);
            let change = simd.mul_f32s(load(simd, gradient), slope);
            store(simd, gradient, change);
            store(simd, sum, simd.add_f32s(load(simd, sum), change));
        }
    }
}

/// Adds all rows to `sum`.
#[inline(always)]
pub(super) fn add_rows(rows: &[f32], sum: &mut [f32]) {
    for row in rows.chunks_exact(sum.len()) {
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value;
        }
    }
}
