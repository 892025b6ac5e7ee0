//! The text forms of the policy types: how they are printed, and where reading them starts.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;

use crate::policy::{ClipPolicy, ClipRule, NonFinite, NormOrder, PolicyError, UnitAxis};
use crate::policy_parse::{Text, nearest, read_policy, suggestion};
use crate::threshold::{Decay, Positive, Threshold};

const NON_FINITE_NAMES: [&str; 3] = ["error", "skip", "zero"];
const NON_FINITE_FORMS: &str = "error, skip, zero";
const ORDER_FORMS: &str = "a number greater than 0, or inf";
const THRESHOLD_FORMS: &str = "a number greater than 0, or FROM..TO@STEPS";

// The defaults of the publications; `CLIPPING.md` has the reason for each.
pub(crate) const ONE: Threshold = Threshold::constant(1.0);
pub(crate) const AGC_EPSILON: Positive = Positive::constant(1e-3);
pub(crate) const ZCLIP_Z: Positive = Positive::constant(2.5);
pub(crate) const ZCLIP_ALPHA: Decay = Decay::constant(0.97);
pub(crate) const ZCLIP_WARMUP: NonZeroU32 = NonZeroU32::new(25).unwrap();
pub(crate) const ADAGC_RELATIVE: Threshold = Threshold::constant(1.05);
pub(crate) const ADAGC_BETA: Decay = Decay::constant(0.98);
pub(crate) const ADAGC_WARMUP: u32 = 100;
pub(crate) const MEDIAN_WINDOW: NonZeroU32 = NonZeroU32::new(100).unwrap();
pub(crate) const SKIP_WINDOW: NonZeroU32 = NonZeroU32::new(128).unwrap();
pub(crate) const SKIP_LIMIT: NonZeroU32 = NonZeroU32::new(10).unwrap();
pub(crate) const SPAM_THETA: Positive = Positive::constant(5000.0);
pub(crate) const SPAM_RESET: NonZeroU32 = NonZeroU32::new(500).unwrap();
pub(crate) const SPAM_WARMUP: u32 = 150;

impl fmt::Display for Threshold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.schedule() {
            None => write!(formatter, "{}", Shortest(self.at(0))),
            Some((from, to, steps)) => {
                write!(formatter, "{}..{}@{steps}", Shortest(from), Shortest(to))
            }
        }
    }
}

impl FromStr for Threshold {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Threshold, PolicyError> {
        Text {
            whole: text,
            accepted: THRESHOLD_FORMS,
        }
        .threshold(text, "threshold")
    }
}

impl fmt::Display for NormOrder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Shortest(self.get()))
    }
}

impl FromStr for NormOrder {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<NormOrder, PolicyError> {
        Text {
            whole: text,
            accepted: ORDER_FORMS,
        }
        .order(text, "norm order p")
    }
}

impl fmt::Display for ClipPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return formatter.write_str("none");
        }
        for (index, rule) in self.rules().iter().enumerate() {
            let plus = if index > 0 { "+" } else { "" };
            write!(formatter, "{plus}{rule}")?;
        }
        Ok(())
    }
}

impl FromStr for ClipPolicy {
    type Err = PolicyError;

    fn from_str(input: &str) -> Result<ClipPolicy, PolicyError> {
        read_policy(input)
    }
}

impl fmt::Display for ClipRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = Printed::new(self.name());
        match *self {
            ClipRule::Value { threshold }
            | ClipRule::GroupNorm { threshold }
            | ClipRule::BlockRms { threshold }
            | ClipRule::Normalize { threshold }
            | ClipRule::UpdateRms { threshold } => printed.first(threshold),
            ClipRule::Norm { threshold, order } | ClipRule::GlobalNorm { threshold, order } => {
                printed.first(threshold);
                printed.named("p", order, NormOrder::TWO);
            }
            ClipRule::Agc {
                lambda,
                epsilon,
                unit,
            } => {
                printed.first(lambda);
                printed.named("eps", epsilon, AGC_EPSILON);
                if let Some(unit) = unit {
                    printed.push(&format!("unit={unit}"));
                }
            }
            ClipRule::AutoClip { percentile } => printed.first(Shortest(percentile.get())),
            ClipRule::ZClip {
                z,
                alpha,
                warmup,
                max,
            } => {
                printed.named("z", z, ZCLIP_Z);
                printed.named("alpha", alpha, ZCLIP_ALPHA);
                printed.named("warmup", warmup, ZCLIP_WARMUP);
                printed.named("max", max, ONE);
            }
            ClipRule::AdaGc {
                absolute,
                relative,
                beta,
                warmup,
            } => {
                printed.named("abs", absolute, ONE);
                printed.named("rel", relative, ADAGC_RELATIVE);
                printed.named("beta", beta, ADAGC_BETA);
                printed.named("warmup", warmup, ADAGC_WARMUP);
            }
            ClipRule::Median { factor, window } => {
                printed.first(factor);
                printed.named("window", window, MEDIAN_WINDOW);
            }
            ClipRule::Skip {
                sigma,
                window,
                limit,
            } => {
                printed.first(sigma);
                printed.named("window", window, SKIP_WINDOW);
                printed.named("limit", limit, SKIP_LIMIT);
            }
            ClipRule::Spam {
                theta,
                reset,
                warmup,
            } => {
                printed.named("theta", theta, SPAM_THETA);
                printed.named("reset", reset, SPAM_RESET);
                printed.named("warmup", warmup, SPAM_WARMUP);
            }
        }
        formatter.write_str(&printed.text)
    }
}

/// A rule being printed: the name, then what differs from the defaults.
struct Printed {
    text: String,
    parameters: usize,
}

impl Printed {
    fn new(name: &str) -> Printed {
        Printed {
            text: name.to_owned(),
            parameters: 0,
        }
    }

    fn first(&mut self, value: impl fmt::Display) {
        self.push(&value.to_string());
    }

    fn named<T: fmt::Display + PartialEq>(&mut self, name: &str, value: T, default: T) {
        if value != default {
            self.push(&format!("{name}={value}"));
        }
    }

    fn push(&mut self, parameter: &str) {
        self.text.push(if self.parameters == 0 { ':' } else { ',' });
        self.text.push_str(parameter);
        self.parameters += 1;
    }
}

impl fmt::Display for Positive {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Shortest(self.get()))
    }
}

impl fmt::Display for Decay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Shortest(self.get()))
    }
}

impl fmt::Display for UnitAxis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            UnitAxis::First => "first",
            UnitAxis::Last => "last",
        })
    }
}

impl fmt::Display for NonFinite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            NonFinite::Error => "error",
            NonFinite::Skip => "skip",
            NonFinite::Zero => "zero",
        })
    }
}

impl FromStr for NonFinite {
    type Err = PolicyError;

    fn from_str(input: &str) -> Result<NonFinite, PolicyError> {
        match input {
            "error" => Ok(NonFinite::Error),
            "skip" => Ok(NonFinite::Skip),
            "zero" => Ok(NonFinite::Zero),
            _ => {
                let hint = suggestion(nearest(input, &NON_FINITE_NAMES));
                let text = Text {
                    whole: input,
                    accepted: NON_FINITE_FORMS,
                };
                Err(text.error(input, format!("unknown rule `{input}`{hint}")))
            }
        }
    }
}

/// The shortest digits that read back as the same number, with an exponent where zeros would
/// pile up.
struct Shortest(f64);

impl fmt::Display for Shortest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value == 0.0 || (1e-5..1e16).contains(&value) {
            write!(formatter, "{value}")
        } else {
            write!(formatter, "{value:e}")
        }
    }
}
