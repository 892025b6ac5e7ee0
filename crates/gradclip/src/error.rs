//! Why gradients could not be clipped.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::threshold::PolicyError;

/// Why gradients could not be clipped.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClipError {
    /// Gradients hold NaN or infinite elements and the rule is
    /// [`NonFinite::Error`](crate::NonFinite::Error).
    NonFinite {
        /// Every such tensor in visiting order, with the number of such elements.
        tensors: Vec<(String, u64)>,
    },
    /// `agc` cannot compare a gradient with its parameter.
    Parameter {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A name of [`Clipper::with_output_layer`](crate::Clipper::with_output_layer) that no tensor
    /// has.
    OutputLayer {
        /// The name.
        tensor: String,
    },
    /// Several tensors have the same name.
    EqualNames {
        /// Each such name, in alphabetical order.
        tensors: Vec<String>,
    },
    /// What [`clip_global_norm`](crate::clip_global_norm) was told is no threshold.
    Policy(PolicyError),
    /// A rule cannot be decided from measures alone.
    Measures {
        /// The name of the rule.
        rule: &'static str,
        /// What it lacks.
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
                    "no gradient is named `{tensor}`, which `agc` was to leave alone as a tensor \
                     of the output layer"
                )
            }
            ClipError::Policy(error) => error.fmt(formatter),
            ClipError::EqualNames { tensors } => write!(
                formatter,
                "several gradients are named `{}`; each tensor needs a name of its own",
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
