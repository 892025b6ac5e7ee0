//! The short way: backward pass, clipping and update in one or two lines.

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Gradients, Tensor};
use gradclip::{ClipAction, ClipError, ClipReport, Clipper, Outcome, Unscaled};

use crate::{ClippedGradients, CollectError, ModuleGradients};

/// Clipping of a module's gradients in one line, for every [`Clipper`].
pub trait ClipModule {
    /// Clips what `loss.backward()` returned, for the optimizer of Burn, and reports.
    ///
    /// If the step is to be left out ([`ClipAction::Skip`] in the
    /// report), there are no gradients: an optimizer that steps with them leaves every parameter
    /// and every moment as it is.
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
    /// Of several micro-batches, or where a loss was scaled, this is too early, for it would clip
    /// each of them: see [`Accumulated`](gradclip::Accumulated) and [`ModuleGradients`].
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

/// Gradients for Burn's optimizers; none, if the step is to be left out.
fn clip<M: Module>(
    clipper: &mut Clipper,
    gradients: Unscaled<ModuleGradients>,
    loss: Option<f64>,
    module: &M,
) -> Result<(GradientsParams, ClipReport), StepError> {
    Ok(match clipper.clip_deferred(gradients, loss)? {
        Outcome::Apply(deferred) => {
            // Now, so that the report tells what becomes zero.
            let clipped = ClippedGradients::from(deferred.scale());
            let report = clipped.report().clone();
            (clipped.into_params(module), report)
        }
        Outcome::Skip { report, .. } => (GradientsParams::new(), report),
    })
}

/// An optimizer of Burn that clips, and takes no gradients past its [`Clipper`].
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
/// Gradients that came another way are those of [`ClippedOptimizer::step`], which takes what was
/// accumulated, exchanged and unscaled, and nothing before that:
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
    /// Takes the optimizer, so that it cannot be reached past this.
    pub fn new(optimizer: impl Into<ModuleOptimizer>, clipper: Clipper) -> Self {
        ClippedOptimizer {
            optimizer: optimizer.into(),
            clipper,
        }
    }

    /// Goes back from the loss, clips, and updates the module, which is held twice meanwhile. The
    /// rule `skip` is shown the loss.
    ///
    /// If the step is left out ([`ClipAction::Skip`] in the report),
    /// module and optimizer are as before.
    ///
    /// # Errors
    ///
    /// [`StepError`], with module and optimizer as before.
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

    /// Clips gradients that were accumulated, exchanged and unscaled, and updates the module, which
    /// is held twice meanwhile.
    ///
    /// # Errors
    ///
    /// [`StepError`], with module and optimizer as before.
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

/// Why a step was not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The gradients could not be collected.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// They could not be clipped, for example because they are not finite and the rule is
    /// [`NonFinite::Error`](gradclip::NonFinite::Error).
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// The optimizer clips as well, each tensor by itself, which would turn what was clipped here.
    #[error("the optimizer has a gradient clipping of its own; leave out `with_grad_clipping`")]
    ClippedTwice,
}
