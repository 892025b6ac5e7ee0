//! From what was given to the plan: preset, then settings; and the checks of a whole plan.

use toml::{Table, Value};

use super::{Plan, PlanError};
use crate::optimizer::OptimizerKind;
use crate::plan::Preset;
use crate::schedule::ScheduleKind;

/// Steps of a run on the text that the program carries: about a minute on two cores.
const CARRIED_STEPS: i64 = 300;

/// Evaluations of such a run are quick, and its loss falls quickly.
const CARRIED_EVAL_EVERY: i64 = 100;

impl Plan {
    /// The plan of a new run: the preset, with what is given, by name, in place of its own.
    ///
    /// # Errors
    ///
    /// The first setting that is unknown, of another type, out of range, or does not belong to what
    /// the plan has chosen; or what two do not agree on.
    pub fn resolve(given: &Table) -> Result<Plan, PlanError> {
        let plan = Plan::unchecked(given)?;
        plan.check_belonging(given)?;
        plan.validate()?;
        Ok(plan)
    }

    /// Refuses settings that do not belong to what this plan has chosen.
    ///
    /// # Errors
    ///
    /// The first of them, with the choices that have it.
    pub fn check_belonging(&self, given: &Table) -> Result<(), PlanError> {
        let mut settings = given.keys().filter_map(|name| Plan::setting(name));
        settings.try_for_each(|setting| setting.check_belonging(self))
    }

    /// Removes from `written`, the `plan.toml` of a run that serves as a config, what does not
    /// belong to the plan that it makes together with `typed`.
    ///
    /// # Errors
    ///
    /// As [`Plan::resolve`], but for the ranges.
    pub fn retain_belonging(written: &mut Table, typed: &Table) -> Result<(), PlanError> {
        let mut both = written.clone();
        both.extend(typed.clone());
        let plan = Plan::unchecked(&both)?;
        written.retain(|name, _| Plan::setting(name).is_none_or(|setting| setting.belongs(&plan)));
        Ok(())
    }

    /// The preset with what is given in place of its own.
    fn unchecked(given: &Table) -> Result<Plan, PlanError> {
        let choice = |name| given.get(name).and_then(Value::as_str);
        // An unknown name is refused below, as all values are.
        let preset = match (
            choice("preset").map(str::parse),
            choice("model").map(str::parse),
        ) {
            (Some(Ok(preset)), _) => preset,
            (None, Some(Ok(model))) => Preset::of(model),
            _ => Preset::Lstm128,
        };
        let preset = preset.plan();
        let implied = implied(given, &preset);
        preset.with(&implied)?.with(given)
    }

    /// The plan with other values, unchecked.
    ///
    /// # Errors
    ///
    /// The first setting that is unknown or of another type.
    pub fn with(&self, given: &Table) -> Result<Plan, PlanError> {
        let mut plan = self.clone();
        for (name, value) in given {
            plan.set(name, value.clone())?;
        }
        Ok(plan)
    }

    pub(super) fn set(&mut self, name: &str, value: Value) -> Result<(), PlanError> {
        let Some(setting) = Plan::setting(name) else {
            return Err(PlanError::new(format!("there is no setting `{name}`")));
        };
        setting.set(self, value)
    }

    /// Checks every setting that belongs to the plan, before anything is allocated or written.
    ///
    /// # Errors
    ///
    /// The first setting that is out of range, with the range, or what two do not agree on.
    pub fn validate(&self) -> Result<(), PlanError> {
        let belonging = Plan::settings().iter();
        let mut belonging = belonging.filter(|setting| setting.belongs(self));
        belonging.try_for_each(|setting| setting.check_range(self))?;
        let model = self.model_config().validate();
        model.map_err(|error| PlanError::new(error.to_string()))?;
        let refused = |setting, message: String| Err(PlanError::about(setting, message));
        if self.model.is_recurrent() != self.preset.model().is_recurrent() {
            let message = format!(
                "model {} does not go with preset {}",
                self.model, self.preset
            );
            return refused("model", message);
        }
        if self.schedule != ScheduleKind::Constant && self.min_lr > self.lr {
            let message = format!("min-lr is {}; it must be from 0 to lr", self.min_lr);
            return refused("min-lr", message);
        }
        let adam = matches!(self.optimizer, OptimizerKind::Adam | OptimizerKind::AdamW);
        if let Some(rule) = self.clip.rules_inside_adam().next().filter(|_| !adam) {
            let (rule, optimizer) = (rule.name(), self.optimizer);
            let choose = format!("choose optimizer adam or adamw, not {optimizer}");
            let message = format!("clipping by `{rule}` works inside Adam; {choose}");
            return refused("clip", message);
        }
        if self.text.len() > 1 && self.reads_standard_input() {
            return refused("text", "`-` cannot be combined with files".to_string());
        }
        if self.device != "cpu" {
            let device = &self.device;
            let message = format!("device `{device}` is not in this build; the devices are: cpu");
            return refused("device", message);
        }
        Ok(())
    }
}

/// Defaults that depend on what is given.
fn implied(given: &Table, preset: &Plan) -> Table {
    let mut implied = Table::new();
    if let Some(hidden) = given.get("hidden") {
        implied.insert("embedding".into(), hidden.clone());
    }
    if !given.contains_key("text") && !given.contains_key("preset") {
        implied.insert("steps".into(), Value::Integer(CARRIED_STEPS));
        implied.insert("eval-every".into(), Value::Integer(CARRIED_EVAL_EVERY));
    }
    // PyTorch's own defaults of weight decay, when the optimizer is not the preset's.
    let optimizer = given.get("optimizer").and_then(Value::as_str);
    if let Some(name) = optimizer.filter(|name| *name != preset.optimizer.name()) {
        let decay = if name == OptimizerKind::AdamW.name() {
            0.01
        } else {
            0.0
        };
        implied.insert("weight-decay".into(), Value::Float(decay));
    }
    implied
}
