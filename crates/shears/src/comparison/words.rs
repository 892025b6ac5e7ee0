//! The findings of a comparison: the result of each policy, and a recommendation in words.

use gradclip::ClipAction;
use gradclip_judge::statistics::{mean, share};
use serde::Serialize;
use shears_run::Judgement;

use super::results::{Outcome, mean_and_interval};
use super::smooth::smoothed;
use super::{Comparison, Run, Variant};

/// A variant at one learning rate, over all seeds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Group {
    pub(super) policy: String,
    #[serde(skip)]
    pub(super) variant: usize,
    #[serde(skip)]
    pub(super) rate: usize,
    pub(super) lr: f64,
    pub(super) runs: usize,
    pub(super) converged: usize,
    /// Mean of the last validation loss, if every run converged.
    pub(super) val_loss: Option<f64>,
    /// Half the width of its 95 % confidence interval; none for fewer than three seeds.
    pub(super) val_loss_interval: Option<f64>,
    /// The last validation loss of each seed that converged.
    pub(super) val_losses: Vec<f64>,
    /// The seeds of `val_losses`.
    #[serde(skip)]
    seeds: Vec<u64>,
    /// The class of each run's verdict, in the order of seeds.
    pub(super) verdicts: Vec<&'static str>,
    /// Those classes in words.
    #[serde(skip)]
    pub(super) verdict: String,
    pub(super) clipped_share: f64,
    /// Mean over the clipped steps.
    pub(super) cosine: Option<f64>,
    /// Skipped steps of all runs together.
    pub(super) skipped: usize,
    /// How often the loss jumped, in all runs together.
    pub(super) loss_jumps: usize,
    /// Mean of the steps to [`Findings::target`].
    pub(super) steps_to_target: Option<f64>,
}

/// The findings of a comparison.
#[derive(Debug, Default, Serialize)]
pub(super) struct Findings {
    pub(super) groups: Vec<Group>,
    /// For each variant, the group with the lowest loss.
    #[serde(skip)]
    pub(super) best: Vec<Option<usize>>,
    /// The smoothed training loss that every policy reaches at its best learning rate; none if
    /// fewer than two policies converged.
    pub(super) target: Option<f64>,
    pub(super) recommendation: String,
    /// The group with the lowest loss, if any converged.
    #[serde(skip)]
    pub(super) winner: Option<usize>,
    /// One command to try next.
    pub(super) next: Option<String>,
}

impl Findings {
    pub(super) fn of(comparison: &Comparison) -> Findings {
        let variants = 0..comparison.variants.len();
        let mut groups = Vec::new();
        for variant in variants.clone() {
            for (rate, lr) in comparison.rates.iter().enumerate() {
                let runs = comparison.seeds_of(variant, rate);
                // Existing runs need not form a complete grid.
                if !runs.is_empty() {
                    let name = &comparison.variants[variant].name;
                    groups.push(group(name, (variant, rate), *lr, &runs));
                }
            }
        }
        let best: Vec<Option<usize>> = variants.map(|variant| best_of(&groups, variant)).collect();
        let runs_of = |group: &Group| comparison.seeds_of(group.variant, group.rate);
        let lowest = |run: &Run| {
            let smooth = smoothed(&run.outcome.loss()).into_iter();
            smooth
                .filter(|loss| loss.is_finite())
                .fold(f64::INFINITY, f64::min)
        };
        let survivors = best.iter().flatten();
        let reached = survivors.clone().flat_map(|group| runs_of(&groups[*group]));
        let target = reached.map(lowest).reduce(f64::max);
        let target = target.filter(|target| target.is_finite() && survivors.count() > 1);
        for group in &mut groups {
            let steps: Option<Vec<f64>> = target.and_then(|target| {
                let runs = runs_of(group).into_iter();
                runs.map(|run| run.outcome.steps_to(target).map(|steps| steps as f64))
                    .collect()
            });
            group.steps_to_target = steps.and_then(mean);
        }
        let recommendation = recommend(&groups, &best, comparison);
        let found = best.iter().flatten().copied();
        let mut findings = Findings {
            winner: found.min_by(|a, b| loss(&groups[*a]).total_cmp(&loss(&groups[*b]))),
            groups,
            best,
            target,
            recommendation,
            next: None,
        };
        let judged = findings.judgement_of_winner(comparison);
        findings.next = judged.and_then(|judgement| judgement.next.clone());
        findings
    }

