//! The text forms of the policy types: how they are read and printed.

use std::fmt;
use std::str::FromStr;

use crate::policy::{ClipPolicy, NonFinite, NormOrder, PolicyError, Threshold};

const POLICY_NAMES: [&str; 4] = ["none", "value", "norm", "global-norm"];
const POLICY_FORMS: &str = "none, value:C, norm:C[,p=P], global-norm:C[,p=P]";
const NON_FINITE_NAMES: [&str; 3] = ["error", "skip", "zero"];
const NON_FINITE_FORMS: &str = "error, skip, zero";
const ORDER_FORMS: &str = "a number greater than 0, or inf";

impl fmt::Display for Threshold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_shortest(self.get(), formatter)
    }
}

impl fmt::Display for NormOrder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_shortest(self.get(), formatter)
    }
}

impl FromStr for NormOrder {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<NormOrder, PolicyError> {
        Text {
            whole: text,
            accepted: ORDER_FORMS,
        }
        .order(text)
    }
}

impl fmt::Display for ClipPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            ClipPolicy::None => write!(formatter, "{name}"),
            ClipPolicy::Value { threshold } => write!(formatter, "{name}:{threshold}"),
            ClipPolicy::Norm { threshold, order } | ClipPolicy::GlobalNorm { threshold, order } => {
                write!(formatter, "{name}:{threshold}")?;
                if *order == NormOrder::TWO {
                    Ok(())
                } else {
                    write!(formatter, ",p={order}")
                }
            }
        }
    }
}

impl FromStr for ClipPolicy {
    type Err = PolicyError;

    fn from_str(input: &str) -> Result<ClipPolicy, PolicyError> {
        let text = Text {
            whole: input,
            accepted: POLICY_FORMS,
        };
        let (name, parameters) = match input.split_once(':') {
            Some((name, parameters)) => (name, Some(parameters)),
            None => (input, None),
        };
        if !POLICY_NAMES.contains(&name) {
            return Err(text.unknown_policy(name));
        }
        let Some(parameters) = parameters else {
            return match name {
                "none" => Ok(ClipPolicy::None),
                _ => Err(text.error_after(name, format!("`{name}` needs a threshold `:C`"))),
            };
        };
        if name == "none" {
            return Err(text.error_after(name, "`none` takes no threshold".to_owned()));
        }
        let mut parts = parameters.split(',');
        let threshold = text.threshold(parts.next().unwrap_or_default())?;
        if name == "value" {
            return match parts.next() {
                Some(part) => Err(text.error(
                    part,
                    format!("`value` takes only a threshold, not `{part}`"),
                )),
                None => Ok(ClipPolicy::Value { threshold }),
            };
        }
        let mut order = None;
        for part in parts {
            let Some(number) = part.strip_prefix("p=") else {
                return Err(text.error(part, format!("expected `p=P`, found `{part}`")));
            };
            if order.is_some() {
                return Err(text.error(part, "`p` is given twice".to_owned()));
            }
            order = Some(text.order(number)?);
        }
        let order = order.unwrap_or(NormOrder::TWO);
        match name {
            "norm" => Ok(ClipPolicy::Norm { threshold, order }),
            _ => Ok(ClipPolicy::GlobalNorm { threshold, order }),
        }
    }
}

impl fmt::Display for NonFinite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            NonFinite::Error => "error",
            NonFinite::Skip => "skip",
            NonFinite::Zero => "zero",
        })
    }
}

impl FromStr for NonFinite {
    type Err = PolicyError;

    fn from_str(input: &str) -> Result<NonFinite, PolicyError> {
        match input {
            "error" => Ok(NonFinite::Error),
            "skip" => Ok(NonFinite::Skip),
            "zero" => Ok(NonFinite::Zero),
            _ => {
                let hint = suggestion(nearest(input, &NON_FINITE_NAMES));
                let text = Text {
                    whole: input,
                    accepted: NON_FINITE_FORMS,
                };
                Err(text.error(input, format!("unknown rule `{input}`{hint}")))
            }
        }
    }
}

/// The text being read, so that every error can say where in it the problem is.
#[derive(Clone, Copy)]
struct Text<'a> {
    whole: &'a str,
    accepted: &'static str,
}

