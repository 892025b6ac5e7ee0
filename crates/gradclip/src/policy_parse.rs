//! The parser of the text form of policies, with words for whatever it refuses.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::num::NonZeroU32;

use crate::policy::{ClipPolicy, ClipRule, NormOrder, PolicyError, UnitAxis};
use crate::policy_text::{
    ADAGC_BETA, ADAGC_RELATIVE, ADAGC_WARMUP, AGC_EPSILON, MEDIAN_WINDOW, ONE, SKIP_LIMIT,
    SKIP_WINDOW, SPAM_RESET, SPAM_THETA, SPAM_WARMUP, ZCLIP_ALPHA, ZCLIP_WARMUP, ZCLIP_Z,
};
use crate::threshold::{Decay, Percentile, Positive, Threshold};

/// The name of each rule with its form.
const RULES: [(&str, &str); 14] = [
    ("value", "value:C"),
    ("norm", "norm:C[,p=P]"),
    ("global-norm", "global-norm:C[,p=P]"),
    ("group-norm", "group-norm:C"),
    ("block-rms", "block-rms:C"),
    ("normalize", "normalize:C"),
    ("agc", "agc:LAMBDA[,eps=E][,unit=last|first]"),
    ("autoclip", "autoclip:PERCENTILE"),
    ("zclip", "zclip[:z=Z,alpha=A,warmup=N,max=C]"),
    ("adagc", "adagc[:abs=C,rel=R,beta=B,warmup=N]"),
    ("median", "median:K[,window=N]"),
    ("skip", "skip:SIGMA[,window=N][,limit=N]"),
    ("update-rms", "update-rms:C"),
    ("spam", "spam[:theta=T,reset=N,warmup=N]"),
];
const POLICY_FORMS: &str = "none, value:C, norm:C[,p=P], global-norm:C[,p=P], group-norm:C, \
    block-rms:C, normalize:C, agc:LAMBDA[,eps=E][,unit=last|first], autoclip:PERCENTILE, \
    zclip[:z=Z,alpha=A,warmup=N,max=C], adagc[:abs=C,rel=R,beta=B,warmup=N], \
    median:K[,window=N], skip:SIGMA[,window=N][,limit=N], update-rms:C, \
    spam[:theta=T,reset=N,warmup=N], joined by `+`; a threshold C can change: FROM..TO@STEPS";
/// Reads a whole policy.
pub(crate) fn read_policy(input: &str) -> Result<ClipPolicy, PolicyError> {
    let text = Text {
        whole: input,
        accepted: POLICY_FORMS,
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
                (Some(_), _) => Err(text.error_after(name, "`none` takes no threshold".to_owned())),
                (None, _) => Err(text.error(name, "`none` stands alone".to_owned())),
            };
        }
        if name.is_empty() && rules.len() > 1 {
            return Err(text.error(name, "a rule is missing".to_owned()));
        }
        let Some((known, form)) = RULES.iter().find(|(known, _)| *known == name) else {
            return Err(text.unknown_policy(name));
        };
        let text = Text {
            whole: input,
            accepted: form,
        };
        let mut parameters = Parameters::read(text, known, name, parameters)?;
        let read = read_rule(known, &mut parameters)?;
        parameters.none_left()?;
        policy = policy.then(read);
    }
    Ok(policy)
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

fn read_rule(name: &str, parameters: &mut Parameters<'_>) -> Result<ClipRule, PolicyError> {
    Ok(match name {
        "value" => ClipRule::Value {
            threshold: parameters.threshold()?,
        },
        "norm" => ClipRule::Norm {
            threshold: parameters.threshold()?,
            order: parameters.named("p", NormOrder::TWO, Text::order)?,
        },
        "global-norm" => ClipRule::GlobalNorm {
            threshold: parameters.threshold()?,
            order: parameters.named("p", NormOrder::TWO, Text::order)?,
        },
        "group-norm" => ClipRule::GroupNorm {
            threshold: parameters.threshold()?,
        },
        "block-rms" => ClipRule::BlockRms {
            threshold: parameters.threshold()?,
        },
        "normalize" => ClipRule::Normalize {
            threshold: parameters.first("threshold", "C", Text::finite_threshold)?,
        },
        "agc" => ClipRule::Agc {
            lambda: parameters.first("ratio", "LAMBDA", Text::threshold)?,
            epsilon: parameters.named("eps", AGC_EPSILON, Text::positive)?,
            unit: parameters.named("unit", None, Text::unit)?,
        },
        "autoclip" => ClipRule::AutoClip {
            percentile: parameters.first("percentile", "PERCENTILE", Text::percentile)?,
        },
        "zclip" => ClipRule::ZClip {
            z: parameters.named("z", ZCLIP_Z, Text::positive)?,
            alpha: parameters.named("alpha", ZCLIP_ALPHA, Text::decay)?,
            warmup: parameters.named("warmup", ZCLIP_WARMUP, Text::count)?,
            max: parameters.named("max", ONE, Text::threshold)?,
        },
        "adagc" => ClipRule::AdaGc {
            absolute: parameters.named("abs", ONE, Text::threshold)?,
            relative: parameters.named("rel", ADAGC_RELATIVE, Text::threshold)?,
            beta: parameters.named("beta", ADAGC_BETA, Text::decay)?,
            warmup: parameters.named("warmup", ADAGC_WARMUP, Text::steps)?,
        },
        "median" => ClipRule::Median {
            factor: parameters.first("factor", "K", Text::threshold)?,
            window: parameters.named("window", MEDIAN_WINDOW, Text::count)?,
        },
        "skip" => ClipRule::Skip {
            sigma: parameters.first("number of standard deviations", "SIGMA", Text::positive)?,
            window: parameters.named("window", SKIP_WINDOW, Text::count)?,
            limit: parameters.named("limit", SKIP_LIMIT, Text::count)?,
        },
        "update-rms" => ClipRule::UpdateRms {
            threshold: parameters.threshold()?,
        },
        _ => ClipRule::Spam {
            theta: parameters.named("theta", SPAM_THETA, Text::positive)?,
            reset: parameters.named("reset", SPAM_RESET, Text::count)?,
            warmup: parameters.named("warmup", SPAM_WARMUP, Text::steps)?,
        },
    })
}

