//! Changing settings when a run is resumed.
//!
//! `plan.toml` has the current settings, followed by all changes in order. A checkpoint has the
//! plan of its time: undoing the later changes must reproduce it, otherwise the file was edited by
//! hand. So every checkpoint of the run can be resumed, and a change rewrites only one file,
//! atomically.

use shears_run::Change;
use toml::Table;

use super::setting::shown;
use super::stored::{Difference, compare_plans};
use super::{Plan, PlanError};

/// The locations of the text. Its hash identifies the content.
const PATH_SETTINGS: [&str; 2] = ["text", "val"];

impl Plan {
    /// The plan of a run that is resumed after `step` steps with the given settings. The location
    /// of the text may change; its hash is checked when it is read. A size that is given as a number
    /// where the run derives it, or vice versa, is no change if both are the same size.
    ///
    /// # Errors
    ///
    /// If settings that must not change were given other values, with the list; otherwise as
    /// [`Plan::resolve`].
    pub fn changed(&self, given: &Table, step: u64) -> Result<Plan, PlanError> {
        self.check_belonging(given)?;
        let mut plan = self.with_equal_sizes(self.with(given)?);
        let differing = compare_plans(self, &plan);
        let is_guarded = |(name, ..): &&Difference| {
            let may_change = Plan::setting(name).is_some_and(|setting| setting.may_change);
            !may_change && (!PATH_SETTINGS.contains(&name.as_str()) || plan.reads_standard_input())
        };
        let (typed, others): (Vec<&Difference>, Vec<&Difference>) = differing
            .iter()
            .filter(is_guarded)
            .partition(|(name, ..)| given.contains_key(name));
        // Changing the model also changes settings that were not given.
        let guarded = if typed.is_empty() { others } else { typed };
        if !guarded.is_empty() {
            let words = |(name, was, asked): &&Difference| {
                format!("{name}: the run has {was}, not {asked}")
            };
            let changeable = Plan::settings().iter().filter(|setting| setting.may_change);
            let changeable: Vec<&str> = changeable.map(|setting| &*setting.name).collect();
            return Err(PlanError::new(format!(
                "a resumed run keeps what its numbers depend on; start a new run to change it \
                 ({}); what may be changed: {}",
                guarded.iter().map(words).collect::<Vec<_>>().join("; "),
                changeable.join(", ")
            )));
        }
        let changes = differing.into_iter().map(|(name, ..)| {
            let value = |plan: &Plan| {
                let value = Plan::setting(&name).and_then(|setting| setting.value_in(plan));
                value.map_or("none".to_string(), |value| shown(&value))
            };
            let (before, after) = (value(self), value(&plan));
            Change {
                step,
                name,
                before,
                after,
            }
        });
        let changes: Vec<Change> = changes.collect();
        if changes.iter().any(|change| change.name == "steps") && plan.steps <= step {
            let message = match step {
                0 => "steps is 0; give at least 1".to_string(),
                _ => format!(
                    "steps is {}, and the run has taken {step}; give more than that",
                    plan.steps
                ),
            };
            return Err(PlanError::about("steps", message));
        }
        plan.changes.extend(changes);
        plan.check_effect(given)?;
        plan.validate()?;
        Ok(plan)
    }

    /// `other` with the sizes of this plan as they are written here, where they are the same sizes
    /// in a model of this plan.
    pub(super) fn with_equal_sizes(&self, other: Plan) -> Plan {
        let theirs = Plan {
            kv_heads: other.kv_heads,
            inner: other.inner,
            context: other.context,
            ..self.clone()
        };
        let (ours, theirs) = (self.with_sizes(), theirs.with_sizes());
        let kept = |is_equal, written, given| if is_equal { written } else { given };
        Plan {
            kv_heads: kept(
                ours.kv_heads == theirs.kv_heads,
                self.kv_heads,
                other.kv_heads,
            ),
            inner: kept(ours.inner == theirs.inner, self.inner, other.inner),
            context: kept(ours.context == theirs.context, self.context, other.context),
            ..other
        }
    }

    /// The differences between this plan and a checkpoint's that the recorded changes do not
    /// explain: name, value in the checkpoint, value here.
    pub fn edited_since(&self, saved: &Plan) -> Vec<Difference> {
        let Some(since) = self.changes.strip_prefix(saved.changes.as_slice()) else {
            let count = |plan: &Plan| plan.changes.len().to_string();
            return vec![("changes".to_string(), count(saved), count(self))];
        };
        let mut differing = compare_plans(saved, &self.without(since));
        differing.retain(|(name, ..)| !PATH_SETTINGS.contains(&name.as_str()));
        differing
    }

    /// The plan that step number `step` was taken with.
    #[must_use]
    pub fn at_step(&self, step: u64) -> Plan {
        // A change has the number of the step before it.
        let since = self.changes.partition_point(|change| change.step < step);
        let mut then = self.without(&self.changes[since..]);
        then.changes.truncate(since);
        then
    }

