//! The verdict: what clipping did over a whole run, in a sentence for the end of the run.

use std::fmt;

use gradclip::{ClipRule, significant};

use crate::advice::Advice;
use crate::class::{Class, FEW_UP_TO_SHARE, FEWEST_STEPS, NEARLY_EVERY_ABOVE_SHARE};
use crate::death::{Death, Explosion};
use crate::next::Next;
use crate::numbers::{Numbers, of_order, of_steps, percent, stands_out};
use crate::record::{Run, StepRecord};
use crate::statistics::median;
use crate::warm_up::{WarmUp, goes_by_norm_of_all};

/// A cosine below this is a change of direction worth reporting.
const TURNED_BELOW_COSINE: f64 = 0.99;

/// What clipping did over a run. Its [`Display`](fmt::Display) is a few plain lines.
///
/// ```
/// use gradclip::{ClipAction, ClipPolicy};
/// use gradclip_judge::{Class, Run, StepRecord, judge};
///
/// let policy: ClipPolicy = "global-norm:5".parse()?;
/// let step = |step: u64| {
///     let norm_before = if step == 170 { 40.0 } else { 0.5 };
///     StepRecord {
///         step,
///         loss: None,
///         norm_before,
///         threshold: Some(5.0),
///         coefficient: (5.0 / norm_before).min(1.0),
///         action: if norm_before > 5.0 { ClipAction::Clip } else { ClipAction::Keep },
///         non_finite: false,
///     }
/// };
/// let judgement = judge(&Run::new(&policy, (1..=200).map(step)));
/// assert_eq!(judgement.verdict.class, Class::SeldomDecisive);
/// println!("{}", judgement.verdict);
/// # Ok::<(), gradclip::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// One of nine classes.
    pub class: Class,
    /// One sentence, without a full stop.
    pub sentence: String,
    /// The figures behind it.
    pub numbers: Numbers,
    /// Further remarks, each a sentence without a full stop.
    pub notes: Vec<String>,
    /// One thing to try next; `None` if nothing would be informative.
    pub next: Option<Next>,
}

/// The judgement of a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Judgement {
    /// What clipping did.
    pub verdict: Verdict,
    /// The policy to use next time; `None` where nothing can be advised.
    pub advice: Option<Advice>,
}

/// Judges a run. [`Class`] and [`Advice`] document their rules.
#[must_use]
pub fn judge(run: &Run<'_>) -> Judgement {
    let numbers = Numbers::of(run);
    let death = Death::of(run);
    let class = Class::of(run, &numbers, death.as_ref());
    let advice = Advice::of(run, class, &numbers, death.as_ref());
    Judgement {
        verdict: Verdict {
            class,
            sentence: sentence(run, class, &numbers, death.as_ref()) + &before(run),
            notes: notes(run, class, &numbers),
            next: Next::of(run, class, &numbers, advice.as_ref()),
            numbers,
        },
        advice,
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.sentence)?;
        for note in &self.notes {
            write!(formatter, "\n{note}")?;
        }
        write!(formatter, "\n{}", self.numbers)
    }
}

/// The sentence starts with the words of the class.
fn sentence(run: &Run<'_>, class: Class, numbers: &Numbers, death: Option<&Death>) -> String {
    let words = match class {
        Class::Off => off(run, numbers),
        Class::Idle => idle(run, numbers),
        Class::SeldomDecisive | Class::TrimsSpikes => seldom(numbers),
        Class::NearOrdinary => near_ordinary(run, numbers),
        Class::SecondLearningRate => second_learning_rate(run, numbers),
        Class::Exploded | Class::NotFinite => match death {
            Some(death) => return lost(run, numbers, death),
            None => broken_steps(run, numbers),
        },
        Class::TooShort if numbers.steps == 0 => "no step was taken".to_owned(),
        Class::TooShort => format!(
            "{} {} too few to judge clipping; a verdict needs {FEWEST_STEPS}",
            of_steps(numbers.steps),
            if numbers.steps == 1 { "is" } else { "are" }
        ),
    };
    format!("{}: {words}", class.words())
}

