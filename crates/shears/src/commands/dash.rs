//! `shears dash`: the live page for a folder of runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, ValueHint};
use shears_dash::{DashError, Options};
use shears_data::Tokenizer;
use shears_model::LanguageModel;
use shears_run::PLAN;
use shears_train::{Batches, Plan, Preset, RunFolder};

use crate::exit::Misuse;
use crate::model::{device_of, model_of};
use crate::output::{self, say};

/// Show runs on a live page in your browser: loss, gradient norms, clipping, samples
///
/// The page is read-only, listens on this computer only (127.0.0.1) unless told otherwise, and
/// loads nothing from other sites. Runs appear when they start and grow while they train.
#[derive(Args, Debug)]
pub(crate) struct DashArguments {
    /// Folder of runs, or a single run
    #[arg(default_value = "runs", value_hint = ValueHint::DirPath)]
    pub(crate) folder: PathBuf,

    /// Address to listen on, such as 0.0.0.0 in a container; the page then requires a token
    ///
    /// Other machines may reach such an address, so the page only opens with the token in the
    /// printed URL. There is no encryption: use it inside a container or a tunnel.
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::LOCALHOST.into())]
    pub(crate) host: IpAddr,

    /// Port to listen on; 0 picks a free one
    #[arg(long, value_name = "N", default_value_t = 7878)]
    pub(crate) port: u16,
}

pub(crate) fn run(arguments: &DashArguments) -> anyhow::Result<ExitCode> {
    let DashArguments { folder, host, .. } = arguments;
    let host = *host;
    // Answers and judgements of long logs would add up in the heaps of its threads.
    shears_kernels::return_freed_blocks();
    let mut presets = BTreeMap::new();
    for preset in Preset::ALL {
        presets.insert(preset.to_string(), preset.plan().complete());
    }
    let texts = Texts::default();
    let options = Options {
        folder: folder.clone(),
        host,
        port: arguments.port,
        presets,
        batch_text: Arc::new(move |run, step| texts.of(run, step)),
    };
    let what = match folder.join(PLAN).is_file() {
        true => format!("the run {} is", folder.display()),
        false => format!("the runs in {} are", folder.display()),
    };
    let served = shears_dash::serve(options, move |address| {
        say!("{what} at {address}");
        if host.is_unspecified() {
            say!("listening on all addresses ({host}): elsewhere, open it by this machine's name");
        }
        say!("Ctrl-C stops the page; runs keep going");
        // Without this line nobody can find the page.
        match output::is_lost() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    match served {
        Err(
            error @ (DashError::NotAFolder(_) | DashError::NoFolder(_) | DashError::Listen { .. }),
        ) => return Err(Misuse(error.to_string()).into()),
        served => served?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Maximum number of rows of a batch that are shown.
const MOST_ROWS: usize = 256;

/// Maximum number of their tokens, if that is more than one row.
const MOST_TOKENS: usize = 1 << 20;

/// A cache of the last text: reading it again for each step would be slow.
#[derive(Default)]
struct Texts(Mutex<Option<Text>>);

struct Text {
    run: PathBuf,
    plan: Plan,
    tokenizer: Tokenizer,
    batches: Batches,
}

impl Texts {
    /// The text of each row of a step's batch.
    fn of(&self, run: &Path, step: u64) -> Result<Vec<String>, String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = RunFolder::open_to_read(run).and_then(|folder| folder.plan());
        let is_kept = |text: &Text| {
            let same = |plan| shears_train::compare_plans(&text.plan, plan).is_empty();
            text.run == run && plan.as_ref().is_ok_and(same)
        };
        if !kept.as_ref().is_some_and(is_kept) {
            *kept = Some(Text::read(run).map_err(|error| format!("{error:#}"))?);
        }
        let text = kept.as_ref().ok_or("the text is missing")?;
        let steps = text.plan.steps;
        match (1..=steps).contains(&step) {
            true => Ok(text.rows(step)),
            false => Err(format!(
                "the run has no step {step}: its steps are 1 to {steps}"
            )),
        }
    }
}

impl Text {
    fn read(run: &Path) -> anyhow::Result<Text> {
        let folder = RunFolder::open_to_read(run)?;
        let plan = folder.plan()?;
        let corpora = super::corpora_of(&folder, &plan, false, "put it back")?;
        let vocabulary = plan.vocabulary_of(&corpora.tokenizer);
        let model = model_of(&plan, vocabulary, &device_of(&plan));
        let batches = Batches::new(&plan, model.reading(), corpora.train.clone())?;
        Ok(Text {
            run: run.to_path_buf(),
            plan,
            tokenizer: corpora.tokenizer,
            batches,
        })
    }

    /// The first rows of a step; a plan from elsewhere may have any number of them, of any length.
    /// Steps count from 1, micro-batches from 0.
    fn rows(&self, step: u64) -> Vec<String> {
        let micro_batches = self.plan.accumulate as u64;
        let first = (step - 1).saturating_mul(micro_batches);
        let most = MOST_ROWS.min((MOST_TOKENS / self.plan.window).max(1));
        let mut rows = Vec::new();
        for index in first..first.saturating_add(micro_batches) {
            let batch = self.batches.rows_at(index, most - rows.len());
            let texts = batch.inputs.chunks(batch.window);
            rows.extend(texts.map(|row| self.tokenizer.decode(row)));
            if rows.len() == most {
                break;
            }
        }
        rows
    }
}
