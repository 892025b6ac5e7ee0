//! Why gradients could not be clipped.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::threshold::PolicyError;

/// Why gradients could not be clipped.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClipError {
    /// Some gradients have NaN or infinite elements, and the rule is
    /// [`NonFinite::Error`](crate::NonFinite::Error).
    NonFinite {
        /// Each affected tensor in visiting order, with its number of non-finite elements.
        tensors: Vec<(String, u64)>,
    },
    /// `agc` cannot compare a gradient with its parameter.
    Parameter {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// No tensor has a name that was passed to
    /// [`Clipper::with_output_layer`](crate::Clipper::with_output_layer).
    OutputLayer {
        /// The name.
        tensor: String,
    },
    /// Two or more tensors share a name.
    EqualNames {
        /// Each shared name, in alphabetical order.
        tensors: Vec<String>,
    },
    /// The `max_norm` of [`clip_global_norm`](crate::clip_global_norm) is not a valid threshold.
    Policy(PolicyError),
    /// A rule cannot be decided from measures alone.
    Measures {
        /// The name of the rule.
        rule: &'static str,
        /// What it would need.
        problem: &'static str,
    },
}

impl fmt::Display for ClipError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClipError::NonFinite { tensors } => {
                for (index, (tensor, count)) in tensors.iter().enumerate() {
                    let values = if *count == 1 { "value" } else { "values" };
                    let separator = if index > 0 { ", " } else { "" };
                    write!(
                        formatter,
                        "{separator}gradient of `{tensor}` has {count} non-finite {values}"
                    )?;
                }
                write!(formatter, " (NaN or infinity); no gradient was changed")
            }
            ClipError::Parameter { tensor, problem } => {
                write!(formatter, "gradient of `{tensor}`: {problem}")
            }
            ClipError::OutputLayer { tensor } => {
                write!(
                    formatter,
                    "no gradient is named `{tensor}`, which was given as a tensor of the output \
                     layer, exempt from `agc`"
                )
            }
            ClipError::Policy(error) => error.fmt(formatter),
            ClipError::EqualNames { tensors } => write!(
                formatter,
                "several gradients are named `{}`; names must be unique",
                tensors.join("`, `")
            ),
            ClipError::Measures { rule, problem } => {
                write!(
                    formatter,
                    "`{rule}` cannot be decided from measures: it {problem}"
                )
            }
        }
    }
}

impl core::error::Error for ClipError {}
