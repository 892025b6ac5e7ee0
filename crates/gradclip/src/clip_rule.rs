//! The table of rules, each with its name, parameters, defaults and source. Parsing, printing, text
//! forms, suggestions and the documentation check derive from it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::text::{Text, Value};
use crate::threshold::{
    Decay, FiniteThreshold, NormOrder, Percentile, PolicyError, Positive, Steps, Threshold,
    UnitAxis,
};

/// What a rule works on, and therefore what applies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClipRole {
    /// It judges the unmodified gradients and skips steps.
    Guard,
    /// It changes gradients.
    Gradients,
    /// It changes the update inside Adam, so an Adam optimizer has to apply it
    /// ([`AdamClipping`](crate::AdamClipping)).
    Adam,
}

/// What a rule compares with its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClipScope {
    /// The norm of all tensors.
    All,
    /// The norm of each tensor, or of groups of tensors.
    Tensors,
    /// Elements, their sums over output units, or the update of the optimizer.
    Elements,
}

/// The text form of a rule, and its source.
///
/// ```
/// let forms = gradclip::ClipRule::forms();
/// let norm = forms.iter().find(|form| form.name == "norm").unwrap();
/// assert_eq!((&*norm.form, &*norm.with_defaults), ("norm:C[,p=P]", "norm:C[,p=2]"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleForm {
    /// The name, such as `global-norm`.
    pub name: &'static str,
    /// What the rule works on.
    pub role: ClipRole,
    /// The publication or code that the rule comes from. Its equation is in `CLIPPING.md`.
    pub source: &'static str,
    /// The form, such as `norm:C[,p=P]`.
    pub form: String,
    /// The form with defaults in place of letters: `norm:C[,p=2]`.
    pub with_defaults: String,
}

/// Builds the form of a rule from its name and the letter or default of each parameter.
fn form(name: &str, parameters: &[(Option<&str>, impl fmt::Display)]) -> String {
    let keys = parameters
        .iter()
        .filter_map(|(key, value)| Some(format!("{}={value}", (*key)?)));
    match parameters.first() {
        Some((None, first)) => keys.fold(format!("{name}:{first}"), |form, key| {
            format!("{form}[,{key}]")
        }),
        _ => format!("{name}[:{}]", keys.collect::<Vec<_>>().join(",")),
    }
}

impl fmt::Display for RuleForm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.form)
    }
}

/// One parameter of a rule in the table.
#[derive(Clone, Copy)]
struct Parameter<T> {
    key: Option<&'static str>,
    /// The name in errors, for the parameter without a key.
    what: &'static str,
    form: &'static str,
    default: Option<T>,
}

/// The first parameter, without a key.
const fn first<T>(what: &'static str, form: &'static str) -> Parameter<T> {
    Parameter {
        key: None,
        what,
        form,
        default: None,
    }
}

/// An optional `key=value` parameter.
const fn key<T>(key: &'static str, form: &'static str, default: T) -> Parameter<T> {
    Parameter {
        key: Some(key),
        what: "",
        form,
        default: Some(default),
    }
}

impl<T: Value> Parameter<T> {
    fn default(self) -> String {
        let written = self
            .default
            .map(T::print)
            .filter(|default| !default.is_empty());
        written.unwrap_or_else(|| self.form.to_string())
    }

    /// The value as written in a rule; `None` if it is the default.
    fn written(self, value: T) -> Option<String> {
        let printed = || value.print();
        match self.key {
            None => Some(printed()),
            Some(key) => (self.default != Some(value)).then(|| format!("{key}={}", printed())),
        }
    }
}