/// The policies and classes of earlier steps, if the policy was changed.
fn before(run: &Run<'_>) -> String {
    let each = run.before.iter();
    let each = each.map(|stretch| format!("`{}` ({})", stretch.policy, stretch.class));
    let each: Vec<String> = each.collect();
    match (each.is_empty(), run.steps.first()) {
        (true, _) => String::new(),
        (false, Some(first)) => format!(
            "; this judges the steps from {} on, those before had {}",
            first.step,
            each.join(", then ")
        ),
        (false, None) => format!("; the steps before had {}", each.join(", then ")),
    }
}

fn off(run: &Run<'_>, numbers: &Numbers) -> String {
    let norms = numbers.norms.map_or(String::new(), |norms| {
        let [median, max] = [norms.p50, norms.max].map(significant);
        format!(
            "the gradient norm{} had a median of {median} and a maximum of {max} at step {}",
            of_order(numbers.order),
            norms.max_at
        )
    });
    match run.policy.is_none() {
        true => format!("nothing was clipped; {norms}"),
        // Only rules inside Adam.
        false => format!("no rule clips the gradients themselves; {norms}"),
    }
}

fn idle(run: &Run<'_>, numbers: &Numbers) -> String {
    let order = of_order(numbers.order);
    let largest = numbers.norms.map_or(String::new(), |norms| {
        format!("; the largest norm{order} was {}", significant(norms.max))
    });
    let waiting = WarmUp::of(run);
    let filling: Vec<String> = waiting.iter().map(still_filling).collect();
    let filling = filling.join(", and ");
    let judging = run.policy.rules().len() - run.policy.rules_inside_adam().count();
    if waiting.len() == judging {
        return format!("{filling}: nothing could be clipped{largest}");
    }
    let since = run.steps.iter().find(|step| step.threshold.is_some());
    let first = run.steps.first().map_or(0, |step| step.step);
    let since = since.filter(|since| since.step > first && waiting.is_empty());
    let since = since.map_or(String::new(), |since| {
        format!(", in force from step {} on,", since.step)
    });
    // The threshold of another rule cannot be compared with the norm beside it.
    let fixed = numbers
        .threshold
        .filter(|_| numbers.fixed && goes_by_norm_of_all(run.policy));
    let what = match (fixed, run.policy) {
        (Some(threshold), _) => format!("the threshold {} was", significant(threshold)),
        (None, policy) => format!("the limits of `{policy}`{since} were"),
    };
    let filling = match filling.is_empty() {
        true => String::new(),
        false => format!("; {filling}"),
    };
    format!("{what} never reached, so nothing was clipped{largest}{filling}")
}

fn still_filling(rule: &WarmUp<'_>) -> String {
    format!(
        "`{}` was still filling its window ({} of the {} it needs)",
        rule.rule,
        of_steps(rule.seen),
        rule.needed
    )
}

/// `the threshold 5`, or `the policy` if the threshold changes, or if another rule did all of it.
fn the_threshold(numbers: &Numbers) -> String {
    let only_skipped = numbers.clipped == 0 && numbers.outliers > 0;
    match numbers.threshold.filter(|_| numbers.fixed && !only_skipped) {
        Some(threshold) => format!("the threshold {}", significant(threshold)),
        None => "the policy".to_owned(),
    }
}

/// How many steps were cut, how much, and when.
fn cut(numbers: &Numbers) -> String {
    let of = of_steps(numbers.steps);
    let mut words = String::new();
    if numbers.clipped > 0 {
        let clipped = numbers.clipped;
        let share = percent(clipped, numbers.steps);
        words = format!("cut {clipped} of {of} ({share})");
        if let Some((median, least)) = numbers.left.filter(|(median, _)| *median <= 1.0) {
            let [median, least] = [median, least].map(significant);
            words.push_str(&match clipped {
                1 => format!(" to {median} of its length"),
                _ => format!(", the median one to {median} of its length, the hardest to {least}"),
            });
        }
    }
    if numbers.outliers > 0 {
        let and = if words.is_empty() { "" } else { ", and " };
        let share = percent(numbers.outliers, numbers.steps);
        words.push_str(&format!(
            "{and}skipped {} of {of} ({share}) as outliers",
            numbers.outliers
        ));
    }
    words + &when(numbers)
}

