//! The clip step: measure, decide, apply, report, learn.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::apply::apply;
use crate::change::{Change, Effect, factors_of};
use crate::clip_rule::{ClipRole, ClipRule};
use crate::error::ClipError;
use crate::gradients::Gradients;
use crate::measure::{Measure, Orders, measure_tensor, norm_of_all};
use crate::outcome::{Clipped, Deferred, Outcome};
use crate::policy::{ClipPolicy, NonFinite};
use crate::report::{ClipAction, ClipReport};
use crate::rules::{Guard, GuardLesson, Lesson, Rule, SkipReason, rule_of};
use crate::scan::{Scan, scan};
use crate::stages::Unscaled;
use crate::state::{ClipperState, Lists, StateError, number_of};
use crate::threshold::{NormOrder, PolicyError};
use crate::units::{measure_units, units_of};

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
    threads: usize,
    scan: Scan,
    output_layer: BTreeSet<String>,
    guards: Vec<Link<Guard>>,
    rules: Vec<Link<Box<dyn Rule>>>,
    /// Steps that were applied: the place in every schedule.
    steps: u64,
}

/// A rule of the policy with its memory.
#[derive(Clone, Debug)]
struct Link<R> {
    name: &'static str,
    /// What the names of its memory in a state begin with.
    prefix: String,
    rule: R,
}

/// What a policy wants done with tensors whose elements are elsewhere, see [`Clipper::decide`].
#[derive(Clone, Debug)]
#[must_use = "a decision is to be carried out, and then shown to `Clipper::learn`"]
#[non_exhaustive]
pub struct Decision {
    /// What each tensor is to be multiplied with, in `f64` and rounding once; 1 changes no bit.
    pub factors: Vec<f64>,
    /// What the elements of each tensor are to be clamped to, after the multiplication.
    pub clamps: Vec<Option<f64>>,
    /// Why the step is to be left out, if it is. Factors and clamps then change nothing.
    pub skip: Option<SkipReason>,
    /// What was decided. What a clamp leaves does not follow from measures: its norms and coefficients
    /// are NaN.
    pub report: ClipReport,
    lessons: Lessons,
}

/// What a step teaches a clipper.
#[derive(Clone, Debug)]
enum Lessons {
    /// It was left out because a gradient is not finite.
    NonFinite,
    /// This guard left it out.
    Outlier(usize),
    /// It was applied; without lessons, if it was damaged.
    Step(Vec<GuardLesson>, Vec<Lesson>),
}

/// What came of a step.
struct Run {
    report: ClipReport,
    lessons: Lessons,
    /// One for each tensor, where scaling is left to the optimizer.
    factors: Option<Vec<f64>>,
}

