//! The clip step: measure, decide, apply, report.

use std::fmt;

use crate::apply::{ClampEffect, apply, zero_non_finite};
use crate::decision::{Change, decide};
use crate::gradients::Gradients;
use crate::measure::{TensorMeasure, measure_tensor};
use crate::policy::{ClipPolicy, NonFinite};
use crate::report::ClipReport;

/// Clips gradients by one policy and one rule for non-finite values.
///
/// ```
/// use gradclip::{ClipPolicy, Clipper, NonFinite, Outcome};
///
/// let mut clipper = Clipper::new("global-norm:1".parse::<ClipPolicy>()?, NonFinite::Error);
/// let Outcome::Apply(clipped) = clipper.clip(vec![("weight", vec![3.0_f32, 4.0])])? else {
///     unreachable!("NonFinite::Error never skips");
/// };
/// assert_eq!(clipped.gradients()[0].1, [0.6, 0.8]);
/// assert_eq!(clipped.report().norm_before, 5.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clipper {
    policy: ClipPolicy,
    non_finite: NonFinite,
    threads: usize,
}

impl Clipper {
    /// A clipper that works on one thread.
    #[must_use]
    pub fn new(policy: ClipPolicy, non_finite: NonFinite) -> Clipper {
        Clipper {
            policy,
            non_finite,
            threads: 1,
        }
    }

    /// Uses up to `threads` threads on tensors that are large enough to gain from them. The result
    /// has the same bits for every number of threads. Zero means one.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Clipper {
        self.threads = threads.max(1);
        self
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &ClipPolicy {
        &self.policy
    }

    /// Measures the gradients, decides, changes what has to change and reports.
    ///
    /// Gradients are clipped only if a norm (or, for `value`, a magnitude) is greater than the
    /// threshold; equality is kept, and what is not clipped keeps its bits. Scaling computes
    /// `g * (C / N)` in f64 and rounds once. Pass `&mut gradients` to keep ownership.
    ///
    /// It takes `&mut self` so that policies that learn from past steps fit the same call.
    ///
    /// # Errors
    ///
    /// [`ClipError::NonFinite`] under [`NonFinite::Error`], with every gradient left as it was.
    ///
    /// # Panics
    ///
    /// If `gradients` visits other tensors on the second visit than on the first, which breaks
    /// the contract of [`Gradients`].
    pub fn clip<G: Gradients>(&mut self, mut gradients: G) -> Result<Outcome<G>, ClipError> {
        let measures = self.measure(&mut gradients);
        if let Some(first) = measures.iter().find(|measure| measure.non_finite > 0) {
            match self.non_finite {
                NonFinite::Error => {
                    let (tensor, count) = (first.name.clone(), first.non_finite);
                    return Err(ClipError::NonFinite { tensor, count });
                }
                NonFinite::Skip => {
                    let report = ClipReport::skipped(&self.policy, measures);
                    return Ok(Outcome::Skip { gradients, report });
                }
                NonFinite::Zero => {}
            }
        }
        let changes = decide(&self.policy, &measures);
        let effects = self.apply(&mut gradients, &measures, &changes);
        let report = ClipReport::applied(&self.policy, measures, &changes, &effects);
        Ok(Outcome::Apply(Clipped { gradients, report }))
    }

    fn measure<G: Gradients>(&self, gradients: &mut G) -> Vec<TensorMeasure> {
        let order = self.policy.order();
        let mut measures = Vec::new();
        gradients.visit(&mut |name, values| {
            measures.push(measure_tensor(name, values, order, self.threads));
        });
        measures
    }

