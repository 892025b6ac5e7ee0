//! Resolving given settings to a plan: preset, then settings, then validation.

use shears_data::Encoding;
use shears_model::Architecture;
use toml::{Table, Value};

use super::{Plan, PlanError};
use crate::optimizer::OptimizerKind;
use crate::plan::Preset;
use crate::schedule::ScheduleKind;

/// Steps of a run on the built-in text: about a minute on two cores.
const CARRIED_STEPS: i64 = 300;

/// Evaluations on the built-in text are fast, and its loss falls fast.
const CARRIED_EVAL_EVERY: i64 = 100;

/// Settings of the evaluations before the end of a run.
const OF_EVALUATIONS: [&str; 2] = ["patience", "eval-tokens"];

impl Plan {
    /// The plan of a new run: the preset, overridden by the given settings.
    ///
    /// # Errors
    ///
    /// The first setting that is unknown, has the wrong type, is out of range, or does not belong
    /// to the choices of the plan; or two settings that conflict.
    pub fn resolve(given: &Table) -> Result<Plan, PlanError> {
        let plan = Plan::unchecked(given)?;
        let belonging = plan.check_belonging(given);
        belonging.map_err(|error| {
            let setting = error.setting().and_then(Plan::setting);
            let choice = setting.map_or("", |setting| setting.belongs_to.deciding(&plan));
            error.with_origins(&plan, given, &[choice])
        })?;
        plan.check_effect(given)?;
        plan.validate().map_err(|error| {
            let message = error.to_string();
            let words = message.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            // An optimizer's name can be that of a setting.
            let words = words.filter(|word| *word != plan.optimizer.name());
            error.with_origins(&plan, given, &words.collect::<Vec<_>>())
        })?;
        Ok(plan)
    }

    /// Refuses settings that do not belong to the choices of this plan.
    ///
    /// # Errors
    ///
    /// The first such setting, with the choices that it belongs to.
    pub fn check_belonging(&self, given: &Table) -> Result<(), PlanError> {
        let mut settings = given.keys().filter_map(|name| Plan::setting(name));
        settings.try_for_each(|setting| setting.check_belonging(self))
    }

    /// Removes settings from `written`, a run's `plan.toml` used as a config, that do not belong to
    /// the plan resulting from `written` and `typed`.
    ///
    /// # Errors
    ///
    /// As [`Plan::resolve`], except for ranges.
    pub fn retain_belonging(written: &mut Table, typed: &Table) -> Result<(), PlanError> {
        let mut both = written.clone();
        both.extend(typed.clone());
        let plan = Plan::unchecked(&both)?;
        written.retain(|name, _| {
            let belongs = Plan::setting(name).is_none_or(|setting| setting.belongs(&plan));
            belongs && (plan.eval_every > 0 || !OF_EVALUATIONS.contains(&name))
        });
        Ok(())
    }

    /// Refuses given settings that ask for something about evaluations of a run that has none
    /// before its end. A stored plan may have them.
    pub(super) fn check_effect(&self, given: &Table) -> Result<(), PlanError> {
        for name in OF_EVALUATIONS {
            let value = Plan::setting(name).and_then(|setting| setting.value_in(self));
            let value = value.and_then(|value| value.as_integer()).unwrap_or(0);
            // The evaluation before the first step of a trained model reads as many tokens.
            let has_effect =
                self.eval_every > 0 || (name != "patience" && self.init_from.is_some());
            let is_new = given.contains_key(name) || given.contains_key("eval-every");
            if value > 0 && !has_effect && is_new {
                let message = format!(
                    "{name} is {value}, but with eval-every 0 the only evaluation is at the end; \
                     change one of them"
                );
                return Err(PlanError::about(name, message));
            }
        }
        Ok(())
    }

    /// The preset overridden by the given settings, unchecked.
    fn unchecked(given: &Table) -> Result<Plan, PlanError> {
        let choice = |name| given.get(name).and_then(Value::as_str);
        // Unknown names are refused below, like all values.
        let preset = match (
            choice("preset").map(str::parse),
            choice("model").map(str::parse),
        ) {
            (Some(Ok(preset)), _) => preset,
            (None, Some(Ok(model))) => Preset::of(model),
            _ => Preset::Lstm128,
        };
        let preset = preset.plan();
        let plan = preset.with(&implied(given, &preset))?.with(given)?;
        Ok(plan.lower_min_rate(given))
    }

    /// The plan overridden by the given settings, unchecked.
    ///
    /// # Errors
    ///
    /// The first setting that is unknown or has the wrong type.
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

