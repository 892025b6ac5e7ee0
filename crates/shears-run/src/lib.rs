//! A run's folder, without its tensors. `events.jsonl` is the run's memory: the terminal, `shears
//! inspect`, the live page and every report are computed from it alone, so that they cannot
//! disagree.
//!
//! ```text
//! header.rs     the first line of a log: model, device    log.rs      reads a growing log
//! event.rs      the other lines                           line.rs     parses one line
//! writer.rs     appends, and truncates to resume          columns.rs  a log as columns
//! lock.rs       one writer at a time                      glance.rs   the last lines of a log
//! plan.rs       plan.toml as a table                      flow.rs     gradients through the layers
//! judgement.rs  verdict, advice, next command             folder.rs   the folder of a file
//! regular.rs    opens regular files only                  sample.rs   lines from all over a log
//! ranks.rs      runs of several processes                 syntax.rs   errors in JSON and TOML
//! ```
//!
//! [`Log`] is the one reader of logs. It reads whole lines from where it stopped, leaves a
//! half-written last line for the next time, counts and skips lines that are not events, and starts
//! over when a resumed run has truncated its log. [`Columns`] take a few dozen bytes per step;
//! [`Log::events`] reads the lines again, one at a time.
#![forbid(unsafe_code)]

mod columns;
mod error;
mod event;
mod flow;
mod folder;
mod glance;
mod header;
mod judgement;
mod line;
mod lock;
mod log;
mod plan;
mod ranks;
mod regular;
mod sample;
mod syntax;
mod writer;

pub use columns::{Columns, End, Tensors};
pub use error::RunError;
pub use event::{
    Change, ClipEvent, EndReason, Evaluation, Event, Resume, Sample, StepEvent, action_name,
    six_digits,
};
pub use folder::{
    checkpoint_step, create_folders, folder_of, replace_file, sync_folder, write_anew,
};
pub use glance::Glance;
pub use header::{FORMAT, Header, Parameter};
pub use judgement::{ADAPTIVE_OPTIMIZERS, Judgement, Subject, program, quoted, stretches};
pub use lock::{LockWatch, lock_folder};
pub use log::{Damage, Events, Log, ReadProgress, line_at};
pub use plan::read_plan;
pub use ranks::{ExchangeEvent, ExchangeSummary, RanksEvent, bytes};
pub use regular::{check_regular, open_regular, read_regular, read_regular_text};
pub use sample::LogSample;
pub use syntax::{escaped, json_problem, toml_problem};
pub use writer::{DAMAGED, EventLog};

/// The log in the folder of a run.
pub const LOG: &str = "events.jsonl";
/// The plan in the folder of a run: a folder without one is not a run.
pub const PLAN: &str = "plan.toml";
/// The text in the folder of a run that read standard input.
pub const INPUT: &str = "input.txt";
