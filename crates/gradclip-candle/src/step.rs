//! Backward pass, clipping and update in one line.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, VarMap};
use gradclip::{ClipError, ClipReport, Clipper, Outcome, Unscaled};

use crate::collect::sorted;
use crate::{ClippedGradients, CollectError, VarGradients};

/// A Candle optimizer that clips all its gradients with a [`Clipper`].
///
/// ```
/// # use candle_core::{DType, Device, Tensor};
/// # use candle_nn::{Module, Optimizer, SGD, VarBuilder, VarMap, linear, loss::mse};
/// use gradclip_candle::ClippedOptimizer;
/// use gradclip_candle::gradclip::{Clipper, NonFinite};
///
/// # let vars = VarMap::new();
/// # let model = linear(2, 1, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
/// # let inputs = Tensor::new(&[[3e3_f32, 4e3]], &Device::Cpu)?;
/// # let targets = Tensor::new(&[[1_f32]], &Device::Cpu)?;
/// let clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Skip)?;
/// let optimizer = SGD::new(vars.all_vars(), 1e-2)?;
/// let mut optimizer = ClippedOptimizer::new(optimizer, clipper, &vars);
/// let loss = mse(&model.forward(&inputs)?, &targets)?;
/// let report = optimizer.backward_step(&loss)?;
/// assert_eq!(report.norm_after, 1.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It does not implement [`Optimizer`], so it has no step with a raw
/// [`GradStore`](candle_core::backprop::GradStore). [`ClippedOptimizer::step`] takes only
/// accumulated, reduced and unscaled gradients:
///
/// ```compile_fail,E0308
/// # use candle_nn::SGD;
/// # use gradclip_candle::ClippedOptimizer;
/// fn forgot(optimizer: &mut ClippedOptimizer<SGD>, loss: candle_core::Tensor) {
///     let gradients = loss.backward().unwrap();
///     optimizer.step(gradients); // expected `Unscaled<VarGradients>`, found `GradStore`
/// }
/// ```
///
/// ```compile_fail,E0308
/// # use candle_nn::SGD;
/// # use gradclip_candle::{ClippedOptimizer, VarGradients};
/// # use gradclip_candle::gradclip::Accumulated;
/// fn too_early(optimizer: &mut ClippedOptimizer<SGD>, gradients: Accumulated<VarGradients>) {
///     optimizer.step(gradients); // expected `Unscaled<VarGradients>`
/// }
/// ```
#[derive(Debug)]
pub struct ClippedOptimizer<O> {
    optimizer: O,
    clipper: Clipper,
    vars: Vec<(String, Var)>,
}

impl<O: Optimizer> ClippedOptimizer<O> {
    /// Wraps an optimizer, taking ownership so that no step can bypass the clipper. The variables
    /// are those in the map at this time; variables of the optimizer that are not in the map are
    /// not trained.
    pub fn new(optimizer: O, clipper: Clipper, vars: &VarMap) -> Self {
        ClippedOptimizer::with_named(optimizer, clipper, sorted(vars))
    }

    /// Like [`ClippedOptimizer::new`], for a model without a [`VarMap`].
    pub fn with_named(optimizer: O, clipper: Clipper, vars: Vec<(String, Var)>) -> Self {
        ClippedOptimizer {
            optimizer,
            clipper,
            vars,
        }
    }

    /// Runs the backward pass from `loss`, clips, and updates the variables. The loss is also
    /// passed to the rule `skip`.
    ///
    /// If the step is skipped ([`ClipAction::Skip`](gradclip::ClipAction::Skip) in the report), the
    /// optimizer is not called: variables and moments are unchanged.
    ///
    /// # Errors
    ///
    /// [`StepError`]. Nothing was changed, except after [`StepError::Candle`], which may occur in
    /// the middle of an update.
    pub fn backward_step(&mut self, loss: &Tensor) -> Result<ClipReport, StepError> {
        let gradients = loss.backward()?;
        let policy = self.clipper.policy();
        let gradients = VarGradients::collect_named(gradients, &self.vars, policy)?;
        let value = loss
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F64)?
            .sum_all()?
            .to_scalar::<f64>()?;
        let outcome = self
            .clipper
            .clip_with_loss(Unscaled::single(gradients), value)?;
        self.update(outcome)
    }

    /// Clips accumulated, reduced and unscaled gradients, and updates the variables.
    ///
    /// # Errors
    ///
    /// As [`ClippedOptimizer::backward_step`].
    pub fn step(&mut self, gradients: Unscaled<VarGradients>) -> Result<ClipReport, StepError> {
        let outcome = self.clipper.clip(gradients)?;
        self.update(outcome)
    }

    fn update(&mut self, outcome: Outcome<VarGradients>) -> Result<ClipReport, StepError> {
        Ok(match outcome {
            Outcome::Apply(clipped) => ClippedGradients::from(clipped).step(&mut self.optimizer)?,
            Outcome::Skip { report, .. } => report,
        })
    }

    /// The learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.optimizer.learning_rate()
    }

    /// Sets the learning rate, for a schedule.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.optimizer.set_learning_rate(learning_rate);
    }

    /// The clipper, to read its policy or its state.
    pub fn clipper(&self) -> &Clipper {
        &self.clipper
    }

    /// The clipper, to restore its state.
    pub fn clipper_mut(&mut self) -> &mut Clipper {
        &mut self.clipper
    }

    /// The optimizer, to read its settings or moments.
    pub fn optimizer(&self) -> &O {
        &self.optimizer
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The gradients could not be collected.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// The gradients could not be clipped, for example because they are not finite under
    /// [`NonFinite::Error`](gradclip::NonFinite::Error).
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// The backward pass, the device or the optimizer failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
