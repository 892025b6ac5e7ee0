//! `shears experiment`: classic results on gradient clipping, each reproduced by a command.

mod temporal_order;

use std::process::ExitCode;

use crate::arguments::{Experiment, ExperimentArguments};

pub(crate) fn run(arguments: &ExperimentArguments) -> anyhow::Result<ExitCode> {
    match &arguments.experiment {
        Experiment::TemporalOrder(arguments) => temporal_order::run(arguments),
    }
}
