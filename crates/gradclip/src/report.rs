//! Reporting: what was measured, what was decided and what came of it.

use alloc::string::String;
use alloc::vec::Vec;

use crate::change::{Change, Effect, cosine_of};
use crate::error::ClipError;
use crate::measure::{Measure, Orders, reported_norm_of_all};
use crate::norm::{Norm, Squares, add_squares, combine_norms};
use crate::rules::{Decided, Link, SkipReason};
use crate::threshold::NormOrder;

/// What a step did to the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClipAction {
    /// The threshold was not exceeded. Every finite element keeps its bits.
    Keep,
    /// At least one tensor was scaled or clamped.
    Clip,
    /// The step is left out: nothing was touched and the optimizer should not step.
    Skip,
}

/// The account of one clip step.
///
/// Norms are in f64 and in the policy's own order
/// ([`ClipPolicy::order`](crate::ClipPolicy::order)), which is 2 unless `p=` says otherwise. They
/// are finite, but for a step that is left out because a gradient is not.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClipReport {
    /// What was done.
    pub action: ClipAction,
    /// Why the step is left out, if it is.
    pub skip_reason: Option<SkipReason>,
    /// The norm of all gradients before clipping; NaN if the step is left out because a gradient
    /// is not finite, and otherwise over the finite elements.
    pub norm_before: f64,
    /// The norm of all gradients after clipping, before rounding to storage. Zero when skipped.
    pub norm_after: f64,
    /// `norm_after / norm_before`; 1 where the norm is zero, 0 when skipped.
    pub coefficient: f64,
    /// The threshold in force at this step: the rule's own number, the percentile, the target of a
    /// spike. Of several rules, that of the last one that has a threshold. `None` when clipping is
    /// off, when the rule has not seen enough to have one, and when each tensor has another.
    pub threshold: Option<f64>,
    /// How many elements were NaN or infinite.
    pub non_finite: u64,
    /// The first tensor, in visiting order, with a non-finite element.
    pub first_non_finite: Option<String>,
    /// The share of all elements that were clamped, in [0, 1]: to the bound of `value`, or under
    /// `normalize` to the largest number of their type. Zero for the other rules, which change all
    /// elements of a tensor or a unit, or none. Non-finite elements set to zero do not count.
    pub clipped_share: f64,
    /// How many elements that were not zero became zero, because their storage type has no number
    /// as small as what they were clipped to. The norms do not show it, which are those before
    /// rounding. `None` where the scaling is left to somebody else, who may lose some:
    /// [`Clipper::clip_deferred`](crate::Clipper::clip_deferred) by a factor of at most one half
    /// (until [`Deferred::scale`](crate::Deferred::scale)), and
    /// [`Clipper::decide`](crate::Clipper::decide) likewise.
    pub rounded_to_zero: Option<u64>,
    /// The cosine of the angle between the (finite) gradient before and after, before rounding to
    /// storage as the norms are, and always by the Euclidean inner product. Exactly 1 where the
    /// direction is kept, and by convention where a norm is zero and where the step is skipped.
    /// `None` where two rules of a chain turned the gradient, for their angles do not add up.
    pub cosine: Option<f64>,
    /// One entry per tensor in visiting order.
    pub tensors: Vec<TensorReport>,
}

/// The account of one tensor in one clip step.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorReport {
    /// The name that the gradients gave.
    pub name: String,
    /// The norm of this tensor before clipping.
    pub norm_before: f64,
    /// The norm of this tensor after clipping, before rounding to storage. Zero when skipped.
    pub norm_after: f64,
    /// `norm_after / norm_before`; 1 where the norm is zero, 0 when skipped.
    pub coefficient: f64,
    /// The threshold of this tensor, for rules that go tensor by tensor.
    pub threshold: Option<f64>,
    /// This tensor's share in the squared Euclidean norm of all, before clipping, in [0, 1].
    pub square_share: f64,
    /// How many of its elements were NaN or infinite.
    pub non_finite: u64,
    /// How many elements it has.
    pub elements: usize,
}

impl ClipReport {
    /// The tensor that contributes most to the squared Euclidean norm before clipping, with its
    /// share in [0, 1]. `None` when every gradient is zero.
    ///
    /// A share near 1 on a step that was clipped hard names the layer to look at.
    #[must_use]
    pub fn dominant(&self) -> Option<(&str, f64)> {
        let mut dominant: Option<&TensorReport> = None;
        for tensor in &self.tensors {
            if tensor.square_share > dominant.map_or(0.0, |largest| largest.square_share) {
                dominant = Some(tensor);
            }
        }
        dominant.map(|tensor| (tensor.name.as_str(), tensor.square_share))
    }

