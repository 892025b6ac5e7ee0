//! Backward pass, clipping and update in one or two lines.

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Gradients, Tensor};
use gradclip::{ClipAction, ClipError, ClipReport, Clipper, Outcome, Unscaled};

use crate::{ClippedGradients, CollectError, ModuleGradients};

/// Clips a module's gradients in one line; implemented for [`Clipper`].
pub trait ClipModule {
    /// Clips the result of `loss.backward()` for one of Burn's optimizers.
    ///
    /// If the step should be skipped ([`ClipAction::Skip`] in the report), the returned gradients
    /// are empty: an optimizer step with them leaves every parameter and moment unchanged.
    ///
    /// ```
    /// # use burn::nn::LinearConfig;
    /// # use burn::optim::AdamConfig;
    /// # use burn::tensor::{Device, Tensor};
    /// use gradclip_burn::ClipModule;
    /// use gradclip_burn::gradclip::{Clipper, NonFinite};
    ///
    /// # let device = Device::flex().autodiff();
    /// # let mut model = LinearConfig::new(2, 1).init(&device);
    /// # let mut optimizer = AdamConfig::new().init();
    /// # let inputs = Tensor::<2>::from_floats([[30.0, 40.0]], &device);
    /// let mut clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Skip)?;
    /// # let loss = model.forward(inputs).sum();
    /// let (gradients, report) = clipper.clip_module(loss.backward(), &model)?;
    /// model = optimizer.step(1e-3, model, gradients);
    /// assert!(report.norm_before > 50.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// With several micro-batches or a scaled loss, use [`Accumulated`](gradclip::Accumulated) and
    /// [`ModuleGradients`] instead: this method would clip each micro-batch, or the scaled
    /// gradients.
    ///
    /// # Errors
    ///
    /// [`StepError::Collect`] and [`StepError::Clip`].
    fn clip_module<M: Module>(
        &mut self,
        gradients: Gradients,
        module: &M,
    ) -> Result<(GradientsParams, ClipReport), StepError>;
}

impl ClipModule for Clipper {
    fn clip_module<M: Module>(
        &mut self,
        gradients: Gradients,
        module: &M,
    ) -> Result<(GradientsParams, ClipReport), StepError> {
        let gradients = ModuleGradients::collect(gradients, module, self.policy())?;
        clip(self, Unscaled::single(gradients), None, module)
    }
}

/// Gradients for Burn's optimizers; empty if the step should be skipped.
fn clip<M: Module>(
    clipper: &mut Clipper,
    gradients: Unscaled<ModuleGradients>,
    loss: Option<f64>,
    module: &M,
) -> Result<(GradientsParams, ClipReport), StepError> {
    Ok(match clipper.clip_deferred(gradients, loss)? {
        Outcome::Apply(deferred) => {
            // Scale now, so that the report counts the elements that underflow to zero.
            let clipped = ClippedGradients::from(deferred.scale());
            let report = clipped.report().clone();
            (clipped.into_params(module), report)
        }
        Outcome::Skip { report, .. } => (GradientsParams::new(), report),
    })
}

/// A Burn optimizer that clips all its gradients with a [`Clipper`].
///
/// ```
/// use burn::nn::{LinearConfig, loss::{MseLoss, Reduction}};
/// use burn::optim::SgdConfig;
/// use burn::tensor::{Device, Tensor};
/// use gradclip_burn::ClippedOptimizer;
/// use gradclip_burn::gradclip::{Clipper, NonFinite};
///
/// let device = Device::flex().autodiff();
/// let mut model = LinearConfig::new(2, 1).init(&device);
/// let clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Skip)?;
/// let mut optimizer = ClippedOptimizer::new(SgdConfig::new().init(), clipper);
///
/// let inputs = Tensor::<2>::from_floats([[3e3, 4e3]], &device);
/// let targets = Tensor::<2>::from_floats([[1.0]], &device);
/// let loss = MseLoss::new().forward(model.forward(inputs), targets, Reduction::Mean);
/// let report = optimizer.backward_step(1e-3, &mut model, &loss)?;
/// assert_eq!(report.norm_after, 1.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// For gradients from elsewhere, use [`ClippedOptimizer::step`], which takes only accumulated,
/// reduced and unscaled gradients:
///
/// ```compile_fail,E0308
/// # use burn::nn::Linear;
/// # use gradclip_burn::{ClippedOptimizer, ModuleGradients};
/// # use gradclip_burn::gradclip::Accumulated;
/// fn too_early(
///     optimizer: &mut ClippedOptimizer,
///     model: &mut Linear,
///     gradients: Accumulated<ModuleGradients>,
/// ) {
///     optimizer.step(1e-3, model, gradients); // expected `Unscaled<ModuleGradients>`
/// }
/// ```
#[derive(Clone)]
pub struct ClippedOptimizer {
    optimizer: ModuleOptimizer,
    clipper: Clipper,
}

