//! The page's requests. Every answer is JSON, computed outside of the server's own threads.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{self, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Dash;
use crate::checkpoints::{self, Checkpoint};
use crate::digest::log_problem;
use crate::runs::Run;
use crate::series::{HeatMap, Series};
use crate::settings::{self, Setting};
use crate::state::RunState;
use crate::step::StepView;
use crate::summary::Row;
use crate::turns::in_turn;
use gradclip_judge::TimeFlow;
use shears_run::{
    Change, Columns, Judgement, PLAN, RanksEvent, ReadProgress, Resume, RunError, Sample, program,
    quoted,
};

/// How long a request waits for a log to be read; it answers with what has been read by then.
const PATIENCE: Duration = Duration::from_millis(300);
/// The most buckets that a request may ask for.
const MOST_POINTS: usize = 8192;
/// No report is larger than this.
const MOST_OF_A_REPORT: u64 = 64 << 20;
/// The tokenizer in a run's folder, which is needed to decode a batch.
const TOKENIZER: &str = "tokenizer.json";
/// The most samples that are sent; the newest ones.
const MOST_SAMPLES: usize = 200;
/// The most resumes and changes of settings that are sent; the newest ones.
const MOST_RESUMES: usize = 500;

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The query lacks a parameter, or one is not what it should be.
    Query,
    NoRun(String),
    NoReport(String),
    NoStep(u64),
    /// The log has not been read that far yet.
    NotRead(u64),
    Log(RunError),
    Line(io::Error),
    Report(io::Error),
    /// The worker thread is gone.
    Interrupted,
}

/// Separates the names of several runs.
pub(crate) const SEPARATOR: char = '\n';

/// The parameters of a request; a refusal does not have the words of the library.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match extract::Query::from_request_parts(parts, state).await {
            Ok(extract::Query(query)) => Ok(Query(query)),
            Err(_) => Err(Problem::Query),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, problem) = match self {
            Problem::Query => (
                StatusCode::BAD_REQUEST,
                "the query lacks a parameter, or has one with an invalid value".to_string(),
            ),
            Problem::NoRun(name) => (StatusCode::NOT_FOUND, format!("there is no run `{name}`")),
            Problem::NoReport(name) => (
                StatusCode::NOT_FOUND,
                format!("there is no report in `{name}`"),
            ),
            Problem::NoStep(step) => (StatusCode::NOT_FOUND, format!("the log has no step {step}")),
            Problem::NotRead(step) => (
                StatusCode::NOT_FOUND,
                format!("the log is not read up to step {step} yet; try again in a moment"),
            ),
            Problem::Log(error) => (StatusCode::INTERNAL_SERVER_ERROR, log_problem(&error)),
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

/// Runs `work`, which reads files, on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    in_turn(work).await.unwrap_or(Err(Problem::Interrupted))
}

fn find(dash: &Dash, name: &str) -> Result<Arc<Run>, Problem> {
    let run = dash.runs.get(name);
    run.ok_or_else(|| Problem::NoRun(name.to_string()))
}

