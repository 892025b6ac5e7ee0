//! One line of the log, parsed without copying names.
//!
//! A log of a million steps is read in one go when its run is opened, so the line of a step borrows
//! from the bytes. All other lines are rare, and read as [`Event`].

use std::borrow::Cow;
use std::fmt;

use gradclip::ClipAction;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};

use crate::event::{ActionText, Event, StepEvent};
use crate::header::FORMAT;
use crate::ranks::ExchangeEvent;

/// How the line of a step starts, as the trainer writes it.
const STEP: &[u8] = b"{\"event\":\"step\",";

/// No run takes more steps: every step and the one after it is exact in JSON.
const STEP_MAX: u64 = 1 << 53;

/// A line of the log.
#[derive(Debug)]
pub(crate) enum Line<'a> {
    /// A training step.
    Step(StepLine<'a>),
    /// Any other event.
    Other(Event),
}

/// Why a line cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LineProblem {
    /// A fragment of a sentence.
    Broken(String),
    /// It is the header of a newer format.
    Newer(u32),
}

impl<'a> Line<'a> {
    /// Parses a whole line.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, LineProblem> {
        let bytes = bytes.trim_ascii_end();
        if bytes.starts_with(STEP) {
            let line: StepLine<'a> = serde_json::from_slice(bytes).map_err(broken)?;
            possible(line.step)?;
            let clip = &line.clip;
            let norms = [clip.norm_before, Some(clip.norm_after), clip.threshold];
            possible_step([line.loss, Some(line.lr)], norms, clip.coefficient)?;
            return Ok(Line::Step(line));
        }
        match other(bytes)? {
            Event::Step(step) => Ok(Line::Step(step.into())),
            other => Ok(Line::Other(other)),
        }
    }
}

/// Parses a whole line with all its fields.
pub(crate) fn event(bytes: &[u8]) -> Result<Event, LineProblem> {
    let bytes = bytes.trim_ascii_end();
    if !bytes.starts_with(STEP) {
        return other(bytes);
    }
    // Deserializing a tagged enum would copy all that follows the tag.
    let step: StepEvent = owned(bytes)?;
    possible(step.step)?;
    possible_event(&step)?;
    Ok(Event::Step(step))
}

fn possible(step: u64) -> Result<(), LineProblem> {
    match step {
        0..=STEP_MAX => Ok(()),
        _ => Err(LineProblem::Broken(format!(
            "has step {step}, which no run reaches"
        ))),
    }
}

fn other(bytes: &[u8]) -> Result<Event, LineProblem> {
    /// The fields that the header of every format has.
    #[derive(Deserialize)]
    struct AnyHeader {
        event: String,
        format: u32,
    }
    // The header of a newer format may have other fields.
    let header = serde_json::from_slice::<AnyHeader>(bytes).ok();
    match header.filter(|header| header.event == "header" && header.format > FORMAT) {
        Some(header) => Err(LineProblem::Newer(header.format)),
        None => {
            let event: Event = owned(bytes)?;
            possible(event.step())?;
            match &event {
                Event::Step(step) => possible_event(step)?,
                Event::Evaluation(found) => at_least([
                    ("val_loss", Some(found.val_loss), LOSS_MIN),
                    ("perplexity", Some(found.perplexity), 0.0),
                ])?,
                _ => {}
            }
            Ok(event)
        }
    }
}

/// No loss of training is below this: a loss is at least 0, but for the rounding of its logarithms.
const LOSS_MIN: f64 = -0.001;

/// Refuses a line with one of these values below its minimum.
fn at_least<const N: usize>(values: [(&str, Option<f64>, f64); N]) -> Result<(), LineProblem> {
    let mut low = values
        .into_iter()
        .filter_map(|(name, value, min)| Some((name, value.filter(|value| *value < min)?)));
    match low.next() {
        Some((name, value)) => Err(LineProblem::Broken(format!(
            "has {name} {value}, which is impossible"
        ))),
        None => Ok(()),
    }
}

