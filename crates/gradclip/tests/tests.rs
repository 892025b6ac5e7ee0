//! The integration tests of `gradclip`, as one binary.

mod accumulate;
mod bits;
mod decide;
mod deferred;
mod detectors;
mod direction;
mod exact;
mod extremes;
mod fuzz;
mod fuzzing;
mod golden;
mod guarantees;
mod model;
mod non_finite;
mod policy;
mod policy_round_trip;
mod properties;
mod simple;
mod state;
mod support;
mod units;
