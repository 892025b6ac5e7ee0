//! Requests of the page, and requests from elsewhere.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response, StatusCode, header};
use serde_json::Value;
use shears_dash::{Options, app};
use tower::ServiceExt;

use crate::asking::send;
use crate::run_folder::{Runs, end_line, header_line, log_of, ranks_line, resume_lines, step_line};

async fn body(response: Response<Body>) -> Vec<u8> {
    to_bytes(response.into_body(), usize::MAX)
        .await
        .unwrap()
        .to_vec()
}

async fn ask(app: &Router, path: &str) -> (StatusCode, Value) {
    let response = send(app, Method::GET, "127.0.0.1:7878", path).await;
    let status = response.status();
    (
        status,
        serde_json::from_slice(&body(response).await).unwrap(),
    )
}

async fn get(app: &Router, path: &str) -> Value {
    let (status, answer) = ask(app, path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    answer
}

/// Asks until the background thread has read the logs.
async fn digested(app: &Router) -> Value {
    for _ in 0..200 {
        let list = get(app, "/api/runs").await;
        let rows = list["runs"].as_array().unwrap();
        if rows.iter().all(|row| row["digested"] == true) {
            return list;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the logs were not read");
}

fn row<'a>(list: &'a Value, name: &str) -> &'a Value {
    let rows = list["runs"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap()
}

#[tokio::test]
async fn the_list_has_the_state_of_each_run() {
    let runs = Runs::new();
    let log = log_of(100);
    let running = runs.run("running", &log);
    let _lock = running.lock();
    runs.run("nested/killed", &log);
    for how in [
        "finished",
        "out-of-patience",
        "stopped",
        "diverged",
        "failed",
    ] {
        runs.run(how, &(log.clone() + &end_line(100, how)));
    }
    let app = runs.app();
    let list = digested(&app).await;
    for (name, state) in [
        ("running", "running"),
        ("nested/killed", "killed"),
        ("finished", "finished"),
        ("out-of-patience", "finished"),
        ("stopped", "stopped"),
        ("diverged", "diverged"),
        ("failed", "failed"),
    ] {
        assert_eq!(row(&list, name)["state"], state, "{name}");
    }
    let row = row(&list, "finished");
    assert_eq!((&row["step"], &row["steps"]), (&100.into(), &400.into()));
    assert_eq!(row["clipped_share"], 0.01);
    assert_eq!(row["class"], "trims-spikes");
    assert_eq!(row["clip"], "global-norm:1");
    assert!(row["norms"].as_array().unwrap().len() > 20);
    assert_eq!(row["thresholds"][0], 1.0);
    assert_eq!(row["best"]["step"], 100);
    // From its steps, and not from the edited plan.
    assert_eq!(row["lr"], 0.002);
    assert!((row["val_loss"].as_f64().unwrap() - 2.171).abs() < 1e-3);
}

/// The threshold of `value` is one of elements, and no line beside the norm.
#[tokio::test]
async fn thresholds_of_elements_are_not_shown_beside_the_norm() {
    let runs = Runs::new();
    let run = runs.run("a", &(log_of(60) + &end_line(60, "finished")));
    let threshold = async || {
        let series = get(&runs.app(), "/api/series?run=a").await;
        let row = row(&digested(&runs.app()).await, "a").clone();
        [series["threshold"][0].clone(), row["thresholds"][0].clone()]
    };
    assert_eq!(threshold().await, [1.0, 1.0]);
    let plan = std::fs::read_to_string(run.path.join("plan.toml")).unwrap();
    let plan = plan.replace("global-norm:1", "value:1");
    std::fs::write(run.path.join("plan.toml"), plan).unwrap();
    assert!(threshold().await.iter().all(|shown| shown.is_null()));
}

#[tokio::test]
async fn a_run_lists_its_resumes_and_changes() {
    let runs = Runs::new();
    runs.run("a", &(log_of(60) + &resume_lines(60) + &step_line(61, 0.5)));
    let about = get(&runs.app(), "/api/run?run=a").await;
    let [resumes, changes] = ["resumes", "changes"].map(|key| about[key].as_array().unwrap());
    assert_eq!((resumes.len(), changes.len()), (1, 1));
    assert_eq!(
        (&resumes[0]["step"], &resumes[0]["checkpoint"]),
        (&60.into(), &"step-00000060".into())
    );
    assert_eq!(
        (&changes[0]["name"], &changes[0]["after"]),
        (&"lr".into(), &"0.001".into())
    );
}

#[tokio::test]
async fn the_list_has_the_rate_since_it_was_changed() {
    let runs = Runs::new();
    let lower = step_line(61, 0.5).replace("\"lr\":0.002", "\"lr\":0.001");
    runs.run("changed", &(log_of(60) + &resume_lines(60) + &lower));
    runs.run("not-yet", &(log_of(60) + &resume_lines(60)));
    let policy = "{\"event\":\"change\",\"step\":60,\"name\":\"clip\",\"before\":\"none\",\
                  \"after\":\"global-norm:1\"}\n";
    runs.run("other", &(log_of(60) + policy + &step_line(61, 0.5)));
    let list = digested(&runs.app()).await;
    assert_eq!(row(&list, "changed")["lr"], 0.001);
    assert_eq!(row(&list, "other")["since"], 61);
    assert!(row(&list, "not-yet")["lr"].is_null());
    assert!(
        row(&list, "changed")["since"].is_null(),
        "its policy is the same"
    );
}

#[tokio::test]
async fn a_run_of_several_processes_describes_them() {
    let runs = Runs::new();
    let exchange = |step: u64| {
        let line = step_line(step, 0.5);
        let exchange = format!(
            ",\"exchange\":{{\"bytes\":4000,\"ms\":{step},\"waited_ms\":0.5,\"slowest\":1}}}}\n"
        );
        line.trim_end().strip_suffix('}').unwrap().to_string() + &exchange
    };
    let steps: String = (1..=40).map(exchange).collect();
    runs.run("together", &(ranks_line(0) + &steps));
    runs.run("alone", &log_of(40));
    let app = runs.app();
    let about = get(&app, "/api/run?run=together").await;
    let words = "2 ranks on 2 machines (a, b), 1 thread each";
    assert_eq!(about["ranks"][0]["words"], words);
    assert_eq!(about["ranks"][0]["hosts"], serde_json::json!(["a", "b"]));
    let exchanged = about["exchanged"].as_str().unwrap();
    assert!(
        exchanged.contains("exchanged 4.0 kB of gradients a step in 20.5 ms"),
        "{exchanged}"
    );
    let series = get(&app, "/api/series?run=together&points=20").await;
    assert_eq!(
        (&series["exchange_ms"][0], &series["waited_ms"][19]),
        (&1.5.into(), &0.5.into())
    );
    let alone = get(&app, "/api/run?run=alone").await;
    assert_eq!(
        (&alone["ranks"], &alone["exchanged"]),
        (&serde_json::json!([]), &Value::Null)
    );
    assert_eq!(
        get(&app, "/api/series?run=alone").await["exchange_ms"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn a_run_has_settings_verdict_and_samples() {
    let runs = Runs::new();
    let run = runs.run("a", &(log_of(100) + &end_line(100, "finished")));
    let checkpoint = run.path.join("checkpoints/step-00000100");
    fs::create_dir_all(&checkpoint).unwrap();
    fs::write(
        checkpoint.join("state.json"),
        "{\"progress\":{\"step\":100,\"val_loss\":1.9}}",
    )
    .unwrap();
    let app = runs.app();
    assert_eq!(
        get(&app, "/api/run?run=a").await["checkpoints"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    fs::write(checkpoint.join("manifest.json"), "{}").unwrap();
    let about = get(&app, "/api/run?run=a").await;
    assert_eq!(about["checkpoints"][0]["val_loss"], 1.9);
    assert_eq!(about["checkpoints"][0]["best"], true);
    assert!(
        about["judgement"]["verdict"]["numbers"]
            .as_str()
            .unwrap()
            .contains("1 of 100 steps clipped")
    );
    let next = |about: &Value| about["judgement"]["verdict"]["next"].clone();
    assert!(next(&about).as_str().unwrap().contains(" train --config "));
    // A run that is training has nothing to try yet; a killed one is to be resumed.
    let running = runs.run("running", &log_of(100));
    let lock = running.lock();
    assert!(next(&get(&app, "/api/run?run=running").await).is_null());
    drop(lock);
    runs.run("killed", &log_of(100));
    let killed = next(&get(&app, "/api/run?run=killed").await);
    assert!(
        killed.as_str().unwrap().contains(" train --resume "),
        "{killed}"
    );
    assert_eq!(about["samples"][1]["text"], "thou <b>art</b> 100");
    assert_eq!(about["resumes"].as_array().map(Vec::len), Some(0));
    let settings = about["settings"].as_array().unwrap();
    let lr = settings
        .iter()
        .find(|setting| setting["name"] == "lr")
        .unwrap();
    assert_eq!(
        (lr["value"].as_str(), lr["preset"].as_str()),
        (Some("2.0"), Some("0.002"))
    );
    let batch = settings
        .iter()
        .find(|setting| setting["name"] == "batch")
        .unwrap();
    assert!(batch["preset"].is_null());
}

#[tokio::test]
async fn series_and_maps_keep_the_spike() {
    let runs = Runs::new();
    runs.run("a", &log_of(400));
    let app = runs.app();
    let series = get(&app, "/api/series?run=a&points=20").await;
    assert_eq!(series["reach"]["complete"], true);
    assert_eq!(series["bucket"], 32);
    assert_eq!(series["norm"]["max"][0], 9.0);
    assert_eq!(series["norm_peak"][0], 17);
    let spikes = series["spikes"].as_array().unwrap();
    assert_eq!((spikes.len(), &spikes[0]["step"]), (1, &17.into()));
    assert!(spikes[0]["times"].as_f64().unwrap() > 3.0);
    assert_eq!(
        (&series["cut"]["top"][0], &series["cut"]["bottom"][0]),
        (&9.0.into(), &1.0.into())
    );
    assert_eq!(series["evaluations"].as_array().unwrap().len(), 8);
    let near = get(&app, "/api/series?run=a&from=15&to=19").await;
    assert_eq!(near["step"], serde_json::json!([15, 16, 17, 18, 19]));
    assert_eq!(near["spikes"], series["spikes"], "at every zoom");
    let maps = get(&app, "/api/maps?run=a&points=20").await;
    assert_eq!(maps["ordered"], false, "this log has no header");
    assert_eq!(maps["norms"]["names"][1], "layers.0.weight_hh");
    assert_eq!(maps["norms"]["values"][1][0], 8.1);
    assert!(maps["norms"]["median"][1].as_f64().unwrap() < 1.0);
    assert_eq!(
        maps["ratios"]["step"].as_array().unwrap().last().unwrap(),
        400
    );
    let empty = get(&app, "/api/series?run=a&from=900&to=901").await;
    assert_eq!(empty["rows"], 0);
}

/// Names in a line are in alphabetical order.
#[tokio::test]
async fn maps_have_the_tensors_in_the_order_of_the_header() {
    let runs = Runs::new();
    let names = ["output.bias", "layers.0.weight_hh", "embedding.weight"];
    runs.run("a", &(header_line(&names) + &log_of(20)));
    let later = "{\"event\":\"header\",\"format\":9}\n";
    runs.run("later", &(later.to_string() + &log_of(20)));
    let app = runs.app();
    let maps = get(&app, "/api/maps?run=a").await;
    assert_eq!(maps["norms"]["names"], serde_json::json!(names));
    assert_eq!(maps["ratios"]["names"], serde_json::json!(names));
    assert_eq!(maps["ordered"], true);
    assert_eq!(maps["norms"]["values"][1][16], 8.1);
    let (status, answer) = ask(&app, "/api/series?run=later").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer["problem"].as_str().unwrap().contains("format is 9"));
}

/// Two runs that differ from a step on, and one that is shorter.
#[tokio::test]
async fn runs_are_equal_until_they_differ() {
    let runs = Runs::new();
    let log = log_of(40);
    runs.run("a", &log);
    runs.run(
        "b",
        &log.replacen("\"norm_before\":9.0", "\"norm_before\":9.5", 1),
    );
    runs.run("short", &log_of(12));
    let app = runs.app();
    for (names, until, whole) in [("a%0Ab", 16, false), ("a%0Ashort%0Ab", 12, true)] {
        let equal = get(&app, &format!("/api/equal?run={names}")).await;
        assert_eq!(
            (&equal["until"], &equal["whole"]),
            (&until.into(), &whole.into())
        );
    }
    let (status, _) = ask(&app, "/api/equal?run=a%0Anone").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_step_has_everything_in_its_line() {
    let runs = Runs::new();
    runs.run("a", &log_of(60));
    let app = runs.app();
    let step = get(&app, "/api/step?run=a&step=17").await;
    assert_eq!(step["event"]["clip"]["norm_before"], 9.0);
    assert_eq!(step["event"]["clip"]["action"], "clip");
    assert_eq!(step["tensors"][0]["name"], "layers.0.weight_hh");
    assert!(step["tensors"][0]["median"].as_f64().unwrap() < 1.0);
    assert_eq!(step["tensors"][0]["far"], true);
    assert!(step["times"].as_f64().unwrap() > 3.0);
    assert_eq!(step["ordinary"], 16);
    assert_eq!((&step["previous"], &step["next"]), (&16.into(), &18.into()));
    assert!(step["next_acted"].is_null());
    assert_eq!(
        get(&app, "/api/step?run=a&step=20").await["previous_acted"],
        17
    );
    assert_eq!(
        ask(&app, "/api/step?run=a&step=61").await.0,
        StatusCode::NOT_FOUND
    );

    let batch = get(&app, "/api/batch?run=a&step=1").await;
    assert_eq!(batch["rows"][0], "text of a");
    let gone = get(&app, "/api/batch?run=a&step=2").await;
    assert_eq!(gone["problem"], "the text is gone");
}

#[tokio::test]
async fn non_finite_values_are_null() {
    let runs = Runs::new();
    let skipped = "{\"event\":\"step\",\"step\":2,\"loss\":null,\"lr\":1e30,\"tokens_per_second\":9.0,\"clip\":\
        {\"action\":\"skip\",\"norm_before\":null,\"norm_after\":0.0,\"coefficient\":0.0,\"threshold\":null,\
        \"skip_reason\":\"non-finite gradients\",\"non_finite\":3,\"first_non_finite\":\"a\",\
        \"clipped_share\":0.0,\"cosine\":1.0,\"tensors\":{}}}\n";
    runs.run("a", &(step_line(1, 0.5) + skipped));
    let app = runs.app();
    let series = get(&app, "/api/series?run=a").await;
    assert_eq!(series["norm"]["mean"], serde_json::json!([0.5, null]));
    assert_eq!(series["skipped"], serde_json::json!([0, 1]));
    let step = get(&app, "/api/step?run=a&step=2").await;
    assert_eq!(step["event"]["clip"]["first_non_finite"], "a");
    assert_eq!(step["tensors"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_broken_line_is_named_and_a_half_written_one_is_not() {
    let runs = Runs::new();
    let half = "{\"event\":\"step\",\"step\":9,\"lo";
    runs.run("half", &(log_of(5) + half));
    runs.run("broken", &(log_of(5) + half + "\n" + &step_line(6, 0.5)));
    let plan = runs.run("plan", &log_of(5));
    fs::write(plan.path.join("plan.toml"), "lr = = 2").unwrap();
    let unreadable = runs.run("unreadable", "");
    fs::remove_file(unreadable.path.join("events.jsonl")).unwrap();
    fs::create_dir(unreadable.path.join("events.jsonl")).unwrap();
    let app = runs.app();
    let list = digested(&app).await;
    let reason = &row(&list, "unreadable")["damage"]["reason"];
    assert!(
        reason.as_str().unwrap().contains("cannot be read"),
        "{reason}"
    );
    assert!(row(&list, "half")["damage"].is_null());
    assert_eq!(row(&list, "broken")["damage"]["line"], 6);
    assert_eq!(row(&list, "broken")["step"], 6, "later lines are read");
    let reason = row(&list, "plan")["damage"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("plan.toml:"), "{reason}");
    let about = get(&app, "/api/run?run=broken").await;
    assert!(
        about["damage"]["reason"]
            .as_str()
            .unwrap()
            .contains("is cut off")
    );
}

#[tokio::test]
async fn no_path_leads_out_of_the_folder() {
    let runs = Runs::new();
    runs.run("a", &log_of(5));
    runs.run("../outside", &log_of(5));
    let app = runs.app();
    for name in [
        "..%2Foutside",
        "a%2F..%2F..%2Foutside",
        "%2Fetc",
        "a%2F",
        ".%2Fa",
        "b",
        "",
        "a%00",
    ] {
        for path in [
            "run?run=",
            "series?run=",
            "maps?run=",
            "step?step=1&run=",
            "batch?step=1&run=",
        ] {
            let (status, _) = ask(&app, &format!("/api/{path}{name}")).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}{name}");
        }
    }
    for path in [
        "/assets/../Cargo.toml",
        "/assets/%2e%2e/x",
        "/runs/a/plan.toml",
        "/etc/passwd",
    ] {
        let response = send(&app, Method::GET, "localhost", path).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn only_reading_requests_from_this_machine_are_answered() {
    let runs = Runs::new();
    runs.run("a", &log_of(5));
    let app = runs.app();
    for method in [
        "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW",
    ] {
        for path in ["/", "/api/runs", "/api/run?run=a", "/nothing"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let response = send(&app, method, "localhost", path).await;
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            assert_eq!(response.headers()[header::ALLOW], "GET, HEAD");
        }
    }
    let head = send(&app, Method::HEAD, "localhost:7878", "/api/runs").await;
    assert_eq!(head.status(), StatusCode::OK);
    assert!(body(head).await.is_empty());
    for host in ["evil.example", "127.0.0.1.evil.example", "192.168.1.2:7878"] {
        for path in ["/", "/api/runs", "/api/live"] {
            let response = send(&app, Method::GET, host, path).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{host}");
        }
    }
    let without = Request::builder()
        .uri("/api/runs")
        .body(Body::empty())
        .unwrap();
    let response = app.clone().oneshot(without).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_panic_while_files_are_read_is_an_error_of_one_request() {
    let runs = Runs::new();
    runs.run("a", &log_of(5));
    let options = Options {
        batch_text: Arc::new(|_, _| panic!("on purpose")),
        ..runs.options()
    };
    let app = app(options).unwrap().router;
    for _ in 0..3 {
        let (status, answer) = ask(&app, "/api/batch?run=a&step=1").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer["problem"], "the answer was interrupted");
        get(&app, "/api/run?run=a").await;
    }
}

#[tokio::test]
async fn reports_are_listed_and_served_alone() {
    let runs = Runs::new();
    runs.run("sweep/runs/a", &log_of(5));
    let folder = runs.path().join("sweep");
    fs::write(folder.join("report.html"), "<style></style>the report").unwrap();
    let app = runs.app();
    assert_eq!(
        get(&app, "/api/runs").await["reports"],
        serde_json::json!([])
    );
    fs::write(folder.join("report.json"), "{}").unwrap();
    let list = get(&app, "/api/runs").await;
    assert_eq!(list["reports"], serde_json::json!(["sweep"]));
    assert_eq!(list["runs"][0]["name"], "sweep/runs/a");
    let report = send(&app, Method::GET, "localhost", "/report?of=sweep").await;
    let policy = report.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    assert!(
        policy.contains("sandbox") && !policy.contains("script"),
        "{policy}"
    );
    assert!(body(report).await.ends_with(b"the report"));
    for other in [
        "",
        ".",
        "..",
        "sweep/runs",
        "sweep/runs/a",
        "sweep/",
        "../runs/sweep",
        "/etc",
    ] {
        let (status, _) = ask(&app, &format!("/report?of={other}")).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{other}");
    }
    assert_eq!(
        send(&app, Method::GET, "evil.example", "/report?of=sweep")
            .await
            .status(),
        StatusCode::FORBIDDEN
    );
}

/// A request with these headers.
async fn with_headers(app: &Router, path: &str, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

#[tokio::test]
async fn other_pages_are_not_answered() {
    let app = Runs::new().app();
    let host = ("host", "localhost:7878");
    for other in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let response = with_headers(&app, "/api/runs", &[host, other]).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{other:?}");
    }
    let own = [
        host,
        ("origin", "http://localhost:7878"),
        ("sec-fetch-site", "same-origin"),
    ];
    let response = with_headers(&app, "/api/runs", &own).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_the_browser_has_cached_is_not_sent_again() {
    let runs = Runs::new();
    let run = runs.run("a", &(log_of(20) + &end_line(20, "finished")));
    let app = runs.app();
    digested(&app).await;
    let host = ("host", "localhost");
    for path in ["/", "/assets/uplot.js", "/api/series?run=a"] {
        let first = with_headers(&app, path, &[host]).await;
        assert_eq!(first.headers()[header::CACHE_CONTROL], "private, no-cache");
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_string();
        let again = with_headers(&app, path, &[host, ("if-none-match", &tag)]).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
        assert_eq!(again.headers()[header::ETAG], tag);
        assert!(body(again).await.is_empty());
        run.append(&step_line(21, 0.5));
        let later = with_headers(&app, path, &[host, ("if-none-match", &tag)]).await;
        let changed = path.starts_with("/api/");
        assert_eq!(later.status() == StatusCode::OK, changed, "{path}");
    }
}

#[tokio::test]
async fn other_machines_need_the_token() {
    let runs = Runs::new();
    runs.run("a", &log_of(5));
    let mut options = runs.options();
    options.host = Ipv4Addr::UNSPECIFIED.into();
    let app = shears_dash::app(options).unwrap();
    let token = app.token.unwrap();
    let app = app.router;
    let host = ("host", "192.168.1.2:7878");
    for path in ["/", "/api/runs", "/?token=", "/?token=0123", "/api/live"] {
        let response = with_headers(&app, path, &[host]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    let entrance = with_headers(&app, &format!("/?token={token}"), &[host]).await;
    assert_eq!(entrance.status(), StatusCode::SEE_OTHER);
    assert_eq!(entrance.headers()[header::LOCATION], "/");
    let cookie = entrance.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let inside = with_headers(&app, "/api/runs", &[host, ("cookie", cookie)]).await;
    assert_eq!(inside.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_page_comes_with_its_policy() {
    let app = Runs::new().app();
    for (path, kind) in [
        ("/", "text/html"),
        ("/assets/main.js", "text/javascript"),
        ("/assets/style.css", "text/css"),
        ("/assets/uplot.js", "text/javascript"),
        ("/assets/icon.svg", "image/svg+xml"),
    ] {
        let response = send(&app, Method::GET, "localhost", path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let headers = response.headers().clone();
        assert!(
            headers[header::CONTENT_TYPE]
                .to_str()
                .unwrap()
                .starts_with(kind),
            "{path}"
        );
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"));
        assert!(!body(response).await.is_empty());
    }
    let list = get(&app, "/api/runs").await;
    assert_eq!(list["runs"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_thousand_runs_are_listed_at_once() {
    let runs = Runs::new();
    let log = log_of(200) + &end_line(200, "finished");
    for run in 0..1000 {
        runs.run(&format!("sweep/run-{run:04}"), &log);
    }
    let app = runs.app();
    let mut times = Vec::new();
    for _ in 0..2 {
        let started = Instant::now();
        let list = get(&app, "/api/runs").await;
        assert_eq!(list["runs"].as_array().unwrap().len(), 1000);
        assert_eq!(row(&list, "sweep/run-0999")["state"], "finished");
        times.push(started.elapsed());
    }
    println!(
        "a thousand runs: {:?} at first, then {:?}",
        times[0], times[1]
    );
    // Many times what it takes, because the machine may be busy.
    assert!(times[0].as_secs_f64() < 5.0, "{times:?}");
}