/// When clipping engaged, if only at the start or only at the end of the run.
fn when(numbers: &Numbers) -> String {
    let steps = numbers.steps as u64;
    let before = numbers.first_step.saturating_sub(1);
    match numbers.engaged_from_to {
        Some((first, last)) if first == last => format!(", at step {first}"),
        Some((_, last)) if last <= before + steps / 4 && before > 0 => {
            format!(", none after step {last}")
        }
        Some((_, last)) if last <= steps / 4 => format!(", all in the first {last}"),
        Some((first, _)) if first > before + steps - steps / 4 => {
            format!(", none before step {first}")
        }
        _ => String::new(),
    }
}

fn seldom(numbers: &Numbers) -> String {
    format!(
        "{} {}; the other steps kept every bit",
        the_threshold(numbers),
        cut(numbers)
    )
}

fn near_ordinary(run: &Run<'_>, numbers: &Numbers) -> String {
    let norms = numbers.norms.map_or(String::new(), |norms| {
        let [median, p90] = [norms.p50, norms.p90].map(significant);
        format!(" (median norm {median}, p90 {p90})")
    });
    let what = the_threshold(numbers);
    let cut = cut(numbers);
    if numbers.clipped == 0 || !goes_by_norm_of_all(run.policy) {
        return format!("{what} {cut}: these were ordinary steps{norms}");
    }
    let place = match numbers.engaged_share() > FEW_UP_TO_SHARE {
        true => "among ordinary norms",
        false => "at the upper end of the ordinary norms",
    };
    // Where it did not cut, a moving threshold may have been far above all norms.
    let at_cuts = run.steps.iter().filter(|step| step.clipped());
    let what = match median(at_cuts.filter_map(|step| step.threshold)) {
        Some(threshold) if !numbers.fixed => {
            format!(
                "the threshold (median {} where it cut)",
                significant(threshold)
            )
        }
        _ => what,
    };
    format!("{what} lies {place}{norms}: it {cut}")
}

fn second_learning_rate(run: &Run<'_>, numbers: &Numbers) -> String {
    let lengthens = numbers.left.is_some_and(|(median, _)| median > 1.0);
    let cut = match lengthens {
        true => format!(
            "it set the length of {} of {}",
            numbers.clipped,
            of_steps(numbers.steps)
        ),
        false => format!("it {}", cut(numbers)),
    };
    let which = match 2 * numbers.clipped >= numbers.steps {
        true => "the ordinary step",
        false => "many steps",
    };
    let what = the_threshold(numbers);
    if run.adaptive {
        // The moments of the optimizer remember gradients from before a change.
        let lasts = numbers.engaged_share() > NEARLY_EVERY_ABOVE_SHARE && numbers.fixed;
        let so = match lasts {
            true => "divides that out again, so these steps are no shorter",
            false => "divides out again only what lasts, so these steps may be shorter",
        };
        return format!(
            "{what} sets the length of the gradient of {which}: {cut}; the optimizer {so}"
        );
    }
    format!("{what} sets the length of {which}, as a learning rate does: {cut}")
}

