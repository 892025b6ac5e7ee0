#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod advice;
mod flow;
mod replay;
mod spikes;
pub mod statistics;
mod time_flow;
mod verdict;

pub use advice::Advice;
pub use flow::{FlowFinding, GradientFlow};
pub use replay::{RecordedStep, Replay, ReplayError, ReplayedStep};
pub use spikes::{Spike, Spikes, UsualNorm};
pub use time_flow::TimeFlow;
pub use verdict::{Assessment, NormDistribution, StepRecord, Verdict};
