//! Loads a text with a progress line, and refuses one that does not fit into memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::ProgressBar;
use shears_data::{Tokenizer, TokenizerKind};
use shears_train::{Corpora, Loading, Plan, PlanError, TrainError, load_corpora};

use crate::input::PipeWatch;
use crate::memory;
use crate::report;

/// Bytes from which on loading takes about a second, and shows a progress line.
const WORTH_SAYING: u64 = 4_000_000;

/// How often the spinner moves.
const TICK: Duration = Duration::from_millis(100);

/// Redraws a bar at intervals, where the system gives a thread for that.
pub(crate) fn tick(bar: &ProgressBar, every: Duration) {
    // The bar would panic if it were refused.
    if std::thread::Builder::new().spawn(|| ()).is_ok() {
        bar.enable_steady_tick(every);
    }
}

/// Like [`load_corpora`], with a progress line on a terminal if `shown`.
pub(crate) fn load(
    plan: &Plan,
    kept: Option<&Path>,
    tokenizer: Option<Tokenizer>,
    shown: bool,
) -> Result<Corpora, TrainError> {
    let bar = match shown {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    let text = plan.text.iter().chain(&plan.val);
    let text = text.map(|path| plan.located(path));
    let tokenizer_file = match &plan.tokenizer {
        TokenizerKind::File(path) if tokenizer.is_none() => Some(path.clone()),
        _ => None,
    };
    let read: Vec<PathBuf> = text.chain(tokenizer_file).collect();
    let _watch = PipeWatch::over(read.iter().map(PathBuf::as_path));
    let loaded = load_corpora(plan, kept, tokenizer, &mut |part, bytes| {
        let room = memory::check("this text", "use a shorter text", bytes);
        room.map_err(|misuse| PlanError::new(misuse.0))?;
        let (done, size) = match part {
            Loading::Reading(size) => ("reading", size.unwrap_or(0)),
            Loading::Learning(size) => ("learning merges from", size),
            Loading::Encoding(size) => ("tokenizing", size),
        };
        if size >= WORTH_SAYING {
            tick(&bar, TICK);
            bar.set_message(format!("{done} {} of text", report::bytes(size)));
        }
        Ok(())
    });
    bar.finish_and_clear();
    loaded
}