    /// The account of gradients that nothing was done to yet.
    pub(crate) fn measured(order: NormOrder, measures: &[Measure]) -> ClipReport {
        let norm = reported_norm_of_all(measures, order).value();
        let all = add_squares(measures.iter().map(|measure| measure.squares));
        let first_non_finite = measures.iter().find(|measure| measure.non_finite > 0);
        ClipReport {
            action: ClipAction::Keep,
            skip_reason: None,
            norm_before: norm,
            norm_after: norm,
            coefficient: 1.0,
            threshold: None,
            non_finite: measures.iter().map(|measure| measure.non_finite).sum(),
            first_non_finite: first_non_finite.map(|measure| measure.name.clone()),
            clipped_share: 0.0,
            rounded_to_zero: Some(0),
            cosine: Some(1.0),
            tensors: measures
                .iter()
                .map(|measure| TensorReport::measured(measure, all))
                .collect(),
        }
    }

    /// The tensors that are not finite, as the error that stops a step.
    pub(crate) fn non_finite_error(&self) -> ClipError {
        let affected = self.tensors.iter().filter(|tensor| tensor.non_finite > 0);
        let tensors = affected.map(|tensor| (tensor.name.clone(), tensor.non_finite));
        ClipError::NonFinite {
            tensors: tensors.collect(),
        }
    }

    /// The account of a step that is left out.
    pub(crate) fn skip(&mut self, reason: SkipReason, threshold: Option<f64>) {
        self.action = ClipAction::Skip;
        self.skip_reason = Some(reason);
        self.threshold = threshold;
        self.norm_after = 0.0;
        self.coefficient = 0.0;
        if reason == SkipReason::NonFinite {
            self.norm_before = Norm::UNKNOWN.scaled;
        }
        for tensor in &mut self.tensors {
            tensor.norm_after = 0.0;
            tensor.coefficient = 0.0;
            if tensor.non_finite > 0 && reason == SkipReason::NonFinite {
                tensor.norm_before = Norm::UNKNOWN.scaled;
            }
        }
    }

    /// Adds what one rule did, with the effect on each tensor.
    pub(crate) fn apply(
        &mut self,
        rule: &Link,
        orders: Orders,
        measures: &[Measure],
        decided: &Decided,
        effects: &[Effect],
    ) {
        self.threshold = decided.threshold.or(self.threshold);
        for (tensor, threshold) in self.tensors.iter_mut().zip(&decided.tensor_thresholds) {
            tensor.threshold = threshold.or(tensor.threshold);
        }
        if !decided.changes_anything() {
            return;
        }
        self.action = ClipAction::Clip;
        self.rounded_to_zero = effects.iter().fold(self.rounded_to_zero, |sum, effect| {
            Some(sum? + effect.rounded_to_zero?)
        });
        if effects.iter().any(|effect| effect.norm.is_unknown()) {
            self.leave_unknown(effects);
            return;
        }
        let norms = effects.iter().map(|effect| effect.norm);
        let together = combine_norms(norms, orders.report).value();
        // Rounding must not make what was shortened look longer.
        let together = match decided.changes.iter().any(Change::lengthens) {
            true => together,
            false => together.min(reported_norm_of_all(measures, orders.report).value()),
        };
        let known = decided.norm_after.filter(|_| orders.rule == orders.report);
        self.norm_after = known.unwrap_or(together);
        self.coefficient = ratio(self.norm_after, self.norm_before);
        for (tensor, effect) in self.tensors.iter_mut().zip(effects) {
            tensor.norm_after = effect.norm.value();
            tensor.coefficient = ratio(tensor.norm_after, tensor.norm_before);
        }
        let elements: usize = self.tensors.iter().map(|tensor| tensor.elements).sum();
        let clamped: u64 = effects.iter().map(|effect| effect.clamped).sum();
        self.clipped_share = self.clipped_share.max(clamped as f64 / elements as f64);
        if rule.can_turn() || clamped > 0 {
            self.cosine = match (self.cosine, cosine_of(measures, effects)) {
                (Some(1.0), cosine) => Some(cosine),
                (earlier, 1.0) => earlier,
                // The angles of two turns do not add up.
                _ => None,
            };
        }
    }

    /// What a clamp does to elements that are elsewhere does not follow from measures.
    fn leave_unknown(&mut self, effects: &[Effect]) {
        for number in [
            &mut self.norm_after,
            &mut self.coefficient,
            &mut self.clipped_share,
        ] {
            *number = f64::NAN;
        }
        self.cosine = None;
        let of_tensors = self.tensors.iter_mut().zip(effects);
        for (tensor, _) in of_tensors.filter(|(_, effect)| effect.norm.is_unknown()) {
            tensor.norm_after = f64::NAN;
            tensor.coefficient = f64::NAN;
        }
    }
}

fn ratio(after: f64, before: f64) -> f64 {
    if before > 0.0 {
        (after / before).min(f64::MAX)
    } else {
        1.0
    }
}

impl TensorReport {
    fn measured(measure: &Measure, all: Squares) -> TensorReport {
        let own = measure.squares;
        let ratio = own.scale / all.scale;
        TensorReport {
            name: measure.name.clone(),
            norm_before: measure.reported.value(),
            norm_after: measure.reported.value(),
            coefficient: 1.0,
            threshold: None,
            square_share: match all.sum > 0.0 {
                true => own.sum / all.sum * ratio * ratio,
                false => 0.0,
            },
            non_finite: measure.non_finite,
            elements: measure.elements,
        }
    }
}
