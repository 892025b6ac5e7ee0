//! The clip step: measure, decide, apply, report.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::apply::{apply, effect_on_units, factors_of};
use crate::decision::{Change, Context, Decision, SkipStep, decide};
use crate::detector::{Detector, Lesson};
use crate::direction::Snapshot;
use crate::gradients::Gradients;
use crate::measure::{Orders, TensorMeasure, measure_tensor, norm_of_elements};
use crate::outcome::{Clipped, Deferred, Outcome};
use crate::policy::{ClipPolicy, ClipRule, NonFinite, NormOrder};
use crate::report::{ClipAction, ClipReport, SkipReason, TensorEffect};
use crate::scan::{Scan, scan};
use crate::stages::Unscaled;
use crate::units::measure_units;

/// Clips gradients by one policy and one rule for non-finite values, and remembers what the policy
/// learns from step to step.
///
/// ```
/// use gradclip::{Clipper, NonFinite, Outcome, Unscaled};
///
/// let mut clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Error);
/// let gradients = Unscaled::single(vec![("weight", vec![3.0_f32, 4.0])]);
/// let Outcome::Apply(clipped) = clipper.clip(gradients)? else {
///     unreachable!("NonFinite::Error never skips");
/// };
/// assert_eq!(clipped.gradients()[0].1, [0.6, 0.8]);
/// assert_eq!(clipped.report().norm_before, 5.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clipper {
    policy: ClipPolicy,
    non_finite: NonFinite,
    threads: usize,
    scan: Scan,
    without_agc: BTreeSet<String>,
    pub(crate) links: Vec<Link>,
    /// Steps that were applied: the place in every schedule.
    pub(crate) steps: u64,
}

/// A rule with its memory.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) rule: ClipRule,
    pub(crate) detector: Option<Detector>,
}

impl Link {
    /// A rule that leaves out steps learns what it judges: the gradients as they came.
    fn judges_raw(&self) -> bool {
        matches!(self.detector, Some(Detector::Skip(_)))
    }

    /// Whether gradients that were measured for another rule, and not changed since, are measured
    /// for this one too.
    fn can_use_measures_for(&self, other: Option<&Link>) -> bool {
        let same_rule = other.is_some_and(|other| core::ptr::eq(self, other));
        let same_order = other.is_some_and(|other| self.rule.order() == other.rule.order());
        same_rule || (same_order && !matches!(self.rule, ClipRule::Agc { .. }))
    }
}

impl Clipper {
    /// A clipper that works on one thread and has seen no step.
    ///
    /// Rules that work inside Adam ([`ClipRule::is_inside_adam`]) are left to it.
    #[must_use]
    pub fn new(policy: ClipPolicy, non_finite: NonFinite) -> Clipper {
        let rules = policy.rules().iter().filter(|rule| !rule.is_inside_adam());
        let links = rules.map(|rule| Link {
            rule: *rule,
            detector: Detector::of(rule),
        });
        Clipper {
            links: links.collect(),
            policy,
            non_finite,
            threads: 1,
            scan,
            without_agc: BTreeSet::new(),
            steps: 0,
        }
    }

