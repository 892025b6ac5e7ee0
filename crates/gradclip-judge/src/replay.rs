//! What another policy would have done with the norms of a run.

use std::fmt;

use gradclip::{
    ClipAction, ClipError, ClipPolicy, ClipRole, ClipRule, ClipScope, Clipper, Measure, NonFinite,
    NormOrder, SkipReason,
};

/// What a run recorded of one step. Norms are from before clipping, and of one order.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedStep {
    /// The norm of all gradients; NaN if one of them was not finite.
    pub norm: f64,
    /// The loss, if known.
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
    /// Why it would have skipped the step, if it would.
    pub skip_reason: Option<SkipReason>,
    /// The norm before, as recorded.
    pub norm_before: f64,
    /// The norm after clipping; 0 for a skipped step.
    pub norm_after: f64,
    /// The threshold in force.
    pub threshold: Option<f64>,
}

impl ReplayedStep {
    /// What the run itself did, for comparison with what other policies would have done.
    pub fn taken(
        action: ClipAction,
        norm_before: f64,
        norm_after: f64,
        threshold: Option<f64>,
    ) -> ReplayedStep {
        ReplayedStep {
            action,
            skip_reason: None,
            norm_before,
            norm_after,
            threshold,
        }
    }

    /// `norm_after / norm_before`; 1 if the norm is zero, 0 for a skipped step.
    pub fn coefficient(&self) -> f64 {
        match self.action {
            ClipAction::Skip => 0.0,
            _ if self.norm_before == 0.0 => 1.0,
            _ => self.norm_after / self.norm_before,
        }
    }

    /// Whether the step was skipped although its gradient was finite.
    pub fn is_outlier(&self) -> bool {
        self.action == ClipAction::Skip && self.norm_before.is_finite()
    }
}

/// Runs a policy over recorded steps, with the same code that clips.
///
/// This is open loop: under another policy the run would have taken other steps and seen other
/// gradients. A replay shows what a policy does with norms like these, not how the run would have
/// ended.
///
/// ```
/// use gradclip::ClipAction;
/// use gradclip_judge::{RecordedStep, Replay};
///
/// let mut replay = Replay::new(&"global-norm:1".parse()?)?;
/// let spike = RecordedStep { norm: 8.0, loss: None, tensors: Vec::new() };
/// assert_eq!(replay.step(&spike)?.action, ClipAction::Clip);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Replay {
    clipper: Clipper,
    /// The first rule that works per tensor.
    by_tensor: Option<&'static str>,
    /// The order of the recorded norms.
    order: NormOrder,
}

impl Replay {
    /// A replay of Euclidean norms that has seen no step yet. Steps with a non-finite norm count as
    /// skipped.
    ///
    /// # Errors
    ///
    /// [`ReplayError`] for rules that need more than such norms.
    pub fn new(policy: &ClipPolicy) -> Result<Replay, ReplayError> {
        Replay::of_order(policy, NormOrder::TWO)
    }

    /// A replay of norms of this order, as recorded by a run whose policy has `p=`.
    ///
    /// # Errors
    ///
    /// [`ReplayError`] for rules that need more than such norms.
    pub fn of_order(policy: &ClipPolicy, order: NormOrder) -> Result<Replay, ReplayError> {
        let by_tensor = |rule: &&ClipRule| rule.scope() == ClipScope::Tensors;
        let tensorwise = policy.rules().iter().filter(by_tensor);
        let is_mixed = ![0, policy.rules().len()].contains(&tensorwise.clone().count());
        let mut twin = ClipPolicy::none();
        for rule in policy.rules() {
            let own_order = rule.order();
            let problem = match rule.scope() {
                _ if rule.role() == ClipRole::Adam => "works inside Adam",
                ClipScope::Elements => "needs the elements of gradients",
                _ if own_order != order && own_order == NormOrder::TWO => "needs Euclidean norms",
                _ if own_order != order => "needs norms of its own order",
                _ if order != NormOrder::TWO && is_mixed => {
                    "is combined with a rule that works per tensor where it does not, or vice versa"
                }
                _ => {
                    twin = twin.then(euclidean(*rule));
                    continue;
                }
            };
            let rule = rule.name();
            return Err(ReplayError { rule, problem });
        }
        Ok(Replay {
            clipper: Clipper::for_adam(twin, NonFinite::Skip),
            by_tensor: tensorwise.map(ClipRule::name).next(),
            order,
        })
    }

    /// What the policy would have done at the next step.
    ///
    /// # Errors
    ///
    /// [`ReplayError`] if a rule works per tensor and the step has no tensors.
    pub fn step(&mut self, step: &RecordedStep) -> Result<ReplayedStep, ReplayError> {
        let measures = self.measures(step)?;
        let decision = self.clipper.decide(&measures, step.loss)?;
        self.clipper.learn(&decision);
        let report = decision.report;
        Ok(ReplayedStep {
            action: report.action,
            skip_reason: report.skip_reason,
            norm_before: step.norm,
            norm_after: match report.action {
                ClipAction::Keep => step.norm,
                ClipAction::Clip if self.by_tensor.is_some() && self.order != NormOrder::TWO => {
                    let norms = report.tensors.iter().map(|tensor| tensor.norm_after);
                    self.order.combine(norms)
                }
                ClipAction::Clip | ClipAction::Skip => report.norm_after,
            },
            threshold: report.threshold,
        })
    }

    /// The recorded norms as if they had been measured.
    fn measures(&self, step: &RecordedStep) -> Result<Vec<Measure>, ReplayError> {
        // A non-finite step is skipped, whatever is known of its tensors.
        match self.by_tensor.filter(|_| step.norm.is_finite()) {
            // One tensor with the norm of all, which is exact.
            None => Ok(vec![Measure::from_norm("all", 1, step.norm)]),
            Some(rule) if step.tensors.is_empty() => Err(ReplayError {
                rule,
                problem: "needs the norm of each tensor",
            }),
            Some(_) => {
                let tensors = step.tensors.iter();
                Ok(tensors
                    .map(|(name, norm, elements)| Measure::from_norm(name, *elements, *norm))
                    .collect())
            }
        }
    }
}

/// The rule for a norm that is represented by a single element, for which all orders agree.
fn euclidean(mut rule: ClipRule) -> ClipRule {
    if let ClipRule::Norm { order, .. } | ClipRule::GlobalNorm { order, .. } = &mut rule {
        *order = NormOrder::TWO;
    }
    rule
}

/// A rule that needs more than the norms of a run.
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

impl From<ClipError> for ReplayError {
    fn from(error: ClipError) -> ReplayError {
        let (rule, problem) = match error {
            ClipError::Measures { rule, problem } => (rule, problem),
            _ => ("policy", "needs more than norms"),
        };
        ReplayError { rule, problem }
    }
}
