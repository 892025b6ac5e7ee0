//! Reporting: what was measured, what was decided and what came of it.

use crate::apply::ClampEffect;
use crate::decision::Change;
use crate::measure::{TensorMeasure, combine_norms, norm_of_all, sum_of_squares_of_all};
use crate::policy::ClipPolicy;

/// What a step did to the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClipAction {
    /// The threshold was not exceeded. Every finite element keeps its bits.
    Keep,
    /// At least one tensor was scaled or clamped.
    Clip,
    /// Non-finite gradients under [`NonFinite::Skip`](crate::NonFinite::Skip): nothing was touched
    /// and the optimizer should not step.
    Skip,
}

/// The account of one clip step.
///
/// Norms are over the finite elements, in f64, and always finite. They are in the policy's own
/// order ([`ClipPolicy::order`]), which is 2 unless `p=` says otherwise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ClipReport {
    /// What was done.
    pub action: ClipAction,
    /// The norm of all gradients before clipping.
    pub norm_before: f64,
    /// The norm of all gradients after clipping, before rounding to storage. Zero when skipped.
    pub norm_after: f64,
    /// `norm_after / norm_before`; 1 where the norm is zero, 0 when skipped.
    pub coefficient: f64,
    /// The policy's threshold, `None` when clipping is off.
    pub threshold: Option<f64>,
    /// How many elements were NaN or infinite.
    pub non_finite: u64,
    /// The first tensor, in visiting order, with a non-finite element.
    pub first_non_finite: Option<String>,
    /// The share of all elements that the policy `value` changed, in [0, 1]. Zero for the other
    /// policies, which change all elements of a tensor or none. Non-finite elements set to zero
    /// do not count.
    pub clipped_share: f64,
    /// The cosine of the angle between the (finite) gradient before and after, always by the
    /// Euclidean inner product. Exactly 1 where the direction is kept: for `global-norm` and for
    /// unchanged gradients, and by convention where a norm is zero and where the step is skipped.
    /// Less than 1 where direction is lost: `value`, and `norm` with several tensors.
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

    pub(crate) fn skipped(policy: &ClipPolicy, measures: Vec<TensorMeasure>) -> ClipReport {
        let mut report = ClipReport::unchanged(policy, measures);
        report.action = ClipAction::Skip;
        report.norm_after = 0.0;
        report.coefficient = 0.0;
        for tensor in &mut report.tensors {
            tensor.norm_after = 0.0;
            tensor.coefficient = 0.0;
        }
        report
    }

    /// `effects` holds what was measured while clamping, `None` for tensors not clamped.
    pub(crate) fn applied(
        policy: &ClipPolicy,
        measures: Vec<TensorMeasure>,
        changes: &[Change],
        effects: &[Option<ClampEffect>],
    ) -> ClipReport {
        if changes.iter().all(|change| *change == Change::Keep) {
            return ClipReport::unchanged(policy, measures);
        }
        let cosine = match policy {
            ClipPolicy::Norm { .. } => cosine_of_scaling(&measures, changes),
            ClipPolicy::Value { .. } => cosine_of_clamping(&measures, effects),
            ClipPolicy::None | ClipPolicy::GlobalNorm { .. } => 1.0,
        };
        let mut report = ClipReport::unchanged(policy, measures);
        for ((tensor, change), effect) in report.tensors.iter_mut().zip(changes).zip(effects) {
            match (*change, *effect) {
                (Change::Scale(coefficient), _) => {
                    tensor.norm_after = match policy {
                        // What is scaled to the threshold lands on it by construction.
                        ClipPolicy::Norm { threshold, .. } => threshold.get(),
                        _ => coefficient * tensor.norm_before,
                    };
                    tensor.coefficient = coefficient;
                }
                (Change::Clamp(_), Some(effect)) => {
                    tensor.norm_after = effect.sum_of_squares.sqrt();
                    tensor.coefficient = (tensor.norm_after / tensor.norm_before).min(1.0);
                }
                (Change::Keep | Change::Clamp(_), _) => {}
            }
        }
        let norms_after = report.tensors.iter().map(|tensor| tensor.norm_after);
        report.norm_after = match policy {
            ClipPolicy::GlobalNorm { threshold, .. } => threshold.get(),
            _ => combine_norms(norms_after, policy.order()).min(report.norm_before),
        };
        report.action = ClipAction::Clip;
        report.coefficient = report.norm_after / report.norm_before;
        let elements: usize = report.tensors.iter().map(|tensor| tensor.elements).sum();
        let clamped: u64 = effects.iter().flatten().map(|effect| effect.clamped).sum();
        report.clipped_share = clamped as f64 / elements as f64;
        report.cosine = cosine;
        report
    }

    fn unchanged(policy: &ClipPolicy, measures: Vec<TensorMeasure>) -> ClipReport {
        let norm = norm_of_all(&measures, policy.order());
        let sum_of_squares = sum_of_squares_of_all(&measures);
        let first_non_finite = measures.iter().find(|measure| measure.non_finite > 0);
        ClipReport {
            action: ClipAction::Keep,
            norm_before: norm,
            norm_after: norm,
            coefficient: 1.0,
            threshold: policy.threshold(),
            non_finite: measures.iter().map(|measure| measure.non_finite).sum(),
            first_non_finite: first_non_finite.map(|measure| measure.name.clone()),
            clipped_share: 0.0,
            cosine: 1.0,
            tensors: measures
                .into_iter()
                .map(|measure| TensorReport::unchanged(measure, sum_of_squares))
                .collect(),
        }
    }
}

