//! Server-sent events: they tell the page that something changed, and it asks for what it shows.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};

use crate::Dash;
use crate::api::{Query, SEPARATOR};
use crate::runs::Run;
use crate::state::RunState;
use crate::summary::Row;
use crate::turns::in_turn;
use shears_run::ReadProgress;

/// The interval between two checks of open runs.
const RUN_PERIOD: Duration = Duration::from_millis(250);
/// The interval between two checks of the whole folder.
const LIST_PERIOD: Duration = Duration::from_secs(2);

/// The state of an open run; sent whenever it differs from the last one.
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
    /// Names of runs; `None` for the list.
    run: Option<String>,
}

/// The JSON last sent, by the name of the run.
type Sent = BTreeMap<String, String>;

pub(crate) async fn live(
    State(dash): State<Arc<Dash>>,
    Query(watched): Query<Watched>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let names: Option<Vec<String>> = watched
        .run
        .map(|names| names.split(SEPARATOR).map(str::to_string).collect());
    let stream = stream::unfold((Sent::new(), true), move |(mut sent, mut first)| {
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
                let found = in_turn(look).await.ok()?;
                let updates = updates(&mut sent, found);
                if !updates.is_empty() {
                    let event = Event::default().data(format!("[{}]", updates.join(",")));
                    return Some((Ok(event), (sent, false)));
                }
            }
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}

fn of_runs(dash: &Dash, names: &[String]) -> Sent {
    let runs = names.iter().filter_map(|name| dash.runs.get(name));
    runs.filter_map(|run| {
        Some((
            run.name.clone(),
            serde_json::to_string(&Pulse::of(&run)).ok()?,
        ))
    })
    .collect()
}

fn of_list(dash: &Dash) -> Sent {
    let runs = dash.runs.all();
    let rows = runs.iter().map(|run| (run.name.clone(), Row::of(run)));
    rows.filter_map(|(name, row)| Some((name, serde_json::to_string(&row).ok()?)))
        .collect()
}

/// What changed since it was last sent, as JSON.
fn updates(sent: &mut Sent, found: Sent) -> Vec<String> {
    let changed = found
        .iter()
        .filter(|(name, json)| sent.get(*name) != Some(*json));
    let mut updates: Vec<String> = changed.map(|(_, json)| json.clone()).collect();
    let gone = sent.keys().filter(|name| !found.contains_key(*name));
    updates.extend(gone.filter_map(|name| {
        let (name, gone) = (name.clone(), true);
        serde_json::to_string(&Gone { name, gone }).ok()
    }));
    *sent = found;
    updates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_sent() {
        let mut sent = Sent::new();
        let found = |pairs: &[(&str, &str)]| -> Sent {
            let owned = pairs
                .iter()
                .map(|(name, json)| (name.to_string(), json.to_string()));
            owned.collect()
        };
        let both = [("a", "1"), ("b", "1")];
        assert_eq!(updates(&mut sent, found(&both)), ["1", "1"]);
        assert!(updates(&mut sent, found(&both)).is_empty());
        let gone = "{\"name\":\"b\",\"gone\":true}";
        assert_eq!(updates(&mut sent, found(&[("a", "2")])), ["2", gone]);
    }
}
