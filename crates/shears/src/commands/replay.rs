//! `shears replay`: what other clipping policies would have done with the norms of a run.

mod account;
mod picture;
mod spikes;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gradclip::NormOrder;
use gradclip_judge::{RecordedStep, Replay};
use serde_json::{Value, json};
use shears_model::{LanguageModel, ParameterInfo, parameters};
use shears_train::{ClipPolicy, Event, Plan, RunFolder, StepEvent};

use super::{RunArgument, renamed};
use crate::exit::Misuse;
use crate::model::{Work, device, with_model};
use crate::new_file;
use crate::output::{print_result, say};
use crate::settings::checked;
use account::{Account, Taken, replay};
use clap::{Args, ValueHint};
use spikes::Spikes;

/// The names of the policies in tables and in the chart.
const LABELS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Show what other clipping policies would have done with a run's gradients
///
/// Reads the norm of every step from the run's events.jsonl and shows it to each policy: how often
/// and how hard it would have clipped, which steps it would have left out, by which thresholds, and
/// which spikes it would have caught. The first row is what the run itself did. Nothing is trained:
/// this is open loop. Under another policy the run would have taken other steps and met other
/// gradients, so it tells what a policy does with norms like these, not how the run would have
/// ended.
///
/// A spike is a step, or several in a row, whose norm is more than 3 times the median of the 50
/// finite norms before it (of at least 10). It is caught at the first of its steps that the policy
/// leaves out or clips to no more than that.
///
/// coefficient: what is left of the norm of clipped steps. norm removed: the mean share taken away,
/// over all steps but those left out. left out: as outliers, not for being non-finite. warm-up: the
/// steps before every rule of the policy had seen enough.
///
/// Rules that norms do not suffice for are refused: value, agc, p other than 2, update-rms, spam.
///
/// JSON keys: run, clip, open_loop, steps, non_finite, step, norm, spike_definition, spikes.[].{
/// first_step, last_step, peak_step, norm, times_median}, policies.[].{label, policy, clipped,
/// clipped_share, coefficient.{median, smallest}, norm_removed, left_out, warm_up, threshold.{first,
/// median, last, min, max}, spikes.{caught, at_once, each}, actions, thresholds, coefficients}.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ReplayArguments {
    #[command(flatten)]
    pub(crate) run: RunArgument,

    /// Policy to show the run's gradients to, as for `train --clip`; can be given several times
    #[arg(long = "clip", value_name = "POLICY", required = true, value_parser = checked::<ClipPolicy>)]
    pub(crate) policies: Vec<String>,

    #[arg(long = "policy", hide = true, value_parser = renamed("--clip"))]
    _policy: Option<String>,

    /// Draw norms and thresholds into this file, which must not be there yet and end in .svg
    ///
    /// At most 6 policies. Those that go tensor by tensor have no line: their thresholds are not of
    /// the norm that is drawn.
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
    let policies = policies(arguments)?;
    check_order(&run, &plan)?;
    if let Some(file) = &arguments.plot {
        check_plot(file, policies.len())?;
    }
    let replayed = Replayed::new(run, plan, policies)?;
    if let Some(file) = &arguments.plot {
        new_file::write(file, picture::svg(&replayed)?, false)?;
    }
    match arguments.json {
        true => print_result(&replayed.json().to_string())?,
        false => {
            print_result(&table::text(&replayed))?;
            if let Some(file) = &arguments.plot {
                say!("\nchart: {}", file.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The policies that were typed, all of which can be replayed.
fn policies(arguments: &ReplayArguments) -> anyhow::Result<Vec<ClipPolicy>> {
    if arguments.policies.len() > LABELS.len() {
        let most = LABELS.len();
        return Err(Misuse(format!("--clip can be given {most} times at most")).into());
    }
    let mut policies = Vec::new();
    for text in &arguments.policies {
        let refuse = |problem: String| Misuse(format!("--clip {text}: {problem}"));
        let policy: ClipPolicy = text.parse().map_err(|error| refuse(format!("{error}")))?;
        Replay::new(&policy).map_err(|error| refuse(error.to_string()))?;
        policies.push(policy);
    }
    Ok(policies)
}

/// A run's norms are of its policy's order, and replaying takes Euclidean ones.
fn check_order(run: &RunFolder, plan: &Plan) -> Result<(), Misuse> {
    if plan.clip.order() == NormOrder::TWO {
        return Ok(());
    }
    Err(Misuse(format!(
        "{}: it was trained with {}, so that its norms are of order {}; only those of order 2 can \
         be replayed",
        run.path().display(),
        plan.clip,
        plan.clip.order(),
    )))
}

fn check_plot(file: &Path, policies: usize) -> Result<(), Misuse> {
    let refuse = |problem: String| Err(Misuse(format!("--plot {}: {problem}", file.display())));
    if file.extension().is_none_or(|extension| extension != "svg") {
        return refuse("the chart is SVG; give a name that ends in .svg".into());
    }
    if file.symlink_metadata().is_ok() {
        return refuse("is there already; choose another name, or remove it".into());
    }
    if policies > picture::MOST_POLICIES {
        let most = picture::MOST_POLICIES;
        return refuse(format!("a chart takes {most} policies at most"));
    }
    Ok(())
}

/// A run, and what each policy made of it.
pub(crate) struct Replayed {
    run: PathBuf,
    plan: Plan,
    /// The number of each step.
    steps: Vec<u64>,
    norms: Vec<f64>,
    spikes: Spikes,
    /// The run itself, then the policies.
    accounts: Vec<Account>,
}

impl Replayed {
    fn new(run: RunFolder, plan: Plan, policies: Vec<ClipPolicy>) -> anyhow::Result<Self> {
        let events = step_events(&run)?;
        let recorded = recorded(&events, &elements(&run, &plan)?);
        let norms: Vec<f64> = recorded.iter().map(|step| step.norm).collect();
        let spikes = Spikes::find(&norms);
        let own: Vec<Taken> = events.iter().map(|event| (&event.clip).into()).collect();
        let account = |label: &str, policy: ClipPolicy, taken| {
            Account::new(label.to_string(), policy, taken, &recorded, &spikes)
        };
        let mut accounts = vec![account("run", plan.clip.clone(), own)];
        for (policy, label) in policies.into_iter().zip(LABELS.chars()) {
            let taken = replay(&policy, &recorded)
                .map_err(|error| Misuse(format!("--clip {policy}: {error}")))?;
            accounts.push(account(&label.to_string(), policy, taken));
        }
        Ok(Replayed {
            run: run.path().to_path_buf(),
            plan,
            steps: events.iter().map(|event| event.step).collect(),
            norms,
            spikes,
            accounts,
        })
    }

    fn non_finite(&self) -> usize {
        self.norms.iter().filter(|norm| !norm.is_finite()).count()
    }

    fn json(&self) -> Value {
        let spikes = self.spikes.list.iter().map(|spike| {
            json!({
                "first_step": self.steps[spike.first],
                "last_step": self.steps[spike.last],
                "peak_step": self.steps[spike.peak],
                "norm": self.norms[spike.peak],
                "times_median": spike.times,
            })
        });
        json!({
            "run": self.run.display().to_string(),
            "clip": self.plan.clip.to_string(),
            "open_loop": true,
            "steps": self.steps.len(),
            "non_finite": self.non_finite(),
            "step": self.steps,
            "norm": self.norms,
            "spike_definition": {
                "times_median": spikes::TIMES_USUAL,
                "window": spikes::WINDOW,
                "fewest": spikes::FEWEST,
            },
            "spikes": spikes.collect::<Vec<Value>>(),
            "policies": self.accounts.iter().map(Account::json).collect::<Vec<Value>>(),
        })
    }
}

/// The steps of a run, of which there must be one.
fn step_events(run: &RunFolder) -> anyhow::Result<Vec<StepEvent>> {
    let steps: Vec<StepEvent> = run
        .events()?
        .into_iter()
        .filter_map(|event| match event {
            Event::Step(step) => Some(step),
            _ => None,
        })
        .collect();
    match steps.is_empty() {
        false => Ok(steps),
        true => Err(super::nothing_recorded(run, "replay").into()),
    }
}

/// The number of elements of each parameter of a run's model.
fn elements(run: &RunFolder, plan: &Plan) -> anyhow::Result<BTreeMap<String, usize>> {
    struct Describe;
    impl Work for Describe {
        type Output = Vec<ParameterInfo>;

        fn with<M: LanguageModel>(self, model: M) -> Vec<ParameterInfo> {
            parameters(&model)
        }
    }
    let device = device(&plan.device);
    let vocabulary = run.tokenizer()?.vocab_size();
    let config = plan.model_config();
    let parameters = with_model(&config, vocabulary, plan.seed, &device, Describe);
    let elements = parameters.into_iter();
    Ok(elements
        .map(|parameter| (parameter.name.clone(), parameter.elements()))
        .collect())
}

fn recorded(events: &[StepEvent], elements: &BTreeMap<String, usize>) -> Vec<RecordedStep> {
    let tensors = |event: &StepEvent| {
        let norms = event.clip.tensors.iter();
        norms
            .filter_map(|(name, norm)| Some((name.clone(), *norm, *elements.get(name)?)))
            .collect()
    };
    events
        .iter()
        .map(|event| RecordedStep {
            norm: event.clip.norm_before,
            loss: event.loss,
            tensors: tensors(event),
        })
        .collect()
}
