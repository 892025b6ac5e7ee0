//! Policy: what is to be clipped, by which rule, and what to do about non-finite values.

use std::fmt;

/// A clipping threshold: greater than zero, finite or `+inf`.
///
/// Zero is not a way to switch clipping off, because frameworks disagree on what it means. "Off"
/// is [`ClipPolicy::None`].
///
/// ```
/// use gradclip::Threshold;
///
/// assert_eq!(Threshold::new(5.0)?.get(), 5.0);
/// assert!(Threshold::new(0.0).is_err());
/// # Ok::<(), gradclip::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Threshold(f64);

impl Threshold {
    /// Accepts any number greater than zero, `+inf` included, which never clips.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Threshold`] for zero, negative numbers and NaN.
    pub fn new(value: f64) -> Result<Threshold, PolicyError> {
        if value > 0.0 {
            Ok(Threshold(value))
        } else {
            Err(PolicyError::Threshold { value })
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

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

/// Which gradients are clipped, and how.
///
/// The text form is `none`, `value:C`, `norm:C[,p=P]` or `global-norm:C[,p=P]`; it parses with
/// [`FromStr`](std::str::FromStr), prints with [`Display`](fmt::Display), and comes back the same.
///
/// ```
/// use gradclip::{ClipPolicy, NormOrder, Threshold};
///
/// let policy: ClipPolicy = "global-norm:5".parse()?;
/// let threshold = Threshold::new(5.0)?;
/// assert_eq!(policy, ClipPolicy::GlobalNorm { threshold, order: NormOrder::TWO });
/// assert_eq!(policy.to_string(), "global-norm:5");
/// # Ok::<(), gradclip::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClipPolicy {
    /// Nothing is clipped. Norms are still measured and the non-finite rule still applies.
    None,
    /// Each element is clamped to `[-C, C]`, which can turn the direction of the gradient.
    Value {
        /// The bound C.
        threshold: Threshold,
    },
    /// Each tensor by itself: `g * C / N` where the norm N of that tensor exceeds C. Tensors are
    /// scaled by different amounts, so the direction of the whole can turn.
    Norm {
        /// The bound C of each tensor's norm.
        threshold: Threshold,
        /// The order p of the norm.
        order: NormOrder,
    },
    /// All tensors as one vector: `g * C / N` where the norm N of all exceeds C (Pascanu, Mikolov
    /// and Bengio 2013). The direction is kept.
    GlobalNorm {
        /// The bound C of the norm of all tensors.
        threshold: Threshold,
        /// The order p of the norm.
        order: NormOrder,
    },
}

impl ClipPolicy {
    /// The threshold, unless clipping is off.
    #[must_use]
    pub fn threshold(&self) -> Option<f64> {
        match self {
            ClipPolicy::None => None,
            ClipPolicy::Value { threshold }
            | ClipPolicy::Norm { threshold, .. }
            | ClipPolicy::GlobalNorm { threshold, .. } => Some(threshold.get()),
        }
    }

    /// The order of the norms in a report: the policy's own, and 2 where it has none.
    #[must_use]
    pub fn order(&self) -> NormOrder {
        match self {
            ClipPolicy::None | ClipPolicy::Value { .. } => NormOrder::TWO,
            ClipPolicy::Norm { order, .. } | ClipPolicy::GlobalNorm { order, .. } => *order,
        }
    }

    /// The name without parameters: `none`, `value`, `norm` or `global-norm`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            ClipPolicy::None => "none",
            ClipPolicy::Value { .. } => "value",
            ClipPolicy::Norm { .. } => "norm",
            ClipPolicy::GlobalNorm { .. } => "global-norm",
        }
    }
}

/// What to do when a gradient holds a NaN or an infinity. Text form: `error`, `skip`, `zero`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NonFinite {
    /// Stop with an error that names the first such tensor. No gradient is touched.
    Error,
    /// Leave the step out. No gradient is touched, and no optimizer should step.
    Skip,
    /// Set the non-finite elements, and only those, to zero and clip the rest as usual.
    Zero,
}

/// Why a threshold, an order or a text form was refused.
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

impl std::error::Error for PolicyError {}
