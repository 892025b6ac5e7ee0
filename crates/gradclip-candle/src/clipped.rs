//! From clipped slices back to tensors, for Candle's optimizers or for one of your own.

use candle_core::Result;
use candle_core::backprop::GradStore;
use candle_nn::Optimizer;
use gradclip::{ClipReport, Clipped};

use crate::VarGradients;

/// Gradients that went through a [`gradclip::Clipper`]: there is no other way to make one.
///
/// A training step that takes this type cannot be given gradients that nobody clipped:
///
/// ```compile_fail,E0308
/// fn step(gradients: gradclip_candle::ClippedGradients) {}
/// fn forgot_to_clip(gradients: gradclip_candle::VarGradients) {
///     step(gradients); // expected `ClippedGradients`, found `VarGradients`
/// }
/// ```
#[derive(Debug)]
#[must_use = "clipped gradients do nothing until an optimizer steps with them"]
pub struct ClippedGradients {
    gradients: VarGradients,
    report: ClipReport,
}

impl From<Clipped<VarGradients>> for ClippedGradients {
    fn from(clipped: Clipped<VarGradients>) -> Self {
        let (gradients, report) = clipped.into_parts();
        ClippedGradients { gradients, report }
    }
}

impl ClippedGradients {
    /// What clipping found and did.
    pub fn report(&self) -> &ClipReport {
        &self.report
    }

    /// Steps with an optimizer of Candle.
    ///
    /// # Errors
    ///
    /// That of the device or of the optimizer.
    pub fn step(self, optimizer: &mut impl Optimizer) -> Result<ClipReport> {
        let (gradients, report) = self.into_parts()?;
        optimizer.step(&gradients)?;
        Ok(report)
    }

    /// The gradients in the form that every optimizer of Candle takes, on the devices and in the
    /// types they were computed in.
    ///
    /// The store holds what was collected and clipped, and nothing else: a variable that was not
    /// collected has no gradient in it, and an optimizer leaves it alone.
    ///
    /// # Errors
    ///
    /// That of the device.
    pub fn into_grad_store(self) -> Result<GradStore> {
        self.into_parts().map(|(gradients, _)| gradients)
    }

    fn into_parts(self) -> Result<(GradStore, ClipReport)> {
        let ClippedGradients { gradients, report } = self;
        let entries = &gradients.entries;
        let shapes = entries.iter().map(|entry| entry.shape.as_slice());
        let tensors = gradients.gradients.into_tensors(shapes)?;
        let mut store = GradStore::default();
        for (entry, tensor) in entries.iter().zip(tensors) {
            store.insert(&entry.var, tensor);
        }
        Ok((store, report))
    }
}

/// An optimizer of Candle that takes clipped gradients and no others.
///
/// It is no [`Optimizer`], so neither `backward_step` nor a step with a raw [`GradStore`] is there
/// to be called by mistake:
///
/// ```
/// # use candle_core::{Device, Var};
/// # use candle_nn::{Optimizer, SGD};
/// # use gradclip_candle::{ClippedGradients, ClippedOptimizer, VarGradients};
/// # use gradclip_candle::gradclip::{ClipPolicy, Clipper, NonFinite, Outcome, Unscaled};
/// let weight = Var::new(&[3_f32, 4.0], &Device::Cpu)?;
/// let mut optimizer = ClippedOptimizer::new(SGD::new(vec![weight.clone()], 1.0)?);
/// let mut clipper = Clipper::new("global-norm:5".parse::<ClipPolicy>()?, NonFinite::Skip);
///
/// let gradients = weight.sqr()?.sum_all()?.backward()?;
/// let gradients = VarGradients::collect_named(gradients, &[("weight", weight.clone())])?;
/// if let Outcome::Apply(clipped) = clipper.clip(Unscaled::single(gradients))? {
///     let report = optimizer.step(clipped)?;
///     assert_eq!((report.norm_before, report.norm_after), (10.0, 5.0));
/// }
/// assert_eq!(weight.to_vec1::<f32>()?, [0.0, 0.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```compile_fail,E0308
/// # use candle_nn::SGD;
/// # use gradclip_candle::ClippedOptimizer;
/// fn forgot_to_clip(optimizer: &mut ClippedOptimizer<SGD>, loss: candle_core::Tensor) {
///     let gradients = loss.backward().unwrap();
///     optimizer.step(gradients); // expected `Clipped<VarGradients>`, found `GradStore`
/// }
/// ```
#[derive(Debug)]
pub struct ClippedOptimizer<O> {
    optimizer: O,
}

impl<O: Optimizer> ClippedOptimizer<O> {
    /// Takes the optimizer, so that it cannot be reached past this.
    pub fn new(optimizer: O) -> Self {
        ClippedOptimizer { optimizer }
    }

    /// Steps with clipped gradients.
    ///
    /// # Errors
    ///
    /// That of the device or of the optimizer.
    pub fn step(&mut self, clipped: Clipped<VarGradients>) -> Result<ClipReport> {
        ClippedGradients::from(clipped).step(&mut self.optimizer)
    }

    /// The learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.optimizer.learning_rate()
    }

    /// Sets the learning rate, for a schedule.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.optimizer.set_learning_rate(learning_rate);
    }

    /// The optimizer, to read its settings or moments.
    pub fn optimizer(&self) -> &O {
        &self.optimizer
    }
}
