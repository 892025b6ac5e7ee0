//! The plan as hyperparameters, for TensorBoard's table of runs (`hparams/api.proto`).

use shears_train::{End, Plan};
use toml::{Table, Value};

use super::event_file::now;
use super::message::Message;
use super::summary::of_plugin;
use crate::settings::plain;

/// The metrics of the table, each with its `MetricInfo.DatasetType`.
const METRICS: [(&str, u64); 3] = [
    ("loss/train", TRAINING),
    ("loss/validation", VALIDATION),
    ("validation/bits_per_character", VALIDATION),
];
const TRAINING: u64 = 1;
const VALIDATION: u64 = 2;

/// `DataType` of the plugin.
const STRING: u64 = 1;
const BOOL: u64 = 2;
const FLOAT64: u64 = 3;

/// `Status`.
const SUCCESS: u64 = 1;
const FAILURE: u64 = 2;

/// The hyperparameters and metrics of the table, and the values of this run.
pub(super) fn experiment_and_session(plan: &Plan) -> anyhow::Result<[Message; 2]> {
    let settings = settings(plan)?;
    let infos = settings.iter().map(|(name, value)| {
        // HParamInfo: name, type
        let kind = match value {
            Value::Boolean(_) => BOOL,
            Value::Integer(_) | Value::Float(_) => FLOAT64,
            _ => STRING,
        };
        Message::new().bytes(1, name).integer(4, kind)
    });
    let metrics = METRICS.iter().map(|(tag, dataset)| {
        // MetricInfo: name (MetricName: tag), dataset_type
        let name = Message::new().bytes(2, tag);
        Message::new().message(1, name).integer(5, *dataset)
    });
    // Experiment: time_created_secs, hparam_infos, metric_infos
    let experiment = Message::new()
        .double(3, now())
        .messages(4, infos)
        .messages(5, metrics);
    let values = settings.iter().map(|(name, value)| {
        // An entry of a map: key, value
        Message::new().bytes(1, name).message(2, any_value(value))
    });
    // SessionStartInfo: hparams, start_time_secs
    let start = Message::new().messages(1, values).double(5, now());
    // HParamsPluginData: experiment, session_start_info
    Ok([
        of_plugin(
            "_hparams_/experiment",
            "hparams",
            Message::new().message(2, experiment),
        ),
        of_plugin(
            "_hparams_/session_start_info",
            "hparams",
            Message::new().message(3, start),
        ),
    ])
}

/// How the run ended, unless it can be resumed.
pub(super) fn session_end(end: Option<End>) -> Option<Message> {
    let status = match end {
        Some(End::Finished | End::OutOfPatience) => SUCCESS,
        Some(End::Stopped) => return None,
        None => FAILURE,
    };
    // SessionEndInfo: status, end_time_secs
    let info = Message::new().integer(1, status).double(2, now());
    // HParamsPluginData: session_end_info
    Some(of_plugin(
        "_hparams_/session_end_info",
        "hparams",
        Message::new().message(4, info),
    ))
}

/// The settings of the plan.
fn settings(plan: &Plan) -> anyhow::Result<Table> {
    let mut table = Table::try_from(plan.with_sizes())?;
    Plan::remove_identity(&mut table)?;
    Ok(table)
}

/// `google.protobuf.Value`: a number, a string or a boolean; a list becomes a string.
fn any_value(value: &Value) -> Message {
    match value {
        Value::Boolean(value) => Message::new().integer(4, u64::from(*value)),
        Value::Integer(value) => Message::new().double(2, *value as f64),
        Value::Float(value) => Message::new().double(2, *value),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(plain).collect();
            Message::new().bytes(3, values.join(", "))
        }
        other => Message::new().bytes(3, plain(other)),
    }
}
