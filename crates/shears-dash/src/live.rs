//! Server-sent events: the page is told when something changed, and asks for what it shows.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};

use crate::Dash;
use crate::runs::Run;
use crate::state::RunState;
use crate::summary::Row;
use shears_run::ReadProgress;

/// Between two looks at open runs.
const RUN_PERIOD: Duration = Duration::from_millis(250);
/// Between two looks at the whole folder.
const LIST_PERIOD: Duration = Duration::from_secs(2);
/// Names of several runs are separated by this.
pub(crate) const SEPARATOR: char = '\n';

/// What is told of an open run. Two that are equal are told once.
#[derive(Debug, Serialize)]
struct Pulse {
    name: String,
    state: RunState,
    step: Option<u64>,
    loss: Option<f32>,
    norm: Option<f64>,
    tokens_per_second: Option<f32>,
    evaluations: usize,
    samples: usize,
    damaged: bool,
    generation: u64,
    reach: Option<ReadProgress>,
}

impl Pulse {
    fn of(run: &Run) -> Pulse {
        let reach = run.read(RUN_PERIOD).ok();
        let glance = run.glance();
        let state = run.state(&glance);
        run.with_log(|log| {
            let columns = &log.columns;
            Pulse {
                name: run.name.clone(),
                state,
                step: columns.step.last().copied(),
                loss: columns.loss.last().copied(),
                norm: columns.norm_before.last().copied(),
                tokens_per_second: columns.tokens_per_second.last().copied(),
                evaluations: columns.evaluations.len(),
                samples: columns.samples.len(),
                damaged: log.damage.is_some(),
                generation: log.generation,
                reach,
            }
        })
    }
}

#[derive(Debug, Serialize)]
struct Gone {
    name: String,
    gone: bool,
}

#[derive(Deserialize)]
pub(crate) struct Watched {
    /// Names of runs; none is the list.
    run: Option<String>,
}

/// What was told last, by the name of the run.
type Told = BTreeMap<String, String>;

pub(crate) async fn live(
    State(dash): State<Arc<Dash>>,
    Query(watched): Query<Watched>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let names: Option<Vec<String>> = watched
        .run
        .map(|names| names.split(SEPARATOR).map(str::to_string).collect());
    let stream = stream::unfold((Told::new(), true), move |(mut told, mut first)| {
        let (dash, names) = (dash.clone(), names.clone());
        async move {
            loop {
                let period = if names.is_some() {
                    RUN_PERIOD
                } else {
                    LIST_PERIOD
                };
                if !first {
                    tokio::time::sleep(period).await;
                }
                first = false;
                let (dash, names) = (dash.clone(), names.clone());
                let look = move || match names {
                    Some(names) => of_runs(&dash, &names),
                    None => of_list(&dash),
                };
                let found = tokio::task::spawn_blocking(look).await.ok()?;
                let news = news(&mut told, found);
                if !news.is_empty() {
                    let event = Event::default().data(format!("[{}]", news.join(",")));
                    return Some((Ok(event), (told, false)));
                }
            }
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}

fn of_runs(dash: &Dash, names: &[String]) -> Told {
    let runs = names.iter().filter_map(|name| dash.runs.get(name));
    runs.filter_map(|run| {
        Some((
            run.name.clone(),
            serde_json::to_string(&Pulse::of(&run)).ok()?,
        ))
    })
    .collect()
}

fn of_list(dash: &Dash) -> Told {
    let runs = dash.runs.all();
    let rows = runs.iter().map(|run| (run.name.clone(), Row::of(run)));
    rows.filter_map(|(name, row)| Some((name, serde_json::to_string(&row).ok()?)))
        .collect()
}

/// What is new since it was told last, as JSON.
fn news(told: &mut Told, found: Told) -> Vec<String> {
    let changed = found
        .iter()
        .filter(|(name, json)| told.get(*name) != Some(*json));
    let mut news: Vec<String> = changed.map(|(_, json)| json.clone()).collect();
    let gone = told.keys().filter(|name| !found.contains_key(*name));
    news.extend(gone.filter_map(|name| {
        let (name, gone) = (name.clone(), true);
        serde_json::to_string(&Gone { name, gone }).ok()
    }));
    *told = found;
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_is_told() {
        let mut told = Told::new();
        let found = |pairs: &[(&str, &str)]| -> Told {
            let owned = pairs
                .iter()
                .map(|(name, json)| (name.to_string(), json.to_string()));
            owned.collect()
        };
        assert_eq!(
            news(&mut told, found(&[("a", "1"), ("b", "1")])),
            ["1", "1"]
        );
        assert!(news(&mut told, found(&[("a", "1"), ("b", "1")])).is_empty());
        let gone = "{\"name\":\"b\",\"gone\":true}";
        assert_eq!(news(&mut told, found(&[("a", "2")])), ["2", gone]);
    }
}
