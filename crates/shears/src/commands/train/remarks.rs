//! What a run does other than somebody may expect, said before it starts.

use shears_train::{Batches, Corpora, Plan, ScheduleKind};

use crate::report::count;
use crate::settings::Given;

/// About settings that were resolved otherwise than typed, or that the run is too short for.
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
    remarks
}

/// About a text that does not divide into whole windows, or has less than one.
pub(super) fn of_text(plan: &Plan, batches: &Batches, corpora: &Corpora) -> Vec<String> {
    let mut remarks = Vec::new();
    let tokens = corpora.train.len() as u64;
    if let Some((left, passes)) = batches.left_by_a_pass() {
        let left = left as u64;
        match passes {
            None => remarks.push(format!(
                "{} of the training tokens are never read: they are at the ends of the streams, \
                 and fill no window (a run that is started now reads them)",
                count(left)
            )),
            // A hundredth more or less of a text makes no difference to anybody.
            Some(passes) if left > tokens / 100 => remarks.push(format!(
                "one pass over the text reads {} of its tokens, in whole windows; the next starts \
                 later, and {} passes read all",
                count(tokens - 1 - left),
                count(passes)
            )),
            Some(_) => {}
        }
    }
    let validation = corpora.validation.len();
    if validation <= plan.window {
        remarks.push(format!(
            "the validation text has {validation} tokens, less than one window of {}: its loss \
             says little about longer texts",
            plan.window
        ));
    }
    remarks
}