impl Text<'_> {
    fn threshold(self, part: &str) -> Result<Threshold, PolicyError> {
        Threshold::new(self.number(part, "threshold")?)
            .map_err(|error| self.error(part, error.to_string()))
    }

    fn order(self, part: &str) -> Result<NormOrder, PolicyError> {
        NormOrder::new(self.number(part, "norm order p")?)
            .map_err(|error| self.error(part, error.to_string()))
    }

    fn number(self, part: &str, what: &str) -> Result<f64, PolicyError> {
        if part.is_empty() {
            return Err(self.error(part, format!("the {what} is empty")));
        }
        match part.parse::<f64>() {
            // Reading 1e999 as infinity would silently switch clipping off.
            Ok(value) if value.is_infinite() && part.contains(|digit: char| digit.is_numeric()) => {
                Err(self.error(
                    part,
                    format!("the {what} `{part}` is too large for a number"),
                ))
            }
            Ok(value) => Ok(value),
            Err(_) => Err(self.error(part, format!("the {what} `{part}` is not a number"))),
        }
    }

    fn unknown_policy(self, name: &str) -> PolicyError {
        let hint = match name.parse::<f64>() {
            Ok(value) if value > 0.0 => {
                format!(" (a threshold needs a policy: `global-norm:{name}`)")
            }
            Ok(_) => " (to turn clipping off use `none`)".to_owned(),
            Err(_) if name == "off" => suggestion(Some("none")),
            Err(_) => suggestion(nearest(name, &POLICY_NAMES)),
        };
        self.error(name, format!("unknown policy `{name}`{hint}"))
    }

    /// An error at `part`, which must be a piece of the whole text.
    fn error(self, part: &str, problem: String) -> PolicyError {
        let offset = (part.as_ptr() as usize).saturating_sub(self.whole.as_ptr() as usize);
        self.error_at(offset, problem)
    }

    /// An error just after `part`, which must be the start of the whole text.
    fn error_after(self, part: &str, problem: String) -> PolicyError {
        self.error_at(part.len(), problem)
    }

    fn error_at(self, offset: usize, problem: String) -> PolicyError {
        let position = 1 + self
            .whole
            .char_indices()
            .take_while(|(at, _)| *at < offset)
            .count();
        let (input, accepted) = (self.whole.to_owned(), self.accepted);
        PolicyError::Syntax {
            input,
            position,
            problem,
            accepted,
        }
    }
}

fn suggestion(name: Option<&str>) -> String {
    name.map(|name| format!(", did you mean `{name}`?"))
        .unwrap_or_default()
}

/// The known name with the smallest edit distance, unless the text is nothing like it.
fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    let text: Vec<char> = text.to_lowercase().replace('_', "-").chars().collect();
    let distance_to = |name: &str| edit_distance(&text, &name.chars().collect::<Vec<char>>());
    let name = known.iter().copied().min_by_key(|name| distance_to(name))?;
    // With two thirds of the letters wrong the guess would be noise.
    (3 * distance_to(name) < 2 * text.len().max(name.len())).then_some(name)
}

/// Levenshtein's distance by rows.
fn edit_distance(left: &[char], right: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (left_index, left_char) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = left_index + 1;
        for (right_index, right_char) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(left_char != right_char);
            diagonal = row[right_index + 1];
            row[right_index + 1] = substituted.min(diagonal + 1).min(row[right_index] + 1);
        }
    }
    row[right.len()]
}

/// The shortest digits that read back as the same number, with an exponent where zeros would
/// pile up.
fn write_shortest(value: f64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    if (1e-5..1e16).contains(&value) {
        write!(formatter, "{value}")
    } else {
        write!(formatter, "{value:e}")
    }
}

#[cfg(test)]
mod tests {
    use super::{edit_distance, nearest};

    #[test]
    fn edit_distance_of_known_pairs() {
        let distance = |left: &str, right: &str| {
            edit_distance(
                &left.chars().collect::<Vec<char>>(),
                &right.chars().collect::<Vec<char>>(),
            )
        };
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "norm"), 4);
        assert_eq!(distance("norm", "norm"), 0);
    }

    #[test]
    fn noise_gets_no_suggestion() {
        assert_eq!(nearest("xyzzy", &["none", "value"]), None);
        assert_eq!(nearest("", &["none", "value"]), None);
        assert_eq!(nearest("Value", &["none", "value"]), Some("value"));
    }
}
