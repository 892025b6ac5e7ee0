//! The outcomes of the trials: stored in a file, printed as a table and plotted.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use gradclip_judge::statistics::median;
use serde::{Deserialize, Serialize};
use shears_figure::{Axis, Colour, Figure, Panel, Series};
use shears_run::lock_folder;

use super::trial::{End, Outcome, Settings, Trial};
use crate::Failure;

/// All finished trials.
#[derive(Debug)]
pub(super) struct Results {
    path: PathBuf,
    kept: Kept,
    /// Prevents two processes from overwriting each other's results.
    _lock: File,
}

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    settings: Settings,
    outcomes: Vec<Outcome>,
}

impl Kept {
    fn read(path: &Path) -> Result<Kept, Failure> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        let kept = serde_json::from_str(&text);
        Ok(kept.map_err(|error| format!("{shown}: {error}"))?)
    }
}

impl Results {
    /// Opens the results of a folder, creating it if needed.
    pub(super) fn open(folder: &Path, settings: Settings) -> Result<Results, Failure> {
        let shown = folder.display();
        if folder.exists() && !folder.is_dir() {
            return Err(format!("--out {shown}: is not a folder").into());
        }
        let path = folder.join("results.json");
        let mut entries = folder.read_dir().into_iter().flatten().flatten();
        // A lone lock file is the remains of a process without results.
        if !path.exists() && entries.any(|entry| entry.file_name() != ".lock") {
            return Err(format!("{shown} holds something else; choose another --out").into());
        }
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {shown}: {error}"))?;
        let taken = "another program runs trials there; wait for it, or choose another --out";
        let lock = lock_folder(folder, taken)?;
        let kept = match path.exists() {
            true => Kept::read(&path)?,
            false => Kept {
                settings: settings.clone(),
                outcomes: Vec::new(),
            },
        };
        if kept.settings != settings {
            let what = format!(
                "{shown} has trials with other --updates, --lr or --initialization; choose another \
                --out"
            );
            return Err(what.into());
        }
        Ok(Results {
            path,
            kept,
            _lock: lock,
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.kept.settings
    }

    pub(super) fn of(&self, trial: &Trial) -> Option<&Outcome> {
        let mut outcomes = self.kept.outcomes.iter();
        outcomes.find(|other| other.trial == *trial)
    }

    /// Adds an outcome and saves the file.
    pub(super) fn add(&mut self, outcome: Outcome) -> Result<(), Failure> {
        self.kept.outcomes.push(outcome);
        let text = serde_json::to_string_pretty(&self.kept)? + "\n";
        Ok(shears_run::replace_file(&self.path, text.as_bytes())?)
    }

    /// Prints the table and draws the plot.
    pub(super) fn conclude(&self, trials: &[Trial]) -> Result<(), Failure> {
        let groups = groups(trials, |trial| self.of(trial));
        println!("\n{}", table(&groups));
        let path = self.path.with_file_name("success.svg");
        fs::write(&path, picture(&groups)?)?;
        println!("picture: {}", path.display());
        Ok(())
    }
}

/// The trials of a policy at one length.
#[derive(Debug)]
struct Group<'a> {
    policy: &'a str,
    length: u64,
    outcomes: Vec<&'a Outcome>,
}

impl Group<'_> {
    fn count(&self, end: End) -> usize {
        self.outcomes.iter().filter(|o| o.end == end).count()
    }

    /// The percentage of solved trials.
    fn success(&self) -> f64 {
        100.0 * self.count(End::Solved) as f64 / self.outcomes.len().max(1) as f64
    }

    /// The median number of updates of solved trials.
    fn updates(&self) -> Option<u64> {
        let solved = self.outcomes.iter().filter(|o| o.end == End::Solved);
        let updates = median(solved.map(|outcome| outcome.updates as f64))?;
        Some(updates as u64)
    }
}

