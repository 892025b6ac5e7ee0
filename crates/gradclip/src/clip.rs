//! The clipping step: measure, decide, apply, report, learn.

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::change::{Scale, scale};
use crate::clip_rule::ClipRule;
use crate::error::ClipError;
use crate::gradients::Gradients;
use crate::measure::Measure;
use crate::outcome::{Clipped, Deferred, Outcome};
use crate::policy::{ClipPolicy, NonFinite};
use crate::report::{ClipAction, ClipReport};
use crate::rules::{Guard, Judgement, Lesson, Link, SkipReason, links_of};
use crate::scan::{Scan, scan};
use crate::stages::Unscaled;
use crate::state::{ClipperState, Lists, StateError, number_of};
use crate::tensors::{Local, Reading, Remote, Tensors};
use crate::threshold::PolicyError;

/// Clips gradients under a [`ClipPolicy`] and a rule for [`NonFinite`] values, and keeps the state
/// of adaptive rules from step to step.
///
/// ```
/// use gradclip::{Clipper, NonFinite, Unscaled};
///
/// let mut clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Error)?;
/// let mut gradients = vec![("weight", vec![3.0_f32, 4.0])];
/// let outcome = clipper.clip(Unscaled::single(&mut gradients))?;
/// assert_eq!(outcome.report().norm_before, 5.0);
/// assert_eq!(gradients[0].1, [0.6, 0.8]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clipper {
    policy: ClipPolicy,
    non_finite: NonFinite,
    reading: Reading,
    /// The rules that may skip a step, evaluated before anything is changed.
    guards: Vec<Guard>,
    /// The rules that change gradients.
    rules: Vec<Link>,
    /// The number of applied steps, which is the position in every schedule.
    steps: u64,
}

/// The decision for tensors that are not in host memory; see [`Clipper::decide`].
#[derive(Clone, Debug)]
#[must_use = "apply the decision, then pass it to `Clipper::learn`"]
#[non_exhaustive]
pub struct Decision {
    /// The factor of each tensor. Multiply in `f64` and round once; a factor of 1 changes no bit.
    pub factors: Vec<f64>,
    /// The magnitude to clamp each tensor's elements to after multiplying: the bound of `value`, or
    /// under `normalize` the largest finite value of the element type, where that is known.
    pub clamps: Vec<Option<f64>>,
    /// Why to skip the step, if it should be skipped. All factors are then 1 and all clamps `None`.
    pub skip: Option<SkipReason>,
    /// The report. The effect of a clamp cannot be computed from measures alone: with a clamp, the
    /// norms after clipping, the coefficients and the clipped share are NaN, and the cosine is
    /// `None`.
    pub report: ClipReport,
    lessons: Lessons,
}

/// What a clipper learns from a step.
#[derive(Clone, Debug)]
enum Lessons {
    /// The gradients are not finite, which says nothing about ordinary steps.
    Nothing,
    /// The guard with this index skipped the step.
    Skipped(usize),
    /// The step advances all schedules. Each guard and each rule learns, unless non-finite elements
    /// were zeroed.
    Applied {
        judgements: Vec<Judgement>,
        lessons: Vec<Lesson>,
    },
}

impl Clipper {
    /// Creates a clipper that runs on one thread and has seen no step.
    ///
    /// # Errors
    ///
    /// [`PolicyError::InsideAdam`] if the policy has rules that only an Adam optimizer can apply.
    /// An optimizer that applies them uses [`Clipper::for_adam`].
    pub fn new(policy: ClipPolicy, non_finite: NonFinite) -> Result<Clipper, PolicyError> {
        let inside_adam = policy.rules_inside_adam().next().map(ClipRule::name);
        match inside_adam {
            Some(rule) => Err(PolicyError::InsideAdam { rule }),
            None => Ok(Clipper::for_adam(policy, non_finite)),
        }
    }

