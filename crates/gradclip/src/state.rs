//! What a clipper has learned, as plain numbers.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::clip::Clipper;
use crate::detector::{Detector, Outliers, RunningNorms, Window, ZScore};
use crate::percentile::NormHistory;
use crate::policy::ClipRule;

/// The memory of a [`Clipper`] as named lists of numbers, for a checkpoint in any format.
///
/// ```
/// use gradclip::{ClipPolicy, Clipper, NonFinite, Unscaled};
///
/// let policy: ClipPolicy = "autoclip:10".parse()?;
/// let mut clipper = Clipper::new(policy.clone(), NonFinite::Skip);
/// clipper.clip(Unscaled::single([("weight", [3.0_f32, 4.0])]))?;
/// let state = clipper.state();
/// assert_eq!(state["0.autoclip.norms"], [5.0]);
///
/// let mut resumed = Clipper::new(policy, NonFinite::Skip);
/// resumed.restore(&state)?;
/// assert_eq!(resumed.state(), state);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type ClipperState = BTreeMap<String, Vec<f64>>;

/// Counts up to this are exact in `f64`.
const LARGEST_COUNT: f64 = 9_007_199_254_740_992.0;

impl Clipper {
    /// All that this clipper has learned. Restored into a new clipper of the same policy, it makes
    /// that one clip as this one would.
    #[must_use]
    pub fn state(&self) -> ClipperState {
        let mut state = ClipperState::new();
        state.insert("steps".into(), vec![number_of(self.steps)]);
        for (index, link) in self.links.iter().enumerate() {
            let Some(detector) = &link.detector else {
                continue;
            };
            let prefix = format!("{index}.{}", link.rule.name());
            for (name, numbers) in numbers_of(detector) {
                state.insert(format!("{prefix}.{name}"), numbers);
            }
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
        let mut left = Lists {
            lists: state.iter().collect(),
        };
        let steps = count(left.take("steps")?).ok_or_else(|| left.wrong("steps", COUNT))?;
        let mut detectors = Vec::with_capacity(self.links.len());
        for (index, link) in self.links.iter().enumerate() {
            let prefix = format!("{index}.{}", link.rule.name());
            let read = |known: &Detector| read_detector(known, &link.rule, &prefix, &mut left);
            detectors.push(link.detector.as_ref().map(read).transpose()?);
        }
        if let Some((name, _)) = left.lists.first_key_value() {
            return Err(StateError {
                list: (*name).clone(),
                problem: "does not belong to this policy",
            });
        }
        self.steps = steps;
        for (link, detector) in self.links.iter_mut().zip(detectors) {
            link.detector = detector;
        }
        Ok(())
    }
}

/// Why a state was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateError {
    /// The list of numbers.
    pub list: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl fmt::Display for StateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "state of the clipper: `{}` {}",
            self.list, self.problem
        )
    }
}

impl core::error::Error for StateError {}

const COUNT: &str = "must be one whole number";
const NORMS: &str = "must hold finite norms, no more than its window";

/// A count as a number that [`count`] takes back.
fn number_of(count: u64) -> f64 {
    (count as f64).min(LARGEST_COUNT)
}

fn numbers_of(detector: &Detector) -> Vec<(String, Vec<f64>)> {
    match detector {
        Detector::AutoClip(history) => {
            let (name, numbers) = history.numbers();
            vec![(name.into(), numbers)]
        }
        Detector::ZClip(ZScore::WarmingUp(norms)) => vec![("norms".into(), norms.clone())],
        Detector::ZClip(ZScore::Running { mean, variance }) => {
            vec![("mean-and-variance".into(), vec![*mean, *variance])]
        }
        Detector::AdaGc(RunningNorms { steps, norms }) => {
            let steps = ("steps".into(), vec![number_of(*steps)]);
            let norms = norms
                .iter()
                .map(|(tensor, norm)| (format!("norm.{tensor}"), vec![*norm]));
            core::iter::once(steps).chain(norms).collect()
        }
        Detector::Median(window) => {
            vec![("norms".into(), window.numbers.iter().copied().collect())]
        }
        Detector::Skip(outliers) => vec![
            (
                "norms".into(),
                outliers.norms.numbers.iter().copied().collect(),
            ),
            (
                "losses".into(),
                outliers.losses.numbers.iter().copied().collect(),
            ),
            ("skipped".into(), vec![f64::from(outliers.skipped)]),
        ],
    }
}

