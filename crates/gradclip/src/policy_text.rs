//! The text forms of the policy types: how they are read and printed.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;

use crate::policy::{
    ClipPolicy, ClipRule, Decay, NonFinite, NormOrder, Percentile, PolicyError, Positive,
    Threshold, UnitAxis,
};

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
const NON_FINITE_NAMES: [&str; 3] = ["error", "skip", "zero"];
const NON_FINITE_FORMS: &str = "error, skip, zero";
const ORDER_FORMS: &str = "a number greater than 0, or inf";
const THRESHOLD_FORMS: &str = "a number greater than 0, or FROM..TO@STEPS";

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

impl FromStr for Threshold {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Threshold, PolicyError> {
        Text {
            whole: text,
            accepted: THRESHOLD_FORMS,
        }
        .threshold(text)
    }
}

impl fmt::Display for NormOrder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Shortest(self.get()))
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
                    (Some(_), _) => {
                        Err(text.error_after(name, "`none` takes no threshold".to_owned()))
                    }
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
            threshold: parameters.first_threshold()?,
        },
        "norm" => ClipRule::Norm {
            threshold: parameters.first_threshold()?,
            order: parameters.named("p", NormOrder::TWO, Text::order)?,
        },
        "global-norm" => ClipRule::GlobalNorm {
            threshold: parameters.first_threshold()?,
            order: parameters.named("p", NormOrder::TWO, Text::order)?,
        },
        "group-norm" => ClipRule::GroupNorm {
            threshold: parameters.first_threshold()?,
        },
        "block-rms" => ClipRule::BlockRms {
            threshold: parameters.first_threshold()?,
        },
        "normalize" => ClipRule::Normalize {
            threshold: parameters.first("threshold `:C`", Text::finite_threshold)?,
        },
        "agc" => ClipRule::Agc {
            lambda: parameters.first("ratio `:LAMBDA`", Text::threshold)?,
            epsilon: parameters.named("eps", AGC_EPSILON, Text::positive)?,
            unit: parameters.named("unit", UnitAxis::Last, Text::unit)?,
        },
        "autoclip" => ClipRule::AutoClip {
            percentile: parameters.first("percentile `:PERCENTILE`", Text::percentile)?,
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
            factor: parameters.first("factor `:K`", Text::threshold)?,
            window: parameters.named("window", MEDIAN_WINDOW, Text::count)?,
        },
        "skip" => ClipRule::Skip {
            sigma: parameters.first("number of standard deviations `:SIGMA`", Text::positive)?,
            window: parameters.named("window", SKIP_WINDOW, Text::count)?,
            limit: parameters.named("limit", SKIP_LIMIT, Text::count)?,
        },
        "update-rms" => ClipRule::UpdateRms {
            threshold: parameters.first_threshold()?,
        },
        _ => ClipRule::Spam {
            theta: parameters.named("theta", SPAM_THETA, Text::positive)?,
            reset: parameters.named("reset", SPAM_RESET, Text::count)?,
            warmup: parameters.named("warmup", SPAM_WARMUP, Text::steps)?,
        },
    })
}

// The defaults of the publications; `CLIPPING.md` has the reason for each.
const ONE: Threshold = Threshold::constant(1.0);
const AGC_EPSILON: Positive = Positive::constant(1e-3);
const ZCLIP_Z: Positive = Positive::constant(2.5);
const ZCLIP_ALPHA: Decay = Decay::constant(0.97);
const ZCLIP_WARMUP: NonZeroU32 = NonZeroU32::new(25).unwrap();
const ADAGC_RELATIVE: Threshold = Threshold::constant(1.05);
const ADAGC_BETA: Decay = Decay::constant(0.98);
const ADAGC_WARMUP: u32 = 100;
const MEDIAN_WINDOW: NonZeroU32 = NonZeroU32::new(100).unwrap();
const SKIP_WINDOW: NonZeroU32 = NonZeroU32::new(128).unwrap();
const SKIP_LIMIT: NonZeroU32 = NonZeroU32::new(10).unwrap();
const SPAM_THETA: Positive = Positive::constant(5000.0);
const SPAM_RESET: NonZeroU32 = NonZeroU32::new(500).unwrap();
const SPAM_WARMUP: u32 = 150;