    /// Creates a clipper for an Adam that applies the rules inside Adam itself, with
    /// [`AdamClipping`](crate::AdamClipping). The clipper ignores those rules.
    #[must_use]
    pub fn for_adam(policy: ClipPolicy, non_finite: NonFinite) -> Clipper {
        let (guards, rules) = links_of(&policy);
        Clipper {
            reading: Reading {
                threads: 1,
                scan,
                scale,
                report: policy.order(),
                output_layer: BTreeSet::new(),
            },
            policy,
            non_finite,
            guards,
            rules,
            steps: 0,
        }
    }

    /// Uses up to `threads` threads for tensors large enough to benefit. The result is bitwise
    /// identical for every thread count. Zero means one; without the feature `std` there is always
    /// one.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Clipper {
        self.reading.threads = threads.max(1);
        self
    }

    /// Reads `f32` gradients with the caller's function, which must uphold the contract of
    /// [`Scan`].
    #[must_use]
    pub fn with_scan(mut self, scan: Scan) -> Clipper {
        self.reading.scan = scan;
        self
    }

    /// Scales `f32` gradients in place with the caller's function, which must uphold the contract of
    /// [`Scale`], if [`Gradients::single_precision_mut`] returns them.
    #[must_use]
    pub fn with_scale(mut self, scale: Scale) -> Clipper {
        self.reading.scale = scale;
        self
    }

    /// Names the tensors of the output layer, which `agc` does not clip: Brock et al. (2021) found
    /// that clipping it hurts. With `agc`, clipping fails if no gradient has one of these names.
    #[must_use]
    pub fn with_output_layer<Name: Into<String>>(
        mut self,
        tensors: impl IntoIterator<Item = Name>,
    ) -> Clipper {
        self.reading.output_layer = tensors.into_iter().map(Into::into).collect();
        self
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &ClipPolicy {
        &self.policy
    }

    /// The number of applied steps, which is the position in every threshold schedule.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Measures the gradients, clips them in place as the policy decides, and reports.
    ///
    /// Gradients are clipped only if a norm (for `value`, a magnitude) is strictly greater than the
    /// threshold; all others keep their bits. Scaling computes `g * (C / N)` in `f64` and rounds
    /// once. Pass `Unscaled<&mut G>` to keep ownership.
    ///
    /// # Errors
    ///
    /// [`ClipError::NonFinite`] under [`NonFinite::Error`], [`ClipError::Parameter`] for `agc`
    /// without parameters, [`ClipError::OutputLayer`], and [`ClipError::EqualNames`]. On error
    /// neither the gradients nor the clipper's state change.
    ///
    /// # Panics
    ///
    /// If `gradients` visits different tensors on different visits, which breaks the contract of
    /// [`Gradients`].
    pub fn clip<G: Gradients>(&mut self, gradients: Unscaled<G>) -> Result<Outcome<G>, ClipError> {
        self.clip_with_loss(gradients, None)
    }

    /// Like [`Clipper::clip`], and passes the loss of the step, if known, to the rule `skip`. A
    /// non-finite loss is ignored.
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
        loss: impl Into<Option<f64>>,
    ) -> Result<Outcome<G>, ClipError> {
        let (scale, threads) = (self.reading.scale, self.reading.threads);
        Ok(match self.clip_deferred(gradients, loss)? {
            Outcome::Apply(deferred) => Outcome::Apply(deferred.scale_with(scale, threads)),
            Outcome::Skip { gradients, report } => Outcome::Skip { gradients, report },
        })
    }

    /// Like [`Clipper::clip_with_loss`], for an optimizer that scales gradients while reading them:
    /// if one factor per tensor is all that remains to be applied, the gradients are not written
    /// and the factors are returned. Report and state are bitwise the same as with
    /// [`Clipper::clip_with_loss`], except for [`ClipReport::rounded_to_zero`].
    ///
    /// Changes that are more than a factor (`value`, `agc`, all but the last rule of a chain) are
    /// applied in place.
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
        loss: impl Into<Option<f64>>,
    ) -> Result<Outcome<G, Deferred<G>>, ClipError> {
        let mut gradients = gradients.into_inner();
        let mut local = Local::new(&mut gradients, &self.reading);
        let (report, lessons) = self.run(&mut local, loss.into())?;
        let factors = local.factors;
        self.learn_all(&lessons);
        Ok(match report.action {
            ClipAction::Skip => Outcome::Skip { gradients, report },
            _ => Outcome::Apply(Deferred::new(Clipped::new(gradients, report), factors)),
        })
    }

    /// Decides how to clip tensors that were measured elsewhere: on a device, in other processes,
    /// or in a finished run. A pure function of the clipper's state and the measures; the caller
    /// applies the decision and then passes it to [`Clipper::learn`].
    ///
    /// In a chain, the measures after each rule are computed, where [`Clipper::clip`] measures the
    /// rounded gradients again. Under [`NonFinite::Zero`] the caller sets non-finite elements to
    /// zero.
    ///
    /// ```
    /// use gradclip::{Clipper, Measure, NonFinite};
    ///
    /// let mut clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Skip)?;
    /// let measure = |name, norm| Measure::from_norm(name, 100, norm);
    /// let measures = [measure("weight", 3.0), measure("bias", 4.0)];
    /// let decision = clipper.decide(&measures, None)?;
    /// assert_eq!(decision.factors, [0.2, 0.2]);
    /// assert_eq!(decision.report.norm_after, 1.0);
    /// clipper.learn(&decision);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClipError::Measures`] for rules that need more than measures: `agc`, norms of an order
    /// other than 2, any rule after `value`, and `value` without magnitudes
    /// ([`Measure::from_norm`]). [`ClipError::NonFinite`] under [`NonFinite::Error`].
    pub fn decide(
        &self,
        measures: &[Measure],
        loss: impl Into<Option<f64>>,
    ) -> Result<Decision, ClipError> {
        let mut tensors = Remote::new(measures);
        let (report, lessons) = self.run(&mut tensors, loss.into())?;
        Ok(Decision {
            factors: tensors.factors,
            clamps: tensors.clamps,
            skip: report.skip_reason,
            report,
            lessons,
        })
    }

    /// Learns from a decision of [`Clipper::decide`] that the caller has applied.
    pub fn learn(&mut self, decision: &Decision) {
        self.learn_all(&decision.lessons);
    }

    /// The state of the clipper, for a checkpoint. A new clipper of the same policy that restores
    /// it clips exactly as this one would.
    #[must_use]
    pub fn state(&self) -> ClipperState {
        let mut state = ClipperState::new();
        state.insert("steps".into(), vec![number_of(self.steps)]);
        state.extend(self.guards.iter().flat_map(Guard::state));
        state.extend(self.rules.iter().flat_map(Link::state));
        state
    }

    /// Restores a state returned by [`Clipper::state`].
    ///
    /// # Errors
    ///
    /// [`StateError`] if a list is missing, belongs to another policy, or holds values that no
    /// clipper can have. On error this clipper is unchanged.
    pub fn restore(&mut self, state: &ClipperState) -> Result<(), StateError> {
        let mut lists = Lists::of(state);
        let steps = lists.count("steps")?;
        let (mut guards, mut rules) = (self.guards.clone(), self.rules.clone());
        for guard in &mut guards {
            guard.restore(&mut lists)?;
        }
        for rule in &mut rules {
            rule.restore(&mut lists)?;
        }
        if let Some(name) = lists.first_unused() {
            return Err(StateError {
                list: name.to_string(),
                problem: "does not belong to this policy",
            });
        }
        (self.steps, self.guards, self.rules) = (steps, guards, rules);
        Ok(())
    }

    /// A whole step except for learning: measure, judge, change, report.
    fn run(
        &self,
        tensors: &mut impl Tensors,
        loss: Option<f64>,
    ) -> Result<(ClipReport, Lessons), ClipError> {
        let measures = tensors.measure(self.rules.first())?;
        check_unique_names(&measures)?;
        // Rules that cannot be applied must fail before the first one changes anything.
        tensors.check(&self.rules, &measures)?;
        let mut report = ClipReport::measured(self.policy.order(), &measures);
        let has_non_finite = report.non_finite > 0;
        match self.non_finite {
            NonFinite::Error if has_non_finite => return Err(report.non_finite_error()),
            NonFinite::Skip if has_non_finite => {
                let threshold = |link: &Link| link.rule.fixed_threshold(self.steps);
                let threshold = self.rules.iter().rev().find_map(threshold);
                report.skip(SkipReason::NonFinite, threshold);
                return Ok((report, Lessons::Nothing));
            }
            _ => {}
        }
        let mut judgements = Vec::new();
        for (index, guard) in self.guards.iter().enumerate() {
            let judgement = guard.judge(&measures, loss);
            if let Some(reason) = judgement.skip {
                report.skip(reason, judgement.threshold);
                return Ok((report, Lessons::Skipped(index)));
            }
            report.threshold = report.threshold.or(judgement.threshold);
            judgements.push(judgement);
        }
        if has_non_finite {
            tensors.zero_non_finite();
        }
        let mut lessons = self.change(tensors, measures, &mut report)?;
        if has_non_finite {
            // With elements zeroed, its norms say nothing about ordinary steps.
            judgements.clear();
            lessons.clear();
        }
        let lessons = Lessons::Applied {
            judgements,
            lessons,
        };
        Ok((report, lessons))
    }

    /// Each rule decides on the gradients as the previous rule left them. Returns what each learns.
    fn change(
        &self,
        tensors: &mut impl Tensors,
        mut measures: Vec<Measure>,
        report: &mut ClipReport,
    ) -> Result<Vec<Lesson>, ClipError> {
        let mut lessons = Vec::with_capacity(self.rules.len());
        // Measure again only after a change, or if the last measures suit another kind of rule.
        let mut measured_for = self.rules.first();
        for (index, link) in self.rules.iter().enumerate() {
            let is_measured = measured_for.is_some_and(|other| {
                let same_order = link.written.order() == other.written.order();
                index == 0 || same_order && link.rule.units().is_none()
            });
            if !is_measured {
                measures = tensors.measure(Some(link))?;
                measured_for = Some(link);
            }
            let orders = self.reading.orders(Some(link));
            let decided = link.rule.decide(self.steps, &measures);
            let effects = match decided.changes_anything() {
                true => {
                    measured_for = None;
                    let is_last = index + 1 == self.rules.len();
                    tensors.apply(&decided.changes, &measures, orders, is_last)
                }
                false => Vec::new(),
            };
            report.record(orders, &measures, &decided, &effects);
            lessons.push(decided.lesson);
        }
        Ok(lessons)
    }

    fn learn_all(&mut self, lessons: &Lessons) {
        match lessons {
            Lessons::Nothing => {}
            Lessons::Skipped(guard) => self.guards[*guard].count_skip(),
            Lessons::Applied {
                judgements,
                lessons,
            } => {
                for (guard, judgement) in self.guards.iter_mut().zip(judgements) {
                    guard.learn(judgement);
                }
                for (link, lesson) in self.rules.iter_mut().zip(lessons) {
                    link.rule.learn(lesson);
                }
                self.steps += 1;
            }
        }
    }
}

/// Rules that look tensors up by name would confuse tensors that share one.
fn check_unique_names(measures: &[Measure]) -> Result<(), ClipError> {
    let mut seen = BTreeSet::new();
    let mut equal = BTreeSet::new();
    for measure in measures {
        if !seen.insert(measure.name.as_str()) {
            equal.insert(measure.name.clone());
        }
    }
    match equal.is_empty() {
        true => Ok(()),
        false => Err(ClipError::EqualNames {
            tensors: equal.into_iter().collect(),
        }),
    }
}
