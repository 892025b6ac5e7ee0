//! From logits to a token: penalty, temperature, filters and one draw.
//!
//! Everything here is plain arithmetic on slices, without tensors. A filter removes tokens by
//! setting their logits to minus infinity, which is probability zero, so that filters compose in
//! any order; [`Sampler`] applies them in the order repetition penalty, temperature, top-k, top-p,
//! min-p.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::GenerateError;

/// How to choose the next token from the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingSettings {
    /// Divides the logits; 0 always chooses the most probable token.
    pub temperature: f64,
    /// Keeps only this many of the most probable tokens.
    pub top_k: Option<usize>,
    /// Keeps the smallest set of most probable tokens whose probability reaches this.
    pub top_p: Option<f64>,
    /// Keeps the tokens that are at least this fraction as probable as the most probable one.
    pub min_p: Option<f64>,
    /// Makes recent tokens less probable (above 1) or more probable (below 1); 1 has no effect.
    pub repetition_penalty: f64,
}

impl SamplingSettings {
    /// This temperature, without filter or penalty.
    pub const fn at(temperature: f64) -> SamplingSettings {
        SamplingSettings {
            temperature,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
        }
    }

    /// Checks that every setting is in its range.
    ///
    /// # Errors
    ///
    /// [`GenerateError::Setting`] for the first one that is not. NaN is always out of range.
    pub fn validate(&self) -> Result<(), GenerateError> {
        let check = |fits: bool, name, value: String, accepted| match fits {
            true => Ok(()),
            false => Err(GenerateError::Setting {
                name,
                value,
                accepted,
            }),
        };
        let SamplingSettings {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
        } = *self;
        check(
            temperature.is_finite() && temperature >= 0.0,
            "temperature",
            temperature.to_string(),
            "a finite number of at least 0",
        )?;
        if let Some(k) = top_k {
            check(k >= 1, "top-k", k.to_string(), "at least 1")?;
        }
        if let Some(p) = top_p {
            check(
                p > 0.0 && p <= 1.0,
                "top-p",
                p.to_string(),
                "above 0 and at most 1",
            )?;
        }
        if let Some(p) = min_p {
            check(
                (0.0..=1.0).contains(&p),
                "min-p",
                p.to_string(),
                "from 0 to 1",
            )?;
        }
        check(
            repetition_penalty.is_finite() && repetition_penalty > 0.0,
            "repetition-penalty",
            repetition_penalty.to_string(),
            "a finite number above 0",
        )
    }
}

/// Chooses tokens. The same settings, seed and logits give the same tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: SamplingSettings,
    generator: ChaCha8Rng,
}

impl Sampler {
    /// A sampler whose draws depend on `seed`.
    ///
    /// # Errors
    ///
    /// [`GenerateError::Setting`] if a setting is out of range.
    pub fn new(settings: SamplingSettings, seed: u64) -> Result<Self, GenerateError> {
        settings.validate()?;
        Ok(Sampler {
            settings,
            generator: ChaCha8Rng::seed_from_u64(seed),
        })
    }

    /// Chooses the next token. `history` holds the tokens to which the repetition penalty applies,
    /// once each, however often they occur.
    ///
    /// Minus infinity in the logits is probability zero. Each call takes one draw from the
    /// generator, unless the temperature is 0.
    ///
    /// # Errors
    ///
    /// [`GenerateError::NanLogits`], [`GenerateError::InfiniteLogits`] or
    /// [`GenerateError::NoLogits`] if the logits are not a distribution.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, GenerateError> {
        check(logits)?;
        let settings = &self.settings;
        let mut logits = logits.to_vec();
        penalize_repetition(&mut logits, history, settings.repetition_penalty);
        if settings.temperature == 0.0 {
            return Ok(most_probable(&logits));
        }
        scale_by_temperature(&mut logits, settings.temperature);
        if let Some(k) = settings.top_k {
            keep_top_k(&mut logits, k);
        }
        if let Some(p) = settings.top_p {
            keep_top_p(&mut logits, p);
        }
        if let Some(p) = settings.min_p {
            keep_min_p(&mut logits, p);
        }
        Ok(draw(&softmax(&logits), self.generator.random()))
    }
}

/// Checks that the logits are a distribution.
fn check(logits: &[f32]) -> Result<(), GenerateError> {
    if logits.is_empty() {
        return Err(GenerateError::NoLogits);
    }
    if logits.iter().any(|logit| logit.is_nan()) {
        return Err(GenerateError::NanLogits);
    }
    let largest = maximum(logits);
    if largest.is_infinite() {
        Err(GenerateError::InfiniteLogits)
    } else {
        Ok(())
    }
}

