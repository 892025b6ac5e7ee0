//! The line of a step in the log.

use std::time::Instant;

use shears_run::{ClipEvent, ExchangeEvent, StepEvent, six_digits};

use crate::trainer::StepOutcome;

/// What is written of a step that read so many tokens.
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
            ms: six_digits(outcome.times.exchange.as_secs_f64() * 1e3),
            waited_ms: six_digits(exchanged.waited.as_secs_f64() * 1e3),
            slowest: exchanged.slowest,
        }),
    }
}
