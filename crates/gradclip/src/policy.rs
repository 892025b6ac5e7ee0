//! Policy: what is to be clipped, by which rules, and what to do about non-finite values.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;

use crate::threshold::{Decay, Percentile, Positive, Threshold};

/// The finite p of a p-norm, greater than zero. Made by [`NormOrder::new`].
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct FiniteOrder(f64);

impl FiniteOrder {
    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// The order p of a norm `(sum |g|^p)^(1/p)`.
///
/// ```
/// use gradclip::NormOrder;
///
/// assert_eq!("2".parse(), Ok(NormOrder::TWO));
/// assert_eq!("inf".parse(), Ok(NormOrder::Infinity));
/// assert_eq!(NormOrder::new(0.5)?.to_string(), "0.5");
/// # Ok::<(), gradclip::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormOrder {
    /// A finite p greater than zero. Below 1 it is a quasi-norm, which clips just as well.
    Finite(FiniteOrder),
    /// The largest magnitude.
    Infinity,
}

impl NormOrder {
    /// The Euclidean norm.
    pub const TWO: NormOrder = NormOrder::Finite(FiniteOrder(2.0));

    /// Accepts any p greater than zero; `+inf` gives [`NormOrder::Infinity`].
    ///
    /// # Errors
    ///
    /// [`PolicyError::Order`] for zero, negative numbers and NaN.
    pub fn new(value: f64) -> Result<NormOrder, PolicyError> {
        if value == f64::INFINITY {
            Ok(NormOrder::Infinity)
        } else if value > 0.0 {
            Ok(NormOrder::Finite(FiniteOrder(value)))
        } else {
            Err(PolicyError::Order { value })
        }
    }

    /// The number, `inf` for [`NormOrder::Infinity`].
    #[must_use]
    pub fn get(self) -> f64 {
        match self {
            NormOrder::Finite(order) => order.get(),
            NormOrder::Infinity => f64::INFINITY,
        }
    }
}

/// Which axis of every parameter counts its output units, for an `agc` that overrides what the
/// tensors say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnitAxis {
    /// The first, as in PyTorch: `[out, in]`, `[out, in, height, width]`.
    First,
    /// The last, as in JAX and in the linear layers of Burn: `[in, out]`.
    Last,
}

/// One rule of a policy. `CLIPPING.md` has the equation, the source and the advice for each.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClipRule {
    /// Each element is clamped to `[-C, C]`, which can turn the direction of the gradient.
    Value {
        /// The bound C.
        threshold: Threshold,
    },
    /// Each tensor by itself: `g C / N` where the norm N of that tensor exceeds C. Tensors are
    /// scaled by different amounts, so the direction of the whole can turn.
    Norm {
        /// The bound C of each tensor's norm.
        threshold: Threshold,
        /// The order p of the norm.
        order: NormOrder,
    },
    /// All tensors as one vector: `g C / N` where the norm N of all exceeds C (Pascanu, Mikolov
    /// and Bengio 2013). The direction is kept.
    GlobalNorm {
        /// The bound C of the norm of all tensors.
        threshold: Threshold,
        /// The order p of the norm.
        order: NormOrder,
    },
    /// Each named group of tensors as one vector, by the Euclidean norm.
    GroupNorm {
        /// The bound C of each group's norm.
        threshold: Threshold,
    },
    /// Each tensor by itself, to a root mean square of at most C (Shazeer and Stern 2018, the
    /// update clipping of Adafactor; `clip_by_block_rms` of optax).
    BlockRms {
        /// The bound C of each tensor's root mean square.
        threshold: Threshold,
    },
    /// All tensors as one vector, always to the norm C, also where it is smaller.
    Normalize {
        /// The norm C after the step.
        threshold: Threshold,
    },
    /// Adaptive gradient clipping (Brock et al. 2021): each output unit, to a share `lambda` of
    /// the norm of its weights.
    Agc {
        /// The largest ratio of a unit's gradient norm to its parameter norm.
        lambda: Threshold,
        /// The least parameter norm that a unit is credited with.
        epsilon: Positive,
        /// Where the units are, if the policy overrides what each tensor says
        /// ([`Gradient::with_units`](crate::Gradient::with_units)).
        unit: Option<UnitAxis>,
    },
    /// All tensors as one vector, to a percentile of all norms so far (Seetharaman et al. 2020).
    AutoClip {
        /// The percentile.
        percentile: Percentile,
    },
    /// All tensors as one vector, spikes of the norm to a target below the spike (Kumar et al.
    /// 2025, ZClip), and everything to `max`.
    ZClip {
        /// The z-score above which a norm is a spike.
        z: Positive,
        /// The weight of the past in the running mean and variance.
        alpha: Decay,
        /// How many norms make up the first mean and variance.
        warmup: NonZeroU32,
        /// The bound of the norm at every step.
        max: Threshold,
    },
    /// Each tensor by itself, to a multiple of its own running norm (Wang et al. 2025, AdaGC).
    AdaGc {
        /// The bound of the norm of all tensors during warm-up.
        absolute: Threshold,
        /// The multiple of the running norm.
        relative: Threshold,
        /// The weight of the past in the running norm.
        beta: Decay,
        /// The step, counted from 1, at which the multiple takes over.
        warmup: u32,
    },
    /// All tensors as one vector, to a multiple of the median norm of the steps before (the
    /// ScaledAdam of icefall).
    Median {
        /// The multiple K of the median.
        factor: Threshold,
        /// How many steps the median is of.
        window: NonZeroU32,
    },
    /// Leaves out steps whose loss or norm is an outlier (OLMo, llm.c).
    Skip {
        /// How many standard deviations above the mean an outlier is.
        sigma: Positive,
        /// How many steps mean and deviation are of.
        window: NonZeroU32,
        /// After so many steps left out in a row, the next one is taken.
        limit: NonZeroU32,
    },
    /// Inside Adam: the learning rate of a tensor is divided by the root mean square of
    /// `g / sqrt(v)`, where that exceeds C (Wortsman et al. 2023, StableAdamW).
    UpdateRms {
        /// The bound C.
        threshold: Threshold,
    },
    /// Inside Adam: elements with `g^2 > theta v` are clamped to `sqrt(theta v)`, and the moments
    /// are reset from time to time (Huang et al. 2025, SPAM).
    Spam {
        /// The ratio of squares above which an element is a spike.
        theta: Positive,
        /// The number of updates from one reset to the next.
        reset: NonZeroU32,
        /// Over how many updates the learning rate recovers after a reset.
        warmup: u32,
    },
}

