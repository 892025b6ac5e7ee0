//! Run folders as a trainer writes them.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use shears_dash::{Options, app};

/// A temporary folder of runs.
pub(crate) struct Runs {
    folder: tempfile::TempDir,
}

/// One run in it.
pub(crate) struct Run {
    pub(crate) path: PathBuf,
}

impl Runs {
    pub(crate) fn new() -> Runs {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("runs")).unwrap();
        Runs { folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("runs")
    }

    pub(crate) fn options(&self) -> Options {
        let preset = "lr = 0.002\nclip = \"global-norm:5\"\nbatch = 50\n";
        Options {
            folder: self.path(),
            host: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            presets: [("rnn-128".to_string(), preset.parse().unwrap())].into(),
            batch_text: Arc::new(|run: &Path, step| match step {
                1 => Ok(vec![format!(
                    "text of {}",
                    run.file_name().unwrap().display()
                )]),
                _ => Err("the text is gone".to_string()),
            }),
        }
    }

    pub(crate) fn app(&self) -> Router {
        app(self.options()).unwrap().router
    }

    /// Creates a run with a plan, a free lock, and this log.
    pub(crate) fn run(&self, name: &str, log: &str) -> Run {
        let path = self.path().join(name);
        fs::create_dir_all(&path).unwrap();
        let plan = "preset = \"rnn-128\"\ntokenizer = \"char\"\nlr = 2.0\nbatch = 50\nwindow = 50\n\
                    clip = \"global-norm:1\"\nsteps = 400\n";
        fs::write(path.join("plan.toml"), plan).unwrap();
        fs::write(path.join("events.jsonl"), log).unwrap();
        let run = Run { path };
        drop(run.lock());
        run
    }
}

impl Run {
    /// Takes the lock, like a trainer that started a while ago.
    pub(crate) fn lock(&self) -> File {
        let lock = File::create(self.path.join(".lock")).unwrap();
        // The server holds it for a moment while it checks whether somebody trains.
        while lock.try_lock().is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let earlier = SystemTime::now() - Duration::from_secs(60);
        lock.set_modified(earlier).unwrap();
        lock
    }

    pub(crate) fn append(&self, text: &str) {
        let log = self.path.join("events.jsonl");
        let mut log = OpenOptions::new().append(true).open(log).unwrap();
        log.write_all(text.as_bytes()).unwrap();
    }
}

/// The line of a step with a gradient of this norm, clipped at 1.
pub(crate) fn step_line(step: u64, norm: f64) -> String {
    let mut line = String::new();
    let (action, after) = if norm > 1.0 {
        ("clip", 1.0)
    } else {
        ("keep", norm)
    };
    let loss = 1.5 + 2.5 / (1.0 + step as f64 / 40.0) + (step as f64).sin() / 20.0;
    write!(
        line,
        "{{\"event\":\"step\",\"step\":{step},\"loss\":{loss},\"lr\":0.002,\"tokens_per_second\":40000.0,\
         \"clip\":{{\"action\":\"{action}\",\"norm_before\":{norm:?},\"norm_after\":{after:?},\
         \"coefficient\":{:?},\"threshold\":1.0,\"non_finite\":0,\"clipped_share\":0.0,\"cosine\":1.0,\
         \"tensors\":{{\"embedding.weight\":{:?},\"layers.0.weight_hh\":{:?},\"output.bias\":{:?}}}}}",
        after / norm, 0.3 * norm, 0.9 * norm, 0.1 * norm,
    )
    .unwrap();
    if step.is_multiple_of(10) {
        line.push_str(
            ",\"update_ratios\":{\"embedding.weight\":0.0011,\"layers.0.weight_hh\":0.004}",
        );
    }
    line.push_str("}\n");
    line
}

/// Steps up to `last`, with a spike of 9 at step 17, evaluations and samples.
pub(crate) fn log_of(last: u64) -> String {
    let mut log = String::new();
    for step in 1..=last {
        let norm = if step == 17 {
            9.0
        } else {
            0.6 + (step as f64 / 9.0).sin() / 4.0
        };
        log.push_str(&step_line(step, norm));
        if step.is_multiple_of(50) {
            let loss = 1.6 + 2.0 / (1.0 + step as f64 / 40.0);
            writeln!(
                log,
                "{{\"event\":\"evaluation\",\"step\":{step},\"val_loss\":{loss},\"bits_per_char\":{},\"perplexity\":{}}}",
                loss / std::f64::consts::LN_2, loss.exp()
            )
            .unwrap();
            writeln!(
                log,
                "{{\"event\":\"sample\",\"step\":{step},\"text\":\"thou <b>art</b> {step}\"}}"
            )
            .unwrap();
        }
    }
    log
}

/// The header of a log with these parameters.
pub(crate) fn header_line(names: &[&str]) -> String {
    let parameters: Vec<String> = names
        .iter()
        .map(|name| format!("{{\"name\":\"{name}\",\"layer\":\"{name}\",\"shape\":[2,3]}}"))
        .collect();
    format!(
        "{{\"event\":\"header\",\"format\":2,\"parameters\":[{}],\"device\":\"cpu\",\
         \"precision\":\"f32\"}}\n",
        parameters.join(",")
    )
}

/// The lines of a run that is resumed at a step with another learning rate.
pub(crate) fn resume_lines(step: u64) -> String {
    format!(
        "{{\"event\":\"resume\",\"step\":{step},\"time\":1764356711,\"version\":\"0.1.0\",\
         \"checkpoint\":\"step-{step:08}\"}}\n\
         {{\"event\":\"change\",\"step\":{step},\"name\":\"lr\",\"before\":\"0.002\",\"after\":\"0.001\"}}\n"
    )
}

/// The line of a run that two processes train from a step on.
pub(crate) fn ranks_line(step: u64) -> String {
    format!(
        "{{\"event\":\"ranks\",\"step\":{step},\"hosts\":[\"a\",\"b\"],\"threads\":1,\
         \"same_bits\":true}}\n"
    )
}

/// The line of an end.
pub(crate) fn end_line(step: u64, how: &str) -> String {
    format!("{{\"event\":\"end\",\"step\":{step},\"how\":\"{how}\"}}\n")
}
