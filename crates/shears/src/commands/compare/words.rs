//! What a comparison says in words: the result of each policy, and what to do.

use serde::Serialize;
use shears_train::ClipPolicy;

use super::grid::Grid;
use super::results::{Outcome, mean, mean_and_interval, share};

/// A policy at one learning rate, over all seeds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Group {
    pub(super) policy: String,
    #[serde(skip)]
    pub(super) policy_index: usize,
    pub(super) lr: f64,
    pub(super) runs: usize,
    pub(super) converged: usize,
    /// Mean of the last validation loss, where every run converged.
    pub(super) val_loss: Option<f64>,
    /// Half the width of its 95 % confidence interval.
    pub(super) val_loss_interval: Option<f64>,
    /// That of each seed that converged.
    pub(super) val_losses: Vec<f64>,
    pub(super) clipped_share: f64,
    /// Over the clipped steps.
    pub(super) cosine: Option<f64>,
    /// Steps that were left out, of all runs together.
    pub(super) skipped: usize,
    /// Spikes of the loss, of all runs together.
    pub(super) spikes: usize,
    /// Mean of the steps to a loss that all policies reach at their best.
    pub(super) steps_to_target: Option<f64>,
}

/// All that was found.
#[derive(Debug, Serialize)]
pub(super) struct Findings {
    pub(super) groups: Vec<Group>,
    /// For each policy, the learning rate with the lowest loss.
    #[serde(skip)]
    pub(super) best: Vec<Option<usize>>,
    /// The smoothed training loss that every policy reaches at its best learning rate.
    pub(super) target: Option<f64>,
    pub(super) recommendation: String,
}

impl Findings {
    pub(super) fn of(grid: &Grid, outcomes: &[Outcome]) -> Findings {
        let mut groups = Vec::new();
        for (policy_index, policy) in grid.policies.iter().enumerate() {
            for (rate, lr) in grid.rates.iter().enumerate() {
                let runs: Vec<&Outcome> = grid
                    .seeds_of(policy_index, rate)
                    .map(|index| &outcomes[index])
                    .collect();
                groups.push(group(policy, policy_index, *lr, &runs));
            }
        }
        let best: Vec<Option<usize>> = (0..grid.policies.len())
            .map(|policy| best_of(&groups, policy))
            .collect();
        let rates = grid.rates.len();
        let runs_of = |group: usize| {
            let cells = grid.seeds_of(group / rates, group % rates);
            cells.map(|index| &outcomes[index]).collect::<Vec<_>>()
        };
        let lowest = |outcome: &&Outcome| {
            let smooth = super::results::smoothed(&outcome.loss).into_iter();
            smooth
                .filter(|loss| loss.is_finite())
                .fold(f64::INFINITY, f64::min)
        };
        let reached = best.iter().flatten().flat_map(|group| runs_of(*group));
        let target = reached.map(|outcome| lowest(&outcome)).reduce(f64::max);
        let target = target.filter(|target| target.is_finite());
        for (index, group) in groups.iter_mut().enumerate() {
            let steps: Option<Vec<f64>> = target.and_then(|target| {
                let runs = runs_of(index).into_iter();
                runs.map(|outcome| outcome.steps_to(target).map(|steps| steps as f64))
                    .collect()
            });
            group.steps_to_target = steps.and_then(|steps| mean(&steps));
        }
        let recommendation = recommend(&groups, &best, grid);
        Findings {
            groups,
            best,
            target,
            recommendation,
        }
    }
}

fn group(policy: &str, policy_index: usize, lr: f64, runs: &[&Outcome]) -> Group {
    let converged: Vec<&&Outcome> = runs.iter().filter(|run| run.converged()).collect();
    let losses: Vec<f64> = converged.iter().filter_map(|run| run.last_loss()).collect();
    let all = losses.len() == runs.len();
    let interval = mean_and_interval(&losses).filter(|_| all);
    let clipped: Vec<bool> = runs.iter().flat_map(|run| run.clipped.clone()).collect();
    let cosines: Vec<f64> = runs
        .iter()
        .filter_map(|run| run.cosine_when_clipped())
        .collect();
    Group {
        policy: policy.to_string(),
        policy_index,
        lr,
        runs: runs.len(),
        converged: converged.len(),
        val_loss: interval.map(|(mean, _)| mean),
        val_loss_interval: interval.and_then(|(_, half)| half),
        val_losses: losses,
        clipped_share: share(&clipped),
        cosine: mean(&cosines),
        skipped: runs.iter().map(|run| run.skips()).sum(),
        spikes: runs.iter().map(|run| run.spikes()).sum(),
        steps_to_target: None,
    }
}

/// The place of a policy's group with the lowest loss.
fn best_of(groups: &[Group], policy: usize) -> Option<usize> {
    let candidates = groups.iter().enumerate();
    candidates
        .filter(|(_, group)| group.policy_index == policy && group.val_loss.is_some())
        .min_by(|(_, left), (_, right)| loss(left).total_cmp(&loss(right)))
        .map(|(index, _)| index)
}

fn loss(group: &Group) -> f64 {
    group.val_loss.unwrap_or(f64::INFINITY)
}