impl ClipRule {
    /// The name without parameters, such as `global-norm`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            ClipRule::Value { .. } => "value",
            ClipRule::Norm { .. } => "norm",
            ClipRule::GlobalNorm { .. } => "global-norm",
            ClipRule::GroupNorm { .. } => "group-norm",
            ClipRule::BlockRms { .. } => "block-rms",
            ClipRule::Normalize { .. } => "normalize",
            ClipRule::Agc { .. } => "agc",
            ClipRule::AutoClip { .. } => "autoclip",
            ClipRule::ZClip { .. } => "zclip",
            ClipRule::AdaGc { .. } => "adagc",
            ClipRule::Median { .. } => "median",
            ClipRule::Skip { .. } => "skip",
            ClipRule::UpdateRms { .. } => "update-rms",
            ClipRule::Spam { .. } => "spam",
        }
    }

    /// The threshold after `step` steps were applied, if it does not depend on the gradients.
    pub(crate) fn fixed_threshold(&self, step: u64) -> Option<f64> {
        match self {
            ClipRule::Value { threshold }
            | ClipRule::Norm { threshold, .. }
            | ClipRule::GlobalNorm { threshold, .. }
            | ClipRule::GroupNorm { threshold }
            | ClipRule::BlockRms { threshold }
            | ClipRule::Normalize { threshold }
            | ClipRule::Agc {
                lambda: threshold, ..
            } => Some(threshold.at(step)),
            _ => None,
        }
    }

    /// The order of the norm that it goes by, if it can be chosen.
    fn chosen_order(&self) -> Option<NormOrder> {
        match self {
            ClipRule::Norm { order, .. } | ClipRule::GlobalNorm { order, .. } => Some(*order),
            _ => None,
        }
    }

    /// The order of the norm that it goes by.
    pub(crate) fn order(&self) -> NormOrder {
        self.chosen_order().unwrap_or(NormOrder::TWO)
    }

    /// Whether it works inside Adam, on the update, and not on the gradient.
    #[must_use]
    pub fn is_inside_adam(&self) -> bool {
        matches!(self, ClipRule::UpdateRms { .. } | ClipRule::Spam { .. })
    }

    /// Whether it can change the direction of the gradient.
    pub(crate) fn can_turn(&self) -> bool {
        matches!(
            self,
            ClipRule::Value { .. }
                | ClipRule::Norm { .. }
                | ClipRule::GroupNorm { .. }
                | ClipRule::BlockRms { .. }
                | ClipRule::Agc { .. }
                | ClipRule::AdaGc { .. }
        )
    }
}