/// The parameters of one rule: perhaps a first one without a name, then `name=value`.
struct Parameters<'a> {
    text: Text<'a>,
    rule: &'static str,
    /// The name as it stands in the text, for what is missing after it.
    name: &'a str,
    left: Vec<&'a str>,
}

impl<'a> Parameters<'a> {
    fn read(
        text: Text<'a>,
        rule: &'static str,
        name: &'a str,
        parameters: Option<&'a str>,
    ) -> Result<Parameters<'a>, PolicyError> {
        let left: Vec<&str> = parameters.map_or(Vec::new(), |list| list.split(',').collect());
        let key = |part: &'a str| part.split_once('=').map(|(key, _)| key);
        for (index, part) in left.iter().enumerate() {
            let Some(key_here) = key(part) else { continue };
            if left[..index]
                .iter()
                .any(|earlier| key(earlier) == Some(key_here))
            {
                return Err(text.error(part, format!("`{key_here}` is given twice")));
            }
        }
        Ok(Parameters {
            text,
            rule,
            name,
            left,
        })
    }

    /// The parameter without a name. `form` is its name in the forms.
    fn first<T>(
        &mut self,
        what: &str,
        form: &str,
        read: impl Fn(Text<'a>, &'a str, &str) -> Result<T, PolicyError>,
    ) -> Result<T, PolicyError> {
        let needs = format!("`{}` needs a {what} `:{form}`", self.rule);
        match self.left.first() {
            None => Err(self.text.error_after(self.name, needs)),
            Some(part) if is_named(part) => {
                Err(self.text.error(part, format!("{needs} before `{part}`")))
            }
            Some(_) => read(self.text, self.left.remove(0), what),
        }
    }

    fn threshold(&mut self) -> Result<Threshold, PolicyError> {
        self.first("threshold", "C", Text::threshold)
    }

    fn named<T>(
        &mut self,
        name: &str,
        default: T,
        read: impl Fn(Text<'a>, &'a str, &str) -> Result<T, PolicyError>,
    ) -> Result<T, PolicyError> {
        let value = |part: &&'a str| {
            let (key, value) = part.split_once('=')?;
            (key == name).then_some(value)
        };
        match self.left.iter().position(|part| value(part).is_some()) {
            None => Ok(default),
            Some(index) => {
                let value = value(&self.left.remove(index)).unwrap_or_default();
                read(self.text, value, &format!("parameter {name}"))
            }
        }
    }

    fn none_left(&self) -> Result<(), PolicyError> {
        let Some(part) = self.left.first() else {
            return Ok(());
        };
        let problem = match part.is_empty() {
            true => format!("a parameter of `{}` is missing", self.rule),
            false => format!("`{}` does not take `{part}`", self.rule),
        };
        Err(self.text.error(part, problem))
    }
}

fn is_named(part: &str) -> bool {
    let letters = |name: &str| !name.is_empty() && name.chars().all(char::is_alphabetic);
    part.split_once('=').is_some_and(|(name, _)| letters(name))
}

/// The text being read, so that every error can say where in it the problem is.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) whole: &'a str,
    pub(crate) accepted: &'static str,
}

