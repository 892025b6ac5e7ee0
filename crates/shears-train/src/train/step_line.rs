//! The log entry of a step.

use std::time::{Duration, Instant};

use shears_run::{ClipEvent, ExchangeEvent, StepEvent, six_digits};

use crate::trainer::StepOutcome;

/// The log entry of a step that read `tokens` tokens.
pub(super) fn step_event(
    step: u64,
    outcome: &StepOutcome,
    tokens: usize,
    started: Instant,
) -> StepEvent {
    StepEvent {
        step,
        loss: Some(outcome.loss).filter(|loss| loss.is_finite()),
        lr: outcome.lr,
        tokens_per_second: (tokens as f64 / started.elapsed().as_secs_f64()).round(),
        clip: ClipEvent::from(&outcome.report),
        update_ratios: outcome.update_ratios.clone(),
        exchange: outcome.exchanged.map(|exchanged| ExchangeEvent {
            bytes: exchanged.bytes,
            ms: ms(outcome.times.exchange),
            computed_ms: ms(exchanged.computed),
            waited_ms: ms(exchanged.waited),
            slowest: exchanged.slowest,
        }),
    }
}

fn ms(time: Duration) -> f64 {
    six_digits(time.as_secs_f64() * 1e3)
}