    /// The settings before these changes, the last of this plan.
    fn without(&self, changes: &[Change]) -> Plan {
        let mut then = self.clone();
        for Change {
            name,
            before,
            after,
            ..
        } in changes.iter().rev()
        {
            let setting = Plan::setting(name).filter(|setting| setting.may_change);
            let Some(setting) = setting else { continue };
            let value = setting.value_in(&then).map(|value| shown(&value));
            if value.as_ref() == Some(after)
                && let Ok(before) = setting.parse(before)
            {
                // The old value was valid.
                let _ = setting.set(&mut then, before);
            }
        }
        then
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Preset;

    fn given(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn changes_are_recorded_and_undone_in_order() {
        let first = Preset::Gpt128.plan();
        let second = first
            .changed(&given("steps = 4000\nlr = 0.0005"), 100)
            .unwrap();
        let third = second
            .changed(&given("lr = 0.00025\nclip = 'none'"), 150)
            .unwrap();
        assert_eq!((third.steps, third.lr), (4000, 0.00025));
        let noted: Vec<String> = third.changes.iter().map(ToString::to_string).collect();
        let expected = [
            "lr: 0.001 -> 0.0005",
            "steps: 2000 -> 4000",
            "clip: global-norm:1 -> none",
            "lr: 0.0005 -> 0.00025",
        ];
        assert_eq!(noted, expected);
        let stored: Plan = toml::from_str(&toml::to_string(&third).unwrap()).unwrap();
        assert_eq!(stored, third);
        for saved in [&first, &second, &third] {
            assert_eq!(stored.edited_since(saved), []);
        }
        for (step, then) in [(100, &first), (101, &second), (150, &second), (151, &third)] {
            assert_eq!(stored.at_step(step), *then, "{step}");
        }
        // Setting the same value again is not a change.
        assert_eq!(third.changed(&given("steps = 4000"), 200).unwrap(), third);
    }

    #[test]
    fn edits_are_not_changes() {
        let first = Preset::Lstm128.plan();
        let second = first.changed(&given("steps = 4000"), 100).unwrap();
        let edited = Plan {
            steps: 5000,
            seed: 7,
            ..second.clone()
        };
        let names = |plan: &Plan, saved: &Plan| {
            let differing = plan.edited_since(saved).into_iter();
            differing.map(|(name, ..)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(&edited, &first), ["seed", "steps"]);
        assert_eq!(names(&first, &second), ["changes"]);
        // A forged change of an unchangeable setting is ignored.
        let mut forged = Plan {
            hidden: 64,
            ..second
        };
        let (name, before, after) = ("hidden".into(), "128".into(), "64".into());
        forged.changes.push(Change {
            step: 1,
            name,
            before,
            after,
        });
        assert_eq!(names(&forged, &first), ["hidden"]);
        // The location of the text does not matter.
        let moved = Plan {
            text: vec!["elsewhere.txt".into()],
            ..first.clone()
        };
        assert_eq!(names(&moved, &first), [""; 0]);
    }

    #[test]
    fn a_size_may_be_given_or_derived() {
        let derived = Preset::Llama128.plan();
        let sizes = derived.with_sizes();
        let all = [sizes.kv_heads, sizes.inner, sizes.context];
        let text = |[kv_heads, inner, context]: [usize; 3]| {
            given(&format!(
                "kv-heads = {kv_heads}\ninner = {inner}\ncontext = {context}"
            ))
        };
        assert_eq!(derived.changed(&text(all), 10).unwrap(), derived);
        assert_eq!(sizes.changed(&text([0, 0, 0]), 10).unwrap(), sizes);
        for index in 0..3 {
            let mut other = all;
            other[index] *= 2;
            let refused = derived.changed(&text(other), 10).unwrap_err().to_string();
            assert!(
                refused.contains(&format!("not {}", other[index])),
                "{refused}"
            );
            assert_eq!(refused.matches("the run has").count(), 1, "{refused}");
        }
        // A wrong value far beyond its range is refused like any other.
        let huge = given(&format!("hidden = {}\ninner = 9", i64::MAX));
        assert!(derived.changed(&huge, 10).is_err());
    }

    #[test]
    fn unchangeable_settings_are_refused_with_a_list() {
        let plan = Preset::Lstm128.plan();
        let error = |text: &str| plan.changed(&given(text), 10).unwrap_err().to_string();
        let both = error("hidden = 32\nseed = 2\nlr = 0.5");
        assert!(both.contains("hidden: the run has 128, not 32"), "{both}");
        assert!(both.contains("seed: the run has 1, not 2"), "{both}");
        assert!(!both.contains("lr: the run"), "{both}");
        assert!(both.contains("steps, eval-every"), "{both}");
        // Settings of only one of the models were not given.
        let model = error("model = 'rnn'");
        assert!(
            model.contains("(model: the run has \"lstm\", not \"rnn\"); what"),
            "{model}"
        );
        let fewer = error("steps = 10");
        assert!(fewer.contains("has taken 10"), "{fewer}");
        assert!(error("text = ['-']").contains("text: the run has"));
        assert!(error("keep = 1").starts_with("keep is 1"));
        assert!(error("heads = 2").contains("heads belongs to"));
        assert!(error("clip = 'update-rms:1'\noptimizer = 'sgd'").contains("optimizer: the run"));
    }
}
