#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod clipped;
mod collect;
mod transfer;

pub use clipped::{ClippedGradients, ClippedOptimizer};
pub use collect::{CollectError, VarGradients};
pub use gradclip;