    fn apply<G: Gradients>(
        &self,
        gradients: &mut G,
        measures: &[TensorMeasure],
        changes: &[Change],
    ) -> Vec<Option<ClampEffect>> {
        let kept = |(measure, change): (&TensorMeasure, &Change)| {
            measure.non_finite == 0 && *change == Change::Keep
        };
        if measures.iter().zip(changes).all(kept) {
            return vec![None; measures.len()];
        }
        let mut effects = Vec::with_capacity(measures.len());
        gradients.visit(&mut |name, values| {
            let index = effects.len();
            let measured = measures.get(index).map(|measure| measure.name.as_str());
            assert_eq!(
                Some(name),
                measured,
                "Gradients::visit must visit the same tensors in the same order each time"
            );
            if measures[index].non_finite > 0 {
                zero_non_finite(values);
            }
            effects.push(apply(values, changes[index], self.threads));
        });
        assert_eq!(
            effects.len(),
            measures.len(),
            "Gradients::visit must visit every tensor"
        );
        effects
    }
}

/// What became of the gradients.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "an outcome holds the clipped gradients, or says that the step must be skipped"]
pub enum Outcome<G> {
    /// The optimizer may step with these gradients.
    Apply(Clipped<G>),
    /// The optimizer must not step: non-finite gradients under [`NonFinite::Skip`].
    Skip {
        /// The gradients, bit for bit as they came.
        gradients: G,
        /// What was measured.
        report: ClipReport,
    },
}

impl<G> Outcome<G> {
    /// The report, whatever became of the gradients.
    #[must_use]
    pub fn report(&self) -> &ClipReport {
        match self {
            Outcome::Apply(clipped) => clipped.report(),
            Outcome::Skip { report, .. } => report,
        }
    }
}

/// Gradients that went through a [`Clipper`]: the proof, by type, that clipping happened.
///
/// Only [`Clipper::clip`] makes a `Clipped`, and it gives no mutable access. An optimizer whose
/// step takes `Clipped<G>` therefore cannot be handed raw gradients, cannot be called before
/// clipping, and cannot see gradients that were changed after it:
///
/// ```
/// use gradclip::{ClipPolicy, Clipped, Clipper, NonFinite, Outcome};
///
/// fn step(gradients: Clipped<Vec<(&str, Vec<f32>)>>) { /* update the parameters */ }
///
/// let mut clipper = Clipper::new(ClipPolicy::None, NonFinite::Skip);
/// match clipper.clip(vec![("weight", vec![1.0_f32])])? {
///     Outcome::Apply(clipped) => step(clipped),
///     Outcome::Skip { report, .. } => println!("{} non-finite values", report.non_finite),
/// }
/// # Ok::<(), gradclip::ClipError>(())
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
/// and a `Clipped` cannot be built by hand:
///
/// ```compile_fail,E0451
/// use gradclip::{ClipPolicy, Clipped, Clipper, NonFinite};
///
/// let mut clipper = Clipper::new(ClipPolicy::None, NonFinite::Skip);
/// let report = clipper.clip(vec![("weight", vec![1.0_f32])]).unwrap().report().clone();
/// let forged = Clipped { gradients: vec![("weight", vec![1.0_f32])], report };
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "clipped gradients do nothing until an optimizer steps with them"]
pub struct Clipped<G> {
    gradients: G,
    report: ClipReport,
}

impl<G> Clipped<G> {
    /// The gradients after clipping.
    #[must_use]
    pub fn gradients(&self) -> &G {
        &self.gradients
    }

    /// What was measured and done.
    #[must_use]
    pub fn report(&self) -> &ClipReport {
        &self.report
    }

    /// Takes the proof apart, for an optimizer that consumes its gradients.
    #[must_use]
    pub fn into_parts(self) -> (G, ClipReport) {
        (self.gradients, self.report)
    }
}

/// Why gradients could not be clipped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClipError {
    /// A gradient holds NaN or infinite elements and the rule is [`NonFinite::Error`].
    NonFinite {
        /// The first such tensor in visiting order.
        tensor: String,
        /// How many of its elements are not finite.
        count: u64,
    },
}

impl fmt::Display for ClipError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClipError::NonFinite { tensor, count } => {
                let values = if *count == 1 { "value" } else { "values" };
                write!(
                    formatter,
                    "gradient of `{tensor}` has {count} non-finite {values} (NaN or infinity); \
                     no gradient was changed"
                )
            }
        }
    }
}

impl std::error::Error for ClipError {}