fn read_detector(
    known: &Detector,
    rule: &ClipRule,
    prefix: &str,
    left: &mut Lists<'_>,
) -> Result<Detector, StateError> {
    let name = |part: &str| format!("{prefix}.{part}");
    match (known, rule) {
        (Detector::AutoClip(_), _) => {
            let (list, history) = match left.has(&name("buckets")) {
                true => {
                    let list = name("buckets");
                    let history = NormHistory::from_buckets(left.take(&list)?);
                    (list, history)
                }
                false => {
                    let list = name("norms");
                    let history = NormHistory::from_norms(left.take(&list)?);
                    (list, history)
                }
            };
            let history = history.map_err(|problem| StateError { list, problem })?;
            Ok(Detector::AutoClip(history))
        }
        (Detector::ZClip(_), ClipRule::ZClip { warmup, .. }) => {
            let list = name("mean-and-variance");
            if left.has(&list) {
                return match left.take(&list)? {
                    [mean, variance] if is_norm(mean) && is_norm(variance) => {
                        let (mean, variance) = (*mean, *variance);
                        Ok(Detector::ZClip(ZScore::Running { mean, variance }))
                    }
                    _ => Err(left.wrong(&list, "must hold two numbers that are not negative")),
                };
            }
            let list = name("norms");
            let norms = left.take(&list)?;
            if norms.len() >= warmup.get() as usize || !norms.iter().all(is_norm) {
                return Err(left.wrong(&list, "must hold finite norms, fewer than the warm-up"));
            }
            Ok(Detector::ZClip(ZScore::WarmingUp(norms.to_vec())))
        }
        (Detector::AdaGc(_), _) => {
            let steps = name("steps");
            let steps = count(left.take(&steps)?).ok_or_else(|| left.wrong(&steps, COUNT))?;
            let norms = left.take_all(&name("norm."))?;
            Ok(Detector::AdaGc(RunningNorms { steps, norms }))
        }
        (Detector::Median(_), ClipRule::Median { window, .. }) => Ok(Detector::Median(
            left.window(&name("norms"), window.get(), is_norm)?,
        )),
        (Detector::Skip(_), ClipRule::Skip { window, limit, .. }) => {
            let norms = left.window(&name("norms"), window.get(), is_norm)?;
            let losses = left.window(&name("losses"), window.get(), |loss| loss.is_finite())?;
            let list = name("skipped");
            let skipped = count(left.take(&list)?)
                .and_then(|skipped| u32::try_from(skipped).ok())
                .filter(|skipped| *skipped <= limit.get())
                .ok_or_else(|| left.wrong(&list, "must be a number up to the limit of skips"))?;
            Ok(Detector::Skip(Outliers {
                norms,
                losses,
                skipped,
            }))
        }
        _ => Ok(known.clone()),
    }
}

/// The lists that were not taken yet.
struct Lists<'a> {
    lists: BTreeMap<&'a String, &'a Vec<f64>>,
}

impl<'a> Lists<'a> {
    fn has(&self, name: &str) -> bool {
        self.lists.keys().any(|list| *list == name)
    }

    fn take(&mut self, name: &str) -> Result<&'a [f64], StateError> {
        let found = self.lists.keys().find(|list| **list == name).copied();
        let numbers = found.and_then(|name| self.lists.remove(name));
        numbers
            .map(Vec::as_slice)
            .ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// One norm greater than zero for each name behind the prefix.
    fn take_all(&mut self, prefix: &str) -> Result<BTreeMap<String, f64>, StateError> {
        let names: Vec<&String> = self.lists.keys().copied().collect();
        let mut norms = BTreeMap::new();
        for name in names {
            let Some(tensor) = name.strip_prefix(prefix) else {
                continue;
            };
            match self.take(name)? {
                [norm] if is_norm(norm) && *norm > 0.0 => norms.insert(tensor.into(), *norm),
                _ => return Err(self.wrong(name, "must be one number greater than 0")),
            };
        }
        Ok(norms)
    }

    fn window(
        &mut self,
        name: &str,
        length: u32,
        valid: impl Fn(&f64) -> bool,
    ) -> Result<Window, StateError> {
        let numbers = self.take(name)?;
        if numbers.len() > length as usize || !numbers.iter().all(valid) {
            return Err(self.wrong(name, NORMS));
        }
        let numbers: VecDeque<f64> = numbers.iter().copied().collect();
        Ok(Window { numbers })
    }

    fn wrong(&self, list: &str, problem: &'static str) -> StateError {
        StateError {
            list: list.into(),
            problem,
        }
    }
}

fn is_norm(number: &f64) -> bool {
    number.is_finite() && *number >= 0.0
}

fn count(numbers: &[f64]) -> Option<u64> {
    match numbers {
        [number] if (0.0..=LARGEST_COUNT).contains(number) => {
            let whole = *number as u64;
            (whole as f64 == *number).then_some(whole)
        }
        _ => None,
    }
}