/// Refuses values that no step has.
fn possible_step(
    [loss, lr]: [Option<f64>; 2],
    [before, after, threshold]: [Option<f64>; 3],
    coefficient: f64,
) -> Result<(), LineProblem> {
    at_least([
        ("loss", loss, LOSS_MIN),
        ("lr", lr, 0.0),
        ("norm_before", before, 0.0),
        ("norm_after", after, 0.0),
        ("threshold", threshold, 0.0),
        ("coefficient", Some(coefficient), 0.0),
    ])
}

fn possible_event(step: &StepEvent) -> Result<(), LineProblem> {
    let clip = &step.clip;
    let norms = [
        Some(clip.norm_before),
        Some(clip.norm_after),
        clip.threshold,
    ];
    possible_step([step.loss, Some(step.lr)], norms, clip.coefficient)
}

fn owned<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, LineProblem> {
    serde_json::from_slice(bytes).map_err(broken)
}

fn broken(error: serde_json::Error) -> LineProblem {
    // The line number within the line is not the one within the log.
    LineProblem::Broken(crate::json_problem(&error).replace("line 1, ", ""))
}

/// The part of a [`StepEvent`] that columns keep. It has an `Option` where the event allows null,
/// so that both refuse the same lines.
#[derive(Debug, Deserialize)]
pub(crate) struct StepLine<'a> {
    pub(crate) step: u64,
    pub(crate) loss: Option<f64>,
    pub(crate) lr: f64,
    pub(crate) tokens_per_second: f64,
    #[serde(borrow)]
    pub(crate) clip: ClipLine<'a>,
    #[serde(borrow, default)]
    pub(crate) update_ratios: Named<'a>,
    #[serde(default)]
    pub(crate) exchange: Option<ExchangeEvent>,
}

/// The part of a [`ClipEvent`](crate::ClipEvent) that columns keep.
#[derive(Debug, Deserialize)]
pub(crate) struct ClipLine<'a> {
    #[serde(with = "ActionText")]
    pub(crate) action: ClipAction,
    pub(crate) norm_before: Option<f64>,
    pub(crate) norm_after: f64,
    pub(crate) coefficient: f64,
    pub(crate) threshold: Option<f64>,
    pub(crate) cosine: Option<f64>,
    pub(crate) non_finite: u64,
    #[serde(borrow, default)]
    pub(crate) first_non_finite: Option<Cow<'a, str>>,
    #[serde(rename = "clipped_share")]
    _clipped_share: f64,
    #[serde(borrow)]
    pub(crate) tensors: Named<'a>,
}

/// Values by name, in the order of the line.
#[derive(Debug, Default)]
pub(crate) struct Named<'a>(pub(crate) Vec<(Cow<'a, str>, f64)>);

