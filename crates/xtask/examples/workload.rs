//! What both examples train: one of the presets, on random tokens, timed as `shears bench` does.

use std::error::Error;
use std::time::Instant;

use gradclip_judge::statistics::{quantile, sorted};

/// The size of the vocabulary: that of Tiny Shakespeare's characters.
pub(crate) const VOCABULARY: usize = 65;

/// The same for all, since no step costs more or less with it.
pub(crate) const LEARNING_RATE: f64 = 1e-3;

/// Steps before the clock starts.
const WARMUP_STEPS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Rnn,
    Lstm,
    Gru,
    Transformer,
}

/// A preset's shape, with the batch and the number of steps of the command line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) cell: Cell,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Width of the embedding and of every layer.
    pub(crate) hidden: usize,
    pub(crate) batch: usize,
    pub(crate) window: usize,
    pub(crate) dropout: f64,
    steps: usize,
}

impl Workload {
    /// From `PRESET STEPS BATCH`; a batch of 0 is the preset's own.
    pub(crate) fn from_arguments() -> Result<Workload, Box<dyn Error>> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [preset, steps, batch] = arguments.as_slice() else {
            return Err("usage: PRESET STEPS BATCH".into());
        };
        let mut workload = Workload::of(preset)?;
        workload.steps = steps.parse::<usize>()?.max(1);
        match batch.parse()? {
            0 => {}
            batch => workload.batch = batch,
        }
        Ok(workload)
    }

    fn of(preset: &str) -> Result<Workload, String> {
        let recurrent = |cell, hidden| Workload {
            cell,
            layers: 2,
            heads: 1,
            hidden,
            batch: 50,
            window: 50,
            dropout: 0.0,
            steps: 1,
        };
        let transformer = Workload {
            layers: 4,
            heads: 4,
            batch: 12,
            window: 64,
            ..recurrent(Cell::Transformer, 128)
        };
        Ok(match preset {
            "rnn-128" => recurrent(Cell::Rnn, 128),
            "lstm-128" => recurrent(Cell::Lstm, 128),
            "gru-128" => recurrent(Cell::Gru, 128),
            "lstm-512" => recurrent(Cell::Lstm, 512),
            "gru-512" => recurrent(Cell::Gru, 512),
            "gpt-128" => transformer,
            "gpt-384" => Workload {
                layers: 6,
                heads: 6,
                hidden: 384,
                batch: 64,
                window: 256,
                dropout: 0.2,
                ..transformer
            },
            _ => return Err(format!("unknown preset `{preset}`")),
        })
    }

    /// Inputs and targets of one step, each `batch * window` tokens (Marsaglia's xorshift64).
    pub(crate) fn tokens(&self) -> (Vec<u32>, Vec<u32>) {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % VOCABULARY as u64) as u32
        };
        let mut both: Vec<u32> = std::iter::repeat_with(next)
            .take(2 * self.batch * self.window)
            .collect();
        let targets = both.split_off(self.batch * self.window);
        (both, targets)
    }

    /// Times training steps, and prints one line of JSON.
    pub(crate) fn measure<E: Error + 'static>(
        &self,
        mut step: impl FnMut() -> Result<(), E>,
    ) -> Result<(), Box<dyn Error>> {
        for _ in 0..WARMUP_STEPS {
            step()?;
        }
        let mut times = Vec::new();
        for _ in 0..self.steps {
            let started = Instant::now();
            step()?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let times = sorted(times);
        let median = quantile(&times, 0.5).unwrap_or(f64::NAN);
        let line = serde_json::json!({
            "part": "train",
            "ms_per_step": {
                "min": times[0],
                "median": median,
                "max": times[times.len() - 1],
            },
            "tokens_per_second": (self.batch * self.window) as f64 / (median / 1e3),
            "peak_rss_bytes": peak_rss_bytes(),
        });
        println!("{line}");
        Ok(())
    }
}

/// The largest resident size of this process until now, where the system tells (Linux).
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
