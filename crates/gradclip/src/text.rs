//! Text forms: parsing and printing the parameters of a policy, with errors that locate the
//! problem.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::threshold::{
    Decay, FiniteThreshold, NormOrder, Percentile, PolicyError, Positive, Steps, Threshold,
    UnitAxis,
};

/// The whole text being parsed, so that errors can give positions in it.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) whole: &'a str,
    /// The accepted forms.
    pub(crate) accepted: &'a str,
}

impl Text<'_> {
    fn threshold(self, part: &str, what: &str) -> Result<Threshold, PolicyError> {
        let out_of_range = |error: PolicyError| {
            // Only for the parameter called "threshold" would a user expect 0 to mean off.
            let problem = match error {
                PolicyError::Threshold { value } if what != "threshold" && value.is_finite() => {
                    format!("the {what} must be greater than 0, got {value}")
                }
                error => error.to_string(),
            };
            self.error(part, problem)
        };
        let Some((from, rest)) = part.split_once("..") else {
            return Threshold::new(self.number(part, what)?).map_err(out_of_range);
        };
        let Some((to, steps)) = rest.split_once('@') else {
            return Err(self.error(part, format!("`{part}` lacks the steps: FROM..TO@STEPS")));
        };
        let from = self.number(from, &format!("first {what}"))?;
        let to = self.number(to, &format!("last {what}"))?;
        let steps = Steps::read(self, steps, "number of steps")?;
        Threshold::linear(from, to, steps).map_err(out_of_range)
    }

    fn in_range<T>(
        self,
        part: &str,
        what: &str,
        new: fn(f64) -> Result<T, PolicyError>,
    ) -> Result<T, PolicyError> {
        new(self.number(part, what)?)
            .map_err(|error| self.error(part, format!("the {what} {error}")))
    }

    fn number(self, part: &str, what: &str) -> Result<f64, PolicyError> {
        let problem = match part.parse::<f64>() {
            // Parsing 1e999 as infinity would silently turn clipping off.
            Ok(value) if value.is_infinite() && part.contains(|digit: char| digit.is_numeric()) => {
                format!("the {what} `{part}` is too large for a number")
            }
            Ok(value) => return Ok(value),
            Err(_) if part.is_empty() => format!("the {what} is empty"),
            Err(_) => format!("the {what} `{part}` is not a number"),
        };
        Err(self.error(part, problem))
    }

    /// An error at `part`, which must be a slice of the whole text.
    pub(crate) fn error(self, part: &str, problem: String) -> PolicyError {
        self.error_at(self.offset(part), problem)
    }

    /// An error just after `part`, which must be a slice of the whole text.
    pub(crate) fn error_after(self, part: &str, problem: String) -> PolicyError {
        self.error_at(self.offset(part) + part.len(), problem)
    }

    fn offset(self, part: &str) -> usize {
        (part.as_ptr() as usize).saturating_sub(self.whole.as_ptr() as usize)
    }

    fn error_at(self, offset: usize, problem: String) -> PolicyError {
        let position = 1 + self
            .whole
            .char_indices()
            .take_while(|(at, _)| *at < offset)
            .count();
        // A line break in the text must not break the message.
        let visible = |letter: char| match letter.is_control() {
            true => letter.escape_default().to_string(),
            false => letter.to_string(),
        };
        PolicyError::Syntax {
            input: self.whole.to_owned(),
            position,
            problem: problem.chars().map(visible).collect(),
            accepted: self.accepted.to_owned(),
        }
    }
}