impl fmt::Display for ClipRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = Printed::new(self.name());
        match *self {
            ClipRule::Value { threshold }
            | ClipRule::GroupNorm { threshold }
            | ClipRule::BlockRms { threshold }
            | ClipRule::Normalize { threshold }
            | ClipRule::UpdateRms { threshold } => printed.first(threshold),
            ClipRule::Norm { threshold, order } | ClipRule::GlobalNorm { threshold, order } => {
                printed.first(threshold);
                printed.named("p", order, NormOrder::TWO);
            }
            ClipRule::Agc {
                lambda,
                epsilon,
                unit,
            } => {
                printed.first(lambda);
                printed.named("eps", epsilon, AGC_EPSILON);
                printed.named("unit", unit, UnitAxis::Last);
            }
            ClipRule::AutoClip { percentile } => printed.first(Shortest(percentile.get())),
            ClipRule::ZClip {
                z,
                alpha,
                warmup,
                max,
            } => {
                printed.named("z", z, ZCLIP_Z);
                printed.named("alpha", alpha, ZCLIP_ALPHA);
                printed.named("warmup", warmup, ZCLIP_WARMUP);
                printed.named("max", max, ONE);
            }
            ClipRule::AdaGc {
                absolute,
                relative,
                beta,
                warmup,
            } => {
                printed.named("abs", absolute, ONE);
                printed.named("rel", relative, ADAGC_RELATIVE);
                printed.named("beta", beta, ADAGC_BETA);
                printed.named("warmup", warmup, ADAGC_WARMUP);
            }
            ClipRule::Median { factor, window } => {
                printed.first(factor);
                printed.named("window", window, MEDIAN_WINDOW);
            }
            ClipRule::Skip {
                sigma,
                window,
                limit,
            } => {
                printed.first(sigma);
                printed.named("window", window, SKIP_WINDOW);
                printed.named("limit", limit, SKIP_LIMIT);
            }
            ClipRule::Spam {
                theta,
                reset,
                warmup,
            } => {
                printed.named("theta", theta, SPAM_THETA);
                printed.named("reset", reset, SPAM_RESET);
                printed.named("warmup", warmup, SPAM_WARMUP);
            }
        }
        formatter.write_str(&printed.text)
    }
}

/// A rule being printed: the name, then what differs from the defaults.
struct Printed {
    text: String,
    parameters: usize,
}

impl Printed {
    fn new(name: &str) -> Printed {
        Printed {
            text: name.to_owned(),
            parameters: 0,
        }
    }

    fn first(&mut self, value: impl fmt::Display) {
        self.push(&value.to_string());
    }

    fn named<T: fmt::Display + PartialEq>(&mut self, name: &str, value: T, default: T) {
        if value != default {
            self.push(&format!("{name}={value}"));
        }
    }

    fn push(&mut self, parameter: &str) {
        self.text.push(if self.parameters == 0 { ':' } else { ',' });
        self.text.push_str(parameter);
        self.parameters += 1;
    }
}

impl fmt::Display for Positive {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Shortest(self.get()))
    }
}

impl fmt::Display for Decay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", Shortest(self.get()))
    }
}

