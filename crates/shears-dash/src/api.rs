//! What the page asks for: every answer is JSON, and is computed apart from the server's own
//! threads.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

use crate::Dash;
use crate::checkpoints::{self, Checkpoint};
use crate::digest::in_words;
use crate::runs::Run;
use crate::series::{HeatMap, Series};
use crate::settings::{self, Setting};
use crate::step::StepView;
use crate::summary::Row;
use shears_run::{Reach, RunError, Sample, read_plan};

/// How long a request waits for a log to be read; what is there by then is the answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// The most buckets that anybody may ask for.
const MOST_POINTS: usize = 8192;
/// The newest samples that are sent.
const MOST_SAMPLES: usize = 200;

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Problem {
    NoRun(String),
    NoStep(u64),
    Log(RunError),
    Line(io::Error),
    /// The thread of the work is gone.
    Interrupted,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, problem) = match self {
            Problem::NoRun(name) => (StatusCode::NOT_FOUND, format!("there is no run `{name}`")),
            Problem::NoStep(step) => (StatusCode::NOT_FOUND, format!("the log has no step {step}")),
            Problem::Log(error) => (StatusCode::INTERNAL_SERVER_ERROR, in_words(&error)),
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
    runs: Vec<Row>,
}

pub(crate) async fn list(State(dash): State<Arc<Dash>>) -> Result<Json<List>, Problem> {
    blocking(move || {
        let runs = dash.runs.all();
        Ok(Json(List {
            folder: dash.runs.folder().display().to_string(),
            runs: runs.iter().map(|run| Row::of(run)).collect(),
        }))
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
    path: String,
    /// Whether the settings of its preset are known.
    preset_known: bool,
    /// The verdict as the trainer prints it.
    verdict: Option<String>,
    settings: Vec<Setting>,
    checkpoints: Vec<Checkpoint>,
    /// The newest samples, oldest first, and how many there are in all.
    samples: Vec<Sample>,
    all_samples: usize,
    reach: Reach,
}

pub(crate) async fn run(
    State(dash): State<Arc<Dash>>,
    Query(query): Query<OfRun>,
) -> Result<Json<RunView>, Problem> {
    blocking(move || {
        let run = find(&dash, &query.run)?;
        let reach = run.read(PATIENCE).map_err(Problem::Log)?;
        let glance = run.glance.look(&run.log_path());
        let (samples, all_samples) = run.with_log(|log| {
            if reach.complete {
                run.digest.update(log, reach.length, glance.end.is_some());
            }
            let samples = &log.columns.samples;
            let newest = &samples[samples.len().saturating_sub(MOST_SAMPLES)..];
            (newest.to_vec(), samples.len())
        });
        let plan = read_plan(&run.path).unwrap_or_default();
        let digest = run.digest();
        let judgement = digest.as_ref().and_then(|digest| digest.judgement.as_ref());
        Ok(Json(RunView {
            row: Row::of(&run),
            path: run.path.display().to_string(),
            preset_known: settings::preset_of(&plan, &dash.presets).is_some(),
            verdict: judgement.map(|judgement| judgement.lines().join("\n")),
            settings: settings::compared(&plan, &dash.presets),
            checkpoints: checkpoints::list(&run.path),
            samples,
            all_samples,
            reach,
        }))
    })
    .await
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
    answer: impl FnOnce(&Run) -> Result<T, Problem> + Send + 'static,
) -> Result<Json<Reached<T>>, Problem> {
    blocking(move || {
        let run = find(&dash, &name)?;
        let reach = run.read(PATIENCE).map_err(Problem::Log)?;
        let answer = answer(&run)?;
        Ok(Json(Reached { answer, reach }))
    })
    .await
}

pub(crate) async fn series(
    State(dash): State<Arc<Dash>>,
    Query(range): Query<Range>,
) -> Result<Json<Reached<Series>>, Problem> {
    from_log(dash, range.run, move |run| {
        let points = range.points.unwrap_or(1000).clamp(2, MOST_POINTS);
        Ok(run.with_log(|log| Series::of(&log.columns, range.from, range.to, points)))
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
}

pub(crate) async fn maps(
    State(dash): State<Arc<Dash>>,
    Query(range): Query<Range>,
) -> Result<Json<Reached<Maps>>, Problem> {
    from_log(dash, range.run, move |run| {
        let points = range.points.unwrap_or(256).clamp(2, MOST_POINTS);
        Ok(run.with_log(|log| Maps {
            ordered: log.columns.header.is_some(),
            norms: HeatMap::of_norms(&log.columns, range.from, range.to, points),
            ratios: HeatMap::of_ratios(&log.columns, range.from, range.to, points),
        }))
    })
    .await
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
    from_log(dash, query.run, move |run| {
        let view = StepView::of(run, query.step).map_err(Problem::Line)?;
        view.ok_or(Problem::NoStep(query.step))
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
        let (rows, problem) = match (dash.batch_text)(&run.path, query.step) {
            Ok(rows) => (rows, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        Ok(Json(Batch { rows, problem }))
    })
    .await
}