    /// The judgement of the first run of the best group, or of the first run if none converged.
    pub(super) fn judgement_of_winner<'a>(
        &self,
        comparison: &'a Comparison,
    ) -> Option<&'a Judgement> {
        let of_winner = self.winner.map(|winner| &self.groups[winner]);
        let runs = of_winner.map(|group| comparison.seeds_of(group.variant, group.rate));
        let run = runs.map_or(comparison.runs.first(), |runs| runs.first().copied());
        run?.outcome.judgement.as_ref()
    }
}

fn group(name: &str, (variant, rate): (usize, usize), lr: f64, runs: &[&Run]) -> Group {
    let converged = runs.iter().filter(|run| run.outcome.converged());
    let (seeds, losses): (Vec<u64>, Vec<f64>) = converged
        .filter_map(|run| Some((run.plan.seed, run.outcome.last_loss()?)))
        .unzip();
    let all = losses.len() == runs.len();
    let interval = mean_and_interval(&losses).filter(|_| all);
    let outcomes = || runs.iter().map(|run| &run.outcome);
    let actions = || outcomes().flat_map(|run| run.columns.action.iter().copied());
    Group {
        policy: name.to_string(),
        variant,
        rate,
        lr,
        runs: runs.len(),
        converged: losses.len(),
        val_loss: interval.map(|(mean, _)| mean),
        val_loss_interval: interval.and_then(|(_, half)| half),
        val_losses: losses,
        seeds,
        verdicts: outcomes()
            .filter_map(Outcome::class)
            .map(|class| class.0)
            .collect(),
        verdict: classes(outcomes().filter_map(Outcome::class).map(|class| class.1)),
        clipped_share: share(actions().map(|action| action == ClipAction::Clip)),
        cosine: mean(outcomes().filter_map(|run| run.columns.cosine_of_clipped())),
        skipped: actions()
            .filter(|action| *action == ClipAction::Skip)
            .count(),
        loss_jumps: outcomes().map(Outcome::loss_jumps).sum(),
        steps_to_target: None,
    }
}

