//! The parameters of a policy, each type with a checked range.

use alloc::string::String;
use core::fmt;

macro_rules! number {
    (
        $(#[$doc:meta])*
        $Name:ident, $accepts:literal, $wanted:literal, |$value:ident| $fits:expr
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
        pub struct $Name(f64);

        impl $Name {
            #[doc = concat!("Accepts ", $accepts, ".")]
            ///
            /// # Errors
            ///
            /// [`PolicyError::Number`] otherwise.
            pub fn new($value: f64) -> Result<$Name, PolicyError> {
                let (value, wanted) = ($value, $wanted);
                match $fits {
                    true => Ok($Name(value)),
                    false => Err(PolicyError::Number { value, wanted }),
                }
            }

            /// For values known to be in range.
            #[allow(dead_code, reason = "not every type has a default")]
            pub(crate) const fn constant(value: f64) -> $Name {
                $Name(value)
            }

            /// The value.
            #[must_use]
            pub fn get(self) -> f64 {
                self.0
            }
        }
    };
}

number!(
    /// A number greater than zero, `+inf` included.
    Positive, "any number greater than zero", "greater than 0", |value| value > 0.0
);
number!(
    /// A number in [0, 1): the weight of the past in a running average.
    Decay, "`0 <= value < 1`", "at least 0 and less than 1", |value| (0.0..1.0).contains(&value)
);
number!(
    /// A percentile, from 0 (the minimum) to 100 (the maximum).
    Percentile, "`0 <= value <= 100`", "from 0 to 100", |value| (0.0..=100.0).contains(&value)
);

/// A clipping threshold: greater than zero, finite or `+inf`, constant or changing linearly from
/// one value to another.
///
/// Zero is refused, because frameworks disagree on what it means. To turn clipping off, use
/// [`ClipPolicy::none`](crate::ClipPolicy::none).
///
/// ```
/// use gradclip::{Steps, Threshold};
///
/// assert_eq!(Threshold::new(5.0)?.at(0), 5.0);
/// assert!(Threshold::new(0.0).is_err());
/// let falling = Threshold::linear(1.0, 0.1, Steps::new(1000)?)?;
/// assert_eq!(falling.to_string(), "1..0.1@1000");
/// assert_eq!([0, 500, 1000, 2000].map(|step| falling.at(step)), [1.0, 0.55, 0.1, 0.1]);
/// # Ok::<(), gradclip::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    from: f64,
    to: f64,
    /// The number of steps of the change; 0 if constant.
    steps: u32,
}

impl Threshold {
    /// Accepts any number greater than zero, `+inf` included, which never clips.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Threshold`] for zero, negative numbers and NaN.
    pub fn new(value: f64) -> Result<Threshold, PolicyError> {
        if value > 0.0 {
            Ok(Threshold::constant(value))
        } else {
            Err(PolicyError::Threshold { value })
        }
    }

    /// For values known to be in range.
    pub(crate) const fn constant(value: f64) -> Threshold {
        Threshold {
            from: value,
            to: value,
            steps: 0,
        }
    }

    /// A threshold that changes linearly from `from` to `to` over `steps` applied steps and then
    /// stays at `to`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Threshold`] for values that are not greater than zero, or not finite.
    pub fn linear(from: f64, to: f64, steps: Steps<1>) -> Result<Threshold, PolicyError> {
        for value in [from, to] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(PolicyError::Threshold { value });
            }
        }
        let steps = steps.get();
        Ok(Threshold { from, to, steps })
    }

    /// The threshold after `step` applied steps.
    #[must_use]
    pub fn at(self, step: u64) -> f64 {
        if step >= u64::from(self.steps) {
            return self.to;
        }
        let share = step as f64 / f64::from(self.steps);
        self.from * (1.0 - share) + self.to * share
    }

    /// The two ends and the number of steps between them; `None` if constant.
    pub(crate) fn schedule(self) -> Option<(f64, f64, u32)> {
        (self.steps > 0).then_some((self.from, self.to, self.steps))
    }
}

