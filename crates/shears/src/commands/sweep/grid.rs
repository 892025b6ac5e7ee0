//! The combinations of a sweep, each with its plan and folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use shears_data::Tokenizer;
use shears_run::create_folders;
use shears_train::{Corpora, Plan, RunFolder};
use toml::{Table, Value};

use super::SweepArguments;
use crate::comparison::MOST_VARIANTS;
use crate::exit::misuse;
use crate::new_file;
use crate::settings::Given;

/// The file that marks the folder of a sweep.
pub(super) const MARK: &str = "sweep.toml";
/// Its name in earlier versions.
pub(super) const OLD_MARK: &str = "compare.toml";

/// One run of the grid.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) plan: Plan,
    pub(super) folder: PathBuf,
}

impl Cell {
    /// Whether an earlier call has started the run.
    pub(super) fn exists(&self) -> bool {
        self.folder.join("plan.toml").exists()
    }
}

/// All runs, ordered by seed first: an interrupted sweep has complete grids of the first seeds.
#[derive(Debug)]
pub(super) struct Grid {
    /// As they were typed.
    pub(super) policies: Vec<String>,
    pub(super) rates: Vec<f64>,
    pub(super) seeds: u32,
    pub(super) cells: Vec<Cell>,
}

impl Grid {
    pub(super) fn new(arguments: &SweepArguments, given: &Given) -> anyhow::Result<Grid> {
        // Defaults are those of the preset.
        let base = match arguments.rates.first() {
            Some(lr) => given.with("lr", *lr).plan()?,
            None => given.plan()?,
        };
        let policies = match arguments.policies.as_slice() {
            [] if base.clip.to_string() == "none" => vec!["none".to_string()],
            [] => vec!["none".to_string(), base.clip.to_string()],
            policies => policies.to_vec(),
        };
        let rates = match arguments.rates.as_slice() {
            [] => vec![base.lr],
            rates => rates.to_vec(),
        };
        if policies.len() > MOST_VARIANTS {
            misuse!("--clip can be given {MOST_VARIANTS} times at most");
        }
        let mut names = BTreeSet::new();
        let mut cells = Vec::new();
        for seed in 1..=arguments.seeds {
            for text in &policies {
                for lr in &rates {
                    let given = given.with("clip", text.as_str()).with("lr", *lr);
                    let plan = given.with("seed", seed).plan()?;
                    // However it is written.
                    if !names.insert(name(&plan.clip.to_string(), *lr, seed)) {
                        misuse!("{text} at learning rate {lr} was given twice");
                    }
                    let folder = arguments.out.join("runs").join(name(text, *lr, seed));
                    cells.push(Cell { plan, folder });
                }
            }
        }
        Ok(Grid {
            policies,
            rates,
            seeds: arguments.seeds,
            cells,
        })
    }

    /// The tokenizer of runs that an earlier call has started.
    pub(super) fn tokenizer(&self) -> anyhow::Result<Option<Tokenizer>> {
        let Some(begun) = self.cells.iter().find(|cell| cell.exists()) else {
            return Ok(None);
        };
        Ok(Some(RunFolder::open_to_read(&begun.folder)?.tokenizer()?))
    }

    /// Writes policies, rates and seeds to a file that marks the folder of a sweep.
    pub(super) fn mark(&self, out: &Path) -> anyhow::Result<()> {
        let mut what = Table::new();
        what.insert("policies".into(), Value::try_from(&self.policies)?);
        what.insert("rates".into(), Value::try_from(&self.rates)?);
        what.insert("seeds".into(), Value::try_from(self.seeds)?);
        create_folders(out).with_context(|| format!("cannot make {}", out.display()))?;
        new_file::write(&out.join(MARK), toml::to_string(&what)?, true)
    }

    /// Records the hash of the text in every plan.
    pub(super) fn identify(&mut self, corpora: &Corpora) {
        for cell in &mut self.cells {
            corpora.identify(&mut cell.plan);
        }
    }
}

fn name(policy: &str, lr: f64, seed: u32) -> String {
    let plain = |character: char| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '+' => character,
        _ => '-',
    };
    let policy: String = policy.chars().map(plain).collect();
    format!("{policy}_lr-{lr}_seed-{seed}")
}
