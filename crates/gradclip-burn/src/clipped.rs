//! From clipped slices back to tensors, for Burn's optimizers or for one of your own.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use gradclip::{ClipReport, Clipped, Deferred};

use crate::ModuleGradients;
use crate::collect::{Entry, elements};

/// Gradients that went through a [`gradclip::Clipper`]: there is no other way to make one.
///
/// A training step that takes this type cannot be given gradients that nobody clipped:
///
/// ```compile_fail,E0308
/// fn step(gradients: gradclip_burn::ClippedGradients) {}
/// fn forgot_to_clip(gradients: gradclip_burn::ModuleGradients) {
///     step(gradients); // expected `ClippedGradients`, found `ModuleGradients`
/// }
/// ```
#[derive(Debug)]
pub struct ClippedGradients {
    /// What was not taken yet, each with the factor that is still to be multiplied in.
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
    /// What clipping found and did.
    pub fn report(&self) -> &ClipReport {
        &self.report
    }

    /// Takes the gradient of one parameter, on the device and in the type it was computed in.
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

    /// Takes the gradient of one parameter as it is on the host, and what it is still to be
    /// multiplied with: the factor of [`gradclip::Deferred`], which is 1 after
    /// [`gradclip::Clipper::clip`].
    pub fn take_with_factor(&mut self, id: ParamId) -> Option<(TensorData, f64)> {
        let (entry, factor) = self.gradients.remove(&id)?;
        Some((entry.data, factor))
    }

    /// The gradients in the form that every optimizer of Burn takes.
    ///
    /// `module` must be the one they were collected from: a gradient whose parameter it does not
    /// hold is dropped.
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
