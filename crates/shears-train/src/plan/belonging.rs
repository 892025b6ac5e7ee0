//! The choices that settings belong to, and ranges shared by several settings.

use std::ops::Bound::{self, Excluded, Included};

use shears_model::{Architecture, Position};

use super::setting::BelongsTo;
use crate::optimizer::OptimizerKind as Kind;
use crate::schedule::ScheduleKind as Schedule;

const fn models(names: &'static [&'static str]) -> BelongsTo {
    BelongsTo::only("model", names)
}

const fn optimizers(names: &'static [&'static str]) -> BelongsTo {
    BelongsTo::only("optimizer", names)
}

const fn schedules(names: &'static [&'static str]) -> BelongsTo {
    BelongsTo::only("schedule", names)
}

pub(super) const RNN: BelongsTo = models(&[Architecture::Rnn.name()]);
pub(super) const LSTM: BelongsTo = models(&[Architecture::Lstm.name()]);
pub(super) const TRANSFORMER: BelongsTo = models(&[Architecture::Transformer.name()]);
pub(super) const ROPE: BelongsTo = BelongsTo::only("position", &[Position::Rope.name()]);
pub(super) const RECURRENT: BelongsTo = models(&[
    Architecture::Rnn.name(),
    Architecture::Lstm.name(),
    Architecture::Gru.name(),
]);
pub(super) const MOMENTUM: BelongsTo = optimizers(&[Kind::Momentum.name()]);
pub(super) const RMSPROP: BelongsTo = optimizers(&[Kind::RmsProp.name()]);
pub(super) const ADAM: BelongsTo = optimizers(&[Kind::Adam.name(), Kind::AdamW.name()]);
pub(super) const ADAPTIVE: BelongsTo = optimizers(&shears_run::ADAPTIVE_OPTIMIZERS);
pub(super) const STEP: BelongsTo = schedules(&[Schedule::Step.name()]);
pub(super) const FALLING: BelongsTo = schedules(&[
    Schedule::Cosine.name(),
    Schedule::Linear.name(),
    Schedule::Step.name(),
]);
pub(super) const SKIP: BelongsTo = BelongsTo::only("non-finite", &["skip"]);

pub(super) type RealRange = (Bound<f64>, Bound<f64>);
pub(super) const POSITIVE: RealRange = (Excluded(0.0), Excluded(f64::INFINITY));
pub(super) const NOT_NEGATIVE: RealRange = (Included(0.0), Excluded(f64::INFINITY));
/// In f32 a smaller epsilon is subnormal.
pub(super) const NORMAL: RealRange = (Included(f32::MIN_POSITIVE as f64), Excluded(f64::INFINITY));
pub(super) const FACTOR: RealRange = (Excluded(0.0), Included(1.0));
pub(super) const MANY: u64 = 1_000_000;
pub(super) const MANY_STEPS: u64 = MANY * MANY;
