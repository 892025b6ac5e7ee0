//! Whether a run is still training, and how it ended.

use serde::Serialize;
use shears_run::EndReason;

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RunState {
    /// A trainer holds its lock.
    Running,
    /// All steps were taken, or patience ran out.
    Finished,
    /// Somebody stopped it; it can be resumed.
    Stopped,
    /// Gradients were not finite.
    Diverged,
    /// Another failure.
    Failed,
    /// Its log has no end, and nobody holds its lock.
    Killed,
}

impl RunState {
    /// The state of a run whose log ends with `end`.
    pub(crate) fn of(end: Option<EndReason>, lives: bool) -> RunState {
        match end {
            None if lives => RunState::Running,
            None => RunState::Killed,
            Some(EndReason::Finished | EndReason::OutOfPatience) => RunState::Finished,
            Some(EndReason::Stopped) => RunState::Stopped,
            Some(EndReason::Diverged) => RunState::Diverged,
            Some(EndReason::Failed) => RunState::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_an_end_is_running_or_was_killed() {
        assert_eq!(RunState::of(None, true), RunState::Running);
        assert_eq!(RunState::of(None, false), RunState::Killed);
        let end = Some(EndReason::OutOfPatience);
        assert_eq!(RunState::of(end, false), RunState::Finished);
    }
}
