#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod advice;
mod class;
mod death;
mod flow;
mod next;
mod numbers;
mod record;
mod replay;
mod spikes;
pub mod statistics;
mod stretches;
mod time_flow;
mod update_pace;
mod verdict;
mod warm_up;

pub use advice::{Advice, Confidence};
pub use class::{Class, Tone};
pub use flow::{FlowFinding, GradientFlow};
pub use next::Next;
pub use numbers::{NormDistribution, Numbers};
pub use record::{Run, StepRecord, Stretch};
pub use replay::{RecordedStep, Replay, ReplayError, ReplayedStep};
pub use spikes::{Spike, Spikes, UsualNorm};
pub use time_flow::TimeFlow;
pub use update_pace::UpdatePace;
pub use verdict::{Judgement, Verdict, judge};
pub use warm_up::goes_by_norm_of_all;
