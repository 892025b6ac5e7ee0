//! The training loop of Shears.
//!
//! A [`Plan`] specifies a run completely; [`Trainer::step`] is one step (forward, backward, clip,
//! update); [`train()`] is a whole run in its folder, with evaluations, events and checkpoints.
//! `train(2n)` is bitwise equal to `train(n)`, kill, resume and `train(n)`.

mod batches;
mod bench;
mod briefing;
mod carried;
mod checkpoint;
mod chosen;
mod corpora;
mod error;
mod evaluate;
mod exchange;
mod memory;
mod optimizer;
mod plan;
mod run;
mod safetensors_header;
mod schedule;
mod tensors;
mod time_flow;
mod train;
mod trainer;
mod weights;

pub use batches::Batches;
pub use bench::{BenchReport, ClipBench, Spread, bench, bench_clip, peak_rss_bytes};
pub use briefing::Briefing;
pub use checkpoint::{Checkpoint, CheckpointStore, Found, Progress, Snapshot};
pub use chosen::{Chosen, Which};
pub use corpora::{Corpora, Loading, load_corpora};
pub use error::{RestoreError, TrainError};
pub use evaluate::{Evaluation, Streams, evaluate};
pub use gradclip::{ClipPolicy, NonFinite};
pub use memory::{
    MemoryEstimate, STEPS_JUDGED, estimate_evaluation, estimate_generation, estimate_memory,
};
pub use optimizer::{Optimizer, OptimizerKind, OptimizerSettings};
pub use plan::{BelongsTo, Difference, Plan, PlanError, Preset, Section, Setting, compare_plans};
pub use run::{RunFolder, header};
pub use safetensors_header::{ListedTensor, list_safetensors, safetensors_header};
pub use schedule::{Schedule, ScheduleKind};
pub use shears_parallel::{Alone, Ranks};
pub use tensors::{LazyTensor, NamedTensor, in_one_line, load_parameters, module_tensors};
pub use train::{End, Observer, train};
pub use trainer::{Exchanged, PhaseTimes, StepOutcome, Trainer};
