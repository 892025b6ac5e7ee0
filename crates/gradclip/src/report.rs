//! Reporting: what was measured, what was decided and what came of it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::apply::Effect;
use crate::decision::{Change, Decision, scaled_norm};
use crate::direction::{cosine_of_effects, cosine_of_scaling};
use crate::measure::{TensorMeasure, reported_norm_of_all};
use crate::norm::{Norm, Squares, add_squares, combine_norms};
use crate::policy::{ClipRule, NormOrder};
use crate::significant::significant;

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

/// Why a step is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum SkipReason {
    /// A gradient is not finite, under [`NonFinite::Skip`](crate::NonFinite::Skip).
    NonFinite,
    /// The norm of all gradients is an outlier.
    Norm {
        /// The norm.
        norm: f64,
        /// What it should not have exceeded.
        limit: f64,
    },
    /// The loss is an outlier.
    Loss {
        /// The loss.
        loss: f64,
        /// What it should not have exceeded.
        limit: f64,
    },
}

impl fmt::Display for SkipReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, value, limit) = match self {
            SkipReason::NonFinite => return formatter.write_str("non-finite gradients"),
            SkipReason::Norm { norm, limit } => ("norm", norm, limit),
            SkipReason::Loss { loss, limit } => ("loss", loss, limit),
        };
        let [value, limit] = [*value, *limit].map(significant);
        write!(formatter, "{what} {value} is an outlier, above {limit}")
    }
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
    /// The threshold in force at this step: the rule's own number, the percentile, the target of
    /// a spike. Of several rules, that of the last one that clips. `None` when clipping is off, when the rule has
    /// not seen enough to have one, and when each tensor has another.
    pub threshold: Option<f64>,
    /// How many elements were NaN or infinite.
    pub non_finite: u64,
    /// The first tensor, in visiting order, with a non-finite element.
    pub first_non_finite: Option<String>,
    /// The share of all elements that the rule `value` changed, in [0, 1]. Zero for the other
    /// rules, which change all elements of a tensor or a unit, or none. Non-finite elements set
    /// to zero do not count.
    pub clipped_share: f64,
    /// The cosine of the angle between the (finite) gradient before and after, always by the
    /// Euclidean inner product. Exactly 1 where the direction is kept, and by convention where a
    /// norm is zero and where the step is skipped.
    pub cosine: f64,
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
    pub(crate) fn measured(order: NormOrder, measures: &[TensorMeasure]) -> ClipReport {
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
            cosine: 1.0,
            tensors: measures
                .iter()
                .map(|measure| TensorReport::measured(measure, all))
                .collect(),
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

    /// Adds what one rule did. `effects` has what does not follow from coefficients.
    pub(crate) fn apply(
        &mut self,
        rule: &ClipRule,
        order: NormOrder,
        measures: &[TensorMeasure],
        decision: &Decision,
        effects: &[Option<TensorEffect>],
    ) {
        self.threshold = later_threshold(rule, self.threshold, decision.threshold);
        for (tensor, threshold) in self.tensors.iter_mut().zip(&decision.tensor_thresholds) {
            tensor.threshold = threshold.or(tensor.threshold);
        }
        if !decision.changes_anything() {
            return;
        }
        let mut norms_after: Vec<Norm> = Vec::with_capacity(measures.len());
        for (index, measure) in measures.iter().enumerate() {
            let norm = match (&decision.changes[index], &effects[index]) {
                (Change::Scale(coefficient), _) => {
                    let landed = decision.tensor_thresholds[index]
                        .filter(|_| rule.order() == order && lands_on_its_threshold(rule));
                    // What is scaled to a threshold lands on it by construction.
                    landed.map_or(scaled_norm(measure.reported, *coefficient), Norm::of)
                }
                (_, Some(effect)) => effect.norm,
                (_, None) => measure.reported,
            };
            norms_after.push(norm);
        }
        let together = combine_norms(norms_after.iter().copied(), order).value();
        let lengthens = |change: &Change| matches!(change, Change::Scale(by) if by.value() > 1.0);
        // Rounding must not make what was shortened look longer.
        let together = match decision.changes.iter().any(lengthens) {
            true => together,
            false => together.min(reported_norm_of_all(measures, order).value()),
        };
        self.norm_after = decision
            .norm_after
            .filter(|_| rule.order() == order)
            .unwrap_or(together);
        self.action = ClipAction::Clip;
        self.coefficient = ratio(self.norm_after, self.norm_before);
        for (tensor, norm) in self.tensors.iter_mut().zip(&norms_after) {
            tensor.norm_after = norm.value();
            tensor.coefficient = ratio(tensor.norm_after, tensor.norm_before);
        }
        let elements: usize = self.tensors.iter().map(|tensor| tensor.elements).sum();
        let effects = effects
            .iter()
            .map(|effect| effect.as_ref().map(|e| e.effect));
        let clamped: u64 = effects.clone().flatten().map(|effect| effect.clamped).sum();
        self.clipped_share = self.clipped_share.max(clamped as f64 / elements as f64);
        if rule.can_turn() {
            let scaled = |change: &Change| matches!(change, Change::Keep | Change::Scale(_));
            self.cosine = match decision.changes.iter().all(scaled) {
                true => cosine_of_scaling(measures, &decision.changes),
                false => cosine_of_effects(measures, effects),
            };
        }
    }
}

/// The threshold of a chain is that of its last rule that clips. The limit above which a step would
/// have been left out is a threshold only where nothing clips.
pub(crate) fn later_threshold(
    rule: &ClipRule,
    earlier: Option<f64>,
    later: Option<f64>,
) -> Option<f64> {
    match rule {
        ClipRule::Skip { .. } => earlier.or(later),
        _ => later.or(earlier),
    }
}

/// What a change that is no scaling did to a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorEffect {
    pub(crate) effect: Effect,
    /// The norm afterwards, in the order of the report.
    pub(crate) norm: Norm,
}

fn lands_on_its_threshold(rule: &ClipRule) -> bool {
    matches!(rule, ClipRule::Norm { .. } | ClipRule::AdaGc { .. })
}

fn ratio(after: f64, before: f64) -> f64 {
    if before > 0.0 {
        (after / before).min(f64::MAX)
    } else {
        1.0
    }
}

impl TensorReport {
    fn measured(measure: &TensorMeasure, all: Squares) -> TensorReport {
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
