//! What the page asks for: every answer is JSON, and is computed apart from the server's own
//! threads.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

use crate::Dash;
use crate::checkpoints::{self, Checkpoint};
use crate::digest::in_words;
use crate::live::SEPARATOR;
use crate::runs::Run;
use crate::series::{HeatMap, Series};
use crate::settings::{self, Setting};
use crate::state::RunState;
use crate::step::StepView;
use crate::summary::Row;
use gradclip_judge::TimeFlow;
use shears_run::{
    Change, Columns, Judgement, PLAN, RanksEvent, Reach, Resume, RunError, Sample, program, quoted,
};

/// How long a request waits for a log to be read; what is there by then is the answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// The most buckets that anybody may ask for.
const MOST_POINTS: usize = 8192;
/// More bytes than a report has.
const MOST_OF_A_REPORT: u64 = 64 << 20;
/// The tokenizer in the folder of a run, without which a batch is no text.
const TOKENIZER: &str = "tokenizer.json";
/// The newest samples that are sent.
const MOST_SAMPLES: usize = 200;
/// The newest resumes and changes of settings that are sent.
const MOST_RESUMES: usize = 500;

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Problem {
    NoRun(String),
    NoReport(String),
    NoStep(u64),
    /// The log is not yet read so far.
    NotRead(u64),
    Log(RunError),
    Line(io::Error),
    Report(io::Error),
    /// The thread of the work is gone.
    Interrupted,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, problem) = match self {
            Problem::NoRun(name) => (StatusCode::NOT_FOUND, format!("there is no run `{name}`")),
            Problem::NoReport(name) => (
                StatusCode::NOT_FOUND,
                format!("there is no report in `{name}`"),
            ),
            Problem::NoStep(step) => (StatusCode::NOT_FOUND, format!("the log has no step {step}")),
            Problem::NotRead(step) => (
                StatusCode::NOT_FOUND,
                format!("the log is not read up to step {step} yet; look again in a moment"),
            ),
            Problem::Log(error) => (StatusCode::INTERNAL_SERVER_ERROR, in_words(&error)),
            Problem::Report(error) => {
                let problem = format!("the report cannot be read: {error}");
                (StatusCode::INTERNAL_SERVER_ERROR, problem)
            }
            Problem::Line(error) => {
                let problem = format!("the line of the step cannot be read: {error}");
                (StatusCode::INTERNAL_SERVER_ERROR, problem)
            }
            Problem::Interrupted => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer was interrupted".to_string(),
            ),
        };
        (status, Json(serde_json::json!({ "problem": problem }))).into_response()
    }
}

/// Runs `work`, which reads files, where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(Problem::Interrupted))
}

fn find(dash: &Dash, name: &str) -> Result<Arc<Run>, Problem> {
    let run = dash.runs.get(name);
    run.ok_or_else(|| Problem::NoRun(name.to_string()))
}

/// All runs.
#[derive(Serialize)]
pub(crate) struct List {
    folder: String,
    /// Folders that hold a report; each is at `/report?of=`.
    reports: Vec<String>,
    runs: Vec<Row>,
}

pub(crate) async fn list(State(dash): State<Arc<Dash>>) -> Result<Json<List>, Problem> {
    blocking(move || {
        let runs = dash.runs.all();
        Ok(Json(List {
            folder: dash.runs.folder().display().to_string(),
            reports: dash.runs.reports(),
            runs: runs.iter().map(|run| Row::of(run)).collect(),
        }))
    })
    .await
}

#[derive(Deserialize)]
pub(crate) struct OfReport {
    of: String,
}

/// A report is one file, with its styles in it.
const REPORT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
                             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox";

pub(crate) async fn report(
    State(dash): State<Arc<Dash>>,
    Query(query): Query<OfReport>,
) -> Result<Response, Problem> {
    blocking(move || {
        let file = dash.runs.report(&query.of);
        let file = file.ok_or(Problem::NoReport(query.of))?;
        let large = fs::metadata(&file).is_ok_and(|metadata| metadata.len() > MOST_OF_A_REPORT);
        let text = match large {
            true => Err(io::Error::other("it is too large")),
            false => fs::read(&file),
        };
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, REPORT_POLICY),
        ];
        Ok((headers, text.map_err(Problem::Report)?).into_response())
    })
    .await
}

#[derive(Deserialize)]
pub(crate) struct OfRun {
    run: String,
}

/// All about a run that is not a chart.
#[derive(Serialize)]
pub(crate) struct RunView {
    #[serde(flatten)]
    row: Row,
    /// The command that goes on with it.
    resume: String,
    /// Whether the settings of its preset are known.
    preset_known: bool,
    /// What `shears inspect --json` says of it.
    judgement: Option<serde_json::Value>,
    settings: Vec<Setting>,
    checkpoints: Vec<Checkpoint>,
    #[serde(flatten)]
    noted: Noted,
    reach: Reach,
}

