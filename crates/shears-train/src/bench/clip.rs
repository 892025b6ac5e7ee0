//! The cost of clipping and updating on the tensors of a real model, compared with one read of
//! them.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use burn::module::Param;
use burn::tensor::{Device, Gradients, Tensor};
use gradclip::{Gradients as _, Outcome, Unscaled};
use gradclip_burn::{ClippedGradients, ModuleGradients};
use serde::Serialize;
use shears_kernels::Elements;
use shears_model::{LanguageModel, ParameterVisitor, visit_parameters};

use super::Spread;
use crate::TrainError;
use crate::plan::Plan;
use crate::trainer::{new_clipper, new_optimizer};

/// The results of [`bench_clip`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClipBench {
    /// Number of elements of all gradients.
    pub parameters: usize,
    /// Number of gradient tensors.
    pub tensors: usize,
    /// Milliseconds: `read` reads the gradients once (their sum in `f32`), `clip` measures and
    /// decides but defers scaling to the update, `clip_and_update` is both, and `clip_in_place`
    /// measures, decides and scales.
    pub ms: BTreeMap<&'static str, Spread>,
}

/// Untimed rounds, which map memory and start the threads.
const WARMUP_ROUNDS: u64 = 2;

/// Times the clipping policy and the optimizer of a plan on random gradients of a model on an
/// autodiff device. Each is measured once per round, on freshly written gradients, as after a
/// backward pass.
///
/// # Errors
///
/// [`TrainError::Collect`] if reading from the device fails, and [`TrainError::NonFinite`] if the
/// policy cannot be applied.
pub fn bench_clip<M: LanguageModel>(
    plan: &Plan,
    mut model: M,
    threads: usize,
    device: &Device,
    rounds: u64,
) -> Result<ClipBench, TrainError> {
    let mut clipper = new_clipper(plan, &model, threads);
    let mut optimizer = new_optimizer(plan);
    let (mut read, mut clip) = (Vec::new(), Vec::new());
    let (mut clip_and_update, mut clip_in_place) = (Vec::new(), Vec::new());
    let (mut parameters, mut tensors) = (0, 0);
    for round in 0..WARMUP_ROUNDS + rounds {
        let refused = |cause| TrainError::NonFinite { step: round, cause };
        let gradients = random_gradients(plan, &model, device)?;
        let started = Instant::now();
        let slices = gradients.single_precision().unwrap_or_default();
        black_box(shears_kernels::read(&slices, threads));
        read.push(started.elapsed());
        (tensors, parameters) = (slices.len(), slices.iter().map(|slice| slice.len()).sum());

        let mut gradients = random_gradients(plan, &model, device)?;
        let started = Instant::now();
        let outcome = clipper.clip_deferred(Unscaled::single(&mut gradients), None);
        black_box(outcome.map_err(refused)?.report());
        clip.push(started.elapsed());

        let gradients = random_gradients(plan, &model, device)?;
        let started = Instant::now();
        let outcome = clipper.clip_deferred(Unscaled::single(gradients), None);
        if let Outcome::Apply(deferred) = outcome.map_err(refused)? {
            model = optimizer.step(model, ClippedGradients::from(deferred), plan.lr);
        }
        clip_and_update.push(started.elapsed());

        let mut gradients = random_gradients(plan, &model, device)?;
        let started = Instant::now();
        let outcome = clipper.clip(Unscaled::single(&mut gradients));
        black_box(outcome.map_err(refused)?.report());
        clip_in_place.push(started.elapsed());
    }
    let spread = |times: Vec<std::time::Duration>| {
        let measured = times.into_iter().skip(WARMUP_ROUNDS as usize);
        Spread::of(measured.map(|time| time.as_secs_f64() * 1e3).collect())
    };
    let ms = [
        ("read", spread(read)),
        ("clip", spread(clip)),
        ("clip_and_update", spread(clip_and_update)),
        ("clip_in_place", spread(clip_in_place)),
    ];
    Ok(ClipBench {
        parameters,
        tensors,
        ms: ms.into(),
    })
}

/// A gradient for each parameter, as if they came out of a backward pass: uniform in [-1, 1), the
/// same at each call.
fn random_gradients<M: LanguageModel>(
    plan: &Plan,
    model: &M,
    device: &Device,
) -> Result<ModuleGradients, TrainError> {
    struct Fill {
        gradients: Gradients,
        values: Vec<f32>,
    }
    impl ParameterVisitor for Fill {
        fn visit<const D: usize>(&mut self, _name: String, parameter: &Param<Tensor<D>>) {
            let weight = parameter.val();
            let shape = weight.dims();
            let mut gradient = Elements::zeros(shape.iter().product());
            for chunk in gradient.as_mut_slice().chunks_mut(self.values.len()) {
                chunk.copy_from_slice(&self.values[..chunk.len()]);
            }
            let gradient = gradient.into_flat().reshape(shape);
            weight.grad_replace(&mut self.gradients, gradient);
        }
    }
    let mut state = 1_u64;
    let next = || {
        // Knuth's MMIX generator.
        state = state.wrapping_mul(6_364_136_223_846_793_005);
        state = state.wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut fill = Fill {
        gradients: Tensor::<1>::zeros([1], device).require_grad().backward(),
        values: std::iter::repeat_with(next).take(99_991).collect(),
    };
    visit_parameters(model, &mut fill);
    Ok(ModuleGradients::collect(fill.gradients, model, &plan.clip)?)
}