/// Each class once, the most frequent first, with counts if there are several.
fn classes<'a>(of_runs: impl Iterator<Item = &'a str>) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for class in of_runs {
        match counts.iter_mut().find(|(other, _)| *other == class) {
            Some((_, count)) => *count += 1,
            None => counts.push((class, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    match counts.as_slice() {
        [(class, _)] => (*class).to_string(),
        several => {
            let each = several
                .iter()
                .map(|(class, count)| format!("{count} {class}"));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

/// The index of a variant's group with the lowest loss.
fn best_of(groups: &[Group], variant: usize) -> Option<usize> {
    let candidates = groups.iter().enumerate();
    candidates
        .filter(|(_, group)| group.variant == variant && group.val_loss.is_some())
        .min_by(|(_, left), (_, right)| loss(left).total_cmp(&loss(right)))
        .map(|(index, _)| index)
}

fn loss(group: &Group) -> f64 {
    group.val_loss.unwrap_or(f64::INFINITY)
}

/// One paragraph: the best policy, compared with which other one, by how much, and how certain that
/// is.
fn recommend(groups: &[Group], best: &[Option<usize>], comparison: &Comparison) -> String {
    let found = best.iter().flatten().map(|index| &groups[*index]);
    let Some(winner) = found.clone().min_by(|a, b| loss(a).total_cmp(&loss(b))) else {
        return "No combination converged with every seed: lower the learning rate, or the \
                thresholds."
            .to_string();
    };
    let mut words = Vec::new();
    let engaged = !never_engaged(groups, comparison);
    if !engaged {
        words.push(
            "Clipping never engaged: no step of any run was clipped or skipped, so it made no \
             difference at these learning rates."
                .to_string(),
        );
    }
    // Without clipping only rates and other settings can differ.
    let differs = found.clone().any(|group| loss(group) != loss(winner));
    if engaged || differs || comparison.has_rates() {
        words.push(format!(
            "{} at learning rate {} has the lowest validation loss: {}.",
            winner.policy,
            winner.lr,
            with_interval(winner.val_loss, winner.val_loss_interval)
        ));
    }
    if engaged || differs {
        let reference = reference(groups, best, winner, &comparison.variants);
        words.extend(reference.map(|other| against(winner, other, groups.len())));
    }
    if comparison.has_rates() {
        words.push(ranges(groups, comparison));
    }
    let failed: Vec<&str> = comparison
        .variants
        .iter()
        .zip(best)
        .filter_map(|(variant, best)| best.is_none().then_some(variant.name.as_str()))
        .collect();
    if !failed.is_empty() {
        words.push(format!(
            "No learning rate let every run converge with: {}.",
            failed.join("; ")
        ));
    }
    words.join(" ")
}

/// What the best variant is compared with: training without clipping, if that is another variant
/// and converged, otherwise the next best.
fn reference<'a>(
    groups: &'a [Group],
    best: &[Option<usize>],
    winner: &Group,
    variants: &[Variant],
) -> Option<&'a Group> {
    let others = best.iter().flatten().map(|index| &groups[*index]);
    let mut others = others.filter(|group| group.variant != winner.variant);
    let unclipped = others
        .clone()
        .find(|group| variants[group.variant].clip.is_none());
    unclipped.or_else(|| others.by_ref().min_by(|a, b| loss(a).total_cmp(&loss(b))))
}

/// The difference to another variant, paired by seed, because runs with the same seed have the same
/// start and the same batches.
fn against(winner: &Group, other: &Group, combinations: usize) -> String {
    let name = format!("{} (at learning rate {})", other.policy, other.lr);
    let differences: Vec<f64> = winner
        .seeds
        .iter()
        .zip(&winner.val_losses)
        .filter_map(|(seed, loss)| {
            let same = other.seeds.iter().position(|other| other == seed)?;
            Some(other.val_losses[same] - loss)
        })
        .collect();
    if differences.is_empty() {
        return format!(
            "The runs of {name} have other seeds, so the uncertainty of the difference is unknown."
        );
    }
    if differences.iter().all(|difference| *difference == 0.0) {
        return format!("{name} gave the same losses to the last digit: it made no difference.");
    }
    let seeds = differences.len();
    let (difference, half) = match mean_and_interval(&differences) {
        Some((difference, Some(half))) => (difference, half),
        Some((difference, None)) => {
            let seeds = if seeds == 1 { "One seed" } else { "Two seeds" };
            return format!(
                "It is {difference:.4} nats better than {name}. {seeds} cannot say whether that is \
                 more than chance: a sweep with `--seeds 5` trains each policy five times."
            );
        }
        None => return String::new(),
    };
    let (low, high) = (difference - half, difference + half);
    let interval = format!("with {seeds} seeds the 95 % interval of that is {low:.4} to {high:.4}");
    if low <= 0.0 {
        return format!(
            "It is {difference:.4} nats better than {name}, but {interval}: the seeds differ as \
             much as the policies do."
        );
    }
    // Picking the best of many is biased in its favour.
    let chosen = match combinations {
        ..=2 => String::new(),
        _ => format!(
            " in this pair; as the best of {combinations} combinations, picked by the same seeds, \
             it needs other seeds to confirm it"
        ),
    };
    format!(
        "It is {difference:.4} nats better than {name}; {interval}, which the seed alone hardly \
         explains{chosen}."
    )
}

/// For each variant, the learning rates at which every run converged.
fn ranges(groups: &[Group], comparison: &Comparison) -> String {
    let rates = |(index, variant): (usize, &Variant)| {
        let all = groups.iter().filter(|group| group.variant == index);
        let converged = all.clone().filter(|group| group.converged == group.runs);
        let rates: Vec<String> = converged.map(|group| group.lr.to_string()).collect();
        let name = &variant.name;
        match rates.len() {
            0 => format!("none of them with {name}"),
            found if found == all.count() => format!("all of them with {name}"),
            _ => format!("{} with {name}", rates.join(", ")),
        }
    };
    let all: Vec<String> = comparison.variants.iter().enumerate().map(rates).collect();
    format!("Learning rates that converge: {}.", all.join("; "))
}

/// Whether nothing was clipped, as far as the log shows: rules inside Adam leave no trace.
fn never_engaged(groups: &[Group], comparison: &Comparison) -> bool {
    let idle = |group: &Group| group.clipped_share == 0.0 && group.skipped == 0;
    let all_converged = |group: &Group| group.converged == group.runs;
    let seen = |variant: &Variant| variant.clip.rules_inside_adam().next().is_none();
    groups
        .iter()
        .all(|group| idle(group) && all_converged(group))
        && comparison.variants.iter().all(seen)
}

/// A loss with its confidence interval.
pub(super) fn with_interval(loss: Option<f64>, half: Option<f64>) -> String {
    match (loss, half) {
        (Some(loss), Some(half)) => format!("{loss:.4} ± {half:.4}"),
        (Some(loss), None) => format!("{loss:.4}"),
        (None, _) => "diverged".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(policy: &str, val_losses: &[f64]) -> Group {
        Group {
            policy: policy.to_string(),
            variant: 0,
            rate: 0,
            lr: 0.1,
            runs: val_losses.len(),
            converged: val_losses.len(),
            val_loss: mean(val_losses.iter().copied()),
            val_loss_interval: None,
            val_losses: val_losses.to_vec(),
            seeds: (1..=val_losses.len() as u64).collect(),
            verdicts: Vec::new(),
            verdict: String::new(),
            clipped_share: 0.0,
            cosine: None,
            skipped: 0,
            loss_jumps: 0,
            steps_to_target: None,
        }
    }

    #[test]
    fn each_class_is_described_once() {
        assert_eq!(classes(["idle", "idle"].into_iter()), "idle");
        let mixed = classes(["idle", "exploded", "exploded"].into_iter());
        assert_eq!(mixed, "2 exploded; 1 idle");
    }

    #[test]
    fn a_difference_is_reported_with_its_significance() {
        let said = |winner: &[f64], other: &[f64]| {
            against(&group("zclip", winner), &group("none", other), 6)
        };
        let sure = said(&[2.0, 2.1, 2.2], &[2.1, 2.2, 2.31]);
        assert!(
            sure.contains("hardly explains") && sure.contains("the best of 6"),
            "{sure}"
        );
        let unsure = said(&[2.0, 2.1, 2.2], &[2.4, 2.0, 2.2]);
        assert!(unsure.contains("the seeds differ as much"), "{unsure}");
        let single = said(&[2.0], &[2.1]);
        assert!(
            single.contains("0.1000 nats better") && single.contains("One seed cannot say"),
            "{single}"
        );
        let two = said(&[2.0, 2.1], &[2.1, 2.20001]);
        assert!(
            two.contains("Two seeds cannot say") && !two.contains('%'),
            "{two}"
        );
        let same = said(&[2.0, 2.1], &[2.0, 2.1]);
        assert!(same.contains("made no difference"), "{same}");
    }
}