/// A [`Threshold`] that is finite at every step, for `normalize`, which cannot set a norm to
/// infinity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FiniteThreshold(Threshold);

impl FiniteThreshold {
    /// Accepts every threshold but `+inf`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Number`] for `+inf`.
    pub fn new(threshold: Threshold) -> Result<FiniteThreshold, PolicyError> {
        let value = threshold.at(0);
        if value.is_finite() {
            Ok(FiniteThreshold(threshold))
        } else {
            let wanted = "finite";
            Err(PolicyError::Number { value, wanted })
        }
    }

    /// The threshold.
    #[must_use]
    pub fn get(self) -> Threshold {
        self.0
    }
}

/// A number of steps, at least `LEAST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Steps<const LEAST: u32>(u32);

impl<const LEAST: u32> Steps<LEAST> {
    /// Accepts `LEAST` and more.
    ///
    /// # Errors
    ///
    /// [`PolicyError::TooFew`] for less.
    pub fn new(steps: u32) -> Result<Self, PolicyError> {
        let least = LEAST;
        match steps >= least {
            true => Ok(Steps(steps)),
            false => Err(PolicyError::TooFew { steps, least }),
        }
    }

    /// For values known to be in range.
    pub(crate) const fn constant(steps: u32) -> Self {
        Steps(steps)
    }

    /// The value.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

number!(
    /// The order p of a norm `(sum |g|^p)^(1/p)`, greater than zero; `+inf` is the largest
    /// magnitude. Below 1 it is a quasi-norm, with which clipping works the same way.
    ///
    /// ```
    /// use gradclip::NormOrder;
    ///
    /// assert_eq!(NormOrder::new(f64::INFINITY)?, NormOrder::INFINITY);
    /// assert_eq!(NormOrder::new(0.5)?.to_string(), "0.5");
    /// # Ok::<(), gradclip::PolicyError>(())
    /// ```
    NormOrder, "any number greater than zero", "greater than 0", |value| value > 0.0
);

impl NormOrder {
    /// The Euclidean norm.
    pub const TWO: NormOrder = NormOrder(2.0);

    /// The maximum norm: the largest magnitude.
    pub const INFINITY: NormOrder = NormOrder(f64::INFINITY);
}

/// The axis of every parameter that indexes its output units, for an `agc` that overrides the axes
/// set by the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnitAxis {
    /// The first, as in PyTorch: `[out, in]`, `[out, in, height, width]`.
    First,
    /// The last, as in JAX and in the linear layers of Burn: `[in, out]`.
    Last,
}

/// Why a parameter, a text form or a policy was refused.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PolicyError {
    /// The threshold is zero, negative or NaN.
    Threshold {
        /// The given value.
        value: f64,
    },
    /// A number is out of its range.
    Number {
        /// The given value.
        value: f64,
        /// The range.
        wanted: &'static str,
    },
    /// A number of steps is too small.
    TooFew {
        /// The given value.
        steps: u32,
        /// The minimum.
        least: u32,
    },
    /// Only an Adam optimizer can apply this rule, and the clipper was not created with
    /// [`Clipper::for_adam`](crate::Clipper::for_adam).
    InsideAdam {
        /// The name of the rule.
        rule: &'static str,
    },
    /// The text form cannot be read.
    Syntax {
        /// The whole text.
        input: String,
        /// The position of the problem, in characters counted from 1.
        position: usize,
        /// What is wrong.
        problem: String,
        /// The accepted forms.
        accepted: String,
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
            PolicyError::Number { value, wanted } => {
                write!(formatter, "must be {wanted}, got {value}")
            }
            PolicyError::TooFew { steps, least } => {
                write!(formatter, "must be at least {least}, got {steps}")
            }
            PolicyError::InsideAdam { rule } => write!(
                formatter,
                "`{rule}` works inside Adam and needs an Adam optimizer that applies it"
            ),
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
