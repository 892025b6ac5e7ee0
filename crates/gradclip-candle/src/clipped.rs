//! Converts clipped slices back to tensors, for Candle's optimizers or your own.

use candle_core::Result;
use candle_core::backprop::GradStore;
use candle_nn::Optimizer;
use gradclip::{ClipReport, Clipped};

use crate::VarGradients;
use crate::transfer::upload;

/// Gradients that went through a [`gradclip::Clipper`], the only way to create this type.
///
/// A training step that takes this type cannot be given unclipped gradients:
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
    /// The report of the clipping step.
    pub fn report(&self) -> &ClipReport {
        &self.report
    }

    /// Steps with one of Candle's optimizers.
    ///
    /// # Errors
    ///
    /// An error of the device or the optimizer.
    pub fn step(self, optimizer: &mut impl Optimizer) -> Result<ClipReport> {
        let (gradients, report) = self.into_parts()?;
        optimizer.step(&gradients)?;
        Ok(report)
    }

    /// Converts the gradients to the form that Candle's optimizers take, on their original devices
    /// and in their original types.
    ///
    /// The store contains only the collected gradients: a variable that was not collected has no
    /// gradient in it, and an optimizer does not update it.
    ///
    /// # Errors
    ///
    /// An error of the device.
    pub fn into_grad_store(self) -> Result<GradStore> {
        self.into_parts().map(|(gradients, _)| gradients)
    }

    fn into_parts(self) -> Result<(GradStore, ClipReport)> {
        let ClippedGradients { gradients, report } = self;
        let (mut vars, mut buffers) = (Vec::new(), Vec::new());
        for entry in gradients.entries {
            vars.push(entry.var);
            buffers.push((entry.gradient, entry.shape));
        }
        let places = buffers.into_iter().zip(&vars);
        let placed = places.map(|((buffer, shape), var)| (buffer, shape, var.device()));
        let mut store = GradStore::default();
        for (var, tensor) in vars.iter().zip(upload(placed)?) {
            store.insert(var, tensor);
        }
        Ok((store, report))
    }
}