impl fmt::Display for UnitAxis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            UnitAxis::First => "first",
            UnitAxis::Last => "last",
        })
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
            if left[..index].iter().any(|earlier| key(earlier) == Some(key_here)) {
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

    /// The parameter without a name, which a rule with a threshold must have.
    fn first<T>(
        &mut self,
        what: &str,
        read: impl Fn(Text<'a>, &'a str) -> Result<T, PolicyError>,
    ) -> Result<T, PolicyError> {
        if self.left.is_empty() {
            let problem = format!("`{}` needs a {what}", self.rule);
            return Err(self.text.error_after(self.name, problem));
        }
        read(self.text, self.left.remove(0))
    }

    fn first_threshold(&mut self) -> Result<Threshold, PolicyError> {
        self.first("threshold `:C`", Text::threshold)
    }

    fn named<T>(
        &mut self,
        name: &str,
        default: T,
        read: impl Fn(Text<'a>, &'a str) -> Result<T, PolicyError>,
    ) -> Result<T, PolicyError> {
        let value = |part: &&'a str| {
            let (key, value) = part.split_once('=')?;
            (key == name).then_some(value)
        };
        match self.left.iter().position(|part| value(part).is_some()) {
            None => Ok(default),
            Some(index) => {
                let value = value(&self.left.remove(index)).unwrap_or_default();
                read(self.text, value)
            }
        }
    }

    fn none_left(&self) -> Result<(), PolicyError> {
        let Some(part) = self.left.first() else {
            return Ok(());
        };
        let problem = format!("`{}` does not take `{part}`", self.rule);
        Err(self.text.error(part, problem))
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
        let out_of_range = |error: PolicyError| self.error(part, error.to_string());
        let Some((from, rest)) = part.split_once("..") else {
            return Threshold::new(self.number(part, "threshold")?).map_err(out_of_range);
        };
        let Some((to, steps)) = rest.split_once('@') else {
            return Err(self.error(part, format!("`{part}` lacks the steps: FROM..TO@STEPS")));
        };
        let from = self.number(from, "first threshold")?;
        let to = self.number(to, "last threshold")?;
        Threshold::linear(from, to, self.count(steps)?).map_err(out_of_range)
    }

    fn finite_threshold(self, part: &str) -> Result<Threshold, PolicyError> {
        let threshold = self.threshold(part)?;
        if threshold.at(0).is_infinite() {
            return Err(self.error(part, "a norm cannot be set to infinity".to_owned()));
        }
        Ok(threshold)
    }

    fn positive(self, part: &str) -> Result<Positive, PolicyError> {
        self.in_range(part, Positive::new)
    }

    fn decay(self, part: &str) -> Result<Decay, PolicyError> {
        self.in_range(part, Decay::new)
    }

    fn percentile(self, part: &str) -> Result<Percentile, PolicyError> {
        self.in_range(part, Percentile::new)
    }

    fn in_range<T>(
        self,
        part: &str,
        new: fn(f64) -> Result<T, PolicyError>,
    ) -> Result<T, PolicyError> {
        new(self.number(part, "number")?)
            .map_err(|error| self.error(part, format!("`{part}` {error}")))
    }

    fn steps(self, part: &str) -> Result<u32, PolicyError> {
        let problem = || self.error(part, format!("`{part}` is not a whole number of steps"));
        part.parse().map_err(|_| problem())
    }

    fn count(self, part: &str) -> Result<NonZeroU32, PolicyError> {
        let steps = self.steps(part)?;
        NonZeroU32::new(steps)
            .ok_or_else(|| self.error(part, "the number of steps must be at least 1".to_owned()))
    }

    fn unit(self, part: &str) -> Result<UnitAxis, PolicyError> {
        match part {
            "last" => Ok(UnitAxis::Last),
            "first" => Ok(UnitAxis::First),
            _ => Err(self.error(part, format!("`{part}` is neither `last` nor `first`"))),
        }
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
            Err(_) => {
                let mut known: Vec<&str> = RULES.iter().map(|(name, _)| *name).collect();
                known.insert(0, "none");
                suggestion(nearest(name, &known))
            }
        };
        self.error(name, format!("unknown policy `{name}`{hint}"))
    }

    /// An error at `part`, which must be a piece of the whole text.
    fn error(self, part: &str, problem: String) -> PolicyError {
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
struct Shortest(f64);

impl fmt::Display for Shortest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value == 0.0 || (1e-5..1e16).contains(&value) {
            write!(formatter, "{value}")
        } else {
            write!(formatter, "{value:e}")
        }
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
