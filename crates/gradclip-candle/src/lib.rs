#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod clipped;
mod collect;
mod step;
mod transfer;

pub use clipped::ClippedGradients;
pub use collect::{CollectError, VarGradients};
pub use gradclip;
pub use step::{ClippedOptimizer, StepError};
