//! `shears replay`: shows the norms of a run to other clipping policies.

mod account;
mod picture;
mod spikes;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};
use gradclip::{ClipRule, NormOrder};
use gradclip_judge::{RecordedStep, Replay, ReplayError, ReplayedStep, Spikes, UsualNorm};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use shears_run::{Columns, Event, Header, StepEvent, stretches};
use shears_train::{ClipPolicy, Plan, RunFolder};

use super::RunArgument;
use crate::exit::{Misuse, misuse};
use crate::model::{edits, refuse_edited};
use crate::new_file;
use crate::output::{self, say};
use crate::run_log::{self, without_header};
use crate::settings::checked;
use account::{Account, Watched};

/// The labels of the policies in tables and in the chart.
const LABELS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Show what other clipping policies would have done with a run's gradients
///
/// Reads the norm of every step from the run's events.jsonl and shows it to each policy: how often
/// and how hard it would have clipped, which steps it would have skipped, with which thresholds,
/// and which spikes it would have caught. The first row is what the run itself did. If the policy
/// changed when the run was resumed, only the steps since then count. Nothing is trained: this is
/// open loop. Under another policy the run would have taken other steps and met other gradients, so
/// this shows what a policy does with norms like these, not how the run would have ended.
///
/// A spike is one or more consecutive steps whose norm is more than 3 times the median of the 50
/// finite norms before it (at least 10). It is caught at the first step that the policy skips or
/// clips to at most that bound.
///
/// coefficient: norm after over norm before, of clipped steps. norm removed: the mean share of the
/// norm that was cut off, without skipped steps. skips: of outliers, not of non-finite steps.
/// warm-up: the steps until every rule of the policy had seen enough.
///
/// Rules that need more than norms are refused: value, agc, update-rms, spam, and rules of another
/// order (`p=`) than the run's norms, which is 2 unless its policy says otherwise.
///
/// JSON keys: run, clip, before.[].{clip, from}, open_loop, steps, non_finite, order, step, norm,
/// spike_definition, spikes.[].{first_step, last_step, peak_step, norm, times_median},
/// policies.[].{label, policy, clipped, clipped_share, coefficient.{median, smallest},
/// norm_removed, left_out, warm_up, threshold.{first, median, last, min, max}, spikes.{caught,
/// at_once, each}, actions, thresholds, coefficients}.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ReplayArguments {
    #[command(flatten)]
    pub(crate) run: RunArgument,

    /// Policy to replay, as for `train --clip`; repeatable
    #[arg(long = "clip", value_name = "POLICY", required = true,
          value_parser = checked::<ClipPolicy>)]
    pub(crate) policies: Vec<String>,

    /// Draw norms and thresholds as a new SVG file
    ///
    /// The name must end in .svg. At most 6 policies. Policies that clip tensor by tensor have no
    /// line, because their thresholds do not apply to the norm that is drawn.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) plot: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

const EXAMPLES: &str = "Examples:
  shears replay runs/mine --clip global-norm:1 --clip zclip:max=inf
  shears replay runs/mine --clip autoclip:10 --clip skip:6+global-norm:1 --plot replay.svg";