impl TensorReport {
    fn unchanged(measure: TensorMeasure, sum_of_squares: f64) -> TensorReport {
        let square_share = if sum_of_squares > 0.0 {
            measure.sum_of_squares / sum_of_squares
        } else {
            0.0
        };
        TensorReport {
            name: measure.name,
            norm_before: measure.norm,
            norm_after: measure.norm,
            coefficient: 1.0,
            square_share,
            non_finite: measure.non_finite,
            elements: measure.elements,
        }
    }
}

/// Scaling tensor t by `c_t` gives `sum c_t S_t / sqrt(sum S_t * sum c_t^2 S_t)` with the sums of
/// squares `S_t`. The coefficients are taken relative to the largest one, which does not change
/// the cosine, keeps tiny coefficients from underflowing, and makes equal ones exactly 1.
fn cosine_of_scaling(measures: &[TensorMeasure], changes: &[Change]) -> f64 {
    let coefficient = |change: &Change| match change {
        Change::Scale(coefficient) => *coefficient,
        Change::Keep | Change::Clamp(_) => 1.0,
    };
    let sums = measures.iter().map(|measure| measure.sum_of_squares);
    let pairs = sums
        .zip(changes.iter().map(coefficient))
        .filter(|(sum, _)| *sum > 0.0);
    let largest = pairs
        .clone()
        .fold(0.0, |largest, (_, coefficient)| coefficient.max(largest));
    if largest == 0.0 {
        return 1.0;
    }
    let (mut before, mut after, mut inner_product) = (0.0, 0.0, 0.0);
    for (sum, coefficient) in pairs {
        let relative = coefficient / largest;
        before += sum;
        after += relative * relative * sum;
        inner_product += relative * sum;
    }
    cosine(before, after, inner_product)
}

fn cosine_of_clamping(measures: &[TensorMeasure], effects: &[Option<ClampEffect>]) -> f64 {
    let (mut before, mut after, mut inner_product) = (0.0, 0.0, 0.0);
    for (measure, effect) in measures.iter().zip(effects) {
        let unchanged = measure.sum_of_squares;
        before += unchanged;
        after += effect.map_or(unchanged, |effect| effect.sum_of_squares);
        inner_product += effect.map_or(unchanged, |effect| effect.inner_product);
    }
    cosine(before, after, inner_product)
}

/// One square root of the product, because `sqrt(x * x)` is exactly `x`.
fn cosine(before: f64, after: f64, inner_product: f64) -> f64 {
    let product = before * after;
    if product > 0.0 {
        (inner_product / product.sqrt()).min(1.0)
    } else {
        1.0
    }
}