    /// Validates every setting that belongs to the plan, before anything is allocated or written.
    ///
    /// # Errors
    ///
    /// The first setting that is out of range, with its range, or two settings that conflict.
    pub fn validate(&self) -> Result<(), PlanError> {
        let belonging = Plan::settings().iter();
        let mut belonging = belonging.filter(|setting| setting.belongs(self));
        belonging.try_for_each(|setting| setting.check_range(self))?;
        let model = self.model_config().validate();
        model.map_err(|error| PlanError::new(error.to_string()))?;
        let refused = |setting, message: String| Err(PlanError::about(setting, message));
        if self.model.is_recurrent() != self.preset.model().is_recurrent() {
            let message = format!("model {} does not match preset {}", self.model, self.preset);
            return refused("model", message);
        }
        if self.model == Architecture::Transformer && self.window > self.context() {
            let (window, context) = (self.window, self.context);
            let message = format!("window is {window}; it must be at most context ({context})");
            return refused("window", message);
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
        if !self.shards.is_power_of_two() || self.shards > self.batch {
            let (shards, batch) = (self.shards, self.batch);
            let message = format!(
                "shards is {shards}; it must be a power of two that is not above batch, {batch}"
            );
            return refused("shards", message);
        }
        if self.eval_tokens == 1 {
            let message = "eval-tokens is 1; it must be 0 or at least 2";
            return refused("eval-tokens", message.to_string());
        }
        let has_file = !self.text.is_empty() || self.val.is_some();
        if self.encoding != Encoding::UTF_8 && !has_file {
            let message = "encoding needs a text, and none is given: the built-in one is UTF-8";
            return refused("encoding", message.to_string());
        }
        if self.device != "cpu" {
            let device = &self.device;
            let message = format!("this build has no device `{device}`, only cpu");
            return refused("device", message);
        }
        Ok(())
    }
}

impl Plan {
    /// Replaces a minimum rate that was not given and is above the learning rate by a tenth of the
    /// latter, nanoGPT's rule, which its presets follow.
    fn lower_min_rate(mut self, given: &Table) -> Plan {
        let is_falling = self.schedule != ScheduleKind::Constant;
        if is_falling && self.min_lr > self.lr && !given.contains_key("min-lr") {
            // Rounded to 15 digits, so that a tenth of 1e-5 is 1e-6.
            let tenth = format!("{:.14e}", self.lr / 10.0);
            self.min_lr = tenth.parse().unwrap_or(self.lr / 10.0);
        }
        self
    }
}

impl PlanError {
    /// Adds to the message which of the mentioned settings come from the preset.
    fn with_origins(mut self, plan: &Plan, given: &Table, words: &[&str]) -> PlanError {
        let mut of_preset: Vec<&str> = Vec::new();
        for &word in words {
            let is_setting = Plan::setting(word).is_some() && !["preset", "text"].contains(&word);
            if is_setting && !given.contains_key(word) && !of_preset.contains(&word) {
                of_preset.push(word);
            }
        }
        let (are, those) = match of_preset.len() {
            0 => return self,
            1 => ("is", "that"),
            _ => ("are", "those"),
        };
        let (names, preset) = (of_preset.join(" and "), plan.preset);
        self.message = format!("{}; {names} {are} {those} of preset {preset}", self.message);
        self
    }
}

/// Defaults that depend on given settings.
fn implied(given: &Table, preset: &Plan) -> Table {
    let mut implied = Table::new();
    if let Some(hidden) = given.get("hidden") {
        implied.insert("embedding".into(), hidden.clone());
    }
    if !given.contains_key("text") && !given.contains_key("preset") {
        implied.insert("steps".into(), Value::Integer(CARRIED_STEPS));
        implied.insert("eval-every".into(), Value::Integer(CARRIED_EVAL_EVERY));
    }
    // PyTorch's default weight decay, if the optimizer is not the preset's.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(given: &str) -> Result<Plan, String> {
        Plan::resolve(&given.parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_default_minimum_rate_follows_the_peak() {
        let lowest = |given: &str| resolve(given).unwrap().min_lr;
        assert_eq!(lowest("preset = 'gpt-128'"), 1e-4);
        assert_eq!(lowest("preset = 'gpt-128'\nlr = 2e-4"), 1e-4);
        assert_eq!(lowest("preset = 'gpt-128'\nlr = 5e-5"), 5e-6);
        assert_eq!(lowest("preset = 'gpt-128'\nlr = 1e-5"), 1e-6);
        assert_eq!(
            lowest("preset = 'gpt-128'\nlr = 5e-5\nschedule = 'constant'"),
            1e-4
        );
        let error = resolve("preset = 'gpt-128'\nlr = 5e-5\nmin-lr = 1e-4").unwrap_err();
        assert_eq!(error, "min-lr is 0.0001; it must be from 0 to lr");
    }

    /// Earlier versions accepted it.
    #[test]
    fn a_stored_plan_may_have_settings_of_evaluations_without_any() {
        let plan = Plan {
            eval_every: 0,
            patience: 3,
            ..Preset::Lstm128.plan()
        };
        plan.validate().unwrap();
        let again = plan.changed(&"save-every = 9".parse().unwrap(), 5).unwrap();
        assert_eq!(again.patience, 3);
        assert!(
            plan.changed(&"eval-tokens = 9".parse().unwrap(), 5)
                .is_err()
        );
    }

    #[test]
    fn errors_name_the_settings_of_the_preset() {
        let error = |given: &str| resolve(given).unwrap_err();
        let of_heads = error("model = 'transformer'\nhidden = 90");
        assert!(
            of_heads.ends_with("; heads is that of preset gpt-128"),
            "{of_heads}"
        );
        let both = error("model = 'transformer'\nhidden = 90\nheads = 4");
        assert!(!both.contains("preset"), "{both}");
        let clip = "optimizer = 'momentum'\nclip = 'update-rms:1'";
        assert!(error(clip).ends_with("not momentum"), "{}", error(clip));
        let of_model = error("heads = 4");
        assert!(
            of_model.ends_with("; model is that of preset lstm-128"),
            "{of_model}"
        );
        assert_eq!(
            error("lr = -1.0"),
            "lr is -1; it must be above 0 and finite"
        );
    }
}
