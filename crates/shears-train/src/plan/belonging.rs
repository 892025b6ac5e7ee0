//! The choices that settings belong to, and ranges shared by several settings.

use std::ops::Bound::{self, Excluded, Included};

use gradclip::NonFinite;
use shears_model::{Architecture, Position};

use super::setting::BelongsTo;
use crate::optimizer::OptimizerKind;
use crate::schedule::ScheduleKind;

pub(super) const RNN: BelongsTo = BelongsTo::Models(&[Architecture::Rnn]);
pub(super) const LSTM: BelongsTo = BelongsTo::Models(&[Architecture::Lstm]);
pub(super) const TRANSFORMER: BelongsTo = BelongsTo::Models(&[Architecture::Transformer]);
pub(super) const ROPE: BelongsTo = BelongsTo::Positions(&[Position::Rope]);
pub(super) const RECURRENT: BelongsTo =
    BelongsTo::Models(&[Architecture::Rnn, Architecture::Lstm, Architecture::Gru]);
pub(super) const MOMENTUM: BelongsTo = BelongsTo::Optimizers(&[OptimizerKind::Momentum]);
pub(super) const RMSPROP: BelongsTo = BelongsTo::Optimizers(&[OptimizerKind::RmsProp]);
pub(super) const ADAM: BelongsTo =
    BelongsTo::Optimizers(&[OptimizerKind::Adam, OptimizerKind::AdamW]);
pub(super) const ADAPTIVE: BelongsTo = BelongsTo::Optimizers(&[
    OptimizerKind::RmsProp,
    OptimizerKind::Adam,
    OptimizerKind::AdamW,
]);
pub(super) const STEP: BelongsTo = BelongsTo::Schedules(&[ScheduleKind::Step]);
pub(super) const FALLING: BelongsTo = BelongsTo::Schedules(&[
    ScheduleKind::Cosine,
    ScheduleKind::Linear,
    ScheduleKind::Step,
]);
pub(super) const SKIP: BelongsTo = BelongsTo::NonFinite(&[NonFinite::Skip]);

pub(super) type RealRange = (Bound<f64>, Bound<f64>);
pub(super) const POSITIVE: RealRange = (Excluded(0.0), Excluded(f64::INFINITY));
pub(super) const NOT_NEGATIVE: RealRange = (Included(0.0), Excluded(f64::INFINITY));
/// In f32 a smaller epsilon is subnormal.
pub(super) const NORMAL: RealRange = (Included(f32::MIN_POSITIVE as f64), Excluded(f64::INFINITY));
pub(super) const FACTOR: RealRange = (Excluded(0.0), Included(1.0));
pub(super) const MANY: u64 = 1_000_000;
pub(super) const MANY_STEPS: u64 = MANY * MANY;
