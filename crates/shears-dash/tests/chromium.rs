//! A headless Chromium, driven over its DevTools protocol.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// The limit for every wait; a machine that runs all tests at once is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page.
pub(crate) struct Chromium {
    process: Child,
    socket: WebSocket<TcpStream>,
    calls: u64,
    /// The errors in the page's console.
    pub(crate) errors: Vec<String>,
    _profile: tempfile::TempDir,
}

/// The path of this machine's browser, if it has one.
fn find() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let known = ["chromium", "chromium-browser", "google-chrome"];
    let installed = known
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    named
        .into_iter()
        .chain(installed)
        .find(|path| path.is_file())
}

impl Chromium {
    /// Starts the browser of this machine; if there is none, says that the test is skipped.
    pub(crate) fn start() -> Option<Chromium> {
        let Some(program) = find() else {
            println!("skipped: this machine has no Chromium");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let process = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--window-size=1440,900",
            ])
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let port = wait("the browser's port", || {
            let text = fs::read_to_string(profile.path().join("DevToolsActivePort")).ok()?;
            text.lines().next()?.parse::<u16>().ok()
        });
        let address = wait("the browser's page", || page_address(port));
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(address, stream).unwrap();
        let mut chromium = Chromium {
            process,
            socket,
            calls: 0,
            errors: Vec::new(),
            _profile: profile,
        };
        for domain in ["Page", "Runtime", "Log"] {
            chromium.call(&format!("{domain}.enable"), json!({}));
        }
        Some(chromium)
    }

    /// Calls a method of the protocol, and records errors of the page meanwhile.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let call = json!({ "id": self.calls, "method": method, "params": parameters });
        self.socket.send(Message::text(call.to_string())).unwrap();
        loop {
            let message = self.socket.read().unwrap();
            let Ok(text) = message.to_text() else {
                continue;
            };
            let Ok(mut message) = serde_json::from_str::<Value>(text) else {
                continue;
            };
            if message["id"] == self.calls {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.record_error(&message);
        }
    }

    fn record_error(&mut self, message: &Value) {
        let parameters = &message["params"];
        let is_error = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => parameters["type"] == "error",
            Some("Log.entryAdded") => parameters["entry"]["level"] == "error",
            _ => false,
        };
        if is_error {
            self.errors.push(parameters.to_string());
        }
    }

    pub(crate) fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({ "url": address }));
    }

    /// The value of an expression on the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let parameters =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", parameters);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub(crate) fn until(&mut self, expression: &str) {
        let started = Instant::now();
        while self.value(expression) != true {
            if started.elapsed() > PATIENCE {
                let page = self.value("document.body.innerText.slice(0, 800)");
                panic!(
                    "never true: {expression}; console: {:?}; page: {page}",
                    self.errors
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Opens a run that is training, and waits until a point arrives.
    pub(crate) fn see_a_point_arrive(&mut self, run: &str) {
        let last = "Number(document.getElementById('page').dataset.last)";
        self.value(&format!("location.hash = '#/run/{run}'"));
        self.until(&format!("{last} > 0"));
        let before = self.value(last).as_f64().unwrap();
        self.until(&format!("{last} > {before}"));
        self.value("document.querySelector('details.more').open = true");
        self.until("document.querySelectorAll('.chart .uplot canvas').length >= 6");
    }

    /// Makes the loss on a run's page logarithmic, with the keyboard.
    pub(crate) fn switch_to_log_scale(&mut self) {
        let scale = "document.querySelector('[data-chart=loss]').dataset.scale";
        self.until(&format!("{scale} === 'linear'"));
        self.press("l");
        self.until(&format!("{scale} === 'log'"));
    }

    /// Compares two runs.
    pub(crate) fn compare(&mut self, run: &str, other: &str) {
        self.value(&format!("location.hash = '#/compare/{run}/{other}'"));
        self.until("document.getElementById('page').dataset.overlaid === '2'");
        self.until("document.querySelectorAll('.differences tr.result').length === 3");
    }

    /// Waits until the list shows a run in a state.
    pub(crate) fn see_state(&mut self, run: &str, state: &str) {
        self.until(&format!(
            "document.querySelector('tr[data-run=\"{run}\"] .badge.{state}') !== null"
        ));
    }

    /// Presses a key that produces a character.
    pub(crate) fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { key } else { "" };
            self.call(
                "Input.dispatchKeyEvent",
                json!({ "type": kind, "key": key, "text": text }),
            );
        }
    }

    /// Presses the mouse at one place and releases it at another.
    pub(crate) fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.hover(from);
        self.mouse("mousePressed", from, 1);
        self.mouse("mouseMoved", to, 1);
        self.mouse("mouseReleased", to, 1);
    }

    /// Moves the mouse to a place.
    pub(crate) fn hover(&mut self, at: (f64, f64)) {
        self.mouse("mouseMoved", at, 0);
    }

    fn mouse(&mut self, kind: &str, (x, y): (f64, f64), pressed: u8) {
        let button = if pressed == 0 { "none" } else { "left" };
        let place = json!({ "type": kind, "x": x, "y": y, "button": button, "buttons": pressed, "clickCount": pressed });
        self.call("Input.dispatchMouseEvent", place);
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what} never came");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The WebSocket of the browser's only page.
fn page_address(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request =
        format!("GET /json/list HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut answer = Vec::new();
    // The browser may keep the connection open; what arrives before the timeout is enough.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).ok()?;
    let targets: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    let pages = targets.as_array()?.iter();
    let page = pages.clone().find(|target| target["type"] == "page")?;
    page["webSocketDebuggerUrl"].as_str().map(str::to_string)
}
