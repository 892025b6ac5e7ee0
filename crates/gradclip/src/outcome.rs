//! The outcome of a clipping step: gradients for an optimizer, or a skipped step.

use alloc::vec;
use alloc::vec::Vec;

use crate::change::{Factors, Scale, scale};
use crate::gradients::Gradients;
use crate::report::ClipReport;
use crate::tensors::visit_again;

/// The outcome of a clipping step: gradients for the optimizer, as [`Clipped`] or [`Deferred`], or
/// a skipped step.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "an outcome holds the clipped gradients, or says that the step must be skipped"]
pub enum Outcome<G, C = Clipped<G>> {
    /// The optimizer may step with these gradients.
    Apply(C),
    /// The optimizer must not step; [`ClipReport::skip_reason`] says why.
    Skip {
        /// The gradients, bit for bit as passed in.
        gradients: G,
        /// What was measured.
        report: ClipReport,
    },
}

impl<G> Outcome<G> {
    /// The report of the step, applied or skipped.
    #[must_use]
    pub fn report(&self) -> &ClipReport {
        match self {
            Outcome::Apply(clipped) => clipped.report(),
            Outcome::Skip { report, .. } => report,
        }
    }
}

impl<G> Outcome<G, Deferred<G>> {
    /// The report of the step, applied or skipped.
    #[must_use]
    pub fn report(&self) -> &ClipReport {
        match self {
            Outcome::Apply(deferred) => deferred.report(),
            Outcome::Skip { report, .. } => report,
        }
    }
}

/// Gradients that went through a [`Clipper`](crate::Clipper): proof, in the type, of clipping.
///
/// Only a [`Clipper`](crate::Clipper) creates a `Clipped`, which gives no mutable access. An
/// optimizer whose step takes `Clipped<G>` therefore cannot be given raw gradients, cannot be
/// called before clipping, and cannot see gradients that were modified afterwards:
///
/// ```
/// use gradclip::{ClipPolicy, Clipped, Clipper, NonFinite, Outcome, Unscaled};
///
/// fn step(gradients: Clipped<Vec<(&str, Vec<f32>)>>) { /* update the parameters */ }
///
/// let mut clipper = Clipper::new(ClipPolicy::none(), NonFinite::Skip)?;
/// match clipper.clip(Unscaled::single(vec![("weight", vec![1.0_f32])]))? {
///     Outcome::Apply(clipped) => step(clipped),
///     Outcome::Skip { report, .. } => println!("{} non-finite values", report.non_finite),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Raw gradients are refused by the compiler:
///
/// ```compile_fail,E0308
/// use gradclip::Clipped;
///
/// fn step(gradients: Clipped<Vec<(&str, Vec<f32>)>>) { /* update the parameters */ }
///
/// step(vec![("weight", vec![1.0_f32])]);
/// ```
///
/// An unchecked outcome is refused too, because it may say to skip the step:
///
/// ```compile_fail,E0308
/// use gradclip::{ClipPolicy, Clipped, Clipper, NonFinite, Unscaled};
///
/// fn step(gradients: Clipped<Vec<(&str, Vec<f32>)>>) { /* update the parameters */ }
///
/// let mut clipper = Clipper::new(ClipPolicy::none(), NonFinite::Skip).unwrap();
/// step(clipper.clip(Unscaled::single(vec![("weight", vec![1.0_f32])])).unwrap());
/// ```
///
/// Clipping twice by mistake is refused too; two rules are one policy, joined by `+`:
///
/// ```compile_fail,E0308
/// use gradclip::{ClipPolicy, Clipper, NonFinite, Outcome, Unscaled};
///
/// let mut clipper = Clipper::new(ClipPolicy::none(), NonFinite::Skip).unwrap();
/// let gradients = Unscaled::single(vec![("weight", vec![1.0_f32])]);
/// if let Outcome::Apply(clipped) = clipper.clip(gradients).unwrap() {
///     clipper.clip(clipped);
/// }
/// ```
///
/// and a `Clipped` cannot be built by hand:
///
/// ```compile_fail,E0451
/// use gradclip::{ClipPolicy, Clipped, Clipper, NonFinite, Unscaled};
///
/// let mut clipper = Clipper::new(ClipPolicy::none(), NonFinite::Skip).unwrap();
/// let gradients = Unscaled::single(vec![("weight", vec![1.0_f32])]);
/// let report = clipper.clip(gradients).unwrap().report().clone();
/// let forged = Clipped { gradients: vec![("weight", vec![1.0_f32])], report };
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "clipped gradients do nothing until an optimizer steps with them"]
pub struct Clipped<G> {
    gradients: G,
    report: ClipReport,
}

