//! The report of a step: what was measured, decided and changed.

use alloc::string::String;
use alloc::vec::Vec;

use crate::change::{Change, Effect, cosine_of};
use crate::error::ClipError;
use crate::measure::{Measure, Orders, reported_norm_of_all};
use crate::norm::{Norm, Squares, add_squares, combine_norms};
use crate::rules::{Decided, SkipReason};
use crate::threshold::NormOrder;

/// What a step did to the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClipAction {
    /// No threshold was exceeded. Every finite element keeps its bits.
    Keep,
    /// At least one tensor was scaled or clamped.
    Clip,
    /// The step is skipped: nothing was changed and the optimizer should not step.
    Skip,
}

/// The report of one clipping step.
///
/// Norms are `f64`, of the policy's order ([`ClipPolicy::order`](crate::ClipPolicy::order)), which
/// is 2 unless the policy sets `p=`. They are finite, except in a step skipped because of
/// non-finite gradients.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClipReport {
    /// What the step did.
    pub action: ClipAction,
    /// Why the step was skipped, if it was.
    pub skip_reason: Option<SkipReason>,
    /// The norm of all gradients before clipping, over their finite elements; NaN if the step was
    /// skipped because of non-finite gradients.
    pub norm_before: f64,
    /// The norm of all gradients after clipping, before rounding to storage. Zero if skipped.
    pub norm_after: f64,
    /// `norm_after / norm_before`; 1 if the norm is zero, 0 if skipped.
    pub coefficient: f64,
    /// The threshold in effect at this step: the rule's fixed value, the percentile, or the target
    /// of a spike. In a chain, the threshold of the last rule that has one. `None` if clipping is
    /// off, if the rule has not seen enough steps to have one, and if thresholds differ between
    /// tensors.
    pub threshold: Option<f64>,
    /// How many elements were NaN or infinite.
    pub non_finite: u64,
    /// The first tensor, in visiting order, with a non-finite element.
    pub first_non_finite: Option<String>,
    /// The share of all elements that were clamped, in [0, 1]: to the bound of `value`, or under
    /// `normalize` to the largest finite value of their type. Zero for the other rules, which
    /// change all elements of a tensor or unit, or none. Non-finite elements set to zero do not
    /// count.
    pub clipped_share: f64,
    /// How many non-zero elements became zero because clipping underflowed their storage type. The
    /// norms do not show this, because they are taken before rounding. `None` if the caller applies
    /// the scaling and it may underflow: after
    /// [`Clipper::clip_deferred`](crate::Clipper::clip_deferred) with a factor of at most one half
    /// (until [`Deferred::scale`](crate::Deferred::scale)), and likewise after
    /// [`Clipper::decide`](crate::Clipper::decide).
    pub rounded_to_zero: Option<u64>,
    /// The cosine of the angle between the (finite) gradient before and after clipping, with the
    /// Euclidean inner product, before rounding to storage. Exactly 1 if the direction is kept and,
    /// by convention, if a norm is zero or the step is skipped. `None` if two rules of a chain
    /// turned the gradient, because their angles do not add up.
    pub cosine: Option<f64>,
    /// One entry per tensor in visiting order.
    pub tensors: Vec<TensorReport>,
}

/// The report of one tensor in one clipping step.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorReport {
    /// The name of the tensor.
    pub name: String,
    /// The norm of this tensor before clipping.
    pub norm_before: f64,
    /// The norm of this tensor after clipping, before rounding to storage. Zero if skipped.
    pub norm_after: f64,
    /// `norm_after / norm_before`; 1 if the norm is zero, 0 if skipped.
    pub coefficient: f64,
    /// The threshold of this tensor, for rules that clip tensor by tensor.
    pub threshold: Option<f64>,
    /// This tensor's share of the squared Euclidean norm of all tensors before clipping, in [0, 1].
    pub square_share: f64,
    /// The number of its elements that were NaN or infinite.
    pub non_finite: u64,
    /// The number of elements of the tensor.
    pub elements: usize,
}

impl ClipReport {
    /// The tensor that contributes most to the squared Euclidean norm before clipping, with its
    /// share in [0, 1]. `None` when every gradient is zero.
    ///
    /// A share near 1 in a heavily clipped step points to the layer to look at.
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

    /// The report of measured gradients, before any rule.
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

    /// The error that names the non-finite tensors.
    pub(crate) fn non_finite_error(&self) -> ClipError {
        let affected = self.tensors.iter().filter(|tensor| tensor.non_finite > 0);
        let tensors = affected.map(|tensor| (tensor.name.clone(), tensor.non_finite));
        ClipError::NonFinite {
            tensors: tensors.collect(),
        }
    }

    /// Records that the step is skipped.
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

    /// Records what one rule did to each tensor.
    pub(crate) fn record(
        &mut self,
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
            self.mark_unknown(effects);
            return;
        }
        let norms = effects.iter().map(|effect| effect.norm);
        let combined = combine_norms(norms, orders.report).value();
        // Rounding must not make a shortened gradient look longer.
        let combined = match decided.changes.iter().any(Change::lengthens) {
            true => combined,
            false => combined.min(reported_norm_of_all(measures, orders.report).value()),
        };
        let known = decided.norm_after.filter(|_| orders.rule == orders.report);
        self.norm_after = known.unwrap_or(combined);
        self.coefficient = ratio(self.norm_after, self.norm_before);
        for (tensor, effect) in self.tensors.iter_mut().zip(effects) {
            tensor.norm_after = effect.norm.value();
            tensor.coefficient = ratio(tensor.norm_after, tensor.norm_before);
        }
        let elements: usize = self.tensors.iter().map(|tensor| tensor.elements).sum();
        let clamped: u64 = effects.iter().map(|effect| effect.clamped).sum();
        self.clipped_share = self.clipped_share.max(clamped as f64 / elements as f64);
        self.cosine = match (self.cosine, cosine_of(measures, effects)) {
            (Some(1.0), cosine) => Some(cosine),
            (earlier, 1.0) => earlier,
            // The angles of two rotations do not add up.
            _ => None,
        };
    }

    /// Marks as unknown what cannot be computed from measures: the effect of a clamp.
    fn mark_unknown(&mut self, effects: &[Effect]) {
        for value in [
            &mut self.norm_after,
            &mut self.coefficient,
            &mut self.clipped_share,
        ] {
            *value = f64::NAN;
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
