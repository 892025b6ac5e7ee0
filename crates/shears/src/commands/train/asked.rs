//! What `shears train` is asked to do.

use std::path::PathBuf;

use super::arguments::{Outside, TrainArguments};
use crate::exit::misuse;
use crate::screen;
use crate::settings::Given;
use crate::watch::Show;
use crate::world::World;

/// The arguments, checked as far as possible without reading the text.
pub(super) struct Asked {
    pub(super) given: Given,
    pub(super) outside: Outside,
    pub(super) resume: Option<Option<PathBuf>>,
    pub(super) show: Show,
}

impl Asked {
    pub(super) fn of(world: &World, arguments: TrainArguments) -> anyhow::Result<Asked> {
        let TrainArguments {
            settings,
            outside,
            config,
            resume,
        } = arguments;
        // Only the first of several processes needs the files; it sends the plan to the others.
        let config = config.filter(|_| world.is_first());
        let given = Given::read(settings.0, config.as_deref())?;
        let mut outside = outside.or(&given)?;
        let show = match (outside.json, outside.quiet) {
            (true, true) => misuse!("--json and --quiet exclude each other"),
            _ if outside.verbose && (outside.json || outside.quiet) => {
                misuse!("--verbose is for text output; leave out --json and --quiet")
            }
            (true, false) => Show::Json,
            (false, true) => Show::Quiet,
            (false, false) => Show::Text,
        };
        if resume.is_some() && outside.out.is_some() {
            misuse!("a resumed run stays in its folder; leave out --out (or `out` in the config)");
        }
        if outside.tui && !world.is_alone() {
            misuse!("--tui takes the terminal, which several processes cannot share; leave it out");
        }
        if outside.tui {
            screen::check(outside.json, outside.quiet)?;
        }
        // Only the first of several processes writes and prints.
        outside.verbose &= world.is_first();
        outside.tensorboard &= world.is_first();
        Ok(Asked {
            given,
            outside,
            resume,
            show: if world.is_first() { show } else { Show::Quiet },
        })
    }
}