impl ClippedOptimizer {
    /// Wraps an optimizer, taking ownership so that no step can bypass the clipper.
    pub fn new(optimizer: impl Into<ModuleOptimizer>, clipper: Clipper) -> Self {
        ClippedOptimizer {
            optimizer: optimizer.into(),
            clipper,
        }
    }

    /// Runs the backward pass from `loss`, clips, and updates the module, keeping a second copy of
    /// it meanwhile. The loss is also passed to the rule `skip`.
    ///
    /// If the step is skipped ([`ClipAction::Skip`] in the report), module and optimizer are
    /// unchanged.
    ///
    /// # Errors
    ///
    /// [`StepError`]. Module and optimizer are then unchanged.
    pub fn backward_step<M: Module>(
        &mut self,
        learning_rate: impl Into<ModuleLearningRate>,
        module: &mut M,
        loss: &Tensor<1>,
    ) -> Result<ClipReport, StepError> {
        let policy = self.clipper.policy();
        let gradients = ModuleGradients::collect(loss.backward(), module, policy)?;
        let value = loss.clone().try_into_data();
        let value = value.map_err(|error| CollectError::Read(error.to_string()))?;
        let loss = value.iter::<f64>().sum();
        self.update(
            learning_rate.into(),
            module,
            Unscaled::single(gradients),
            Some(loss),
        )
    }

    /// Clips accumulated, reduced and unscaled gradients, and updates the module, keeping a second
    /// copy of it meanwhile.
    ///
    /// # Errors
    ///
    /// [`StepError`]. Module and optimizer are then unchanged.
    pub fn step<M: Module>(
        &mut self,
        learning_rate: impl Into<ModuleLearningRate>,
        module: &mut M,
        gradients: Unscaled<ModuleGradients>,
    ) -> Result<ClipReport, StepError> {
        self.update(learning_rate.into(), module, gradients, None)
    }

    fn update<M: Module>(
        &mut self,
        learning_rate: ModuleLearningRate,
        module: &mut M,
        gradients: Unscaled<ModuleGradients>,
        loss: Option<f64>,
    ) -> Result<ClipReport, StepError> {
        if self.optimizer.has_gradient_clipping() {
            return Err(StepError::ClippedTwice);
        }
        let (gradients, report) = clip(&mut self.clipper, gradients, loss, module)?;
        if report.action != ClipAction::Skip {
            *module = self
                .optimizer
                .step(learning_rate, module.clone(), gradients);
        }
        Ok(report)
    }

    /// The clipper, to read its policy or its state.
    pub fn clipper(&self) -> &Clipper {
        &self.clipper
    }

    /// The clipper, to restore its state.
    pub fn clipper_mut(&mut self) -> &mut Clipper {
        &mut self.clipper
    }

    /// The optimizer, to save its moments.
    pub fn optimizer(&self) -> &ModuleOptimizer {
        &self.optimizer
    }
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The gradients could not be collected.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// The gradients could not be clipped, for example because they are not finite under
    /// [`NonFinite::Error`](gradclip::NonFinite::Error).
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// The optimizer does its own clipping, tensor by tensor, which would turn the clipped
    /// gradient.
    #[error("the optimizer does its own gradient clipping; remove `with_grad_clipping`")]
    ClippedTwice,
}
