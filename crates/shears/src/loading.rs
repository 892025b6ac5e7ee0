//! What is said while a text is read and becomes tokens, and refused before it takes too much.

use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;
use shears_data::Tokenizer;
use shears_train::{Corpora, Loading, Plan, PlanError, TrainError, load_corpora};

use crate::memory;
use crate::report;

/// What takes less time than a second is not worth a line.
const WORTH_SAYING: u64 = 4_000_000;

/// How often the line shows that the program is alive.
const TICK: Duration = Duration::from_millis(100);

/// As [`load_corpora`], with a line on a terminal about what is done if `shown`.
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
    let loaded = load_corpora(plan, kept, tokenizer, &mut |part, bytes| {
        let room = memory::check("this text", "give less of it", bytes);
        room.map_err(|misuse| PlanError::new(misuse.0))?;
        let (done, size) = match part {
            Loading::Reading(size) => ("reading", size.unwrap_or(0)),
            Loading::Learning(size) => ("learning merges from", size),
            Loading::Encoding(size) => ("tokenizing", size),
        };
        if size >= WORTH_SAYING {
            bar.enable_steady_tick(TICK);
            bar.set_message(format!("{done} {} of text", report::bytes(size)));
        }
        Ok(())
    });
    bar.finish_and_clear();
    loaded
}