/// The value of a parameter of a rule.
pub(crate) trait Value: Copy + PartialEq {
    /// Parses `part`, a slice of the text. `what` names the value in errors.
    fn read(text: Text<'_>, part: &str, what: &str) -> Result<Self, PolicyError>;
    /// Prints the form that [`Value::read`] parses.
    fn print(self) -> String;
}

macro_rules! value {
    ($type:ty, |$text:ident, $part:ident, $what:ident| $read:expr, |$value:ident| $print:expr) => {
        impl Value for $type {
            fn read($text: Text<'_>, $part: &str, $what: &str) -> Result<$type, PolicyError> {
                $read
            }

            fn print(self) -> String {
                let $value = self;
                $print.to_string()
            }
        }
    };
}

value!(
    Threshold,
    |text, part, what| text.threshold(part, what),
    |value| value
);
value!(
    FiniteThreshold,
    |text, part, what| {
        FiniteThreshold::new(text.threshold(part, what)?)
            .map_err(|_| text.error(part, "a norm cannot be set to infinity".to_owned()))
    },
    |value| value.get()
);
macro_rules! numbers {
    ($($type:ident),*) => {
        $( value!(
            $type,
            |text, part, what| text.in_range(part, what, $type::new),
            |value| Shortest(value.get())
        ); )*
    };
}

numbers!(Positive, Decay, Percentile, NormOrder);
value!(
    u32,
    |text, part, what| {
        let problem = match part {
            "" => format!("the {what} is empty"),
            _ if part.bytes().all(|digit| digit.is_ascii_digit()) => {
                format!("the {what} `{part}` is too large, at most {}", u32::MAX)
            }
            _ => format!("the {what} `{part}` is not a whole number"),
        };
        part.parse().map_err(|_| text.error(part, problem))
    },
    |value| value
);
impl<const LEAST: u32> Value for Steps<LEAST> {
    fn read(text: Text<'_>, part: &str, what: &str) -> Result<Self, PolicyError> {
        Steps::new(u32::read(text, part, what)?)
            .map_err(|error| text.error(part, format!("the {what} {error}")))
    }

    fn print(self) -> String {
        self.get().to_string()
    }
}

/// Prints an enum without fields by the names of its values, and finds a value by its name.
macro_rules! names {
    ($Enum:ident: $($Value:ident = $name:literal),+) => {
        impl $Enum {
            pub(crate) const NAMES: &'static [&'static str] = &[$($name),+];

            pub(crate) fn named(name: &str) -> Option<$Enum> {
                match name {
                    $($name => Some($Enum::$Value),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $Enum {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(match self { $($Enum::$Value => $name),+ })
            }
        }
    };
}
pub(crate) use names;

names!(UnitAxis: Last = "last", First = "first");
value!(
    Option<UnitAxis>,
    |text, part, what| {
        let axis = UnitAxis::named(part);
        let names = UnitAxis::NAMES.join("` nor `");
        let unknown = || text.error(part, format!("the {what} `{part}` is neither `{names}`"));
        axis.map(Some).ok_or_else(unknown)
    },
    |value| value.map_or(String::new(), |axis| axis.to_string())
);

impl fmt::Display for Threshold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.schedule() {
            None => write!(formatter, "{}", Shortest(self.at(0))),
            Some((from, to, steps)) => {
                write!(formatter, "{}..{}@{steps}", Shortest(from), Shortest(to))
            }
        }
    }
}

impl fmt::Display for NormOrder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Shortest(self.get()))
    }
}

/// The shortest digits that parse back to the same number, with an exponent for very large and
/// small numbers.
struct Shortest(f64);

impl fmt::Display for Shortest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value == 0.0 || (1e-4..1e7).contains(&value) {
            write!(formatter, "{value}")
        } else {
            write!(formatter, "{value:e}")
        }
    }
}

/// A "did you mean" suffix for a mistyped name; empty if no known name is close.
pub(crate) fn suggestion(text: &str, known: &[&str]) -> String {
    nearest(text, known)
        .map(|name| format!(", did you mean `{name}`?"))
        .unwrap_or_default()
}

/// The known name with the smallest edit distance, unless it is too far away.
fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    let text: Vec<char> = text.to_lowercase().replace('_', "-").chars().collect();
    let distance_to = |name: &str| edit_distance(&text, &name.chars().collect::<Vec<char>>());
    let name = known.iter().copied().min_by_key(|name| distance_to(name))?;
    // With two thirds of the letters wrong, a suggestion would be noise.
    (3 * distance_to(name) < 2 * text.len().max(name.len())).then_some(name)
}

/// The Levenshtein distance, row by row.
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

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

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
    fn distant_names_are_not_suggested() {
        assert_eq!(nearest("xyzzy", &["none", "value"]), None);
        assert_eq!(nearest("", &["none", "value"]), None);
        assert_eq!(nearest("Value", &["none", "value"]), Some("value"));
    }
}