    /// Uses up to `threads` threads on tensors that are large enough to gain from them. The result
    /// has the same bits for every number of threads. Zero means one, and so does everything
    /// without the feature `std`.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Clipper {
        self.threads = threads.max(1);
        self
    }

    /// Reads gradients of single precision by a function of the caller's, which must keep the
    /// contract of [`Scan`].
    #[must_use]
    pub fn with_scan(mut self, scan: Scan) -> Clipper {
        self.scan = scan;
        self
    }

    /// Names the tensors of the output layer, which `agc` leaves alone: Brock et al. (2021) found
    /// that clipping it hurts.
    #[must_use]
    pub fn with_output_layer<Name: Into<String>>(
        mut self,
        tensors: impl IntoIterator<Item = Name>,
    ) -> Clipper {
        self.without_agc = tensors.into_iter().map(Into::into).collect();
        self
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &ClipPolicy {
        &self.policy
    }

    /// Steps that were applied: the place in every schedule of a threshold.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Measures the gradients, decides, changes what has to change and reports.
    ///
    /// Gradients are clipped only if a norm (or, for `value`, a magnitude) is greater than the
    /// threshold; equality is kept, and what is not clipped keeps its bits. Scaling computes
    /// `g * (C / N)` in f64 and rounds once. Pass `Unscaled<&mut G>` to keep ownership.
    ///
    /// # Errors
    ///
    /// [`ClipError::NonFinite`] under [`NonFinite::Error`] and [`ClipError::Parameter`] for `agc`
    /// without parameters, with every gradient and all that was learned left as it was.
    ///
    /// # Panics
    ///
    /// If `gradients` visits other tensors on one visit than on another, which breaks the contract
    /// of [`Gradients`].
    pub fn clip<G: Gradients>(&mut self, gradients: Unscaled<G>) -> Result<Outcome<G>, ClipError> {
        self.clip_in_place(gradients.into_inner(), None)
    }

    /// As [`Clipper::clip`], and shows the loss of the step to the rule `skip`. A loss that is not
    /// finite is not looked at.
    ///
    /// # Errors
    ///
    /// As [`Clipper::clip`].
    ///
    /// # Panics
    ///
    /// As [`Clipper::clip`].
    pub fn clip_with_loss<G: Gradients>(
        &mut self,
        gradients: Unscaled<G>,
        loss: f64,
    ) -> Result<Outcome<G>, ClipError> {
        self.clip_in_place(gradients.into_inner(), Some(loss))
    }

    /// As [`Clipper::clip_with_loss`], for an optimizer that multiplies the gradients while it
    /// reads them: where all that is left to do is one factor for each tensor, nothing is written,
    /// and the factors are in the result. Report and memory have the same bits.
    ///
    /// A change that is more than a factor (`value`, `agc`, all but the last rule of a chain, and
    /// chains of several rules that can turn the direction) is made in place.
    ///
    /// # Errors
    ///
    /// As [`Clipper::clip`].
    ///
    /// # Panics
    ///
    /// As [`Clipper::clip`].
    pub fn clip_deferred<G: Gradients>(
        &mut self,
        gradients: Unscaled<G>,
        loss: Option<f64>,
    ) -> Result<Outcome<G, Deferred<G>>, ClipError> {
        self.clip_step(gradients.into_inner(), loss, true)
    }

    fn clip_in_place<G: Gradients>(
        &mut self,
        gradients: G,
        loss: Option<f64>,
    ) -> Result<Outcome<G>, ClipError> {
        let outcome = self.clip_step(gradients, loss, false)?;
        Ok(match outcome {
            Outcome::Apply(nothing_deferred) => Outcome::Apply(nothing_deferred.scale()),
            Outcome::Skip { gradients, report } => Outcome::Skip { gradients, report },
        })
    }

    fn clip_step<G: Gradients>(
        &mut self,
        mut gradients: G,
        loss: Option<f64>,
        may_defer: bool,
    ) -> Result<Outcome<G, Deferred<G>>, ClipError> {
        let measures = self.measure(&mut gradients, 0)?;
        let mut report = ClipReport::measured(self.policy.order(), &measures);
        if report.non_finite > 0 {
            match self.non_finite {
                NonFinite::Error => return Err(ClipError::non_finite(&measures)),
                NonFinite::Skip => {
                    let threshold = |link: &Link| link.rule.fixed_threshold(self.steps);
                    let threshold = self.links.iter().rev().find_map(threshold);
                    report.skip(SkipReason::NonFinite, threshold);
                    return Ok(Outcome::Skip { gradients, report });
                }
                NonFinite::Zero => {}
            }
        }
        for index in 1..self.links.len() {
            // A missing parameter must show before the first rule changes anything.
            if let ClipRule::Agc { .. } = self.links[index].rule {
                self.measure(&mut gradients, index)?;
            }
        }
        let context = Context {
            step: self.steps,
            loss: loss.filter(|loss| loss.is_finite()),
        };
        if let Some(SkipStep { reason, threshold }) = self.outlier(context, &measures) {
            report.skip(reason, threshold);
            return Ok(Outcome::Skip { gradients, report });
        }
        if report.non_finite > 0 {
            gradients.visit(&mut |mut gradient| gradient.elements_mut().zero_non_finite());
        }
        let turns = self.links.iter().filter(|link| link.rule.can_turn());
        let snapshot = (turns.count() > 1).then(|| Snapshot::of(&mut gradients));
        let mut lessons = Vec::with_capacity(self.links.len());
        let raw = measures;
        // Only what an earlier rule may have changed is measured again.
        let mut left: Option<Vec<TensorMeasure>> = None;
        let mut measured_for = self.links.first();
        let last = self.links.iter().rposition(|link| !link.judges_raw());
        let mut factors = None;
        for (index, link) in self.links.iter().enumerate() {
            let judges_raw = link.judges_raw();
            if !judges_raw && !link.can_use_measures_for(measured_for) {
                left = Some(self.measure(&mut gradients, index)?);
                measured_for = Some(link);
            }
            let measures = left.as_ref().filter(|_| !judges_raw).unwrap_or(&raw);
            let Ok(decision) = decide(&link.rule, link.detector.as_ref(), context, measures) else {
                unreachable!("outliers are looked for before anything is changed");
            };
            if may_defer && last == Some(index) && snapshot.is_none() {
                factors = factors_of(&decision.changes, measures);
            }
            let effects = match factors {
                Some(_) => vec![None; measures.len()],
                None => self.apply(&mut gradients, measures, &decision),
            };
            let order = self.policy.order();
            report.apply(&link.rule, order, measures, &decision, &effects);
            if decision.changes_anything() {
                measured_for = None;
            }
            lessons.push(decision.lesson);
        }
        if let Some(snapshot) = snapshot.filter(|_| report.action == ClipAction::Clip) {
            report.cosine = snapshot.cosine_to(&mut gradients);
        }
        // What is left of a damaged step is no measure of ordinary ones.
        let is_whole = report.non_finite == 0;
        self.learn(lessons.into_iter().filter(|_| is_whole));
        let clipped = Clipped::new(gradients, report);
        Ok(Outcome::Apply(Deferred::new(clipped, factors)))
    }

    /// Whether a rule wants the step left out. It judges the gradients as they came, wherever it
    /// stands in the chain, so that a step that is left out is untouched.
    pub(crate) fn outlier(
        &mut self,
        context: Context,
        measures: &[TensorMeasure],
    ) -> Option<SkipStep> {
        for link in &mut self.links {
            let Some(Detector::Skip(_)) = link.detector else {
                continue;
            };
            let decision = decide(&link.rule, link.detector.as_ref(), context, measures);
            if let (Err(skip), Some(Detector::Skip(outliers))) = (decision, &mut link.detector) {
                outliers.skipped += 1;
                return Some(skip);
            }
        }
        None
    }

    pub(crate) fn learn(&mut self, lessons: impl IntoIterator<Item = Lesson>) {
        for (link, lesson) in self.links.iter_mut().zip(lessons) {
            if let Some(detector) = &mut link.detector {
                detector.learn(&link.rule, lesson);
            }
        }
        self.steps += 1;
    }

    /// Measures for the rule at `index`.
    fn measure<G: Gradients>(
        &self,
        gradients: &mut G,
        index: usize,
    ) -> Result<Vec<TensorMeasure>, ClipError> {
        let rule = self.links.get(index).map(|link| &link.rule);
        let orders = Orders {
            rule: rule.map_or(NormOrder::TWO, ClipRule::order),
            report: self.policy.order(),
        };
        let read = |tensors: Vec<&[f32]>| (self.scan)(&tensors, self.threads).into_iter();
        let mut scanned = gradients.single_precision().map(read);
        let mut measures: Vec<TensorMeasure> = Vec::new();
        let mut problem = None;
        gradients.visit(&mut |gradient| {
            let scanned = scanned.as_mut().map(|scanned| {
                let next = scanned.next();
                next.expect("Gradients::single_precision must have every tensor of a visit")
            });
            let mut measure = measure_tensor(&gradient, orders, self.threads, self.scan, scanned);
            if let Some(ClipRule::Agc { unit, .. }) = rule
                && !self.without_agc.contains(gradient.name())
            {
                match measure_units(&gradient, *unit, measure.max_magnitude) {
                    Ok(units) => measure.units = Some(units),
                    Err(error) => problem = problem.take().or(Some(error)),
                }
            }
            measures.push(measure);
        });
        problem.map_or(Ok(measures), Err)
    }

    fn apply<G: Gradients>(
        &self,
        gradients: &mut G,
        measures: &[TensorMeasure],
        decision: &Decision,
    ) -> Vec<Option<TensorEffect>> {
        let changes = &decision.changes;
        if !decision.changes_anything() {
            return vec![None; measures.len()];
        }
        let order = self.policy.order();
        let mut effects = Vec::with_capacity(measures.len());
        gradients.visit(&mut |mut gradient| {
            let index = effects.len();
            let measured = measures.get(index).map(|measure| measure.name.as_str());
            assert_eq!(
                Some(gradient.name()),
                measured,
                "Gradients::visit must visit the same tensors in the same order each time"
            );
            let measure = &measures[index];
            let elements = gradient.elements_mut();
            let effect = apply(elements, &changes[index], measure, self.threads);
            let effect = match &changes[index] {
                Change::Units { coefficients, .. } => effect_on_units(measure, coefficients),
                _ => effect,
            };
            effects.push(effect.map(|effect| TensorEffect {
                effect,
                norm: match order == NormOrder::TWO {
                    true => effect.squares.root(),
                    false => norm_of_elements(elements, order, self.threads),
                },
            }));
        });
        assert_eq!(
            effects.len(),
            measures.len(),
            "Gradients::visit must visit every tensor"
        );
        effects
    }
}

