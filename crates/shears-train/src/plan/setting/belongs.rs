//! The choices that a setting belongs to.

use std::fmt;

use super::{Setting, shown};
use crate::plan::Plan;

/// The choices that a setting belongs to; with others it would have no effect.
///
/// Prints as in "optimizer adam or adamw"; nothing for [`BelongsTo::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BelongsTo {
    /// The setting that makes the choice; empty if every plan has it.
    pub choice: &'static str,
    /// Its values.
    pub names: &'static [&'static str],
}

impl BelongsTo {
    /// Every plan has it.
    pub const ALL: BelongsTo = BelongsTo::only("", &[]);

    /// Plans in which the setting `choice` has one of these values.
    pub(crate) const fn only(choice: &'static str, names: &'static [&'static str]) -> BelongsTo {
        BelongsTo { choice, names }
    }

    /// Whether the plan has one of the choices, and what they belong to in turn.
    pub fn holds(self, plan: &Plan) -> bool {
        let Some(choice) = Plan::setting(self.choice) else {
            return true;
        };
        choice.belongs(plan) && self.names.contains(&&*value_of(choice, plan))
    }

    /// The setting that would have to change.
    pub(crate) fn deciding(self, plan: &Plan) -> &'static str {
        match Plan::setting(self.choice) {
            Some(choice) if !choice.belongs(plan) => choice.belongs_to.deciding(plan),
            _ => self.choice,
        }
    }

    /// The choice of the plan.
    pub(super) fn chosen(self, plan: &Plan) -> String {
        let deciding = self.deciding(plan);
        let value = Plan::setting(deciding).map(|choice| value_of(choice, plan));
        let value = value.unwrap_or_default();
        match deciding == self.choice {
            true => value,
            false => format!("{deciding} {value}"),
        }
    }
}

fn value_of(setting: &Setting, plan: &Plan) -> String {
    let value = setting.value_in(plan);
    value.map_or(String::new(), |value| shown(&value))
}

impl fmt::Display for BelongsTo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((last, others)) = self.names.split_last() else {
            return Ok(());
        };
        let BelongsTo { choice, .. } = self;
        match others {
            [] => write!(formatter, "{choice} {last}"),
            others => write!(formatter, "{choice} {} or {last}", others.join(", ")),
        }
    }
}