/// Defines what else is known about a rule: a public function and the value for most rules. The
/// others have theirs in the table.
macro_rules! facts {
    ($( $(#[$doc:meta])* $visibility:vis $fact:ident: $type:ty = $usual:expr; )*) => {
        struct Facts { $( $fact: $type, )* }

        impl Facts {
            const USUAL: Facts = Facts { $( $fact: $usual, )* };
        }

        impl ClipRule {
            $(
                $(#[$doc])*
                #[must_use]
                $visibility fn $fact(&self) -> $type {
                    self.facts().$fact
                }
            )*
        }
    };
}

facts! {
    /// The order of the norm, for rules that take one.
    pub(crate) chosen_order: Option<NormOrder> = None;
    /// The number of steps that the rule must learn from before it judges or clips one.
    pub steps_needed: u32 = 0;
    /// The length of its warm-up, for rules that clip from the first step on.
    warm_up: u32 = 0;
    /// Whether the rule clamps the elements of gradients.
    pub clamps: bool = false;
    /// Whether the rule needs the parameters as well as their gradients.
    pub needs_parameters: bool = false;
    /// Whether the rule needs the number of elements of each tensor as well as its norm.
    pub needs_sizes: bool = false;
}

/// The median of fewer norms is not a useful estimate.
const FEWEST_NORMS: u32 = 10;

macro_rules! rules {
    ($(
        $(#[$doc:meta])*
        $Rule:ident = $name:literal, $role:ident, $scope:ident, $source:literal {
            $( $(#[$field_doc:meta])* $field:ident: $type:ty = $parameter:expr; )*
        } $( => { $($fact:ident: $value:expr),+ } )?
    )*) => {
        /// One rule of a policy. `CLIPPING.md` has its equation, source and advice.
        #[derive(Clone, Copy, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum ClipRule {
            $( $(#[$doc])* $Rule { $( $(#[$field_doc])* $field: $type, )* }, )*
        }

        impl ClipRule {
            /// The name without parameters, such as `global-norm`.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $( ClipRule::$Rule { .. } => $name, )* }
            }

            /// What the rule works on.
            #[must_use]
            pub fn role(&self) -> ClipRole {
                match self { $( ClipRule::$Rule { .. } => ClipRole::$role, )* }
            }

            /// What the rule compares with its threshold.
            #[must_use]
            pub fn scope(&self) -> ClipScope {
                match self { $( ClipRule::$Rule { .. } => ClipScope::$scope, )* }
            }

            #[allow(unused_variables, reason = "few parameters are facts")]
            fn facts(&self) -> Facts {
                match *self {
                    $( ClipRule::$Rule { $( $field, )* } => Facts {
                        $( $( $fact: $value, )+ )?
                        ..Facts::USUAL
                    }, )*
                }
            }

            /// The text form of each rule.
            #[must_use]
            pub fn forms() -> Vec<RuleForm> {
                vec![ $( RuleForm {
                    name: $name,
                    role: ClipRole::$role,
                    source: $source,
                    form: form($name, &[
                        $( { let own: Parameter<$type> = $parameter; (own.key, own.form) }, )*
                    ]),
                    with_defaults: form($name, &[
                        $( { let own: Parameter<$type> = $parameter; (own.key, own.default()) }, )*
                    ]),
                }, )* ]
            }

            /// Parses the parameters of the rule `name`; `None` if there is no such rule.
            pub(crate) fn read(
                name: &str,
                mut written: Parameters<'_>,
            ) -> Option<Result<ClipRule, PolicyError>> {
                match name {
                    $( $name => Some((|| {
                        let rule = ClipRule::$Rule { $( $field: written.take($parameter)?, )* };
                        written.expect_end()?;
                        Ok(rule)
                    })()), )*
                    _ => None,
                }
            }
        }

        impl fmt::Display for ClipRule {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let parameters: Vec<Option<String>> = match *self {
                    $( ClipRule::$Rule { $( $field, )* } => vec![
                        $( { let own: Parameter<$type> = $parameter; own.written($field) }, )*
                    ], )*
                };
                formatter.write_str(self.name())?;
                for (index, parameter) in parameters.iter().flatten().enumerate() {
                    let separator = if index == 0 { ':' } else { ',' };
                    write!(formatter, "{separator}{parameter}")?;
                }
                Ok(())
            }
        }
    };
}

// The defaults are the published ones; `CLIPPING.md` gives the reason for each.
rules! {
    /// Clamps each element to `[-C, C]`, which can turn the gradient.
    Value = "value", Gradients, Elements, "Mikolov 2012; char-rnn (Karpathy 2015)" {
        /// The bound C.
        threshold: Threshold = first("threshold", "C");
    } => { clamps: true }
    /// Clips each tensor separately: `g C / N` if its norm N exceeds C. Tensors are scaled by
    /// different factors, so the gradient as a whole can turn.
    Norm = "norm", Gradients, Tensors, "Keras clipnorm, TensorFlow clip_by_norm" {
        /// The bound C of each tensor's norm.
        threshold: Threshold = first("threshold", "C");
        /// The order p of the norm.
        order: NormOrder = key("p", "P", NormOrder::TWO);
    } => { chosen_order: Some(order) }
    /// Clips all tensors as one vector: `g C / N` if its norm N exceeds C (Pascanu, Mikolov and
    /// Bengio 2013). Keeps the direction.
    GlobalNorm = "global-norm", Gradients, All, "Pascanu, Mikolov and Bengio 2013, algorithm 1" {
        /// The bound C of the norm of all tensors.
        threshold: Threshold = first("threshold", "C");
        /// The order p of the norm.
        order: NormOrder = key("p", "P", NormOrder::TWO);
    } => { chosen_order: Some(order) }
    /// Clips each named group of tensors as one vector, by its Euclidean norm.
    GroupNorm = "group-norm", Gradients, Tensors, "Megatron-LM grad_norm_group" {
        /// The bound C of each group's norm.
        threshold: Threshold = first("threshold", "C");
    }
    /// Clips each tensor to a root mean square of at most C (Shazeer and Stern 2018, update
    /// clipping in Adafactor; `clip_by_block_rms` in optax).
    BlockRms = "block-rms", Gradients, Tensors, "Shazeer and Stern 2018, section 6" {
        /// The bound C of each tensor's root mean square.
        threshold: Threshold = first("threshold", "C");
    } => { needs_sizes: true }
    /// Scales all tensors as one vector to the norm C, even if its norm is smaller.
    Normalize = "normalize", Gradients, All, "Hazan, Levy and Shalev-Shwartz 2015" {
        /// The norm C after the step.
        threshold: FiniteThreshold = first("threshold", "C");
    }
    /// Adaptive gradient clipping (Brock et al. 2021): clips each output unit to `lambda` times the
    /// norm of its weights.
    Agc = "agc", Gradients, Elements, "Brock et al. 2021, equation 3" {
        /// The largest ratio of a unit's gradient norm to its parameter norm.
        lambda: Threshold = first("ratio", "LAMBDA");
        /// The lower bound on a unit's parameter norm.
        epsilon: Positive = key("eps", "E", Positive::constant(1e-3));
        /// The axis of the units, overriding the axes of the tensors
        /// ([`Gradient::with_units`](crate::Gradient::with_units)).
        unit: Option<UnitAxis> = key("unit", "last|first", None);
    } => { needs_parameters: true }
    /// Clips all tensors as one vector to a percentile of all norms so far (Seetharaman et al.
    /// 2020, AutoClip).
    AutoClip = "autoclip", Gradients, All, "Seetharaman et al. 2020" {
        /// The percentile.
        percentile: Percentile = first("percentile", "PERCENTILE");
    }
    /// Clips all tensors as one vector: norms with a large z-score to a target near the running
    /// mean (Kumar et al. 2025, ZClip), and every norm to `max`.
    ZClip = "zclip", Gradients, All, "Kumar et al. 2025" {
        /// The z-score above which a norm is a spike.
        z: Positive = key("z", "Z", Positive::constant(2.5));
        /// The weight of the past in the running mean and variance.
        alpha: Decay = key("alpha", "A", Decay::constant(0.97));
        /// The number of norms in the initial mean and variance.
        warmup: Steps<1> = key("warmup", "N", Steps::constant(25));
        /// The bound of the norm at every step.
        max: Threshold = key("max", "C", Threshold::constant(1.0));
    } => { warm_up: warmup.get() }
    /// Clips each tensor to a multiple of its own running norm (Wang et al. 2025, AdaGC).
    AdaGc = "adagc", Gradients, Tensors, "Wang et al. 2025, algorithm 1" {
        /// The bound of the norm of all tensors during warm-up.
        absolute: Threshold = key("abs", "C", Threshold::constant(1.0));
        /// The multiple of the running norm.
        relative: Threshold = key("rel", "R", Threshold::constant(1.05));
        /// The weight of the past in the running norm.
        beta: Decay = key("beta", "B", Decay::constant(0.98));
        /// The step, counted from 1, from which the multiple applies.
        warmup: u32 = key("warmup", "N", 100);
    } => { warm_up: warmup.saturating_sub(1) }
    /// Clips all tensors as one vector to a multiple of the median norm of the previous steps
    /// (ScaledAdam in icefall).
    Median = "median", Gradients, All, "icefall ScaledAdam" {
        /// The multiple K of the median.
        factor: Threshold = first("factor", "K");
        /// The number of steps in the median.
        window: Steps<1> = key("window", "N", Steps::constant(100));
    } => { steps_needed: window.get().min(FEWEST_NORMS) }
    /// Skips steps whose loss or norm is an outlier (OLMo, llm.c).
    Skip = "skip", Guard, All, "OLMo-core SkipStepOptimizer, llm.c" {
        /// The number of standard deviations above the mean beyond which a step is an outlier.
        sigma: Positive = first("number of standard deviations", "SIGMA");
        /// The number of steps in mean and deviation.
        window: Steps<2> = key("window", "N", Steps::constant(128));
        /// The largest number of steps skipped in a row.
        limit: Steps<1> = key("limit", "N", Steps::constant(10));
    } => { steps_needed: (window.get() / 2).max(2) }
    /// Inside Adam: divides the learning rate of a tensor by `max(1, RMS / C)`, where RMS is the
    /// root mean square of `g / sqrt(v)` (Wortsman et al. 2023, StableAdamW).
    UpdateRms = "update-rms", Adam, Elements, "Wortsman et al. 2023, algorithm 2" {
        /// The bound C.
        threshold: Threshold = first("threshold", "C");
    }
    /// Inside Adam: clamps elements with `g^2 > theta v` to `sqrt(theta v)`, and resets the moments
    /// periodically (Huang et al. 2025, SPAM).
    Spam = "spam", Adam, Elements, "Huang et al. 2025" {
        /// The ratio of squares above which an element is a spike.
        theta: Positive = key("theta", "T", Positive::constant(5000.0));
        /// The number of updates between resets; more than 20, because spikes pass in the first 20
        /// after each.
        reset: Steps<21> = key("reset", "N", Steps::constant(500));
        /// The number of updates over which the learning rate recovers after a reset.
        warmup: u32 = key("warmup", "N", 150);
    }
}

impl ClipRule {
    /// The order of the norms that the rule compares.
    #[must_use]
    pub fn order(&self) -> NormOrder {
        self.chosen_order().unwrap_or(NormOrder::TWO)
    }

    /// The number of steps that the rule must learn from before it works as it will from then on.
    #[must_use]
    pub fn steps_to_warm_up(&self) -> u32 {
        self.warm_up().max(self.steps_needed())
    }
}

/// The parameters of one rule as written: an optional first one without a key, then `key=value`.
pub(crate) struct Parameters<'a> {
    text: Text<'a>,
    /// The rule's name as a slice of the text, to locate errors after it.
    rule: &'a str,
    rest: Vec<&'a str>,
}

impl<'a> Parameters<'a> {
    pub(crate) fn new(
        text: Text<'a>,
        rule: &'a str,
        written: Option<&'a str>,
    ) -> Result<Parameters<'a>, PolicyError> {
        let rest: Vec<&str> = written.map_or(Vec::new(), |list| list.split(',').collect());
        let key = |part: &'a str| part.split_once('=').map(|(key, _)| key);
        for (index, part) in rest.iter().enumerate() {
            let Some(own) = key(part) else { continue };
            if rest[..index]
                .iter()
                .any(|earlier| key(earlier) == Some(own))
            {
                return Err(text.error(part, format!("`{own}` is given twice")));
            }
        }
        Ok(Parameters { text, rule, rest })
    }

    fn take<T: Value>(&mut self, parameter: Parameter<T>) -> Result<T, PolicyError> {
        match (parameter.key, parameter.default) {
            (Some(key), Some(default)) => self.named(key, default),
            _ => self.first(parameter.what, parameter.form),
        }
    }

    fn first<T: Value>(&mut self, what: &str, form: &str) -> Result<T, PolicyError> {
        let needs = format!("`{}` needs a {what} `:{form}`", self.rule);
        match self.rest.first() {
            None => Err(self.text.error_after(self.rule, needs)),
            Some(part) if is_named(part) => {
                Err(self.text.error(part, format!("{needs} before `{part}`")))
            }
            Some(_) => T::read(self.text, self.rest.remove(0), what),
        }
    }

    fn named<T: Value>(&mut self, name: &str, default: T) -> Result<T, PolicyError> {
        let value = |part: &&'a str| {
            let (key, value) = part.split_once('=')?;
            (key == name).then_some(value)
        };
        match self.rest.iter().position(|part| value(part).is_some()) {
            None => Ok(default),
            Some(index) => {
                let value = value(&self.rest.remove(index)).unwrap_or_default();
                T::read(self.text, value, &format!("parameter {name}"))
            }
        }
    }

    fn expect_end(&self) -> Result<(), PolicyError> {
        let Some(part) = self.rest.first() else {
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

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::ClipRule;

    #[test]
    fn documentation_matches_the_table() {
        const CLIPPING: &str = include_str!("../CLIPPING.md");
        const README: &str = include_str!("../README.md");
        for form in ClipRule::forms() {
            let heading = format!("### `{}`\n", form.with_defaults);
            assert!(CLIPPING.contains(&heading), "CLIPPING.md lacks {heading}");
            let row = format!("`{form}`").replace('|', "\\|");
            assert!(README.contains(&row), "README.md lacks {row}");
        }
    }
}
