//! The clip step: measure, decide, apply, report, learn.

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::clip_rule::{ClipRole, ClipRule};
use crate::error::ClipError;
use crate::gradients::Gradients;
use crate::measure::Measure;
use crate::outcome::{Clipped, Deferred, Outcome};
use crate::policy::{ClipPolicy, NonFinite};
use crate::report::{ClipAction, ClipReport};
use crate::rules::{Lesson, Link, SkipReason};
use crate::scan::{Scan, scan};
use crate::stages::Unscaled;
use crate::state::{ClipperState, Lists, StateError, number_of};
use crate::tensors::{AtHand, Elsewhere, Reading, Tensors};
use crate::threshold::PolicyError;

/// Clips gradients by one policy and one rule for non-finite values, and remembers what the policy
/// learns from step to step.
///
/// ```
/// use gradclip::{Clipper, NonFinite, Outcome, Unscaled};
///
/// let mut clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Error)?;
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
    reading: Reading,
    /// The rules that judge a step before anything is changed.
    guards: Vec<Link>,
    /// The rules that change gradients.
    rules: Vec<Link>,
    /// Steps that were applied: the place in every schedule.
    steps: u64,
}

/// What a policy wants done with tensors whose elements are elsewhere, see [`Clipper::decide`].
#[derive(Clone, Debug)]
#[must_use = "a decision is to be carried out, and then shown to `Clipper::learn`"]
#[non_exhaustive]
pub struct Decision {
    /// What each tensor is to be multiplied with, in `f64` and rounding once; 1 changes no bit.
    pub factors: Vec<f64>,
    /// What the elements of each tensor are to be clamped to, after the multiplication: the bound
    /// of `value`, or under `normalize` the largest number of their type, where that is known.
    pub clamps: Vec<Option<f64>>,
    /// Why the step is to be left out, if it is. Factors and clamps then change nothing.
    pub skip: Option<SkipReason>,
    /// What was decided. What a clamp leaves does not follow from measures: norms after it,
    /// coefficients and the clipped share are NaN, and the cosine is `None`.
    pub report: ClipReport,
    lessons: Lessons,
}

/// What a step teaches a clipper.
#[derive(Clone, Debug, Default)]
struct Lessons {
    /// Whether it counts as one of the steps of schedules.
    applied: bool,
    /// For the guards and then the rules; empty where a step teaches nothing.
    of_links: Vec<Lesson>,
}

impl Clipper {
    /// A clipper that works on one thread and has seen no step.
    ///
    /// # Errors
    ///
    /// [`PolicyError::InsideAdam`] for a policy with rules that only an Adam can carry out. One
    /// that does makes its clipper by [`Clipper::beside_adam`].
    pub fn new(policy: ClipPolicy, non_finite: NonFinite) -> Result<Clipper, PolicyError> {
        let inside_adam = policy.rules_inside_adam().next().map(ClipRule::name);
        match inside_adam {
            Some(rule) => Err(PolicyError::InsideAdam { rule }),
            None => Ok(Clipper::beside_adam(policy, non_finite)),
        }
    }

