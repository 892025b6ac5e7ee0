//! Converts clipped slices back to tensors, for Burn's optimizers or your own.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use gradclip::{ClipReport, Clipped, Deferred};

use crate::ModuleGradients;
use crate::collect::{Entry, elements};

/// Gradients that went through a [`gradclip::Clipper`], the only way to create this type.
///
/// A training step that takes this type cannot be given unclipped gradients:
///
/// ```compile_fail,E0308
/// fn step(gradients: gradclip_burn::ClippedGradients) {}
/// fn forgot_to_clip(gradients: gradclip_burn::ModuleGradients) {
///     step(gradients); // expected `ClippedGradients`, found `ModuleGradients`
/// }
/// ```
#[derive(Debug)]
pub struct ClippedGradients {
    /// The gradients not yet taken, each with the factor still to be applied.
    gradients: HashMap<ParamId, (Entry, f64)>,
    report: ClipReport,
}

impl From<Clipped<ModuleGradients>> for ClippedGradients {
    fn from(clipped: Clipped<ModuleGradients>) -> Self {
        let (gradients, report) = clipped.into_parts();
        let entries = gradients.entries.into_iter();
        let gradients = entries.map(|entry| (entry.id, (entry, 1.0)));
        ClippedGradients {
            gradients: gradients.collect(),
            report,
        }
    }
}

impl From<Deferred<ModuleGradients>> for ClippedGradients {
    fn from(deferred: Deferred<ModuleGradients>) -> Self {
        let (gradients, factors, report) = deferred.into_parts();
        let entries = gradients.entries.into_iter().zip(factors);
        let gradients = entries.map(|(entry, factor)| (entry.id, (entry, factor)));
        ClippedGradients {
            gradients: gradients.collect(),
            report,
        }
    }
}

impl ClippedGradients {
    /// The report of the clipping step.
    pub fn report(&self) -> &ClipReport {
        &self.report
    }

    /// Takes the gradient of one parameter, on its original device and in its original type. `None`
    /// if it has none or was taken before.
    ///
    /// # Panics
    ///
    /// If `D` is not the rank of the parameter.
    pub fn take<const D: usize>(&mut self, id: ParamId) -> Option<Tensor<D>> {
        let (mut entry, factor) = self.gradients.remove(&id)?;
        elements(&mut entry.data).scale(factor);
        let dtype = entry.data.dtype();
        Some(Tensor::from_data(entry.data, (&entry.device, dtype)))
    }

    /// Takes the gradient of one parameter on the host, with the factor still to be applied to it:
    /// the factor of [`gradclip::Deferred`], or 1 after [`gradclip::Clipper::clip`].
    pub fn take_with_factor(&mut self, id: ParamId) -> Option<(TensorData, f64)> {
        let (entry, factor) = self.gradients.remove(&id)?;
        Some((entry.data, factor))
    }

    /// Converts the gradients to the form that Burn's optimizers take.
    ///
    /// `module` must be the module they were collected from: gradients of other parameters are
    /// dropped.
    pub fn into_params<M: Module>(mut self, module: &M) -> GradientsParams {
        struct Register<'a> {
            clipped: &'a mut ClippedGradients,
            params: GradientsParams,
        }
        impl ModuleVisitor for Register<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(gradient) = self.clipped.take::<D>(param.id) {
                    self.params.register(param.id, gradient);
                }
            }
        }
        let mut register = Register {
            clipped: &mut self,
            params: GradientsParams::new(),
        };
        module.visit(&mut register);
        register.params
    }
}
