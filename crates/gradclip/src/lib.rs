#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

// The files in dependency order, none of which uses a later one: `math`, `significant`, `element`,
// `gradients`, `stages`, `threshold`, `error`, `text`, `clip_rule`, `policy`, `adam`, `blocks`,
// `norm`, `scan`, `units`, `measure`, `change`, `percentile`, `state`, `rules`, `tensors`,
// `report`, `outcome`, `clip`, `simple`.
//
// `clip_rule` is the table of all rules and their text forms; `policy` is a chain of rules. A step
// is `Clipper::run`: `tensors` measures (`measure`, `scan`), each link of `rules` decides on a
// `change` for each tensor from the measures and its own memory, `tensors` applies the changes, and
// `report` records them. `stages` enforces what must happen before clipping, and `gradients` is the
// trait that callers implement.
mod adam;
mod blocks;
mod change;
mod clip;
mod clip_rule;
mod element;
mod error;
mod gradients;
mod math;
mod measure;
mod norm;
mod outcome;
mod percentile;
mod policy;
mod report;
mod rules;
mod scan;
mod significant;
mod simple;
mod stages;
mod state;
mod tensors;
mod text;
mod threshold;
mod units;

#[doc = include_str!("../CLIPPING.md")]
pub mod policies {}

pub use adam::AdamClipping;
pub use change::{Scale, scale};
pub use clip::{Clipper, Decision};
pub use clip_rule::{ClipRole, ClipRule, ClipScope, RuleForm};
pub use element::{AsElements, Buffer, Elements, Values};
pub use error::ClipError;
pub use gradients::{Accumulate, Gradient, Gradients};
pub use measure::Measure;
pub use outcome::{Clipped, Deferred, Outcome};
pub use policy::{ClipPolicy, NonFinite};
pub use report::{ClipAction, ClipReport, TensorReport};
pub use rules::SkipReason;
pub use scan::{Scan, Scanned, scan};
pub use significant::significant;
pub use simple::clip_global_norm;
pub use stages::{Accumulated, LossScaleError, Reduced, Unscaled};
pub use state::{ClipperState, StateError};
pub use threshold::{
    Decay, FiniteThreshold, NormOrder, Percentile, PolicyError, Positive, Steps, Threshold,
    UnitAxis,
};