/// What a log has beside its steps.
#[derive(Serialize)]
struct Noted {
    /// Where the run went on, and the settings that were changed there: the newest of them.
    resumes: Vec<Resume>,
    changes: Vec<Change>,
    /// The processes that trained it together, if several did: the newest teams.
    ranks: Vec<Team>,
    /// What their exchanges took, in words.
    exchanged: Option<String>,
    /// The newest samples, oldest first, and how many there are in all.
    samples: Vec<Sample>,
    all_samples: usize,
}

impl Noted {
    fn of(columns: &Columns) -> Noted {
        let teams = newest(&columns.ranks, MOST_RESUMES).into_iter();
        Noted {
            resumes: newest(&columns.resumes, MOST_RESUMES),
            changes: newest(&columns.changes, MOST_RESUMES),
            ranks: teams.map(Team::from).collect(),
            exchanged: columns.exchanged().map(|all| all.to_string()),
            samples: newest(&columns.samples, MOST_SAMPLES),
            all_samples: columns.samples.len(),
        }
    }
}

/// The processes that trained a run together from a step on.
#[derive(Serialize)]
pub(crate) struct Team {
    #[serde(flatten)]
    ranks: RanksEvent,
    words: String,
}

impl From<RanksEvent> for Team {
    fn from(ranks: RanksEvent) -> Team {
        let words = ranks.words();
        Team { ranks, words }
    }
}

pub(crate) async fn run(
    State(dash): State<Arc<Dash>>,
    Query(query): Query<OfRun>,
) -> Result<Json<RunView>, Problem> {
    blocking(move || {
        let run = find(&dash, &query.run)?;
        let reach = run.read(PATIENCE).map_err(Problem::Log)?;
        let glance = run.glance();
        let noted = run.with_log(|log| {
            if reach.complete {
                run.digest
                    .update(|| run.subject(), log, reach.length, glance.end.is_some());
            }
            Noted::of(&log.columns)
        });
        let plan = run.plan().unwrap_or_default();
        let digest = run.digest();
        let judgement = digest.as_ref().and_then(|digest| digest.judgement.clone());
        let row = Row::of(&run);
        let judgement = judgement.map(|judgement| match glance.end {
            Some(_) => judgement,
            None => judgement.without_end(row.state == RunState::Running, &run.subject()),
        });
        Ok(Json(RunView {
            row,
            resume: format!("{} train --resume {}", program(), quoted(&run.path)),
            preset_known: settings::preset_of(&plan, &dash.presets).is_some(),
            judgement: judgement.as_ref().map(Judgement::json),
            settings: settings::compared(&plan, &dash.presets),
            checkpoints: checkpoints::list(&run),
            noted,
            reach,
        }))
    })
    .await
}

/// The last of these items.
fn newest<T: Clone>(items: &[T], most: usize) -> Vec<T> {
    items[items.len().saturating_sub(most)..].to_vec()
}

#[derive(Deserialize)]
pub(crate) struct Range {
    run: String,
    from: Option<u64>,
    to: Option<u64>,
    points: Option<usize>,
}

/// An answer from a log, with how far the log was read.
#[derive(Serialize)]
pub(crate) struct Reached<T> {
    #[serde(flatten)]
    answer: T,
    reach: Reach,
}

/// What a run's log answers, after waiting a little for what is not read yet.
async fn from_log<T: Send + 'static>(
    dash: Arc<Dash>,
    name: String,
    answer: impl FnOnce(&Run, Reach) -> Result<T, Problem> + Send + 'static,
) -> Result<Json<Reached<T>>, Problem> {
    blocking(move || {
        let run = find(&dash, &name)?;
        let reach = run.read(PATIENCE).map_err(Problem::Log)?;
        let answer = answer(&run, reach)?;
        Ok(Json(Reached { answer, reach }))
    })
    .await
}

pub(crate) async fn series(
    State(dash): State<Arc<Dash>>,
    Query(range): Query<Range>,
) -> Result<Json<Reached<Series>>, Problem> {
    from_log(dash, range.run, move |run, reach| {
        let points = range.points.unwrap_or(1000).clamp(2, MOST_POINTS);
        Ok(run.with_columns(reach, |columns| {
            Series::of(columns, range.from, range.to, points)
        }))
    })
    .await
}

/// Both maps of a run.
#[derive(Serialize)]
pub(crate) struct Maps {
    /// Whether tensors are in the order of the model, which the header of the log says.
    ordered: bool,
    norms: HeatMap,
    ratios: HeatMap,
    /// How far gradients reached back in time when that was measured first and last.
    time: Vec<Through>,
    /// The last of these in words.
    time_words: Option<String>,
}

/// The norms of the gradient by what a recurrent model carried one token back, two, and so on.
#[derive(Serialize)]
struct Through {
    step: u64,
    norms: Vec<f64>,
}

fn through(flow: &TimeFlow) -> Through {
    Through {
        step: flow.step,
        norms: flow.norms.clone(),
    }
}