/// Which gradients are clipped, and how: rules that are applied from left to right.
///
/// The text form is `none`, or rules such as `global-norm:1` with `+` between them; it parses with
/// [`FromStr`](core::str::FromStr), prints with [`Display`](fmt::Display), and comes back the same.
///
/// ```
/// use gradclip::{ClipPolicy, ClipRule, NormOrder, Threshold};
///
/// let policy: ClipPolicy = "value:5+global-norm:1".parse()?;
/// let threshold = Threshold::new(1.0)?;
/// assert_eq!(policy.rules()[1], ClipRule::GlobalNorm { threshold, order: NormOrder::TWO });
/// assert_eq!(policy.to_string(), "value:5+global-norm:1");
/// # Ok::<(), gradclip::PolicyError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClipPolicy {
    rules: Vec<ClipRule>,
}

impl ClipPolicy {
    /// Nothing is clipped. Norms are still measured and the rule for non-finite values holds.
    #[must_use]
    pub const fn none() -> ClipPolicy {
        ClipPolicy { rules: Vec::new() }
    }

    /// The rules, in the order in which they are applied.
    #[must_use]
    pub fn rules(&self) -> &[ClipRule] {
        &self.rules
    }

    /// Adds a rule that is applied after the others.
    #[must_use]
    pub fn then(mut self, rule: ClipRule) -> ClipPolicy {
        self.rules.push(rule);
        self
    }

    /// The same with the output units of `agc` on the given axis of all tensors, for a caller who
    /// knows where his model has them.
    #[must_use]
    pub fn with_unit_axis(mut self, axis: UnitAxis) -> ClipPolicy {
        for rule in &mut self.rules {
            if let ClipRule::Agc { unit, .. } = rule {
                *unit = Some(axis);
            }
        }
        self
    }

    /// Whether it has no rule.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.rules.is_empty()
    }

    /// The order of the norms in a report: that of the first rule that has `p`, and 2 otherwise.
    #[must_use]
    pub fn order(&self) -> NormOrder {
        let chosen = self.rules.iter().find_map(ClipRule::chosen_order);
        chosen.unwrap_or(NormOrder::TWO)
    }

    /// Whether a rule asks for the parameters beside their gradients.
    #[must_use]
    pub fn needs_parameters(&self) -> bool {
        let agc = |rule: &ClipRule| matches!(rule, ClipRule::Agc { .. });
        self.rules.iter().any(agc)
    }

    /// The rules that work inside Adam, which a [`Clipper`](crate::Clipper) leaves to it.
    pub fn rules_inside_adam(&self) -> impl Iterator<Item = &ClipRule> {
        self.rules.iter().filter(|rule| rule.is_inside_adam())
    }
}

impl From<ClipRule> for ClipPolicy {
    fn from(rule: ClipRule) -> ClipPolicy {
        ClipPolicy::none().then(rule)
    }
}

/// What to do when a gradient holds a NaN or an infinity. Text form: `error`, `skip`, `zero`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NonFinite {
    /// Stop with an error that names every such tensor. No gradient is touched.
    Error,
    /// Leave the step out. No gradient is touched, and no optimizer should step.
    Skip,
    /// Set the non-finite elements, and only those, to zero and clip the rest as usual.
    Zero,
}

/// Why a number or a text form was refused.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PolicyError {
    /// The threshold is zero, negative or NaN.
    Threshold {
        /// What was given.
        value: f64,
    },
    /// The order of the norm is zero, negative or NaN.
    Order {
        /// What was given.
        value: f64,
    },
    /// Another number is out of its range.
    Number {
        /// What was given.
        value: f64,
        /// The range.
        wanted: &'static str,
    },
    /// The text form cannot be read.
    Syntax {
        /// The whole text.
        input: String,
        /// Where the problem starts, counted in characters from 1.
        position: usize,
        /// What is wrong there.
        problem: String,
        /// What would have been accepted.
        accepted: &'static str,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::Threshold { value } if *value == f64::INFINITY => {
                write!(formatter, "a threshold that changes must be finite")
            }
            PolicyError::Threshold { value } => write!(
                formatter,
                "threshold must be greater than 0, got {value} (to turn clipping off use `none`)"
            ),
            PolicyError::Order { value } => {
                write!(
                    formatter,
                    "norm order p must be greater than 0, got {value}"
                )
            }
            PolicyError::Number { value, wanted } => {
                write!(formatter, "must be {wanted}, got {value}")
            }
            PolicyError::Syntax {
                input,
                position,
                problem,
                accepted,
            } => write!(
                formatter,
                "cannot read {input:?}: {problem} at character {position}; accepted: {accepted}"
            ),
        }
    }
}

impl core::error::Error for PolicyError {}
