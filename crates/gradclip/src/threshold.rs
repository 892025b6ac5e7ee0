//! The numbers of a policy, each of which knows its range.

use core::num::NonZeroU32;

use crate::policy::PolicyError;

/// A number greater than zero, `+inf` included.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Positive(f64);

impl Positive {
    /// Accepts any number greater than zero.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Number`] for zero, negative numbers and NaN.
    pub fn new(value: f64) -> Result<Positive, PolicyError> {
        if value > 0.0 {
            Ok(Positive(value))
        } else {
            let wanted = "greater than 0";
            Err(PolicyError::Number { value, wanted })
        }
    }

    /// For numbers that are known to fit.
    pub(crate) const fn constant(value: f64) -> Positive {
        Positive(value)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// A number from 0 up to, but without, 1: the weight of the past in a running average.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Decay(f64);

impl Decay {
    /// Accepts `0 <= value < 1`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Number`] for everything else.
    pub fn new(value: f64) -> Result<Decay, PolicyError> {
        if (0.0..1.0).contains(&value) {
            Ok(Decay(value))
        } else {
            let wanted = "at least 0 and less than 1";
            Err(PolicyError::Number { value, wanted })
        }
    }

    /// For numbers that are known to fit.
    pub(crate) const fn constant(value: f64) -> Decay {
        Decay(value)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// A percentile, from 0 (the minimum) to 100 (the maximum).
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percentile(f64);

impl Percentile {
    /// Accepts `0 <= value <= 100`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Number`] for everything else.
    pub fn new(value: f64) -> Result<Percentile, PolicyError> {
        if (0.0..=100.0).contains(&value) {
            Ok(Percentile(value))
        } else {
            let wanted = "from 0 to 100";
            Err(PolicyError::Number { value, wanted })
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// A clipping threshold: greater than zero, finite or `+inf`, the same at every step or going from
/// one value to another.
///
/// Zero is not a way to switch clipping off, because frameworks disagree on what it means. "Off"
/// is [`ClipPolicy::none`](crate::ClipPolicy::none).
///
/// ```
/// use gradclip::Threshold;
///
/// assert_eq!(Threshold::new(5.0)?.at(0), 5.0);
/// assert!(Threshold::new(0.0).is_err());
/// let falling: Threshold = "1..0.1@1000".parse()?;
/// assert_eq!([0, 500, 1000, 2000].map(|step| falling.at(step)), [1.0, 0.55, 0.1, 0.1]);
/// # Ok::<(), gradclip::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    from: f64,
    to: f64,
    /// Over how many steps; 0 if it does not change.
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

    /// For numbers that are known to fit.
    pub(crate) const fn constant(value: f64) -> Threshold {
        Threshold {
            from: value,
            to: value,
            steps: 0,
        }
    }

    /// A threshold that goes from one value to another in a straight line, over `steps` steps
    /// that were applied, and stays there.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Threshold`] for values that are not greater than zero, and infinity, which
    /// has no straight line.
    pub fn linear(from: f64, to: f64, steps: NonZeroU32) -> Result<Threshold, PolicyError> {
        for value in [from, to] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(PolicyError::Threshold { value });
            }
        }
        let steps = steps.get();
        Ok(Threshold { from, to, steps })
    }

    /// The threshold after `step` steps were applied.
    #[must_use]
    pub fn at(self, step: u64) -> f64 {
        if step >= u64::from(self.steps) {
            return self.to;
        }
        let share = step as f64 / f64::from(self.steps);
        self.from * (1.0 - share) + self.to * share
    }

    /// The two ends and the number of steps between them, unless it does not change.
    #[must_use]
    pub fn schedule(self) -> Option<(f64, f64, u32)> {
        (self.steps > 0).then_some((self.from, self.to, self.steps))
    }
}
