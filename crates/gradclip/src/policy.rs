//! Policy: what is to be clipped, by which rules, and what to do about non-finite values.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::clip_rule::{ClipRole, ClipRule, Parameters};
use crate::text::{Text, suggestion};
use crate::threshold::{NormOrder, PolicyError, UnitAxis};

/// Which gradients are clipped, and how: rules that are applied from left to right.
///
/// The text form is `none`, or rules such as `global-norm:1` with `+` between them; it parses with
/// [`FromStr`], prints with [`Display`](fmt::Display), and comes back the same.
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
    /// Nothing is clipped. Norms are still measured and the rule for non-finite values holds.
    #[must_use]
    pub const fn none() -> ClipPolicy {
        ClipPolicy { rules: Vec::new() }
    }

    /// All rules, in the order in which they are written.
    #[must_use]
    pub fn rules(&self) -> &[ClipRule] {
        &self.rules
    }

    /// The rules that an Adam has to carry out ([`AdamClipping`](crate::AdamClipping)).
    pub fn rules_inside_adam(&self) -> impl Iterator<Item = &ClipRule> {
        let inside = |rule: &&ClipRule| rule.role() == ClipRole::Adam;
        self.rules.iter().filter(inside)
    }

    /// Adds a rule that is applied after the others.
    #[must_use]
    pub fn then(mut self, rule: ClipRule) -> ClipPolicy {
        self.rules.push(rule);
        self
    }

    /// The same with the output units of `agc` on the given axis of all tensors, for a caller who
    /// knows where his model has them.
    #[must_use]
    pub fn with_unit_axis(mut self, axis: UnitAxis) -> ClipPolicy {
        for rule in &mut self.rules {
            if let ClipRule::Agc { unit, .. } = rule {
                *unit = Some(axis);
            }
        }
        self
    }

    /// Whether it has no rule.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.rules.is_empty()
    }

    /// The order of the norms in a report: that of the first rule that has `p`, and 2 otherwise.
    #[must_use]
    pub fn order(&self) -> NormOrder {
        let chosen = self.rules.iter().find_map(ClipRule::chosen_order);
        chosen.unwrap_or(NormOrder::TWO)
    }

    /// Whether a rule asks for the parameters beside their gradients.
    #[must_use]
    pub fn needs_parameters(&self) -> bool {
        let agc = |rule: &ClipRule| matches!(rule, ClipRule::Agc { .. });
        self.rules.iter().any(agc)
    }
}

impl From<ClipRule> for ClipPolicy {
    fn from(rule: ClipRule) -> ClipPolicy {
        ClipPolicy::none().then(rule)
    }
}

/// What to do when a gradient holds a NaN or an infinity. Text form: `error`, `skip`, `zero`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NonFinite {
    /// Stop with an error that names every such tensor. No gradient is touched.
    Error,
    /// Leave the step out. No gradient is touched, and no optimizer should step.
    Skip,
    /// Set the non-finite elements, and only those, to zero and clip the rest as usual.
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
                    (None, _) => Err(text.error(name, "`none` stands alone".to_owned())),
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

/// The text form of each rule for non-finite values.
const NON_FINITE: [(&str, NonFinite); 3] = [
    ("error", NonFinite::Error),
    ("skip", NonFinite::Skip),
    ("zero", NonFinite::Zero),
];

impl fmt::Display for NonFinite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = NON_FINITE.iter().find(|(_, rule)| rule == self);
        formatter.write_str(own.map_or("", |(name, _)| name))
    }
}

impl FromStr for NonFinite {
    type Err = PolicyError;

    fn from_str(input: &str) -> Result<NonFinite, PolicyError> {
        let known = NON_FINITE.iter().find(|(name, _)| *name == input);
        known.map(|(_, rule)| *rule).ok_or_else(|| {
            let hint = suggestion(input, &NON_FINITE.map(|(name, _)| name));
            let text = Text {
                whole: input,
                accepted: "error, skip, zero",
            };
            text.error(input, format!("unknown rule `{input}`{hint}"))
        })
    }
}
