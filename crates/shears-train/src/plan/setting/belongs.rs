//! The choices that a setting belongs to.

use std::fmt;

use gradclip::NonFinite;
use shears_model::{Architecture, Position};

use crate::optimizer::OptimizerKind;
use crate::plan::Plan;
use crate::schedule::ScheduleKind;

/// The choices that a setting belongs to; with others it would have no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BelongsTo {
    /// Every plan has it.
    All,
    /// Models of these kinds.
    Models(&'static [Architecture]),
    /// Transformers with these position embeddings.
    Positions(&'static [Position]),
    /// These optimizers.
    Optimizers(&'static [OptimizerKind]),
    /// These schedules.
    Schedules(&'static [ScheduleKind]),
    /// These rules for non-finite gradients.
    NonFinite(&'static [NonFinite]),
}

impl BelongsTo {
    /// Whether the plan has one of the choices.
    pub fn holds(self, plan: &Plan) -> bool {
        match self {
            BelongsTo::All => true,
            BelongsTo::Models(these) => these.contains(&plan.model),
            BelongsTo::Positions(these) => {
                plan.model == Architecture::Transformer && these.contains(&plan.position)
            }
            BelongsTo::Optimizers(these) => these.contains(&plan.optimizer),
            BelongsTo::Schedules(these) => these.contains(&plan.schedule),
            BelongsTo::NonFinite(these) => these.contains(&plan.non_finite),
        }
    }

    /// The setting that makes the choice.
    fn choice(self) -> &'static str {
        match self {
            BelongsTo::All => "",
            BelongsTo::Models(_) => "model",
            BelongsTo::Positions(_) => "position",
            BelongsTo::Optimizers(_) => "optimizer",
            BelongsTo::Schedules(_) => "schedule",
            BelongsTo::NonFinite(_) => "non-finite",
        }
    }

    /// The setting that would have to change.
    pub(crate) fn deciding(self, plan: &Plan) -> &'static str {
        match self {
            BelongsTo::Positions(_) if plan.model != Architecture::Transformer => "model",
            _ => self.choice(),
        }
    }

    /// The choice of the plan.
    pub(super) fn chosen(self, plan: &Plan) -> String {
        match self {
            BelongsTo::All => String::new(),
            BelongsTo::Models(_) => plan.model.to_string(),
            BelongsTo::Positions(_) if plan.model != Architecture::Transformer => {
                format!("model {}", plan.model)
            }
            BelongsTo::Positions(_) => plan.position.to_string(),
            BelongsTo::Optimizers(_) => plan.optimizer.to_string(),
            BelongsTo::Schedules(_) => plan.schedule.to_string(),
            BelongsTo::NonFinite(_) => plan.non_finite.to_string(),
        }
    }
}

/// Prints as in "optimizer adam or adamw"; nothing for [`BelongsTo::All`].
impl fmt::Display for BelongsTo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BelongsTo::All => Ok(()),
            BelongsTo::Models(these) => one_of(formatter, self.choice(), these),
            BelongsTo::Positions(these) => one_of(formatter, self.choice(), these),
            BelongsTo::Optimizers(these) => one_of(formatter, self.choice(), these),
            BelongsTo::Schedules(these) => one_of(formatter, self.choice(), these),
            BelongsTo::NonFinite(these) => one_of(formatter, self.choice(), these),
        }
    }
}

fn one_of<T: fmt::Display>(
    formatter: &mut fmt::Formatter<'_>,
    choice: &str,
    these: &[T],
) -> fmt::Result {
    write!(formatter, "{choice} ")?;
    for (index, this) in these.iter().enumerate() {
        let between = match index {
            0 => "",
            _ if index + 1 == these.len() => " or ",
            _ => ", ",
        };
        write!(formatter, "{between}{this}")?;
    }
    Ok(())
}
