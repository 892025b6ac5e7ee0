//! Runs whose policy was changed midway.

use gradclip::ClipPolicy;

use crate::record::{Run, StepRecord, Stretch};
use crate::verdict::judge;

impl<'a> Run<'a> {
    /// A run whose policy was changed: `stretches` has the first step of each policy in turn. Only
    /// the last stretch is judged; the others are named.
    pub fn in_stretches(
        stretches: &'a [(u64, ClipPolicy)],
        steps: impl IntoIterator<Item = StepRecord>,
    ) -> Option<Run<'a>> {
        let (last, earlier) = stretches.split_last()?;
        let mut steps: Vec<StepRecord> = steps.into_iter().collect();
        let first_loss = steps.iter().find_map(|step| step.loss);
        let own = steps.partition_point(|step| step.step < last.0);
        let mut run = Run::new(&last.1, steps.split_off(own));
        run.first_loss = first_loss.filter(|_| own > 0);
        for (index, (_, policy)) in earlier.iter().enumerate() {
            let until = stretches[index + 1].0;
            let rest = steps.split_off(steps.partition_point(|step| step.step < until));
            let stretch = std::mem::replace(&mut steps, rest);
            if !stretch.is_empty() {
                run.before.push(Stretch {
                    policy: policy.to_string(),
                    class: judge(&Run::new(policy, stretch)).verdict.class.words(),
                });
            }
        }
        Some(run)
    }
}