/// All runs.
#[derive(Serialize)]
pub(crate) struct List {
    folder: String,
    /// Folders with a report, each at `/report?of=`.
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

/// A report is one file that includes its styles.
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

/// Everything about a run except its charts.
#[derive(Serialize)]
pub(crate) struct RunView {
    #[serde(flatten)]
    row: Row,
    /// The command that resumes it.
    resume: String,
    /// Whether the settings of its preset are known.
    preset_known: bool,
    /// As in `shears inspect --json`.
    judgement: Option<serde_json::Value>,
    settings: Vec<Setting>,
    checkpoints: Vec<Checkpoint>,
    #[serde(flatten)]
    events: RareEvents,
    /// A summary of the exchanges between its processes, if it has several.
    exchanged: Option<String>,
    reach: ReadProgress,
}

/// The events of a log that are not steps.
#[derive(Serialize)]
struct RareEvents {
    /// The newest resumes, and the newest changes of settings.
    resumes: Vec<Resume>,
    changes: Vec<Change>,
    /// The newest sets of processes that trained it, if there were several.
    ranks: Vec<RanksView>,
    /// The newest samples, oldest first, and their total number.
    samples: Vec<Sample>,
    all_samples: usize,
}

impl RareEvents {
    fn of(columns: &Columns) -> RareEvents {
        let ranks = newest(&columns.ranks, MOST_RESUMES).into_iter();
        RareEvents {
            resumes: newest(&columns.resumes, MOST_RESUMES),
            changes: newest(&columns.changes, MOST_RESUMES),
            ranks: ranks.map(RanksView::from).collect(),
            samples: newest(&columns.samples, MOST_SAMPLES),
            all_samples: columns.samples.len(),
        }
    }
}

/// The processes that trained a run from a step on.
#[derive(Serialize)]
pub(crate) struct RanksView {
    #[serde(flatten)]
    ranks: RanksEvent,
    words: String,
}

impl From<RanksEvent> for RanksView {
    fn from(ranks: RanksEvent) -> RanksView {
        let words = ranks.words();
        RanksView { ranks, words }
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
        let events = run.with_log(|log| {
            if reach.complete {
                run.digest
                    .update(|| run.subject(), log, reach.length, glance.end.is_some());
            }
            RareEvents::of(&log.columns)
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
            events,
            exchanged: digest.as_ref().and_then(|digest| digest.exchanged.clone()),
            reach,
        }))
    })
    .await
}

/// The last `most` items.
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

/// An answer from a log, with how far the log has been read.
#[derive(Serialize)]
pub(crate) struct Reached<T> {
    #[serde(flatten)]
    answer: T,
    reach: ReadProgress,
}

/// Answers from a run's log, after waiting a little for what has not been read yet.
async fn from_log<T: Send + 'static>(
    dash: Arc<Dash>,
    name: String,
    answer: impl FnOnce(&Run, ReadProgress) -> Result<T, Problem> + Send + 'static,
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
        let mut series = run.with_columns(reach, |columns| {
            Series::of(columns, range.from, range.to, points)
        });
        series.hide_other_thresholds(&run.subject().policy);
        Ok(series)
    })
    .await
}

/// The heat maps of a run, and its gradients through time.
#[derive(Serialize)]
pub(crate) struct Maps {
    /// Whether tensors are in the order of the model, which is in the header of the log.
    ordered: bool,
    norms: HeatMap,
    ratios: HeatMap,
    /// The first and the last measurement of how far gradients reach back in time.
    time: Vec<Through>,
    /// The last of these in words.
    time_words: Option<String>,
}

/// The norms of the gradient with respect to the state carried one token back, two, and so on.
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

/// How far runs are equal: all losses and norms of their steps, bit for bit.
#[derive(Serialize)]
pub(crate) struct Equal {
    /// The last equal step; `None` if the first one differs.
    until: Option<u64>,
    /// Whether that is the whole of the shortest run.
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
        let reach = reaches.into_iter().reduce(total);
        let reach = reach.ok_or_else(|| Problem::NoRun(query.run.clone()))?;
        let answer = equal_until(&runs);
        Ok(Json(Reached { answer, reach }))
    })
    .await
}

/// How far two logs have been read in total.
fn total(left: ReadProgress, right: ReadProgress) -> ReadProgress {
    ReadProgress {
        read: left.read + right.read,
        length: left.length + right.length,
        complete: left.complete && right.complete,
    }
}

fn equal_until(runs: &[Arc<Run>]) -> Equal {
    // Never lock the logs of two runs at once.
    let first: Vec<StepBits> = runs[0].with_log(|log| step_bits(&log.columns).collect());
    let (mut rows, mut shortest) = (first.len(), first.len());
    for run in &runs[1..] {
        run.with_log(|log| {
            let pairs = first[..rows].iter().zip(step_bits(&log.columns));
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
type StepBits = (u64, u32, u64);

fn step_bits(columns: &Columns) -> impl Iterator<Item = StepBits> {
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

/// The text of a step's batch, or why there is none. That is not an error: the text may have been
/// moved or deleted.
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
