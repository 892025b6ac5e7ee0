//! Rules that judge no step until they have seen enough.

use gradclip::{ClipPolicy, ClipRule, ClipScope};

use crate::record::{Run, StepRecord};

/// A rule that has not yet judged a step.
pub(crate) struct WarmUp<'a> {
    pub(crate) rule: &'a ClipRule,
    /// Steps that it learned from.
    pub(crate) seen: usize,
    /// Steps that it must learn from before it judges one.
    pub(crate) needed: usize,
}

impl<'a> WarmUp<'a> {
    /// The rules of a run's policy that are still waiting.
    pub(crate) fn of(run: &Run<'a>) -> Vec<WarmUp<'a>> {
        let teaches = |step: &&StepRecord| {
            !step.skipped() && !step.non_finite && step.norm_before.is_finite()
        };
        // Rules ignore a norm of zero.
        let teaching = run.steps.iter().filter(teaches);
        let seen = teaching.filter(|step| step.norm_before > 0.0).count();
        let rules = run.policy.rules().iter().map(|rule| WarmUp {
            rule,
            seen,
            needed: rule.steps_needed() as usize,
        });
        // What the last step taught only affects the next one.
        let waiting = rules.filter(|rule| rule.needed > 0 && rule.seen <= rule.needed);
        waiting.collect()
    }
}

/// Whether all thresholds of a policy apply to the norm of all tensors, which is the norm recorded.
#[must_use]
pub fn goes_by_norm_of_all(policy: &ClipPolicy) -> bool {
    let mut rules = policy.rules().iter();
    rules.all(|rule| rule.scope() == ClipScope::All)
}