/// Why gradients could not be clipped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClipError {
    /// Gradients hold NaN or infinite elements and the rule is [`NonFinite::Error`].
    NonFinite {
        /// Every such tensor in visiting order, with the number of such elements.
        tensors: Vec<(String, u64)>,
    },
    /// `agc` cannot compare a gradient with its parameter.
    Parameter {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl ClipError {
    fn non_finite(measures: &[TensorMeasure]) -> ClipError {
        let affected = measures.iter().filter(|measure| measure.non_finite > 0);
        let tensors = affected.map(|measure| (measure.name.clone(), measure.non_finite));
        ClipError::NonFinite {
            tensors: tensors.collect(),
        }
    }
}

impl fmt::Display for ClipError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClipError::NonFinite { tensors } => {
                for (index, (tensor, count)) in tensors.iter().enumerate() {
                    let values = if *count == 1 { "value" } else { "values" };
                    let separator = if index > 0 { ", " } else { "" };
                    write!(
                        formatter,
                        "{separator}gradient of `{tensor}` has {count} non-finite {values}"
                    )?;
                }
                write!(formatter, " (NaN or infinity); no gradient was changed")
            }
            ClipError::Parameter { tensor, problem } => {
                write!(formatter, "gradient of `{tensor}`: {problem}")
            }
        }
    }
}

impl core::error::Error for ClipError {}