impl<G> Clipped<G> {
    pub(crate) fn new(gradients: G, report: ClipReport) -> Clipped<G> {
        Clipped { gradients, report }
    }

    /// The gradients after clipping.
    #[must_use]
    pub fn gradients(&self) -> &G {
        &self.gradients
    }

    /// What was measured and changed.
    #[must_use]
    pub fn report(&self) -> &ClipReport {
        &self.report
    }

    /// The gradients and the report, for an optimizer that consumes its gradients.
    #[must_use]
    pub fn into_parts(self) -> (G, ClipReport) {
        (self.gradients, self.report)
    }
}

/// Gradients with a scale factor for each tensor that is still to be applied.
///
/// Returned by [`Clipper::clip_deferred`](crate::Clipper::clip_deferred), so that clipping costs
/// one read of the gradients and no write. The gradients cannot be taken without their factors, so
/// no optimizer steps with unscaled gradients by accident: [`scale`](Deferred::scale) applies the
/// factors, and [`into_parts`](Deferred::into_parts) returns both.
///
/// ```
/// use gradclip::{Clipper, NonFinite, Outcome, Unscaled};
///
/// let mut clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Error)?;
/// let gradients = Unscaled::single(vec![("weight", vec![3.0_f32, 4.0])]);
/// if let Outcome::Apply(deferred) = clipper.clip_deferred(gradients, None)? {
///     assert_eq!(deferred.report().norm_after, 1.0);
///     let (gradients, factors, _) = deferred.into_parts();
///     assert_eq!((gradients[0].1.as_slice(), factors), ([3.0, 4.0].as_slice(), vec![0.2]));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It is not a [`Clipped`]:
///
/// ```compile_fail,E0308
/// use gradclip::{ClipPolicy, Clipped, Clipper, NonFinite, Outcome, Unscaled};
///
/// fn step(gradients: Clipped<Vec<(&str, Vec<f32>)>>) { /* update the parameters */ }
///
/// let mut clipper = Clipper::new(ClipPolicy::none(), NonFinite::Skip).unwrap();
/// let gradients = Unscaled::single(vec![("weight", vec![1.0_f32])]);
/// if let Outcome::Apply(deferred) = clipper.clip_deferred(gradients, None).unwrap() {
///     step(deferred);
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "clipped gradients do nothing until an optimizer steps with them"]
pub struct Deferred<G> {
    clipped: Clipped<G>,
    /// `None` if all are 1.
    factors: Option<Factors>,
}

impl<G> Deferred<G> {
    pub(crate) fn new(clipped: Clipped<G>, factors: Option<Factors>) -> Deferred<G> {
        Deferred { clipped, factors }
    }

    /// What was measured and decided. The norms after clipping include the factors.
    #[must_use]
    pub fn report(&self) -> &ClipReport {
        self.clipped.report()
    }

    /// The gradients, the factor of each tensor in visiting order, and the report.
    ///
    /// The caller must multiply. Multiply each element and its factor in `f64` and round the
    /// product once to the storage type: this gives the bits of
    /// [`Clipper::clip`](crate::Clipper::clip), and nothing less exact does. A factor of 1 changes
    /// no bit.
    #[must_use]
    pub fn into_parts(self) -> (G, Vec<f64>, ClipReport) {
        let (gradients, report) = self.clipped.into_parts();
        let ones = || vec![1.0; report.tensors.len()];
        let factors = self.factors.map(|factors| factors.of_tensors);
        let factors = factors.unwrap_or_else(ones);
        (gradients, factors, report)
    }
}

impl<G: Gradients> Deferred<G> {
    /// Applies the factors now.
    pub fn scale(self) -> Clipped<G> {
        self.scale_with(scale, 1)
    }

    pub(crate) fn scale_with(self, scale: Scale, threads: usize) -> Clipped<G> {
        let Deferred {
            mut clipped,
            factors,
        } = self;
        let Some(mut factors) = factors else {
            return clipped;
        };
        let Clipped { gradients, report } = &mut clipped;
        if let Some(tensors) = gradients.single_precision_mut() {
            factors.rounded_to_zero += scale(tensors, &factors.of_tensors, threads);
        } else {
            let names = report.tensors.iter().map(|tensor| tensor.name.as_str());
            visit_again(gradients, names, |index, elements| {
                let factor = factors.of_tensors[index];
                factors.rounded_to_zero += elements.scale_with(factor, threads);
            });
        }
        report.rounded_to_zero = Some(factors.rounded_to_zero);
        clipped
    }
}
