//! What `shears train` was asked for.

use std::path::PathBuf;

use super::arguments::{Outside, TrainArguments};
use crate::exit::misuse;
use crate::screen;
use crate::settings::Given;
use crate::watch::Show;
use crate::world::World;

/// What was asked for, checked as far as that is possible without a text.
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
        // The first of several processes has the files, and tells the others.
        let config = config.filter(|_| world.is_first());
        let given = Given::read(settings.0, config.as_deref())?;
        let outside = outside.or(&given)?;
        let show = match (outside.json, outside.quiet) {
            (true, true) => misuse!("--json and --quiet exclude each other"),
            _ if outside.verbose && (outside.json || outside.quiet) => {
                misuse!("--verbose is about text; leave out --json and --quiet")
            }
            (true, false) => Show::Json,
            (false, true) => Show::Quiet,
            (false, false) => Show::Text,
        };
        if resume.is_some() && outside.out.is_some() {
            misuse!("a resumed run stays in its folder; leave out --out (or `out` in the config)");
        }
        if outside.tui && !world.is_alone() {
            misuse!("--tui takes the terminal, which several processes have not; leave it out");
        }
        if outside.tui {
            screen::check(outside.json, outside.quiet)?;
        }
        Ok(Asked {
            given,
            outside,
            resume,
            // The first of several processes speaks for all.
            show: if world.is_first() { show } else { Show::Quiet },
        })
    }
}