pub(crate) fn run(arguments: &ReplayArguments) -> anyhow::Result<ExitCode> {
    let run = arguments.run.open()?;
    let plan = run.plan()?;
    refuse_edited(&run, edits(&run, &plan), "put it back")?;
    let policies = policies(arguments, &plan)?;
    if let Some(file) = &arguments.plot {
        check_plot(file, policies.len())?;
    }
    let replayed = Replayed::new(run, plan, policies)?;
    if let Some(file) = &arguments.plot {
        new_file::write(file, picture::svg(&replayed)?, false)?;
    }
    if arguments.json {
        output::print_json(&replayed);
    } else {
        say!("{}", table::text(&replayed));
        if let Some(file) = &arguments.plot {
            say!("\nchart: {}", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Parses the policies, and refuses any that cannot be replayed from norms.
fn policies(arguments: &ReplayArguments, plan: &Plan) -> anyhow::Result<Vec<ClipPolicy>> {
    let order = plan.clip.order();
    let of_run = match order {
        NormOrder::TWO => String::new(),
        order => format!(
            "; the run was trained with {}, so its norms are of order {order}",
            plan.clip
        ),
    };
    if arguments.policies.len() > LABELS.len() {
        let most = LABELS.len();
        misuse!("--clip can be given {most} times at most");
    }
    let mut policies = Vec::new();
    for text in &arguments.policies {
        let refuse = |problem: String| Misuse(format!("--clip {text}: {problem}"));
        let policy: ClipPolicy = text.parse().map_err(|error| refuse(format!("{error}")))?;
        let replayed = Replay::of_order(&policy, order);
        replayed.map_err(|error| refuse(format!("{error}{of_run}")))?;
        policies.push(policy);
    }
    Ok(policies)
}

fn check_plot(file: &Path, policies: usize) -> Result<(), Misuse> {
    let refuse = |problem: String| Err(Misuse(format!("--plot {}: {problem}", file.display())));
    if file.extension().is_none_or(|extension| extension != "svg") {
        return refuse("the chart is SVG; give a name that ends in .svg".into());
    }
    if file.symlink_metadata().is_ok() {
        return refuse("already exists; choose another name, or remove it".into());
    }
    if policies > picture::MOST_POLICIES {
        let most = picture::MOST_POLICIES;
        return refuse(format!("a chart takes {most} policies at most"));
    }
    Ok(())
}

/// A run, and what each policy did with it.
pub(crate) struct Replayed {
    run: PathBuf,
    plan: Plan,
    /// Earlier policies of the run, each with the first step that it clipped. Those steps are
    /// excluded: another policy clipped them, and their norms may be of another order.
    before: Vec<(u64, ClipPolicy)>,
    /// The number of each step.
    steps: Vec<u64>,
    norms: Vec<f64>,
    spikes: Spikes,
    /// The run itself, then the policies.
    accounts: Vec<Account>,
}

impl Replayed {
    fn new(run: RunFolder, plan: Plan, policies: Vec<ClipPolicy>) -> anyhow::Result<Self> {
        let log = run_log::read(&run)?;
        let columns = &log.columns;
        if columns.rows() == 0 {
            return Err(super::nothing_recorded(&run, "replay").into());
        }
        let mut watched = vec![Watched::own(plan.clip.clone())];
        let refuse =
            |policy: &ClipPolicy, error: ReplayError| Misuse(format!("--clip {policy}: {error}"));
        for policy in policies {
            check_sizes(&policy, columns)?;
            let other = Watched::other(policy.clone(), plan.clip.order());
            watched.push(other.map_err(|error| refuse(&policy, error))?);
        }
        let mut before = stretches(&plan.clip, &columns.changes);
        let first = before.pop().map_or(1, |(first, _)| first);
        let rows = columns.range(Some(first), None);
        if rows.is_empty() {
            let (run, clip) = (run.path().display(), &plan.clip);
            let since = first - 1;
            misuse!("{run}: no step was taken with {clip} yet, its policy since step {since}");
        }
        let elements = columns.header.as_ref().map(elements);
        for event in log.events()? {
            let Event::Step(step) = event? else { continue };
            if step.step < first {
                continue;
            }
            let recorded = recorded(&step, elements.as_ref());
            for watched in &mut watched {
                let clip = &step.clip;
                let (before, after) = (clip.norm_before, clip.norm_after);
                let own = ReplayedStep::taken(clip.action, before, after, clip.threshold);
                let shown = watched.step(own, &recorded);
                shown.map_err(|error| refuse(watched.policy(), error))?;
            }
        }
        let norms = columns.norm_before[rows.clone()].to_vec();
        let spikes = Spikes::find(norms.iter().copied());
        let labels = ["run".to_string()].into_iter();
        let labels = labels.chain(LABELS.chars().map(String::from));
        let accounts = labels
            .zip(watched)
            .map(|(label, watched)| Account::new(label, watched, &spikes));
        Ok(Replayed {
            run: run.path().to_path_buf(),
            plan,
            before,
            steps: columns.step[rows].to_vec(),
            norms,
            accounts: accounts.collect(),
            spikes,
        })
    }

    fn non_finite(&self) -> usize {
        self.norms.iter().filter(|norm| !norm.is_finite()).count()
    }
}

/// For `--json`, as [`Account`].
impl Serialize for Replayed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let before = self.before.iter();
        let before = before.map(|(from, clip)| json!({ "clip": clip.to_string(), "from": from }));
        let spikes = self.spikes.list.iter().map(|spike| {
            json!({
                "first_step": self.steps[spike.first],
                "last_step": self.steps[spike.last],
                "peak_step": self.steps[spike.peak],
                "norm": self.norms[spike.peak],
                "times_median": spike.times,
            })
        });
        let definition = json!({
            "times_median": Spikes::TIMES_USUAL,
            "window": UsualNorm::WINDOW,
            "fewest": UsualNorm::FEWEST,
        });
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("run", &self.run.display().to_string())?;
        map.serialize_entry("clip", &self.plan.clip.to_string())?;
        map.serialize_entry("before", &before.collect::<Vec<Value>>())?;
        map.serialize_entry("open_loop", &true)?;
        map.serialize_entry("steps", &self.steps.len())?;
        map.serialize_entry("non_finite", &self.non_finite())?;
        map.serialize_entry("order", &self.plan.clip.order().to_string())?;
        map.serialize_entry("step", &self.steps)?;
        map.serialize_entry("norm", &self.norms)?;
        map.serialize_entry("spike_definition", &definition)?;
        map.serialize_entry("spikes", &spikes.collect::<Vec<Value>>())?;
        map.serialize_entry("policies", &self.accounts)?;
        map.end()
    }
}

/// Refuses a rule that needs the sizes of tensors if the log does not have them.
fn check_sizes(policy: &ClipPolicy, columns: &Columns) -> Result<(), Misuse> {
    match without_header(columns, "sizes of tensors") {
        Some(why) if policy.rules().iter().any(ClipRule::needs_sizes) => {
            Err(Misuse(format!("--clip {policy}: {why}")))
        }
        _ => Ok(()),
    }
}

/// The number of elements of each parameter.
fn elements(header: &Header) -> BTreeMap<&str, usize> {
    let parameters = header.parameters.iter();
    parameters
        .map(|parameter| (parameter.name.as_str(), parameter.elements()))
        .collect()
}

/// Without `elements`, every tensor counts as one element.
fn recorded(step: &StepEvent, elements: Option<&BTreeMap<&str, usize>>) -> RecordedStep {
    let elements = |name: &str| match elements {
        Some(elements) => elements.get(name).copied(),
        None => Some(1),
    };
    let tensors = step.clip.tensors.iter();
    let tensors = tensors.filter_map(|(name, norm)| Some((name.clone(), *norm, elements(name)?)));
    RecordedStep {
        norm: step.clip.norm_before,
        loss: step.loss,
        tensors: tensors.collect(),
    }
}
