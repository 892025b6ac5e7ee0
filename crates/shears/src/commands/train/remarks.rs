//! Notes, before a run starts, on what it does differently than one may expect.

use shears_run::EndReason;
use shears_train::{Batches, Checkpoint, Corpora, Plan, Progress, RunFolder, ScheduleKind};

use crate::exit::misuse;
use crate::report::{count, counted};
use crate::settings::Given;

/// Notes on settings that were adjusted, or that the run is too short for.
pub(super) fn of_plan(given: &Given, plan: &Plan) -> Vec<String> {
    let preset = plan.preset;
    let mut remarks = Vec::new();
    let lowest = preset.plan().min_lr;
    let is_falling = plan.schedule != ScheduleKind::Constant;
    if is_falling && !given.has("min-lr") && plan.min_lr != lowest {
        remarks.push(format!(
            "min-lr is {:?}, a tenth of lr: that of preset {preset}, {lowest:?}, is above it",
            plan.min_lr
        ));
    }
    if plan.warmup >= plan.steps {
        let origin = match given.has("warmup") {
            true => String::new(),
            false => format!(" (of preset {preset})"),
        };
        remarks.push(format!(
            "warmup is {}{origin}, and the run has {} steps: the learning rate rises to {:.3e} and \
             never reaches {:?}",
            count(plan.warmup),
            count(plan.steps),
            plan.schedule().at(plan.steps - 1),
            plan.lr
        ));
    }
    let before_the_end = (plan.steps - 1) / plan.eval_every.max(1);
    // The first one improves on none.
    if plan.patience > 0 && before_the_end <= plan.patience && plan.init_from.is_none() {
        remarks.push(format!(
            "patience is {}, and the run has {} before its end: it never stops early",
            count(plan.patience),
            counted(before_the_end, "evaluation")
        ));
    }
    remarks
}

/// Notes on a resumed run: what changed, and the effect.
pub(super) fn of_resume(
    plan: &Plan,
    changed: &Plan,
    checkpoint: Option<&Checkpoint>,
    folder: &RunFolder,
) -> anyhow::Result<Vec<String>> {
    let new = &changed.changes[plan.changes.len()..];
    let progress = checkpoint.map(|checkpoint| &checkpoint.progress);
    let step = progress.map_or(0, |progress| progress.step);
    let mut remarks: Vec<String> = new
        .iter()
        .map(|change| format!("{change} from step {} on", step + 1))
        .collect();
    let is_changed = |names: &[&str]| new.iter().any(|c| names.contains(&c.name.as_str()));
    if is_changed(&["lr", "min-lr", "steps"]) && changed.schedule != ScheduleKind::Constant {
        let updates = progress.map_or(0, |progress| progress.updates);
        remarks.push(format!(
            "the learning rate is as if the run had started with these settings: {:.3e} at the \
             next step, and {:.3e} without the change",
            changed.schedule().at(updates),
            plan.schedule().at(updates)
        ));
    }
    if is_changed(&["clip"]) {
        remarks.push("the new clipping policy starts without the history of the old one".into());
    }
    if is_changed(&["eval-tokens"]) {
        remarks.push(
            "losses on other validation tokens are not comparable: the best loss is reset".into(),
        );
    }
    let end = folder.log()?.columns.end;
    if checkpoint.is_none()
        && new.is_empty()
        && end.is_some_and(|end| end.how == EndReason::Diverged)
    {
        remarks.push(
            "the run diverged before its first checkpoint, and will do so again: the same settings \
             give the same result (--lr and --clip may be changed)"
                .into(),
        );
    }
    if let Some((why, remedy)) = progress.and_then(|progress| nothing_left(changed, progress)) {
        if !new.is_empty() {
            // The plan would claim that steps were taken with the change.
            let names: Vec<&str> = new.iter().map(|change| change.name.as_str()).collect();
            let names = names.join(", ");
            misuse!("{why}, so no step would use the new {names}; {remedy}");
        }
        // An evaluation after the last step may still be due.
        if !progress.is_some_and(|progress| progress.pending) {
            remarks.push(format!("{why}; {remedy}"));
        }
    }
    Ok(remarks)
}

/// Why a run has no steps left, and how to continue it.
fn nothing_left(plan: &Plan, progress: &Progress) -> Option<(String, &'static str)> {
    if progress.step >= plan.steps {
        let why = format!("all {} steps have been taken", count(progress.step));
        return Some((why, "--steps N continues to step N"));
    }
    let is_out_of_patience = plan.patience > 0 && progress.stale_evaluations >= plan.patience;
    (is_out_of_patience && !progress.pending).then(|| {
        let patience = plan.patience;
        let why = format!("the run ended because {patience} evaluations in a row did not improve");
        (why, "a higher --patience, or 0, continues")
    })
}

/// Notes on a text that does not divide into whole windows, or that the tokenizer alters.
pub(super) fn of_text(plan: &Plan, batches: &Batches, corpora: &Corpora) -> Vec<String> {
    let mut remarks = Vec::new();
    let tokens = corpora.train.len() as u64;
    if let Some((left, passes)) = batches.unread_per_pass() {
        let left = left as u64;
        match passes {
            None => remarks.push(format!(
                "{} of the training tokens are never read: they are at the ends of the streams, \
                 and do not fill a window (new runs read them)",
                count(left)
            )),
            // Less than a hundredth of the text is not worth a note.
            Some(passes) if left > tokens / 100 => remarks.push(format!(
                "one pass over the text reads {} of its tokens, in whole windows; the next starts \
                 later, and {} passes read all",
                count(tokens - 1 - left),
                count(passes)
            )),
            Some(_) => {}
        }
    }
    if let Some(altered) = &corpora.altered {
        remarks.push(format!(
            "the tokenizer loses {} of {} characters of the text{}; bits per character are those \
             of the altered text",
            count(altered.lost as u64),
            count(altered.characters as u64),
            altered
                .most_lost
                .map_or(String::new(), |it| format!(", most of all {it:?}"))
        ));
    }
    let validation = corpora.validation.len();
    if validation <= plan.window {
        remarks.push(format!(
            "the validation text has {}, less than one window of {}: its loss says little about \
             longer texts",
            counted(validation as u64, "token"),
            plan.window
        ));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use shears_train::Preset;

    use super::*;

    /// A run that was stopped after its last step, before the evaluation there, takes no step with
    /// a new setting either.
    #[test]
    fn a_pending_evaluation_leaves_no_step() {
        let plan = Preset::Rnn128.plan();
        let after = |step, pending| Progress {
            step,
            pending,
            ..Progress::default()
        };
        for pending in [false, true] {
            assert!(nothing_left(&plan, &after(plan.steps, pending)).is_some());
            assert_eq!(nothing_left(&plan, &after(plan.steps - 1, pending)), None);
        }
    }
}