pub(crate) async fn maps(
    State(dash): State<Arc<Dash>>,
    Query(range): Query<Range>,
) -> Result<Json<Reached<Maps>>, Problem> {
    from_log(dash, range.run, move |run, reach| {
        let points = range.points.unwrap_or(256).clamp(2, MOST_POINTS);
        Ok(run.with_columns(reach, |columns| Maps {
            ordered: columns.header.is_some(),
            time: ends(&columns.time_flows).map(through).collect(),
            time_words: columns.time_flows.last().map(ToString::to_string),
            norms: HeatMap::of_norms(columns, range.from, range.to, points),
            ratios: HeatMap::of_ratios(columns, range.from, range.to, points),
        }))
    })
    .await
}

/// The first and the last item, if there are two.
fn ends<T>(items: &[T]) -> impl Iterator<Item = &T> {
    let first = items.first().filter(|_| items.len() > 1);
    first.into_iter().chain(items.last())
}

/// How far runs are the same: all losses and norms of their steps, bit for bit.
#[derive(Serialize)]
pub(crate) struct Equal {
    /// The last step up to which they are; none if the first one differs.
    until: Option<u64>,
    /// Whether that is all of the shortest run.
    whole: bool,
}

pub(crate) async fn equal(
    State(dash): State<Arc<Dash>>,
    Query(query): Query<OfRun>,
) -> Result<Json<Reached<Equal>>, Problem> {
    blocking(move || {
        let names = query.run.split(SEPARATOR);
        let runs = names
            .map(|name| find(&dash, name))
            .collect::<Result<Vec<_>, _>>()?;
        let mut reaches = Vec::new();
        for run in &runs {
            reaches.push(run.read(PATIENCE).map_err(Problem::Log)?);
        }
        let reach = reaches.into_iter().reduce(both);
        let reach = reach.ok_or_else(|| Problem::NoRun(query.run.clone()))?;
        let answer = equal_until(&runs);
        Ok(Json(Reached { answer, reach }))
    })
    .await
}

/// How far two logs were read together.
fn both(left: Reach, right: Reach) -> Reach {
    Reach {
        read: left.read + right.read,
        length: left.length + right.length,
        complete: left.complete && right.complete,
    }
}

fn equal_until(runs: &[Arc<Run>]) -> Equal {
    // The log of one run is not held while that of another is waited for.
    let first: Vec<Numbers> = runs[0].with_log(|log| numbers(&log.columns).collect());
    let (mut rows, mut shortest) = (first.len(), first.len());
    for run in &runs[1..] {
        run.with_log(|log| {
            let pairs = first[..rows].iter().zip(numbers(&log.columns));
            shortest = shortest.min(log.columns.rows());
            rows = pairs.take_while(|(left, right)| *left == right).count();
        });
    }
    Equal {
        until: rows.checked_sub(1).map(|row| first[row].0),
        whole: rows == shortest,
    }
}

/// The step, and the bits of its loss and norm.
type Numbers = (u64, u32, u64);

fn numbers(columns: &Columns) -> impl Iterator<Item = Numbers> {
    let both = columns.loss.iter().zip(&columns.norm_before);
    let both = both.map(|(loss, norm)| (loss.to_bits(), norm.to_bits()));
    columns
        .step
        .iter()
        .zip(both)
        .map(|(step, (loss, norm))| (*step, loss, norm))
}

#[derive(Deserialize)]
pub(crate) struct OfStep {
    run: String,
    step: u64,
}

pub(crate) async fn step(
    State(dash): State<Arc<Dash>>,
    Query(query): Query<OfStep>,
) -> Result<Json<Reached<StepView>>, Problem> {
    from_log(dash, query.run, move |run, reach| {
        let view = StepView::of(run, query.step, reach).map_err(Problem::Line)?;
        view.ok_or(match reach.complete {
            true => Problem::NoStep(query.step),
            false => Problem::NotRead(query.step),
        })
    })
    .await
}

/// The text of a step's batch, or why there is none. Not an error: the text may be gone for good
/// reasons.
#[derive(Serialize)]
pub(crate) struct Batch {
    rows: Vec<String>,
    problem: Option<String>,
}

pub(crate) async fn batch(
    State(dash): State<Arc<Dash>>,
    Query(query): Query<OfStep>,
) -> Result<Json<Batch>, Problem> {
    blocking(move || {
        let run = find(&dash, &query.run)?;
        let sound = [PLAN, TOKENIZER].map(|name| run.file(name));
        let sound = sound.into_iter().collect::<io::Result<Vec<_>>>();
        let text = match sound {
            Ok(_) => (dash.batch_text)(&run.path, query.step),
            Err(error) => Err(error.to_string()),
        };
        let (rows, problem) = match text {
            Ok(rows) => (rows, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        Ok(Json(Batch { rows, problem }))
    })
    .await
}
