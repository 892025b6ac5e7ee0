//! Noticing that nothing goes on any more.
//!
//! A rank that waits for one that was stopped, or that a cut cable hides, waits for ever: no MPI
//! library says so. So every rank watches itself.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What a rank is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All before the first step. Whoever reads a text for longer than [`Patience::first`] tells of
    /// it meanwhile ([`crate::first_does`]).
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

/// How long a rank may take for one phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until the end of its first step, and outside steps.
    pub first: Duration,
    /// Within later steps; more where steps take long ([`STEPS`] medians).
    pub later: Duration,
}

/// A step that takes as long as so many others has come to a stop.
pub const STEPS: u32 = 20;

/// Steps whose median counts.
const REMEMBERED: usize = 101;

impl Default for Patience {
    fn default() -> Self {
        Patience {
            first: Duration::from_secs(300),
            later: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// The same for all phases, as text in seconds: for tests.
    pub fn of_text(seconds: &str) -> Option<Patience> {
        let seconds = seconds
            .parse()
            .ok()
            .filter(|seconds: &f64| *seconds > 0.0)?;
        let all = Duration::try_from_secs_f64(seconds).ok()?;
        Some(Patience {
            first: all,
            later: all,
        })
    }
}

/// What a rank has to be told while it lives; a copy tells the same watchdog.
#[derive(Clone, Debug)]
pub struct Heartbeat(Arc<Mutex<Life>>);

#[derive(Debug)]
struct Life {
    step: u64,
    phase: Phase,
    /// How long it was seen in this phase.
    waited: Duration,
    /// When the step began.
    began: Option<Instant>,
    /// How long the last steps took.
    steps: VecDeque<Duration>,
    patience: Patience,
}

impl Heartbeat {
    /// Starts to watch. If a phase takes too long, `end` gets what is wrong, in words, and ends the
    /// process; it must not wait for anything, and make no exchange.
    pub fn start(patience: Patience, end: impl FnOnce(String) + Send + 'static) -> Heartbeat {
        let life = Life {
            step: 0,
            phase: Phase::Start,
            waited: Duration::ZERO,
            began: None,
            steps: VecDeque::new(),
            patience,
        };
        let heartbeat = Heartbeat(Arc::new(Mutex::new(life)));
        let watched = Arc::downgrade(&heartbeat.0);
        let tick = Duration::from_millis(100);
        thread::spawn(move || {
            loop {
                thread::sleep(tick);
                let Some(life) = watched.upgrade() else {
                    return;
                };
                // One tick, however long the sleep was: while the whole job is suspended, or the
                // machine sleeps, no time passes.
                if let Some(problem) = locked(&life).grow_older(tick) {
                    return end(problem);
                }
            }
        });
        heartbeat
    }

    /// The rank is alive, and does this now, in its step number `step`.
    pub fn beat(&self, step: u64, phase: Phase) {
        locked(&self.0).begin(step, phase, Instant::now());
    }
}

fn locked(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    // It is whole after every statement.
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

    /// How long the phase may take.
    fn limit(&self) -> Duration {
        let mut steps: Vec<Duration> = self.steps.iter().copied().collect();
        steps.sort_unstable();
        let of_steps = steps.get(steps.len() / 2).map(|median| *median * STEPS);
        let in_step = matches!(self.phase, Phase::Compute | Phase::Exchange | Phase::Update);
        let least = match in_step && !steps.is_empty() {
            true => self.patience.later,
            false => self.patience.first,
        };
        least.max(of_steps.unwrap_or_default())
    }

    fn grow_older(&mut self, tick: Duration) -> Option<String> {
        self.waited += tick;
        let limit = self.limit();
        (self.waited > limit).then(|| {
            format!(
                "no progress for {:.0} s, in step {} ({}); another rank or the network has come to \
                 a stop, or this machine has",
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
            patience: Patience::default(),
        }
    }

    #[test]
    fn patience_grows_with_the_steps() {
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
        // One long step, with an evaluation in it, is not the rule.
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
    fn a_watchdog_ends_what_does_not_beat_and_leaves_what_is_over() {
        let start = || {
            let (send, receive) = std::sync::mpsc::channel();
            let patience = Patience::of_text("0.2").unwrap_or_default();
            let end = move |problem| drop(send.send(problem));
            (Heartbeat::start(patience, end), receive)
        };
        let (heartbeat, receive) = start();
        heartbeat.beat(3, Phase::Save);
        let problem = receive.recv().unwrap_or_default();
        assert!(problem.contains("in step 3 (save)"), "{problem}");
        let (heartbeat, receive) = start();
        drop(heartbeat);
        assert!(receive.recv().is_err());
        assert_eq!(Patience::of_text("-1"), None);
    }
}