/// A name, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Named<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("values by name")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries = Vec::with_capacity(32);
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, f64>()? {
                    entries.push((name, value));
                }
                Ok(Named(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

impl From<StepEvent> for StepLine<'static> {
    fn from(event: StepEvent) -> Self {
        let named = |values: std::collections::BTreeMap<String, f64>| {
            let entries = values.into_iter();
            Named(entries.map(|(n, value)| (Cow::Owned(n), value)).collect())
        };
        StepLine {
            step: event.step,
            loss: event.loss,
            lr: event.lr,
            tokens_per_second: event.tokens_per_second,
            clip: ClipLine {
                action: event.clip.action,
                norm_before: Some(event.clip.norm_before),
                norm_after: event.clip.norm_after,
                coefficient: event.clip.coefficient,
                threshold: event.clip.threshold,
                cosine: event.clip.cosine,
                non_finite: event.clip.non_finite,
                first_non_finite: event.clip.first_non_finite.map(Cow::Owned),
                _clipped_share: event.clip.clipped_share,
                tensors: named(event.clip.tensors),
            },
            update_ratios: named(event.update_ratios),
            exchange: event.exchange,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"event":"step","step":3,"loss":null,"lr":0.002,"tokens_per_second":9.0,
        "clip":{"action":"clip","norm_before":4.0,"norm_after":1.0,"coefficient":0.25,
        "threshold":1.0,"non_finite":0,"clipped_share":0.0,"cosine":1.0,
        "tensors":{"a":3.5,"b":1.9}}}"#;

    #[test]
    fn impossible_values_are_damage() {
        let line = OLD.replace('\n', " ");
        let evaluation = r#"{"event":"evaluation","step":3,"val_loss":1.5,"bits_per_char":2.0,
            "perplexity":4.5}"#;
        for (line, key, value) in [
            (line.as_str(), "lr", "0.002"),
            (&line, "norm_before", "4.0"),
            (&line, "norm_after", "1.0"),
            (&line, "threshold", "1.0"),
            (&line, "coefficient", "0.25"),
            (&line, "loss", "null"),
            (evaluation, "val_loss", "1.5"),
        ] {
            let (whole, broken) = (format!("\"{key}\":{value}"), format!("\"{key}\":-1"));
            assert!(Line::parse(line.as_bytes()).is_ok() && line.contains(&whole));
            let broken = line.replace(&whole, &broken);
            for refused in [
                Line::parse(broken.as_bytes()).err(),
                event(broken.as_bytes()).err(),
            ] {
                let Some(LineProblem::Broken(problem)) = refused else {
                    panic!("{broken}: {refused:?}");
                };
                assert_eq!(problem, format!("has {key} -1, which is impossible"));
            }
        }
    }

    fn shown(line: Line<'_>) -> String {
        format!("{line:?}")
    }

    #[test]
    fn a_step_parses_the_same_borrowed_and_owned() {
        let event: StepEvent = serde_json::from_str(OLD).unwrap();
        let line = OLD.replace('\n', " ");
        let borrowed = Line::parse(line.as_bytes()).unwrap();
        assert_eq!(shown(borrowed), shown(Line::Step(event.into())));
        let reordered = line.replacen("{\"event\":\"step\",", "{ \"event\":\"step\",", 1);
        let owned = Line::parse(reordered.as_bytes()).unwrap();
        assert_eq!(shown(owned), shown(Line::parse(line.as_bytes()).unwrap()));
    }

    #[test]
    fn a_damaged_line_is_reported_with_its_reason() {
        let reason = |line: &str| match Line::parse(line.as_bytes()) {
            Err(LineProblem::Broken(reason)) => reason,
            other => panic!("{line}: {other:?}"),
        };
        let broken = reason("{\"event\":\"step\",\"step\":}\n");
        assert!(broken.starts_with("is not JSON at column"), "{broken}");
        let unknown = reason("{\"event\":\"party\",\"step\":1}\n");
        assert!(unknown.contains("party"), "{unknown}");
        assert!(!reason("\0\0\0\n").is_empty());
        let late = OLD.replace('\n', " ");
        let late = late.replacen("\"step\":", "\"step\":18446744073709551615,\"s\":", 1);
        for late in [
            &*late,
            "{\"event\":\"sample\",\"step\":9007199254740993,\"text\":\"\"}",
        ] {
            assert!(reason(late).ends_with("which no run reaches"), "{late}");
            assert!(event(late.as_bytes()).is_err());
        }
        let action = OLD.replace('\n', " ").replace("\"clip\",", "\"cut\",");
        assert!(reason(&action).contains("cut"));
        for null in [
            "\"lr\":0.002",
            "\"non_finite\":0",
            "\"norm_after\":1.0",
            "\"coefficient\":0.25",
            "\"b\":1.9",
        ] {
            let (name, _) = null.split_once(':').unwrap();
            let line = OLD
                .replace('\n', " ")
                .replace(null, &format!("{name}:null"));
            assert!(reason(&line).contains("null"), "{line}");
            event(line.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn the_header_of_a_newer_format_is_recognised() {
        let line = b"{\"event\":\"header\",\"format\":3,\"tensors\":7}\n";
        assert_eq!(Line::parse(line).unwrap_err(), LineProblem::Newer(3));
        let known = format!("{{\"event\":\"header\",\"format\":{FORMAT},\"tensors\":7}}\n");
        let problem = Line::parse(known.as_bytes()).unwrap_err();
        assert!(matches!(problem, LineProblem::Broken(_)), "{problem:?}");
    }
}