/// The words for a run that was lost.
fn lost(run: &Run<'_>, numbers: &Numbers, death: &Death) -> String {
    let exploded = death.explosion().map(|Explosion { first, longest }| {
        let rose = match longest.0 == first.0 {
            true => String::new(),
            false => format!(", up to {} at step {}", significant(longest.1), longest.0),
        };
        let norm = significant(first.1);
        format!("exploded at step {} (norm {norm}{rose})", first.0)
    });
    match death {
        Death::Risen { from, losses, .. } => {
            let [began, ended] = [losses.0, losses.1].map(significant);
            let from = from.map_or(String::new(), |from| {
                format!(", and stayed far above its start from step {from} on")
            });
            let exploded = exploded.unwrap_or_else(|| "exploded".to_owned());
            format!("{exploded}: the loss rose from {began} to {ended}{from}")
        }
        Death::Broken { from, losses, .. } => {
            let broke = match from {
                Some(step) => format!("not finite from step {step}"),
                None => "not finite: the validation loss".to_owned(),
            };
            let rose = losses.map(|(began, ended)| {
                let [began, ended] = [began, ended].map(significant);
                format!("after the loss rose from {began} to {ended}")
            });
            let parts: Vec<String> = exploded.into_iter().chain([broke]).chain(rose).collect();
            let more = broken_share(run, numbers);
            format!("{}{more}", parts.join(", "))
        }
    }
}

fn broken_share(run: &Run<'_>, numbers: &Numbers) -> String {
    if numbers.non_finite == 0 {
        return String::new();
    }
    let share = percent(numbers.non_finite, numbers.steps);
    let tensor = run.first_non_finite.as_ref();
    let tensor = tensor.map_or(String::new(), |tensor| format!(", first in `{tensor}`"));
    format!(
        " ({} of {}, {share}{tensor})",
        numbers.non_finite,
        of_steps(numbers.steps)
    )
}

/// The words for a run that survived non-finite steps.
fn broken_steps(run: &Run<'_>, numbers: &Numbers) -> String {
    let first = run.steps.iter().find(|step| step.broken());
    let first = first.map_or(0, |step| step.step);
    format!("the first was step {first}{}", broken_share(run, numbers))
}

fn notes(run: &Run<'_>, class: Class, numbers: &Numbers) -> Vec<String> {
    let mut notes = Vec::new();
    let lost = matches!(class, Class::Exploded | Class::NotFinite);
    if class == Class::SecondLearningRate && !run.adaptive {
        notes.push(
            "these are the norms of a run that was held back, and a free run may have others; a \
             lower learning rate, or a threshold raised one step at a time, would show"
                .to_owned(),
        );
    }
    if let Some((skipped, others)) = numbers.outlier_norms {
        let judged = match stands_out((skipped, others)) {
            true => "",
            false => ": these are ordinary steps, and nothing was learned from them",
        };
        let [skipped, others] = [skipped, others].map(significant);
        notes.push(format!(
            "the skipped steps had a median norm of {skipped}, the others of {others}{judged}"
        ));
    }
    let zeroed = |step: &&StepRecord| step.non_finite && !step.skipped();
    let zeroed = run.steps.iter().filter(zeroed).count();
    if lost && zeroed > 0 {
        notes.push(format!(
            "at {} non-finite elements were set to zero and the rest applied, which repairs no \
             weights",
            of_steps(zeroed)
        ));
    }
    if numbers.non_finite > 0 && !lost {
        let skipped = numbers.skipped - numbers.outliers;
        let what = match skipped > 0 {
            true => "skipped",
            false => "applied with zeros in place of non-finite elements",
        };
        notes.push(format!(
            "{} had non-finite gradients and {} {what}; clipping cannot repair them, but a lower \
             learning rate or a longer warm-up prevents them",
            of_steps(numbers.non_finite),
            if numbers.non_finite == 1 {
                "was"
            } else {
                "were"
            },
        ));
    }
    if let Some(cosine) = run.cosine.filter(|cosine| *cosine < TURNED_BELOW_COSINE)
        && !lost
    {
        notes.push(format!(
            "clipping turned the gradients: the mean cosine between before and after is {}",
            significant(cosine)
        ));
    }
    let inside = run.policy.rules_inside_adam().map(ClipRule::name);
    notes.extend(inside.map(|name| {
        format!("`{name}` works inside Adam, on the update, and is not part of these figures")
    }));
    notes
}
