//! The server answers any request, and keeps running.

use std::fs;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use tower::ServiceExt;

use crate::fuzzing::Target;
use crate::run_folder::{Runs, end_line, header_line, log_of, ranks_line, resume_lines};

/// Requests of the page, and some from elsewhere.
const REQUESTS: [&str; 23] = [
    "GET /",
    "GET /main.js\naccept-encoding: gzip\nif-none-match: \"0\"",
    "GET /api/runs",
    "GET /api/run?run=a",
    "GET /api/run?run=nested%2Fb",
    "GET /api/series?run=a&from=15&to=19&points=20",
    "GET /api/series?run=a&points=500",
    "GET /api/maps?run=a&points=20",
    "GET /api/equal?run=a%0Anested%2Fb",
    "GET /api/step?run=a&step=17",
    "GET /api/batch?run=a&step=1",
    "GET /api/live?run=a%0Anone",
    "GET /report?of=sweep",
    "HEAD /api/run?run=.",
    "POST /api/runs\norigin: http://127.0.0.1",
    "GET /api/run?run=..%2f..%2fetc%2fpasswd",
    "GET /api/run?run=%2e%2e/%00&run=a",
    "GET //api/run?run=a#x",
    "GET http://elsewhere/api/runs",
    "GET /api/runs\nsec-fetch-site: cross-site\norigin: null",
    "GET /api/runs\ncookie: shears-token=0; x",
    "OPTIONS *",
    "GET /api/step?run=a&step=-1",
];

/// The most bytes of an answer.
const MOST: usize = 32 << 20;

/// Parses a request: method and path in the first line, then headers.
fn parse(input: &[u8]) -> Option<Request<Body>> {
    let mut lines = input.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let method = Method::from_bytes(&first[..space]).ok()?;
    let mut request = Request::builder()
        .method(method)
        .uri(&first[space + 1..])
        .header("host", "127.0.0.1:7878");
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request = request.header(name, value);
    }
    request.body(Body::empty()).ok()
}

pub(crate) fn request() -> Target {
    let runs = Runs::new();
    let log = format!(
        "{}{}{}",
        header_line(&["a", "b"]),
        log_of(60),
        end_line(60, "finished")
    );
    runs.run("a", &log);
    runs.run("nested/b", &log_of(20));
    fs::create_dir(runs.path().join("sweep")).unwrap();
    fs::write(runs.path().join("sweep/report.html"), "<p>report</p>").unwrap();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let app = runs.app();
    let seeds = REQUESTS.map(|line| line.as_bytes().to_vec());
    Target::new("shears-dash", "request", seeds.to_vec(), move |input| {
        let Some(request) = parse(input) else {
            return;
        };
        let may_quote = contains(input, LIBRARY_WORD) || input.contains(&b'%');
        runtime.block_on(answered(app.clone(), request, may_quote));
        // No request writes anything.
        let now = fs::read_to_string(runs.path().join("a/events.jsonl"));
        assert_eq!(now.unwrap(), log);
    })
}

/// What the page asks to show a run.
const OF_A_RUN: [&str; 6] = [
    "/api/runs",
    "/api/run?run=a",
    "/api/series?run=a&points=20",
    "/api/series?run=a&from=15&to=19&points=20",
    "/api/maps?run=a&points=20",
    "/api/step?run=a&step=17",
];

/// A log that is shown on the page.
pub(crate) fn page() -> Target {
    let runs = Runs::new();
    runs.run("a", "");
    let log = [
        header_line(&["embedding.weight", "layers.0.weight_hh", "output.bias"]),
        log_of(17),
        resume_lines(17),
        ranks_line(17),
        log_of(20).split_inclusive('\n').skip(17).collect(),
        end_line(20, "finished"),
    ];
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let app = runs.app();
    let seeds = vec![log.concat().into_bytes()];
    Target::new("shears-dash", "page", seeds, move |input| {
        // It would be quoted, also after the next log of the same length.
        if contains(input, LIBRARY_WORD) {
            return;
        }
        fs::write(runs.path().join("a/events.jsonl"), input).unwrap();
        for path in OF_A_RUN {
            let request = parse(format!("GET {path}").as_bytes()).unwrap();
            runtime.block_on(answered(app.clone(), request, false));
        }
    })
}

/// In messages of libraries, which no answer may pass on.
const LIBRARY_WORD: &str = "deserialize";

/// Asks, and checks the answer, which may quote [`LIBRARY_WORD`] if the request has it.
async fn answered(app: Router, request: Request<Body>, may_quote: bool) {
    let is_live = request.uri().path() == "/api/live";
    let asked = app.oneshot(request);
    let answer = tokio::time::timeout(Duration::from_secs(20), asked).await;
    let answer = answer.expect("it hangs").unwrap();
    let failed = answer.status() == StatusCode::INTERNAL_SERVER_ERROR;
    assert!(answer.headers().contains_key("content-security-policy"));
    // The body of a live stream has no end.
    if !is_live {
        let body = to_bytes(answer.into_body(), MOST).await.unwrap();
        let says = |words| contains(&body, words);
        // A log that cannot be read, of a later format for example, is a problem in words; a panic
        // is none, or an interrupted answer.
        let in_words = says("\"problem\"") && !says("interrupted");
        assert!(!failed || in_words, "{}", body.escape_ascii());
        let is_own = may_quote || !says(LIBRARY_WORD);
        assert!(is_own, "{}", body.escape_ascii());
    }
}

fn contains(text: &[u8], words: &str) -> bool {
    let mut parts = text.windows(words.len());
    parts.any(|part| part == words.as_bytes())
}

#[test]
fn no_log_on_the_page_panics() {
    page().run();
}

#[test]
fn no_request_panics() {
    request().run();
}