impl Clipper {
    /// A clipper that works on one thread and has seen no step.
    ///
    /// # Errors
    ///
    /// [`PolicyError::InsideAdam`] for a policy with rules that only an Adam can carry out. One that
    /// does makes its clipper by [`Clipper::beside_adam`].
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
        let mut guards = Vec::new();
        let mut rules = Vec::new();
        let outside = policy.rules().iter();
        let outside = outside.filter(|rule| rule.role() != ClipRole::Adam);
        for (index, rule) in outside.enumerate() {
            let name = rule.name();
            let prefix = format!("{index}.{name}.");
            if let ClipRule::Skip {
                sigma,
                window,
                limit,
            } = *rule
            {
                let rule = Guard::new(sigma, window, limit);
                guards.push(Link { name, prefix, rule });
            } else if let Some(rule) = rule_of(rule) {
                rules.push(Link { name, prefix, rule });
            }
        }
        Clipper {
            policy,
            non_finite,
            threads: 1,
            scan,
            output_layer: BTreeSet::new(),
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
    /// that clipping it hurts. With `agc`, a name that no gradient has is an error when clipping.
    #[must_use]
    pub fn with_output_layer<Name: Into<String>>(
        mut self,
        tensors: impl IntoIterator<Item = Name>,
    ) -> Clipper {
        self.output_layer = tensors.into_iter().map(Into::into).collect();
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
    /// [`ClipError::NonFinite`] under [`NonFinite::Error`], [`ClipError::Parameter`] for `agc` without
    /// parameters, and [`ClipError::OutputLayer`], with every gradient and all that was learned left as
    /// it was.
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
    /// A change that is more than a factor (`value`, `agc`, all but the last rule of a chain) is made
    /// in place.
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

    /// What the policy wants done with tensors that were measured elsewhere: on a device, in other
    /// processes, or in a run that has ended. A pure function of memory and measures; the caller
    /// carries it out and then shows it to [`Clipper::learn`].
    ///
    /// A chain goes from one measure to the next by arithmetic, where [`Clipper::clip`] measures what
    /// the rule before has left, rounding included. Under [`NonFinite::Zero`] the caller sets what
    /// is not finite to zero.
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
    /// [`ClipError::Measures`] for rules that measures do not suffice for: `agc`, other orders than 2,
    /// what comes after `value`, and `value` over measures without magnitudes
    /// ([`Measure::of_norm`]). [`ClipError::NonFinite`] under [`NonFinite::Error`].
    pub fn decide(&self, measures: &[Measure], loss: Option<f64>) -> Result<Decision, ClipError> {
        let mut tensors = Elsewhere {
            measures: measures.to_vec(),
            factors: vec![1.0; measures.len()],
            clamps: vec![None; measures.len()],
        };
        let run = self.run(&mut tensors, loss, false)?;
        Ok(Decision {
            factors: tensors.factors,
            clamps: tensors.clamps,
            skip: run.report.skip_reason,
            report: run.report,
            lessons: run.lessons,
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
        let guards = self
            .guards
            .iter()
            .map(|link| (&link.prefix, link.rule.state()));
        let rules = self
            .rules
            .iter()
            .map(|link| (&link.prefix, link.rule.state()));
        for (prefix, lists) in guards.chain(rules) {
            state.extend(
                lists
                    .into_iter()
                    .map(|(name, list)| (format!("{prefix}{name}"), list)),
            );
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
        let named = state
            .iter()
            .map(|(name, list)| (name.as_str(), list.as_slice()));
        let mut left = named.collect();
        let steps = Lists::new(&mut left, String::new()).count("steps")?;
        let (mut guards, mut rules) = (self.guards.clone(), self.rules.clone());
        for link in &mut guards {
            link.rule
                .restore(&mut Lists::new(&mut left, link.prefix.clone()))?;
        }
        for link in &mut rules {
            link.rule
                .restore(&mut Lists::new(&mut left, link.prefix.clone()))?;
        }
        if let Some((name, _)) = left.first_key_value() {
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
        let Run {
            report,
            lessons,
            factors,
        } = self.run(&mut AtHand(&mut gradients), loss, may_defer)?;
        self.take_in(&lessons);
        if report.action == ClipAction::Skip {
            return Ok(Outcome::Skip { gradients, report });
        }
        let clipped = Clipped::new(gradients, report);
        Ok(Outcome::Apply(Deferred::new(clipped, factors)))
    }

    /// The chain: every rule decides from what the one before it has left.
    fn run(
        &self,
        tensors: &mut impl Tensors,
        loss: Option<f64>,
        may_defer: bool,
    ) -> Result<Run, ClipError> {
        let mut measures = tensors.measure(self, self.rules.first())?;
        let mut report = ClipReport::measured(self.policy.order(), &measures);
        let left_out = |mut report: ClipReport, reason, threshold, lessons| {
            report.skip(reason, threshold);
            Ok(Run {
                report,
                lessons,
                factors: None,
            })
        };
        match self.non_finite {
            _ if report.non_finite == 0 => {}
            NonFinite::Error => return Err(non_finite_error(&measures)),
            NonFinite::Skip => {
                let threshold = |link: &Link<Box<dyn Rule>>| link.rule.fixed_threshold(self.steps);
                let threshold = self.rules.iter().rev().find_map(threshold);
                return left_out(report, SkipReason::NonFinite, threshold, Lessons::NonFinite);
            }
            NonFinite::Zero => {}
        }
        // What cannot be carried out must show before the first rule changes anything.
        tensors.check(self)?;
        let norm = norm_of_all(&measures, NormOrder::TWO).value();
        let loss = loss.filter(|loss| loss.is_finite());
        let mut guard_lessons = Vec::new();
        for (index, link) in self.guards.iter().enumerate() {
            let judgement = link.rule.judge(norm, loss);
            if let Some(reason) = judgement.skip {
                let lessons = Lessons::Outlier(index);
                return left_out(report, reason, judgement.threshold, lessons);
            }
            report.threshold = report.threshold.or(judgement.threshold);
            guard_lessons.push(judgement.lesson);
        }
        if report.non_finite > 0 {
            tensors.zero_non_finite();
        }
        let mut lessons = Vec::with_capacity(self.rules.len());
        let mut factors = None;
        // Only what an earlier rule has changed, or has looked at in another way, is measured again.
        let mut measured_for = self.rules.first();
        for (index, link) in self.rules.iter().enumerate() {
            if !measured_for.is_some_and(|other| link.can_use_measures_for(other)) {
                measures = tensors.measure(self, Some(link))?;
                measured_for = Some(link);
            }
            let orders = self.orders(Some(link));
            let decided = link.rule.decide(self.steps, &measures);
            if may_defer && index + 1 == self.rules.len() {
                factors = factors_of(&decided.changes, &measures);
            }
            let changes = decided.changes.iter().zip(&measures);
            let effects = match factors {
                Some(_) => changes
                    .map(|(change, measure)| change.effect(measure, orders))
                    .collect(),
                None if decided.changes_anything() => {
                    measured_for = None;
                    tensors.apply(self, &decided.changes, &measures, orders)
                }
                None => Vec::new(),
            };
            report.apply(&*link.rule, orders, &measures, &decided, &effects);
            lessons.push(decided.lesson);
        }
        // What is left of a damaged step is no measure of ordinary ones.
        let lessons = match report.non_finite {
            0 => Lessons::Step(guard_lessons, lessons),
            _ => Lessons::Step(Vec::new(), Vec::new()),
        };
        Ok(Run {
            report,
            lessons,
            factors,
        })
    }

    fn take_in(&mut self, lessons: &Lessons) {
        match lessons {
            Lessons::NonFinite => {}
            Lessons::Outlier(guard) => {
                if let Some(link) = self.guards.get_mut(*guard) {
                    link.rule.count_skip();
                }
            }
            Lessons::Step(of_guards, of_rules) => {
                for (link, lesson) in self.guards.iter_mut().zip(of_guards) {
                    link.rule.learn(lesson);
                }
                for (link, lesson) in self.rules.iter_mut().zip(of_rules) {
                    link.rule.learn(lesson);
                }
                self.steps += 1;
            }
        }
    }

    fn orders(&self, link: Option<&Link<Box<dyn Rule>>>) -> Orders {
        Orders {
            rule: link.map_or(NormOrder::TWO, |link| link.rule.order()),
            report: self.policy.order(),
        }
    }
}

impl Link<Box<dyn Rule>> {
    /// Whether gradients that were measured for another rule, and not changed since, are measured
    /// for this one too.
    fn can_use_measures_for(&self, other: &Link<Box<dyn Rule>>) -> bool {
        let same_rule = core::ptr::eq(self, other);
        same_rule || (self.rule.order() == other.rule.order() && self.rule.units().is_none())
    }
}

fn non_finite_error(measures: &[Measure]) -> ClipError {
    let affected = measures.iter().filter(|measure| measure.non_finite > 0);
    let tensors = affected.map(|measure| (measure.name.clone(), measure.non_finite));
    ClipError::NonFinite {
        tensors: tensors.collect(),
    }
}

/// The tensors of a step, whose elements are at hand or elsewhere.
trait Tensors {
    /// Measures them for a rule.
    fn measure(
        &mut self,
        clipper: &Clipper,
        link: Option<&Link<Box<dyn Rule>>>,
    ) -> Result<Vec<Measure>, ClipError>;

    /// Whether all rules can be carried out on them.
    fn check(&mut self, clipper: &Clipper) -> Result<(), ClipError>;

    fn zero_non_finite(&mut self);

    /// Changes them, and tells what that did to each.
    fn apply(
        &mut self,
        clipper: &Clipper,
        changes: &[Change],
        measures: &[Measure],
        orders: Orders,
    ) -> Vec<Effect>;
}

/// Tensors that are read and written here.
struct AtHand<'a, G>(&'a mut G);

impl<G: Gradients> Tensors for AtHand<'_, G> {
    fn measure(
        &mut self,
        clipper: &Clipper,
        link: Option<&Link<Box<dyn Rule>>>,
    ) -> Result<Vec<Measure>, ClipError> {
        let (threads, scan) = (clipper.threads, clipper.scan);
        let orders = clipper.orders(link);
        let units = link.and_then(|link| link.rule.units());
        let read = |tensors: Vec<&[f32]>| scan(&tensors, threads).into_iter();
        let mut scanned = self.0.single_precision().map(read);
        let mut measures: Vec<Measure> = Vec::new();
        let mut problem = None;
        let mut left_alone = 0;
        self.0.visit(&mut |gradient| {
            let scanned = scanned.as_mut().map(|scanned| {
                let next = scanned.next();
                next.expect("Gradients::single_precision must have every tensor of a visit")
            });
            let mut measure = measure_tensor(&gradient, orders, threads, scan, scanned);
            if clipper.output_layer.contains(gradient.name()) {
                left_alone += 1;
            } else if let Some(axis) = units {
                match measure_units(&gradient, axis, measure.max_magnitude) {
                    Ok(units) => measure.units = Some(units),
                    Err(error) => problem = problem.take().or(Some(error)),
                }
            }
            measures.push(measure);
        });
        if units.is_some() && left_alone < clipper.output_layer.len() {
            let found = |name: &&String| measures.iter().any(|measure| measure.name == **name);
            let mut names = clipper.output_layer.iter();
            let missing = names.find(|name| !found(name)).cloned();
            let error = |tensor| ClipError::OutputLayer { tensor };
            problem = problem.or(missing.map(error));
        }
        problem.map_or(Ok(measures), Err)
    }

    fn check(&mut self, clipper: &Clipper) -> Result<(), ClipError> {
        let mut problem = None;
        // The first rule has been measured for.
        for axis in clipper
            .rules
            .iter()
            .skip(1)
            .filter_map(|link| link.rule.units())
        {
            self.0.visit(&mut |gradient| {
                if !clipper.output_layer.contains(gradient.name()) {
                    problem = problem.take().or(units_of(&gradient, axis).err());
                }
            });
        }
        problem.map_or(Ok(()), Err)
    }

    fn zero_non_finite(&mut self) {
        self.0
            .visit(&mut |mut gradient| gradient.elements_mut().zero_non_finite());
    }

    fn apply(
        &mut self,
        clipper: &Clipper,
        changes: &[Change],
        measures: &[Measure],
        orders: Orders,
    ) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(measures.len());
        self.0.visit(&mut |mut gradient| {
            let index = effects.len();
            let measured = measures.get(index).map(|measure| measure.name.as_str());
            assert_eq!(
                Some(gradient.name()),
                measured,
                "Gradients::visit must visit the same tensors in the same order each time"
            );
            let (change, measure) = (&changes[index], &measures[index]);
            let elements = gradient.elements_mut();
            effects.push(apply(elements, change, measure, orders, clipper.threads));
        });
        assert_eq!(
            effects.len(),
            measures.len(),
            "Gradients::visit must visit every tensor"
        );
        effects
    }
}

/// Tensors that are known by their measures alone.
struct Elsewhere {
    measures: Vec<Measure>,
    factors: Vec<f64>,
    clamps: Vec<Option<f64>>,
}

impl Tensors for Elsewhere {
    fn measure(
        &mut self,
        _: &Clipper,
        _: Option<&Link<Box<dyn Rule>>>,
    ) -> Result<Vec<Measure>, ClipError> {
        Ok(self.measures.clone())
    }

    fn check(&mut self, clipper: &Clipper) -> Result<(), ClipError> {
        let unknown = |measure: &Measure| measure.max_magnitude.is_nan();
        let mut is_clamped = false;
        for Link { name, rule, .. } in &clipper.rules {
            let problem = match rule.clamps() {
                _ if rule.units().is_some() || is_clamped => "needs the elements of gradients",
                _ if rule.order() != NormOrder::TWO => "needs norms of its own order",
                true if self.measures.iter().any(unknown) => {
                    "needs the largest magnitude of each tensor"
                }
                clamps => {
                    is_clamped = clamps;
                    continue;
                }
            };
            return Err(ClipError::Measures {
                rule: name,
                problem,
            });
        }
        Ok(())
    }

    fn zero_non_finite(&mut self) {}

    fn apply(
        &mut self,
        _: &Clipper,
        changes: &[Change],
        measures: &[Measure],
        orders: Orders,
    ) -> Vec<Effect> {
        for (index, change) in changes.iter().enumerate() {
            match change {
                Change::Scale { by, lands_on } => {
                    self.measures[index].scale(*by, *lands_on);
                    self.factors[index] *= by.value();
                }
                Change::Clamp(bound) => self.clamps[index] = Some(*bound),
                Change::Keep | Change::Units { .. } => {}
            }
        }
        let effects = changes.iter().zip(measures);
        effects
            .map(|(change, measure)| change.effect(measure, orders))
            .collect()
    }
}
