//! Which settings belong to which model, optimizer, schedule and rule for non-finite gradients.

use std::fmt::Display;

use gradclip::NonFinite;
use shears_model::Architecture;

use crate::optimizer::OptimizerKind;
use crate::plan::{Plan, PlanError};
use crate::schedule::ScheduleKind;

/// The choices that a setting belongs to: with any other it would do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BelongsTo {
    /// Every plan has it.
    All,
    /// To models of these kinds.
    Models(&'static [Architecture]),
    /// To these optimizers.
    Optimizers(&'static [OptimizerKind]),
    /// To these schedules.
    Schedules(&'static [ScheduleKind]),
    /// To these rules for gradients that are not finite.
    NonFinite(&'static [NonFinite]),
}

impl BelongsTo {
    /// What the setting with this name belongs to.
    pub fn of(setting: &str) -> BelongsTo {
        use {Architecture::*, OptimizerKind::*, ScheduleKind::*};
        match setting {
            "embedding" => BelongsTo::Models(&[Rnn, Lstm, Gru]),
            "heads" => BelongsTo::Models(&[Transformer]),
            "forget-bias" => BelongsTo::Models(&[Lstm]),
            "nonlinearity" => BelongsTo::Models(&[Rnn]),
            "momentum" | "nesterov" => BelongsTo::Optimizers(&[Momentum]),
            "alpha" => BelongsTo::Optimizers(&[RmsProp]),
            "beta1" | "beta2" => BelongsTo::Optimizers(&[Adam, AdamW]),
            "epsilon" => BelongsTo::Optimizers(&[RmsProp, Adam, AdamW]),
            "min-lr" => BelongsTo::Schedules(&[Cosine, Linear, Step]),
            "decay-every" | "decay-factor" => BelongsTo::Schedules(&[Step]),
            "max-skips" => BelongsTo::NonFinite(&[NonFinite::Skip]),
            _ => BelongsTo::All,
        }
    }

    /// Refuses a setting that does not belong to what the plan has chosen.
    ///
    /// # Errors
    ///
    /// The choices that have the setting, and the plan's.
    pub fn check(self, setting: &str, plan: &Plan) -> Result<(), PlanError> {
        match self {
            BelongsTo::All => Ok(()),
            BelongsTo::Models(these) => one_of(setting, "model", these, plan.model),
            BelongsTo::Optimizers(these) => one_of(setting, "optimizer", these, plan.optimizer),
            BelongsTo::Schedules(these) => one_of(setting, "schedule", these, plan.schedule),
            BelongsTo::NonFinite(these) => one_of(setting, "non-finite", these, plan.non_finite),
        }
    }
}

fn one_of<T: PartialEq + Display>(
    setting: &str,
    choice: &str,
    these: &[T],
    chosen: T,
) -> Result<(), PlanError> {
    if these.contains(&chosen) {
        return Ok(());
    }
    let names: Vec<String> = these.iter().map(T::to_string).collect();
    let names = match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    };
    let message = format!("{setting} belongs to {choice} {names}, not to {chosen}");
    Err(PlanError::new(message))
}
