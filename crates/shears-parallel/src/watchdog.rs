//! Notices when there is no progress any more.
//!
//! A rank that waits for a stopped process, or across a cut cable, waits for ever: no MPI library
//! reports that. So every rank watches itself.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What a rank is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everything before the first step. Work that takes longer than [`Timeouts::first`], such as
    /// reading a text, reports progress meanwhile ([`crate::on_first_rank`]).
    Start,
    /// Forward and backward passes.
    Compute,
    /// Waiting for the other ranks, or summing gradients.
    Exchange,
    /// Clipping and the optimizer.
    Update,
    /// Reading the validation text.
    Evaluate,
    /// Writing a checkpoint or a sample, or waiting for the rank that does.
    Save,
    /// Waiting for the others at the end.
    End,
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Phase::Start => "start",
            Phase::Compute => "forward and backward",
            Phase::Exchange => "exchange",
            Phase::Update => "update",
            Phase::Evaluate => "evaluation",
            Phase::Save => "save",
            Phase::End => "end",
        })
    }
}

/// How long a rank may stay in one phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the end of its first step, and outside of steps.
    pub first: Duration,
    /// Within later steps; longer if steps are slow ([`STEPS`] medians).
    pub later: Duration,
}

/// A rank hangs if a phase takes as long as this many steps.
pub const STEPS: u32 = 20;

/// The number of recent steps whose median counts.
const REMEMBERED: usize = 101;

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            first: Duration::from_secs(300),
            later: Duration::from_secs(60),
        }
    }
}

impl Timeouts {
    /// The same timeout for all phases, from text in seconds: for tests.
    pub fn parse(seconds: &str) -> Option<Timeouts> {
        let seconds = seconds
            .parse()
            .ok()
            .filter(|seconds: &f64| *seconds > 0.0)?;
        let all = Duration::try_from_secs_f64(seconds).ok()?;
        Some(Timeouts {
            first: all,
            later: all,
        })
    }
}

/// Tells the watchdog of this rank that it is alive. Copies share one watchdog.
#[derive(Clone, Debug)]
pub struct Heartbeat(Arc<Mutex<Life>>);

#[derive(Debug)]
struct Life {
    step: u64,
    phase: Phase,
    /// How long it has been in this phase.
    waited: Duration,
    /// When the step began.
    began: Option<Instant>,
    /// The durations of recent steps.
    steps: VecDeque<Duration>,
    timeouts: Timeouts,
}

impl Heartbeat {
    /// Starts a watchdog. If a phase takes too long, it calls `end` with a message; `end` must end
    /// the process without waiting for anything, so without an exchange.
    ///
    /// # Errors
    ///
    /// If the system refuses a thread.
    pub fn start(
        timeouts: Timeouts,
        end: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Heartbeat> {
        let life = Life {
            step: 0,
            phase: Phase::Start,
            waited: Duration::ZERO,
            began: None,
            steps: VecDeque::new(),
            timeouts,
        };
        let heartbeat = Heartbeat(Arc::new(Mutex::new(life)));
        let watched = Arc::downgrade(&heartbeat.0);
        let tick = Duration::from_millis(100);
        thread::Builder::new().spawn(move || {
            loop {
                thread::sleep(tick);
                let Some(life) = watched.upgrade() else {
                    return;
                };
                // Count one tick, however long the sleep was, so that no time passes while the job
                // or the machine is suspended.
                if let Some(problem) = locked(&life).grow_older(tick) {
                    return end(problem);
                }
            }
        })?;
        Ok(heartbeat)
    }

    /// Reports that the rank enters a phase of step number `step`.
    pub fn beat(&self, step: u64, phase: Phase) {
        locked(&self.0).begin(step, phase, Instant::now());
    }
}

fn locked(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    // A panic cannot leave it inconsistent.
    life.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Life {
    fn begin(&mut self, step: u64, phase: Phase, now: Instant) {
        if phase == Phase::Compute && step != self.step {
            let before = self.began.replace(now);
            self.steps.extend(before.map(|before| now - before));
            if self.steps.len() > REMEMBERED {
                self.steps.pop_front();
            }
        }
        self.step = step;
        self.phase = phase;
        self.waited = Duration::ZERO;
    }

    /// The timeout of the current phase.
    fn limit(&self) -> Duration {
        let mut steps: Vec<Duration> = self.steps.iter().copied().collect();
        steps.sort_unstable();
        let of_steps = steps.get(steps.len() / 2).map(|median| *median * STEPS);
        let in_step = matches!(self.phase, Phase::Compute | Phase::Exchange | Phase::Update);
        let least = match in_step && !steps.is_empty() {
            true => self.timeouts.later,
            false => self.timeouts.first,
        };
        least.max(of_steps.unwrap_or_default())
    }

    fn grow_older(&mut self, tick: Duration) -> Option<String> {
        self.waited += tick;
        let limit = self.limit();
        (self.waited > limit).then(|| {
            format!(
                "no progress for {:.0} s, in step {} ({}); another rank, the network or this \
                 machine hangs",
                limit.as_secs_f64(),
                self.step,
                self.phase
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> Life {
        Life {
            step: 0,
            phase: Phase::Start,
            waited: Duration::ZERO,
            began: None,
            steps: VecDeque::new(),
            timeouts: Timeouts::default(),
        }
    }

    #[test]
    fn timeouts_grow_with_the_steps() {
        let second = Duration::from_secs(1);
        let (mut life, start) = (life(), Instant::now());
        assert_eq!(life.limit(), 300 * second);
        life.begin(1, Phase::Compute, start);
        assert_eq!(life.limit(), 300 * second);
        for step in 2..10 {
            life.begin(step, Phase::Compute, start + second * (step as u32 - 1));
        }
        assert_eq!(life.limit(), 60 * second);
        life.begin(9, Phase::Save, start);
        assert_eq!(life.limit(), 300 * second);
        for step in 10..30 {
            life.begin(step, Phase::Compute, start + second * 10 * step as u32);
        }
        assert_eq!(life.limit(), 200 * second);
        // One long step, such as one with an evaluation, does not move the median.
        life.begin(30, Phase::Compute, start + second * 9000);
        assert_eq!(life.limit(), 200 * second);
    }

    #[test]
    fn a_phase_that_takes_too_long_is_named() {
        let mut life = life();
        life.begin(12, Phase::Exchange, Instant::now());
        assert_eq!(life.grow_older(Duration::from_secs(299)), None);
        life.begin(12, Phase::Exchange, Instant::now());
        let problem = life
            .grow_older(Duration::from_secs(301))
            .unwrap_or_default();
        assert!(
            problem.starts_with("no progress for 300 s, in step 12 (exchange)"),
            "{problem}"
        );
    }

    #[test]
    fn a_watchdog_fires_without_a_heartbeat_and_ends_with_it() {
        let start = || {
            let (send, receive) = std::sync::mpsc::channel();
            let timeouts = Timeouts::parse("0.2").unwrap_or_default();
            let end = move |problem| drop(send.send(problem));
            (Heartbeat::start(timeouts, end).unwrap(), receive)
        };
        let (heartbeat, receive) = start();
        heartbeat.beat(3, Phase::Save);
        let problem = receive.recv().unwrap_or_default();
        assert!(problem.contains("in step 3 (save)"), "{problem}");
        let (heartbeat, receive) = start();
        drop(heartbeat);
        assert!(receive.recv().is_err());
        assert_eq!(Timeouts::parse("-1"), None);
    }
}
