#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

// A step flows through the modules in this order: `measure` reads, `decision` chooses by pure
// scalar code, `apply` writes, `report` tells. `clip` strings them together, `policy` says what
// was asked for and `gradients` is the only thing a caller has to implement. `verdict` and `flow`
// put numbers of a whole run into words.
mod apply;
mod blocks;
mod clip;
mod decision;
mod flow;
mod gradients;
mod measure;
mod policy;
mod policy_text;
mod report;
mod significant;
mod verdict;

pub use clip::{ClipError, Clipped, Clipper, Outcome};
pub use flow::{FlowFinding, GradientFlow};
pub use gradients::Gradients;
pub use policy::{ClipPolicy, FiniteOrder, NonFinite, NormOrder, PolicyError, Threshold};
pub use report::{ClipAction, ClipReport, TensorReport};
pub use verdict::{Assessment, NormDistribution, StepRecord, Verdict};
