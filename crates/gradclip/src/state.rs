//! The state of a clipper, as plain numbers.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The state of a [`Clipper`](crate::Clipper) as named lists of numbers, for a checkpoint in any
/// format.
///
/// ```
/// use gradclip::{ClipPolicy, Clipper, NonFinite, Unscaled};
///
/// let policy: ClipPolicy = "autoclip:10".parse()?;
/// let mut clipper = Clipper::new(policy.clone(), NonFinite::Skip)?;
/// clipper.clip(Unscaled::single([("weight", [3.0_f32, 4.0])]))?;
/// let state = clipper.state();
/// assert_eq!(state["0.autoclip.norms"], [5.0]);
///
/// let mut resumed = Clipper::new(policy, NonFinite::Skip)?;
/// resumed.restore(&state)?;
/// assert_eq!(resumed.state(), state);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type ClipperState = BTreeMap<String, Vec<f64>>;

/// Counts up to this are exact in `f64`.
const LARGEST_COUNT: f64 = 9_007_199_254_740_992.0;

/// Why a state was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateError {
    /// The name of the list.
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

/// Converts a count to the number that [`Lists::count`] reads.
pub(crate) fn number_of(count: u64) -> f64 {
    (count as f64).min(LARGEST_COUNT)
}

pub(crate) fn is_norm(number: &f64) -> bool {
    number.is_finite() && *number >= 0.0
}

/// The lists not yet taken, looked up by name after a prefix.
pub(crate) struct Lists<'a> {
    lists: BTreeMap<&'a str, &'a [f64]>,
    pub(crate) prefix: String,
}

impl<'a> Lists<'a> {
    pub(crate) fn of(state: &'a ClipperState) -> Lists<'a> {
        let lists = state.iter();
        Lists {
            lists: lists.map(|(name, list)| (&**name, &**list)).collect(),
            prefix: String::new(),
        }
    }

    /// The first list that was not taken.
    pub(crate) fn first_unused(&self) -> Option<&'a str> {
        self.lists.keys().next().copied()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.lists.contains_key(self.full(name).as_str())
    }

    pub(crate) fn take(&mut self, name: &str) -> Result<&'a [f64], StateError> {
        let numbers = self.lists.remove(self.full(name).as_str());
        numbers.ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// Takes a single whole number.
    pub(crate) fn count(&mut self, name: &str) -> Result<u64, StateError> {
        if let [number] = self.take(name)?
            && (0.0..=LARGEST_COUNT).contains(number)
            && *number as u64 as f64 == *number
        {
            return Ok(*number as u64);
        }
        Err(self.wrong(name, "must be one whole number"))
    }

    /// Takes one norm greater than zero for each name that begins with `start`.
    pub(crate) fn norms(&mut self, start: &str) -> Result<BTreeMap<String, f64>, StateError> {
        let start = self.full(start);
        let mut norms = BTreeMap::new();
        let names: Vec<&str> = self.lists.keys().copied().collect();
        for name in names {
            let Some(tensor) = name.strip_prefix(start.as_str()) else {
                continue;
            };
            match self.lists.remove(name) {
                Some([norm]) if is_norm(norm) && *norm > 0.0 => {
                    norms.insert(tensor.into(), *norm);
                }
                _ => {
                    return Err(StateError {
                        list: name.into(),
                        problem: "must be one number greater than 0",
                    });
                }
            }
        }
        Ok(norms)
    }

    pub(crate) fn wrong(&self, name: &str, problem: &'static str) -> StateError {
        StateError {
            list: self.full(name),
            problem,
        }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