    /// The same for an Adam that takes the rules inside Adam itself, by
    /// [`AdamClipping`](crate::AdamClipping). The clipper leaves them to it.
    #[must_use]
    pub fn beside_adam(policy: ClipPolicy, non_finite: NonFinite) -> Clipper {
        let outside = policy.rules().iter();
        let outside = outside.filter(|rule| rule.role() != ClipRole::Adam);
        let links = outside.enumerate();
        let links = links.map(|(index, rule)| Link::new(index, *rule));
        let (guards, rules) = links.partition(Link::is_guard);
        Clipper {
            reading: Reading {
                threads: 1,
                scan,
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

    /// Uses up to `threads` threads on tensors that are large enough to gain from them. The result
    /// has the same bits for every number of threads. Zero means one, and so does everything
    /// without the feature `std`.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Clipper {
        self.reading.threads = threads.max(1);
        self
    }

    /// Reads gradients of single precision by a function of the caller's, which must keep the
    /// contract of [`Scan`].
    #[must_use]
    pub fn with_scan(mut self, scan: Scan) -> Clipper {
        self.reading.scan = scan;
        self
    }

    /// Names the tensors of the output layer, which `agc` leaves alone: Brock et al. (2021) found
    /// that clipping it hurts. With `agc`, a name that no gradient has is an error when clipping.
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
    /// [`ClipError::NonFinite`] under [`NonFinite::Error`], [`ClipError::Parameter`] for `agc`
    /// without parameters, [`ClipError::OutputLayer`], and [`ClipError::EqualNames`], with every
    /// gradient and all that was learned left as it was.
    ///
    /// # Panics
    ///
    /// If `gradients` visits other tensors on one visit than on another, which breaks the contract
    /// of [`Gradients`].
    pub fn clip<G: Gradients>(&mut self, gradients: Unscaled<G>) -> Result<Outcome<G>, ClipError> {
        self.clip_in_place(gradients, None)
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
        self.clip_in_place(gradients, Some(loss))
    }

    /// As [`Clipper::clip_with_loss`], for an optimizer that multiplies the gradients while it
    /// reads them: where all that is left to do is one factor for each tensor, nothing is written,
    /// and the factors are in the result. Report and memory have the same bits.
    ///
    /// A change that is more than a factor (`value`, `agc`, all but the last rule of a chain) is
    /// made in place.
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
        let mut gradients = gradients.into_inner();
        let mut at_hand = AtHand::new(&mut gradients, &self.reading);
        let (report, lessons) = self.run(&mut at_hand, loss)?;
        let factors = at_hand.factors;
        self.take_in(&lessons);
        Ok(match report.action {
            ClipAction::Skip => Outcome::Skip { gradients, report },
            _ => Outcome::Apply(Deferred::new(Clipped::new(gradients, report), factors)),
        })
    }

    /// What the policy wants done with tensors that were measured elsewhere: on a device, in other
    /// processes, or in a run that has ended. A pure function of memory and measures; the caller
    /// carries it out and then shows it to [`Clipper::learn`].
    ///
    /// A chain goes from one measure to the next by arithmetic, where [`Clipper::clip`] measures
    /// what the rule before has left, rounding included. Under [`NonFinite::Zero`] the caller sets
    /// what is not finite to zero.
    ///
    /// ```
    /// use gradclip::{Clipper, Measure, NonFinite};
    ///
    /// let mut clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Skip)?;
    /// let measures = [Measure::of_norm("weight", 100, 3.0), Measure::of_norm("bias", 10, 4.0)];
    /// let decision = clipper.decide(&measures, None)?;
    /// assert_eq!(decision.factors, [0.2, 0.2]);
    /// assert_eq!(decision.report.norm_after, 1.0);
    /// clipper.learn(&decision);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClipError::Measures`] for rules that measures do not suffice for: `agc`, other orders than
    /// 2, what comes after `value`, and `value` over measures without magnitudes
    /// ([`Measure::of_norm`]). [`ClipError::NonFinite`] under [`NonFinite::Error`].
    pub fn decide(&self, measures: &[Measure], loss: Option<f64>) -> Result<Decision, ClipError> {
        let mut tensors = Elsewhere::new(measures);
        let (report, lessons) = self.run(&mut tensors, loss)?;
        Ok(Decision {
            factors: tensors.factors,
            clamps: tensors.clamps,
            skip: report.skip_reason,
            report,
            lessons,
        })
    }

    /// Learns from a decision of [`Clipper::decide`] that was carried out.
    pub fn learn(&mut self, decision: &Decision) {
        self.take_in(&decision.lessons);
    }

    /// All that this clipper has learned. Restored into a new clipper of the same policy, it makes
    /// that one clip as this one would.
    #[must_use]
    pub fn state(&self) -> ClipperState {
        let mut state = ClipperState::new();
        state.insert("steps".into(), vec![number_of(self.steps)]);
        for link in self.guards.iter().chain(&self.rules) {
            state.extend(link.state());
        }
        state
    }

    /// Takes back what [`Clipper::state`] gave.
    ///
    /// # Errors
    ///
    /// [`StateError`] if a list is missing, is one of another policy, or holds numbers that no
    /// clipper learns; this clipper is then as it was.
    pub fn restore(&mut self, state: &ClipperState) -> Result<(), StateError> {
        let mut lists = Lists::of(state);
        let steps = lists.count("steps")?;
        let (mut guards, mut rules) = (self.guards.clone(), self.rules.clone());
        for link in guards.iter_mut().chain(&mut rules) {
            link.restore(&mut lists)?;
        }
        if let Some(name) = lists.left() {
            return Err(StateError {
                list: name.to_string(),
                problem: "does not belong to this policy",
            });
        }
        (self.steps, self.guards, self.rules) = (steps, guards, rules);
        Ok(())
    }

    fn clip_in_place<G: Gradients>(
        &mut self,
        gradients: Unscaled<G>,
        loss: Option<f64>,
    ) -> Result<Outcome<G>, ClipError> {
        let threads = self.reading.threads;
        Ok(match self.clip_deferred(gradients, loss)? {
            Outcome::Apply(deferred) => Outcome::Apply(deferred.scale_with(threads)),
            Outcome::Skip { gradients, report } => Outcome::Skip { gradients, report },
        })
    }

    /// The whole step, but for learning: measure, judge, change, report.
    fn run(
        &self,
        tensors: &mut impl Tensors,
        loss: Option<f64>,
    ) -> Result<(ClipReport, Lessons), ClipError> {
        let measures = tensors.measure(self.rules.first())?;
        refuse_equal_names(&measures)?;
        // What cannot be carried out must show before the first rule changes anything.
        tensors.check(&self.rules)?;
        let mut report = ClipReport::measured(self.policy.order(), &measures);
        let is_damaged = report.non_finite > 0;
        match self.non_finite {
            NonFinite::Error if is_damaged => return Err(report.non_finite_error()),
            NonFinite::Skip if is_damaged => {
                let threshold = |link: &Link| link.fixed_threshold(self.steps);
                let threshold = self.rules.iter().rev().find_map(threshold);
                report.skip(SkipReason::NonFinite, threshold);
                return Ok((report, Lessons::default()));
            }
            _ => {}
        }
        let mut lessons = Vec::new();
        for guard in &self.guards {
            let Some(judgement) = guard.judge(&measures, loss) else {
                continue;
            };
            if let Some(reason) = judgement.skip {
                report.skip(reason, judgement.threshold);
                // Only the guard that leaves a step out counts it.
                lessons.fill(Lesson::Nothing);
                lessons.push(Lesson::LeftOut);
                let lessons = Lessons {
                    applied: false,
                    of_links: lessons,
                };
                return Ok((report, lessons));
            }
            report.threshold = report.threshold.or(judgement.threshold);
            lessons.push(Lesson::Judged(judgement));
        }
        if is_damaged {
            tensors.zero_non_finite();
        }
        lessons.extend(self.change(tensors, measures, &mut report)?);
        if is_damaged {
            // What is left of it is no measure of ordinary steps.
            lessons.clear();
        }
        let lessons = Lessons {
            applied: true,
            of_links: lessons,
        };
        Ok((report, lessons))
    }

    /// Every rule decides from what the one before it has left. Gives what each learns.
    fn change(
        &self,
        tensors: &mut impl Tensors,
        mut measures: Vec<Measure>,
        report: &mut ClipReport,
    ) -> Result<Vec<Lesson>, ClipError> {
        let mut lessons = Vec::with_capacity(self.rules.len());
        // Only what an earlier rule has changed, or has looked at in another way, is measured
        // again.
        let mut measured_for = self.rules.first();
        for (index, link) in self.rules.iter().enumerate() {
            let is_measured = measured_for.is_some_and(|other| {
                index == 0 || link.order() == other.order() && link.units().is_none()
            });
            if !is_measured {
                measures = tensors.measure(Some(link))?;
                measured_for = Some(link);
            }
            let orders = self.reading.orders(Some(link));
            let decided = link.decide(self.steps, &measures);
            let effects = match decided.changes_anything() {
                true => {
                    measured_for = None;
                    let is_last = index + 1 == self.rules.len();
                    tensors.apply(&decided.changes, &measures, orders, is_last)
                }
                false => Vec::new(),
            };
            report.apply(link, orders, &measures, &decided, &effects);
            lessons.push(decided.lesson);
        }
        Ok(lessons)
    }

    fn take_in(&mut self, lessons: &Lessons) {
        let links = self.guards.iter_mut().chain(&mut self.rules);
        for (link, lesson) in links.zip(&lessons.of_links) {
            link.learn(lesson);
        }
        self.steps += u64::from(lessons.applied);
    }
}

/// A rule that goes by the names of tensors would take two for one.
fn refuse_equal_names(measures: &[Measure]) -> Result<(), ClipError> {
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
