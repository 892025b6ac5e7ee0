//! Server-sent events from growing logs.

use std::time::Duration;

use axum::Router;
use axum::http::{Method, header};
use futures_util::StreamExt;
use serde_json::Value;

use crate::asking::send;
use crate::run_folder::{Runs, end_line, log_of, step_line};

struct Stream {
    body: axum::body::BodyDataStream,
    buffer: String,
}

impl Stream {
    async fn open(app: &Router, path: &str) -> Stream {
        let response = send(app, Method::GET, "localhost", path).await;
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "text/event-stream"
        );
        let body = response.into_body().into_data_stream();
        Stream {
            body,
            buffer: String::new(),
        }
    }

    /// The changes in the next event.
    async fn next(&mut self) -> Vec<Value> {
        let event = async {
            loop {
                if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                    let data = event.strip_prefix("data: ").map(str::to_string);
                    self.buffer = rest.to_string();
                    if let Some(data) = data {
                        return serde_json::from_str(&data).unwrap();
                    }
                    continue;
                }
                let bytes = self.body.next().await.unwrap().unwrap();
                self.buffer.push_str(std::str::from_utf8(&bytes).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), event)
            .await
            .unwrap()
    }

    /// Waits for a wanted change of a run.
    async fn until(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let news = self.next().await;
            if let Some(found) = news
                .into_iter()
                .find(|one| one["name"] == name && wanted(one))
            {
                return found;
            }
        }
    }
}

#[tokio::test]
async fn a_growing_log_is_sent_line_by_line() {
    let runs = Runs::new();
    let run = runs.run("a", &log_of(5));
    let lock = run.lock();
    let app = runs.app();
    let mut stream = Stream::open(&app, "/api/live?run=a").await;
    let first = stream.until("a", |_| true).await;
    assert_eq!(
        (&first["step"], &first["state"]),
        (&5.into(), &"running".into())
    );

    let line = step_line(6, 3.0);
    let (half, rest) = line.split_at(40);
    run.append(half);
    tokio::time::sleep(Duration::from_millis(600)).await;
    run.append(rest);
    let grown = stream.until("a", |one| one["step"] != 5).await;
    assert_eq!((&grown["step"], &grown["norm"]), (&6.into(), &3.0.into()));
    assert_eq!(grown["damaged"], false);

    run.append(&end_line(6, "finished"));
    drop(lock);
    stream.until("a", |one| one["state"] == "finished").await;
}

#[tokio::test]
async fn a_dead_trainer_and_a_resumed_run_are_noticed() {
    let runs = Runs::new();
    let run = runs.run("a", &log_of(20));
    let lock = run.lock();
    let app = runs.app();
    let mut stream = Stream::open(&app, "/api/live?run=a%0Anone").await;
    stream.until("a", |one| one["state"] == "running").await;
    drop(lock);
    stream.until("a", |one| one["state"] == "killed").await;

    // Resuming drops what comes after the checkpoint.
    let _lock = run.lock();
    std::fs::write(run.path.join("events.jsonl"), log_of(10)).unwrap();
    let back = stream.until("a", |one| one["step"] == 10).await;
    assert_eq!(back["generation"], 1);
}

#[tokio::test]
async fn the_list_reports_runs_that_come_and_go() {
    let runs = Runs::new();
    runs.run("a", &log_of(5));
    let app = runs.app();
    let mut stream = Stream::open(&app, "/api/live").await;
    stream.until("a", |one| one["state"] == "killed").await;
    let new = runs.run("b/c", "");
    stream.until("b/c", |one| one["step"].is_null()).await;
    std::fs::remove_dir_all(&new.path).unwrap();
    stream.until("b/c", |one| one["gone"] == true).await;
}