impl Text<'_> {
    pub(crate) fn threshold(self, part: &str, what: &str) -> Result<Threshold, PolicyError> {
        let out_of_range = |error: PolicyError| {
            // Only the threshold of a rule that clips by it alone is where one would look for off.
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
        let steps = self.count(steps, "number of steps")?;
        Threshold::linear(from, to, steps).map_err(out_of_range)
    }

    fn finite_threshold(self, part: &str, what: &str) -> Result<Threshold, PolicyError> {
        let threshold = self.threshold(part, what)?;
        if threshold.at(0).is_infinite() {
            return Err(self.error(part, "a norm cannot be set to infinity".to_owned()));
        }
        Ok(threshold)
    }

    fn positive(self, part: &str, what: &str) -> Result<Positive, PolicyError> {
        self.in_range(part, what, Positive::new)
    }

    fn decay(self, part: &str, what: &str) -> Result<Decay, PolicyError> {
        self.in_range(part, what, Decay::new)
    }

    fn percentile(self, part: &str, what: &str) -> Result<Percentile, PolicyError> {
        self.in_range(part, what, Percentile::new)
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

    fn steps(self, part: &str, what: &str) -> Result<u32, PolicyError> {
        let problem = match part {
            "" => format!("the {what} is empty"),
            _ if part.bytes().all(|digit| digit.is_ascii_digit()) => {
                format!("the {what} `{part}` is too large, at most {}", u32::MAX)
            }
            _ => format!("the {what} `{part}` is not a whole number"),
        };
        part.parse().map_err(|_| self.error(part, problem))
    }

    fn count(self, part: &str, what: &str) -> Result<NonZeroU32, PolicyError> {
        let count = self.steps(part, what)?;
        NonZeroU32::new(count)
            .ok_or_else(|| self.error(part, format!("the {what} must be at least 1")))
    }

    fn unit(self, part: &str, what: &str) -> Result<Option<UnitAxis>, PolicyError> {
        match part {
            "last" => Ok(Some(UnitAxis::Last)),
            "first" => Ok(Some(UnitAxis::First)),
            _ => {
                let problem = format!("the {what} `{part}` is neither `last` nor `first`");
                Err(self.error(part, problem))
            }
        }
    }

    pub(crate) fn order(self, part: &str, what: &str) -> Result<NormOrder, PolicyError> {
        NormOrder::new(self.number(part, what)?)
            .map_err(|error| self.error(part, error.to_string()))
    }

    fn number(self, part: &str, what: &str) -> Result<f64, PolicyError> {
        let problem = match part.parse::<f64>() {
            // Reading 1e999 as infinity would silently switch clipping off.
            Ok(value) if value.is_infinite() && part.contains(|digit: char| digit.is_numeric()) => {
                format!("the {what} `{part}` is too large for a number")
            }
            Ok(value) => return Ok(value),
            Err(_) if part.is_empty() => format!("the {what} is empty"),
            Err(_) => format!("the {what} `{part}` is not a number"),
        };
        Err(self.error(part, problem))
    }

    fn unknown_policy(self, name: &str) -> PolicyError {
        let hint = match name.parse::<f64>() {
            Ok(value) if value > 0.0 => {
                format!(" (a threshold needs a policy: `global-norm:{name}`)")
            }
            Ok(_) => " (to turn clipping off use `none`)".to_owned(),
            Err(_) if name == "off" => suggestion(Some("none")),
            Err(_) => {
                let mut known: Vec<&str> = RULES.iter().map(|(name, _)| *name).collect();
                known.insert(0, "none");
                suggestion(nearest(name, &known))
            }
        };
        self.error(name, format!("unknown policy `{name}`{hint}"))
    }

    /// An error at `part`, which must be a piece of the whole text.
    pub(crate) fn error(self, part: &str, problem: String) -> PolicyError {
        self.error_at(self.offset(part), problem)
    }

    fn offset(self, part: &str) -> usize {
        (part.as_ptr() as usize).saturating_sub(self.whole.as_ptr() as usize)
    }

    /// An error just after `part`, which must be a piece of the whole text.
    fn error_after(self, part: &str, problem: String) -> PolicyError {
        self.error_at(self.offset(part) + part.len(), problem)
    }

    fn error_at(self, offset: usize, problem: String) -> PolicyError {
        let position = 1 + self
            .whole
            .char_indices()
            .take_while(|(at, _)| *at < offset)
            .count();
        let (input, accepted) = (self.whole.to_owned(), self.accepted);
        // A line break in the text must not break the line of the message.
        let visible = |letter: char| match letter.is_control() {
            true => letter.escape_default().to_string(),
            false => letter.to_string(),
        };
        let problem = problem.chars().map(visible).collect();
        PolicyError::Syntax {
            input,
            position,
            problem,
            accepted,
        }
    }
}

pub(crate) fn suggestion(name: Option<&str>) -> String {
    name.map(|name| format!(", did you mean `{name}`?"))
        .unwrap_or_default()
}

/// The known name with the smallest edit distance, unless the text is nothing like it.
pub(crate) fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
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

#[cfg(test)]
mod tests {
    use super::{POLICY_FORMS, RULES, edit_distance, nearest};

    #[test]
    fn every_form_is_among_the_accepted_ones() {
        for (name, form) in RULES {
            assert!(form.starts_with(name), "{form}");
            assert!(POLICY_FORMS.contains(form), "{form}");
        }
    }

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