/// Makes the tokens of `history` less probable: a positive logit is divided by `penalty`, a
/// negative one multiplied (Keskar et al. 2019, "CTRL", section 4.1).
///
/// Tokens without a logit are ignored.
pub fn penalize_repetition(logits: &mut [f32], history: &[u32], penalty: f64) {
    if penalty == 1.0 {
        return;
    }
    // A token is penalized once, however often it occurs.
    let tokens: BTreeSet<u32> = history.iter().copied().collect();
    for token in tokens {
        let Some(logit) = logits.get_mut(token as usize) else {
            continue;
        };
        if !logit.is_finite() {
            continue;
        }
        let old = f64::from(*logit);
        let new = if old > 0.0 {
            old / penalty
        } else {
            old * penalty
        };
        // An extreme penalty must not turn finite logits into infinite ones.
        *logit = new.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
    }
}

/// Divides the logits by a `temperature` above 0, after moving the largest one to 0.
///
/// The shift does not change the distribution, and keeps the division from overflowing for a
/// temperature close to 0.
pub fn scale_by_temperature(logits: &mut [f32], temperature: f64) {
    let largest = f64::from(maximum(logits));
    for logit in logits {
        *logit = ((f64::from(*logit) - largest) / temperature) as f32;
    }
}

/// Keeps the `k` largest logits; of equal ones, those with lower ids.
pub fn keep_top_k(logits: &mut [f32], k: usize) {
    if k >= logits.len() {
        return;
    }
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.select_nth_unstable_by(k, |&a, &b| larger_first(logits, a, b));
    for &id in &ids[k..] {
        logits[id] = f32::NEG_INFINITY;
    }
}

/// Keeps the smallest set of most probable tokens whose total probability reaches `p`, and always
/// the most probable one (nucleus sampling; Holtzman et al. 2020).
pub fn keep_top_p(logits: &mut [f32], p: f64) {
    // Rounding could let the sum reach 1 before the last token.
    if p >= 1.0 {
        return;
    }
    let probabilities = softmax(logits);
    let mut ids: Vec<usize> = (0..logits.len())
        .filter(|&id| probabilities[id] > 0.0)
        .collect();
    ids.sort_unstable_by(|&a, &b| larger_first(logits, a, b));
    let mut kept = vec![false; logits.len()];
    let mut sum = 0.0;
    for id in ids {
        kept[id] = true;
        sum += probabilities[id];
        if sum >= p {
            break;
        }
    }
    for (logit, kept) in logits.iter_mut().zip(kept) {
        if !kept {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Keeps the tokens whose probability is at least `p` times that of the most probable one.
pub fn keep_min_p(logits: &mut [f32], p: f64) {
    let largest = f64::from(maximum(logits));
    for logit in logits {
        // The ratio of two probabilities needs no softmax: its denominator cancels out.
        if (f64::from(*logit) - largest).exp() < p {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// The softmax of the logits, in double precision.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(maximum(logits));
    let powers = logits
        .iter()
        .map(|&logit| (f64::from(logit) - largest).exp());
    let powers: Vec<f64> = powers.collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// The token with the largest logit; of equal ones, the one with the lowest id.
pub fn most_probable(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).min_by(|&a, &b| larger_first(logits, a, b));
    best.unwrap_or(0) as u32
}

/// The token whose share of `[0, 1)` contains `uniform`.
fn draw(probabilities: &[f64], uniform: f64) -> u32 {
    let mut sum = 0.0;
    let mut last_possible = 0;
    for (id, &probability) in probabilities.iter().enumerate() {
        if probability > 0.0 {
            last_possible = id;
        }
        sum += probability;
        if uniform < sum {
            return id as u32;
        }
    }
    // Rounding can leave the sum slightly below 1; the gap belongs to the last token.
    last_possible as u32
}

fn maximum(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// A total order, so that not even NaN makes a sort panic. Adding 0 makes -0 and 0 equal.
fn larger_first(logits: &[f32], a: usize, b: usize) -> Ordering {
    (logits[b] + 0.0)
        .total_cmp(&(logits[a] + 0.0))
        .then(a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draw_chooses_the_share_that_contains_the_number() {
        let probabilities = [0.25, 0.0, 0.5, 0.25];
        let drawn = [0.0, 0.249, 0.25, 0.749, 0.75, 0.999].map(|u| draw(&probabilities, u));
        assert_eq!(drawn, [0, 0, 2, 2, 3, 3]);
    }

    #[test]
    fn draw_never_chooses_an_impossible_token() {
        // The sum stays below the number, as after rounding.
        assert_eq!(draw(&[0.5, 0.4, 0.0], 0.95), 1);
        assert_eq!(draw(&[0.0, 1.0], 0.0), 1);
    }

    #[test]
    fn zeros_of_both_signs_are_equal() {
        assert_eq!(most_probable(&[-0.0, 0.0]), 0);
        assert_eq!(most_probable(&[-1.0, 0.0, -0.0]), 1);
    }
}