/// Groups outcomes by policy, in the order of the trials, then by length.
fn groups<'a>(
    trials: &'a [Trial],
    outcome_of: impl Fn(&Trial) -> Option<&'a Outcome>,
) -> Vec<Group<'a>> {
    let mut policies: Vec<&str> = Vec::new();
    for trial in trials {
        if !policies.contains(&trial.policy.as_str()) {
            policies.push(&trial.policy);
        }
    }
    let lengths: BTreeSet<u64> = trials.iter().map(|trial| trial.length).collect();
    let group = |policy: &'a str, length: u64| {
        let its = |trial: &&Trial| trial.policy == policy && trial.length == length;
        Group {
            policy,
            length,
            outcomes: trials.iter().filter(its).filter_map(&outcome_of).collect(),
        }
    };
    let of_policy = |policy| lengths.iter().map(move |length| (policy, *length));
    let all = policies.into_iter().flat_map(of_policy);
    all.map(|(policy, length)| group(policy, length)).collect()
}

fn table(groups: &[Group<'_>]) -> String {
    let names = groups.iter().map(|group| group.policy.chars().count());
    let width = names.max().unwrap_or(0).max("policy".len());
    let mut table = format!(
        "{:<width$}  length     solved  diverged  updates (median)  clipped  largest norm\n",
        "policy"
    );
    for group in groups {
        let of_all = |count: usize| format!("{count} of {}", group.outcomes.len());
        let shares = group.outcomes.iter().map(|outcome| outcome.clipped_share);
        let clipped = shares.sum::<f64>() / group.outcomes.len().max(1) as f64;
        let norms = group.outcomes.iter().map(|outcome| outcome.largest_norm);
        table.push_str(&format!(
            "{:<width$}  {:>6}  {:>9}  {:>8}  {:>16}  {:>5.1} %  {:>12.3e}\n",
            group.policy,
            group.length,
            of_all(group.count(End::Solved)),
            group.count(End::Diverged),
            group
                .updates()
                .map_or("-".to_string(), |updates| updates.to_string()),
            100.0 * clipped,
            norms.fold(0.0, f64::max),
        ));
    }
    table
}

/// The share of solved trials over the length of the sequences, as SVG.
fn picture(groups: &[Group<'_>]) -> Result<String, Failure> {
    let series = groups.chunk_by(|a, b| a.policy == b.policy);
    let series = series.enumerate().map(|(index, of_policy)| {
        let points = of_policy.iter();
        let points = points.map(|group| (group.length as f64, group.success()));
        let points: Vec<(f64, f64)> = points.collect();
        Series {
            name: of_policy[0].policy.to_string(),
            colour: Colour::Series(index),
            line: points.clone(),
            points,
            ..Series::default()
        }
    });
    let x = Axis::linear("length of the sequences").with_room(0.03);
    let panel = Panel::new(x, Axis::linear("% of trials solved"), series.collect());
    Ok(Figure::of(panel).svg()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn outcomes_are_counted_by_policy_and_length() {
        let trial = |policy: &str, length, seed| Trial {
            policy: policy.to_string(),
            length,
            seed,
        };
        let trials: Vec<Trial> = (1..=3)
            .flat_map(|seed| [trial("none", 50, seed), trial("global-norm:1", 50, seed)])
            .collect();
        let outcomes: Vec<Outcome> = trials
            .iter()
            .map(|trial| Outcome {
                trial: trial.clone(),
                end: match trial.policy.as_str() {
                    "none" if trial.seed == 1 => End::Diverged,
                    "none" => End::GivenUp,
                    _ => End::Solved,
                },
                updates: 1000 * trial.seed,
                error: Some(0.5),
                clipped_share: 0.25,
                largest_norm: 12.0,
                seconds: 1.0,
            })
            .collect();
        let of = |trial: &Trial| outcomes.iter().find(|outcome| outcome.trial == *trial);
        let groups = groups(&trials, of);
        let success: Vec<f64> = groups.iter().map(Group::success).collect();
        assert_eq!(success, [0.0, 100.0]);
        let updates: Vec<Option<u64>> = groups.iter().map(Group::updates).collect();
        assert_eq!(updates, [None, Some(2000)]);
        let table = table(&groups);
        let rows: Vec<&str> = table.lines().collect();
        assert!(
            rows[1].contains("0 of 3         1                 -"),
            "{table}"
        );
        assert!(
            rows[2].contains("3 of 3         0              2000"),
            "{table}"
        );
        assert!(picture(&groups).unwrap().contains("global-norm:1"));
    }
}
