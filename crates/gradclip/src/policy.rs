//! Policies: which rules clip, and how non-finite values are handled.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::clip_rule::{ClipRole, ClipRule, Parameters};
use crate::text::{Text, names, suggestion};
use crate::threshold::{NormOrder, PolicyError, UnitAxis};

/// A chain of clipping rules, applied from left to right.
///
/// The text form is `none`, or rules such as `global-norm:1` joined by `+`. It parses with
/// [`FromStr`] and prints with [`Display`](fmt::Display), and round-trips.
///
/// ```
/// use gradclip::{ClipPolicy, ClipRule, NormOrder, Threshold};
///
/// let policy: ClipPolicy = "value:5+global-norm:1".parse()?;
/// let threshold = Threshold::new(1.0)?;
/// assert_eq!(policy.rules()[1], ClipRule::GlobalNorm { threshold, order: NormOrder::TWO });
/// assert_eq!(policy.to_string(), "value:5+global-norm:1");
/// # Ok::<(), gradclip::PolicyError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClipPolicy {
    rules: Vec<ClipRule>,
}

impl ClipPolicy {
    /// The empty policy, which clips nothing. Norms are still measured, and the rule for non-finite
    /// values still applies.
    #[must_use]
    pub const fn none() -> ClipPolicy {
        ClipPolicy { rules: Vec::new() }
    }

    /// All rules, in written order.
    #[must_use]
    pub fn rules(&self) -> &[ClipRule] {
        &self.rules
    }

    /// The rules that an Adam optimizer has to apply ([`AdamClipping`](crate::AdamClipping)).
    pub fn rules_inside_adam(&self) -> impl Iterator<Item = &ClipRule> {
        let inside = |rule: &&ClipRule| rule.role() == ClipRole::Adam;
        self.rules.iter().filter(inside)
    }

    /// Appends a rule.
    #[must_use]
    pub fn then(mut self, rule: ClipRule) -> ClipPolicy {
        self.rules.push(rule);
        self
    }

    /// Overrides the axis of the output units in every `agc` of the policy, for all tensors.
    #[must_use]
    pub fn with_unit_axis(mut self, axis: UnitAxis) -> ClipPolicy {
        for rule in &mut self.rules {
            if let ClipRule::Agc { unit, .. } = rule {
                *unit = Some(axis);
            }
        }
        self
    }

    /// Whether the policy has no rules.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.rules.is_empty()
    }

    /// The order of the norms in a report: `p` of the first rule that takes it, otherwise 2.
    #[must_use]
    pub fn order(&self) -> NormOrder {
        let chosen = self.rules.iter().find_map(ClipRule::chosen_order);
        chosen.unwrap_or(NormOrder::TWO)
    }

    /// Whether a rule needs the parameters as well as their gradients.
    #[must_use]
    pub fn needs_parameters(&self) -> bool {
        self.rules.iter().any(ClipRule::needs_parameters)
    }
}

impl From<ClipRule> for ClipPolicy {
    fn from(rule: ClipRule) -> ClipPolicy {
        ClipPolicy::none().then(rule)
    }
}

/// What to do if a gradient has NaN or infinite elements. Text form: `error`, `skip`, `zero`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NonFinite {
    /// Return an error that names every affected tensor. No gradient is changed.
    Error,
    /// Skip the step. No gradient is changed, and the optimizer should not step.
    Skip,
    /// Set only the non-finite elements to zero, and clip the rest as usual.
    Zero,
}

impl fmt::Display for ClipPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return formatter.write_str("none");
        }
        for (index, rule) in self.rules().iter().enumerate() {
            let plus = if index > 0 { "+" } else { "" };
            write!(formatter, "{plus}{rule}")?;
        }
        Ok(())
    }
}

impl FromStr for ClipPolicy {
    type Err = PolicyError;

    fn from_str(input: &str) -> Result<ClipPolicy, PolicyError> {
        let forms = ClipRule::forms();
        let all_forms = forms
            .iter()
            .fold("none".to_owned(), |all, form| format!("{all}, {form}"));
        let accepted =
            format!("{all_forms}, joined by `+`; a threshold C can change: FROM..TO@STEPS");
        let text = Text {
            whole: input,
            accepted: &accepted,
        };
        let rules = split_at_plus(input);
        let mut policy = ClipPolicy::none();
        for rule in &rules {
            let (name, parameters) = match rule.split_once(':') {
                Some((name, parameters)) => (name, Some(parameters)),
                None => (*rule, None),
            };
            if name == "none" {
                return match (parameters, rules.len()) {
                    (None, 1) => Ok(policy),
                    (Some(_), _) => {
                        Err(text.error_after(name, "`none` takes no threshold".to_owned()))
                    }
                    (None, _) => Err(text.error(
                        name,
                        "`none` cannot be combined with other rules".to_owned(),
                    )),
                };
            }
            if name.is_empty() && rules.len() > 1 {
                return Err(text.error(name, "a rule is missing".to_owned()));
            }
            let own_form = forms.iter().find(|form| form.name == name);
            let own_form = own_form.map(ToString::to_string).unwrap_or_default();
            let of_rule = Text {
                whole: input,
                accepted: &own_form,
            };
            let read = ClipRule::read(name, Parameters::new(of_rule, name, parameters)?);
            let names = forms.iter().map(|form| form.name);
            policy = policy.then(read.unwrap_or_else(|| Err(unknown(text, name, names)))?);
        }
        Ok(policy)
    }
}

/// Splits a chain, but not the `+` of a number such as `1e+5`.
fn split_at_plus(input: &str) -> Vec<&str> {
    let mut rules = Vec::new();
    let mut start = 0;
    for (at, _) in input.match_indices('+') {
        let next = input[at + 1..].chars().next();
        if !next.is_some_and(|next| next.is_ascii_digit() || next == '.') {
            rules.push(&input[start..at]);
            start = at + 1;
        }
    }
    rules.push(&input[start..]);
    rules
}

fn unknown(text: Text<'_>, name: &str, names: impl Iterator<Item = &'static str>) -> PolicyError {
    let hint = match name.parse::<f64>() {
        Ok(value) if value > 0.0 => format!(" (a threshold needs a policy: `global-norm:{name}`)"),
        Ok(_) => " (to turn clipping off use `none`)".to_owned(),
        Err(_) if name == "off" => suggestion("none", &["none"]),
        Err(_) => suggestion(
            name,
            &core::iter::once("none").chain(names).collect::<Vec<_>>(),
        ),
    };
    text.error(name, format!("unknown policy `{name}`{hint}"))
}

names!(NonFinite: Error = "error", Skip = "skip", Zero = "zero");

impl FromStr for NonFinite {
    type Err = PolicyError;

    fn from_str(input: &str) -> Result<NonFinite, PolicyError> {
        NonFinite::named(input).ok_or_else(|| {
            let hint = suggestion(input, NonFinite::NAMES);
            let text = Text {
                whole: input,
                accepted: &NonFinite::NAMES.join(", "),
            };
            text.error(input, format!("unknown rule `{input}`{hint}"))
        })
    }
}