/// One paragraph: which policy, against which, by how much, and how sure that is.
fn recommend(groups: &[Group], best: &[Option<usize>], grid: &Grid) -> String {
    let found = best.iter().flatten().map(|index| &groups[*index]);
    let Some(winner) = found.clone().min_by(|a, b| loss(a).total_cmp(&loss(b))) else {
        return "No combination converged with every seed: lower the learning rate, or the \
                thresholds."
            .to_string();
    };
    let mut words = Vec::new();
    if never_engaged(groups, grid) {
        words.push(
            "Clipping never engaged: no step of any run was shortened or left out. You do not need \
             it here, with these learning rates."
                .to_string(),
        );
    } else {
        words.push(format!(
            "The lowest validation loss is that of {} at learning rate {}: {}.",
            winner.policy,
            winner.lr,
            with_interval(winner.val_loss, winner.val_loss_interval)
        ));
        let reference = reference(groups, best, winner);
        words.push(match reference {
            Some(other) => against(winner, other, groups.len()),
            None => "No other policy converged with every seed.".to_string(),
        });
    }
    if grid.rates.len() > 1 {
        words.push(ranges(groups, grid));
    }
    let failed: Vec<&str> = grid
        .policies
        .iter()
        .zip(best)
        .filter_map(|(policy, best)| best.is_none().then_some(policy.as_str()))
        .collect();
    if !failed.is_empty() {
        words.push(format!(
            "At no learning rate did every run converge with: {}.",
            failed.join(", ")
        ));
    }
    words.join(" ")
}

/// What the best is compared with: training without clipping if that is another one and converged, else
/// the next best policy.
fn reference<'a>(groups: &'a [Group], best: &[Option<usize>], winner: &Group) -> Option<&'a Group> {
    let others = best.iter().flatten().map(|index| &groups[*index]);
    let mut others = others.filter(|group| group.policy_index != winner.policy_index);
    let unclipped = others.clone().find(|group| group.policy == "none");
    unclipped.or_else(|| others.by_ref().min_by(|a, b| loss(a).total_cmp(&loss(b))))
}

/// The difference to another policy. Runs with the same seed have the same start and the same
/// batches, so that it is taken seed by seed.
fn against(winner: &Group, other: &Group, combinations: usize) -> String {
    let pairs = winner.val_losses.iter().zip(&other.val_losses);
    let differences: Vec<f64> = pairs.map(|(winner, other)| other - winner).collect();
    let name = format!("{} (at learning rate {})", other.policy, other.lr);
    if differences.iter().all(|difference| *difference == 0.0) {
        return format!("{name} gave the same losses to the last digit: it made no difference.");
    }
    match mean_and_interval(&differences) {
        Some((difference, Some(half))) if difference - half > 0.0 => format!(
            "It is {difference:.4} nats better than {name}; with {} seeds the 95 % interval of that \
             is {:.4} to {:.4}, so that the seed alone hardly explains it{}.",
            differences.len(),
            difference - half,
            difference + half,
            // The best of many is better than it deserves.
            match combinations {
                ..=2 => String::new(),
                _ => format!(
                    ", though it was picked as the best of {combinations} by the same seeds"
                ),
            }
        ),
        Some((difference, Some(half))) => format!(
            "It is {difference:.4} nats better than {name}, but with {} seeds the 95 % interval of \
             that is {:.4} to {:.4}: the seeds differ as much as the policies do.",
            differences.len(),
            difference - half,
            difference + half
        ),
        Some((difference, None)) => format!(
            "It is {difference:.4} nats better than {name}. One seed cannot say whether that is \
             more than chance: try --seeds 3."
        ),
        None => String::new(),
    }
}

/// For each policy, the learning rates at which every run converged.
fn ranges(groups: &[Group], grid: &Grid) -> String {
    let rates = |policy: usize| {
        let all = groups.iter().filter(|group| group.policy_index == policy);
        let converged = all.clone().filter(|group| group.converged == group.runs);
        let rates: Vec<String> = converged.map(|group| group.lr.to_string()).collect();
        let name = &grid.policies[policy];
        match rates.len() {
            0 => format!("no one with {name}"),
            found if found == all.count() => format!("all of them with {name}"),
            _ => format!("{} with {name}", rates.join(", ")),
        }
    };
    let all: Vec<String> = (0..grid.policies.len()).map(rates).collect();
    format!("Learning rates that converge: {}.", all.join("; "))
}

/// Whether nothing was clipped, as far as that can be seen: what works inside Adam leaves no trace.
fn never_engaged(groups: &[Group], grid: &Grid) -> bool {
    let idle = |group: &Group| group.clipped_share == 0.0 && group.skipped == 0;
    let all_converged = |group: &Group| group.converged == group.runs;
    let seen = |policy: &String| {
        let policy = policy.parse::<ClipPolicy>();
        policy.is_ok_and(|policy| policy.rules_inside_adam().next().is_none())
    };
    groups
        .iter()
        .all(|group| idle(group) && all_converged(group))
        && grid.policies.iter().all(seen)
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
            policy_index: 0,
            lr: 0.1,
            runs: val_losses.len(),
            converged: val_losses.len(),
            val_loss: mean(val_losses),
            val_loss_interval: None,
            val_losses: val_losses.to_vec(),
            clipped_share: 0.0,
            cosine: None,
            skipped: 0,
            spikes: 0,
            steps_to_target: None,
        }
    }

    #[test]
    fn a_difference_is_told_with_what_it_is_worth() {
        let said = |winner: &[f64], other: &[f64]| {
            against(&group("zclip", winner), &group("none", other), 6)
        };
        let sure = said(&[2.0, 2.1, 2.2], &[2.1, 2.2, 2.31]);
        assert!(
            sure.contains("hardly explains it") && sure.contains("the best of 6"),
            "{sure}"
        );
        let unsure = said(&[2.0, 2.1, 2.2], &[2.4, 2.0, 2.2]);
        assert!(unsure.contains("the seeds differ as much"), "{unsure}");
        let single = said(&[2.0], &[2.1]);
        assert!(
            single.contains("0.1000 nats better") && single.contains("--seeds 3"),
            "{single}"
        );
        let same = said(&[2.0, 2.1], &[2.0, 2.1]);
        assert!(same.contains("made no difference"), "{same}");
    }
}
