#![doc = include_str!("../README.md")]
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

// A step flows through the modules in this order: `measure` reads (`scan` is the seam for a faster
// read), `decision` chooses by pure scalar code, `apply` writes, `report` tells. `clip` strings them
// together, and `outcome` is what comes of it. `policy` says what
// was asked for, `stages` what must have happened before, and `gradients` is the only thing a
// caller has to implement. `detector` is the memory of the rules that learn, and `state` turns it
// into numbers. `replay` asks what another policy would have done with the norms of a run, and `adam`
// holds the rules that work inside Adam.
mod accumulate;
mod adam;
mod apply;
mod blocks;
mod clip;
mod decision;
mod detector;
mod direction;
mod element;
mod gradients;
mod math;
mod measure;
mod norm;
mod outcome;
mod percentile;
mod policy;
mod policy_parse;
mod policy_text;
mod replay;
mod report;
mod scan;
mod significant;
mod simple;
mod stages;
mod state;
mod threshold;
mod units;

#[doc = include_str!("../CLIPPING.md")]
pub mod policies {}

pub use adam::AdamClipping;
pub use clip::{ClipError, Clipper};
pub use element::{AsElements, Elements, Values};
pub use gradients::{Accumulate, Gradient, Gradients};
pub use outcome::{Clipped, Deferred, Outcome};
pub use policy::{ClipPolicy, ClipRule, FiniteOrder, NonFinite, NormOrder, PolicyError, UnitAxis};
pub use replay::{RecordedStep, Replay, ReplayError, ReplayedStep};
pub use report::{ClipAction, ClipReport, SkipReason, TensorReport};
pub use scan::{Scan, Scanned, scan};
pub use significant::significant;
pub use simple::{ClipGlobalNormError, clip_global_norm};
pub use stages::{Accumulated, LossScaleError, Reduced, Unscaled};
pub use state::{ClipperState, StateError};
pub use threshold::{Decay, Percentile, Positive, Threshold};
