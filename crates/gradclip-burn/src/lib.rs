#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod clipped;
mod collect;
mod step;

pub use clipped::ClippedGradients;
pub use collect::{CollectError, ModuleGradients};
pub use gradclip;
pub use step::{ClipModule, ClippedOptimizer, StepError};
