//! What another policy would have done with the norms of a run.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::clip::Clipper;
use crate::decision::{Change, Context, decide, scaled_norm};
use crate::detector::Detector;
use crate::measure::{TensorMeasure, norm_of_all};
use crate::norm::{Norm, Squares};
use crate::policy::{ClipPolicy, ClipRule, NonFinite, NormOrder};
use crate::report::{ClipAction, SkipReason, later_threshold};

/// What a run has kept of one step. Norms are Euclidean and from before clipping.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedStep {
    /// The norm of all gradients; NaN if one was not finite.
    pub norm: f64,
    /// The loss, if it is known.
    pub loss: Option<f64>,
    /// Name, norm and number of elements of each tensor; may be empty.
    pub tensors: Vec<(String, f64, usize)>,
}

/// What a policy would have done at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ReplayedStep {
    /// What it would have done.
    pub action: ClipAction,
    /// Why it would have left the step out, if so.
    pub skip_reason: Option<SkipReason>,
    /// The norm before, as recorded.
    pub norm_before: f64,
    /// The norm that it would have left; 0 for a step left out.
    pub norm_after: f64,
    /// The threshold in force.
    pub threshold: Option<f64>,
}

/// Shows recorded steps to a policy, one after the other, by the same code that clips.
///
/// This is open loop: under another policy the run would have taken other steps and seen other
/// gradients. It tells what a policy does with norms like these, not how the run would have ended.
///
/// ```
/// use gradclip::{ClipAction, RecordedStep, Replay};
///
/// let mut replay = Replay::new(&"global-norm:1".parse()?)?;
/// let spike = RecordedStep { norm: 8.0, loss: None, tensors: Vec::new() };
/// assert_eq!(replay.step(&spike)?.action, ClipAction::Clip);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Replay {
    clipper: Clipper,
}

impl Replay {
    /// A replay that has seen no step. Steps with a norm that is not finite count as left out.
    ///
    /// # Errors
    ///
    /// [`ReplayError`] for rules that norms do not suffice for.
    pub fn new(policy: &ClipPolicy) -> Result<Replay, ReplayError> {
        for rule in policy.rules() {
            let problem = match rule {
                ClipRule::Value { .. } | ClipRule::Agc { .. } => "needs the elements of gradients",
                ClipRule::UpdateRms { .. } | ClipRule::Spam { .. } => "works inside Adam",
                rule if rule.order() != NormOrder::TWO => "needs norms of its own order",
                _ => continue,
            };
            let rule = rule.name();
            return Err(ReplayError { rule, problem });
        }
        Ok(Replay {
            clipper: Clipper::new(policy.clone(), NonFinite::Skip),
        })
    }

    /// What the policy would have done at the next step.
    ///
    /// # Errors
    ///
    /// [`ReplayError`] if a rule goes tensor by tensor and the step has none.
    pub fn step(&mut self, step: &RecordedStep) -> Result<ReplayedStep, ReplayError> {
        let mut replayed = ReplayedStep {
            action: ClipAction::Keep,
            skip_reason: None,
            norm_before: step.norm,
            norm_after: step.norm,
            threshold: None,
        };
        if !step.norm.is_finite() {
            replayed.skip(SkipReason::NonFinite, None);
            return Ok(replayed);
        }
        let mut measures = self.measures(step)?;
        let context = Context {
            step: self.clipper.steps,
            loss: step.loss.filter(|loss| loss.is_finite()),
        };
        if let Some(skip) = self.clipper.outlier(context, &measures) {
            replayed.skip(skip.reason, skip.threshold);
            return Ok(replayed);
        }
        let mut lessons = Vec::new();
        let raw = measures.clone();
        for link in &self.clipper.links {
            let seen = match &link.detector {
                Some(Detector::Skip(_)) => &raw,
                _ => &measures,
            };
            let Ok(decision) = decide(&link.rule, link.detector.as_ref(), context, seen) else {
                unreachable!("outliers are looked for before anything is changed");
            };
            replayed.threshold =
                later_threshold(&link.rule, replayed.threshold, decision.threshold);
            for (measure, change) in measures.iter_mut().zip(&decision.changes) {
                if let Change::Scale(coefficient) = change {
                    let after = scaled_norm(measure.norm, *coefficient).value();
                    set_norm(measure, after);
                    replayed.action = ClipAction::Clip;
                }
            }
            if decision.changes_anything() {
                let after = norm_of_all(&measures, NormOrder::TWO).value();
                replayed.norm_after = decision.norm_after.unwrap_or(after);
            }
            lessons.push(decision.lesson);
        }
        self.clipper.learn(lessons);
        Ok(replayed)
    }

    /// The recorded norms as if they had been measured.
    fn measures(&self, step: &RecordedStep) -> Result<Vec<TensorMeasure>, ReplayError> {
        let by_tensor = self.clipper.links.iter().find(|link| {
            matches!(
                link.rule,
                ClipRule::Norm { .. }
                    | ClipRule::GroupNorm { .. }
                    | ClipRule::BlockRms { .. }
                    | ClipRule::AdaGc { .. }
            )
        });
        match by_tensor {
            // One tensor with the norm of all, which is known to all its digits.
            None => Ok(vec![measure("all", step.norm, 1)]),
            Some(link) if step.tensors.is_empty() => Err(ReplayError {
                rule: link.rule.name(),
                problem: "needs the norm of each tensor",
            }),
            Some(_) => {
                let tensors = step.tensors.iter();
                Ok(tensors
                    .map(|(name, norm, elements)| measure(name, *norm, *elements))
                    .collect())
            }
        }
    }
}

impl ReplayedStep {
    fn skip(&mut self, reason: SkipReason, threshold: Option<f64>) {
        self.action = ClipAction::Skip;
        self.skip_reason = Some(reason);
        self.threshold = threshold;
        self.norm_after = 0.0;
    }
}

fn measure(name: &str, norm: f64, elements: usize) -> TensorMeasure {
    let group = name.rsplit_once('.').map_or(name, |(group, _)| group);
    let mut measure = TensorMeasure {
        name: name.into(),
        group: group.into(),
        elements,
        non_finite: 0,
        squares: Squares {
            sum: 0.0,
            scale: 1.0,
        },
        max_magnitude: norm,
        round: |number| number,
        norm: Norm::ZERO,
        reported: Norm::ZERO,
        units: None,
    };
    set_norm(&mut measure, norm);
    measure
}

fn set_norm(measure: &mut TensorMeasure, norm: f64) {
    let scale = Norm::scale_for(norm);
    let scaled = norm / scale;
    measure.squares = Squares {
        sum: scaled * scaled,
        scale,
    };
    measure.norm = Norm { scaled, scale };
    measure.reported = measure.norm;
}

/// A rule that the norms of a run do not suffice for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayError {
    /// The name of the rule.
    pub rule: &'static str,
    /// What it lacks.
    pub problem: &'static str,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReplayError { rule, problem } = self;
        write!(
            formatter,
            "`{rule}` cannot be replayed from norms: it {problem}"
        )
    }
}

impl core::error::Error for ReplayError {}
