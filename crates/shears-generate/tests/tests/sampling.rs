//! Filters on vectors worked out by hand, and random draws.

use shears_generate::{
    GenerateError, Sampler, SamplingSettings, keep_min_p, keep_top_k, keep_top_p, most_probable,
    penalize_repetition, scale_by_temperature, softmax,
};

use crate::models::{GREEDY, PLAIN};

const NONE: f32 = f32::NEG_INFINITY;

/// Logits whose softmax gives these probabilities.
fn logits(probabilities: &[f64]) -> Vec<f32> {
    probabilities
        .iter()
        .map(|probability| probability.ln() as f32)
        .collect()
}

#[track_caller]
fn check_distribution(logits: &[f32], expected: &[f64]) {
    let found = softmax(logits);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
    }
}

/// The distribution after a filter.
#[track_caller]
fn check_filter(filter: impl Fn(&mut [f32]), before: &[f64], after: &[f64]) {
    let mut logits = logits(before);
    filter(&mut logits);
    check_distribution(&logits, after);
}

#[test]
fn softmax_is_exact_even_for_huge_logits() {
    check_distribution(&[1e30, 1e30, -1e30, NONE], &[0.5, 0.5, 0.0, 0.0]);
    let e = 1.0_f64.exp();
    check_distribution(&[3.0, 2.0], &[e / (e + 1.0), 1.0 / (e + 1.0)]);
}

#[test]
fn repetition_penalty_divides_positive_and_multiplies_negative_logits() {
    let mut logits = [2.0, -2.0, 0.0, 3.0, -1.0, NONE];
    penalize_repetition(&mut logits, &[1, 0, 0, 2, 5, 0], 4.0);
    assert_eq!(logits, [0.5, -8.0, 0.0, 3.0, -1.0, NONE]);
    penalize_repetition(&mut logits, &[3, 999], 1.5);
    assert_eq!(logits, [0.5, -8.0, 0.0, 2.0, -1.0, NONE]);
}

#[test]
fn an_extreme_repetition_penalty_leaves_finite_logits() {
    for penalty in [f64::MIN_POSITIVE, f64::MAX] {
        let mut logits = [2.0, -2.0, 0.0];
        penalize_repetition(&mut logits, &[0, 1, 2], penalty);
        assert!(logits.iter().all(|logit| logit.is_finite()), "{logits:?}");
    }
}

#[test]
fn temperature_divides_logits() {
    let squares = [0.25, 0.09, 0.04].map(|square| square / 0.38);
    check_filter(
        |logits| scale_by_temperature(logits, 0.5),
        &[0.5, 0.3, 0.2],
        &squares,
    );
    let roots = [3.0, 1.0].map(|root| root / 4.0);
    check_filter(
        |logits| scale_by_temperature(logits, 2.0),
        &[0.9, 0.1],
        &roots,
    );
    check_filter(
        |logits| scale_by_temperature(logits, 1e-300),
        &[0.6, 0.4],
        &[1.0, 0.0],
    );
    check_filter(
        |logits| scale_by_temperature(logits, 1e300),
        &[0.6, 0.4],
        &[0.5, 0.5],
    );
}

#[test]
fn top_k_keeps_exactly_k() {
    let before = [0.1, 0.4, 0.2, 0.3];
    check_filter(
        |logits| keep_top_k(logits, 1),
        &before,
        &[0.0, 1.0, 0.0, 0.0],
    );
    check_filter(
        |logits| keep_top_k(logits, 2),
        &before,
        &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0],
    );
    check_filter(|logits| keep_top_k(logits, 4), &before, &before);
    check_filter(|logits| keep_top_k(logits, 400), &before, &before);
    // Ties keep the lowest ids.
    check_filter(
        |logits| keep_top_k(logits, 2),
        &[0.25; 4],
        &[0.5, 0.5, 0.0, 0.0],
    );
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_p() {
    let before = [0.1, 0.4, 0.2, 0.3];
    let two = [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0];
    check_filter(
        |logits| keep_top_p(logits, 0.39),
        &before,
        &[0.0, 1.0, 0.0, 0.0],
    );
    check_filter(|logits| keep_top_p(logits, 0.41), &before, &two);
    check_filter(|logits| keep_top_p(logits, 0.69), &before, &two);
    check_filter(|logits| keep_top_p(logits, 0.95), &before, &before);
    check_filter(|logits| keep_top_p(logits, 1.0), &before, &before);
    // A quarter is exact in floating point: two reach one half, so the third is dropped.
    check_filter(
        |logits| keep_top_p(logits, 0.5),
        &[0.25; 4],
        &[0.5, 0.5, 0.0, 0.0],
    );
}

#[test]
fn top_p_keeps_at_least_one_token() {
    for p in [f64::MIN_POSITIVE, 1e-9, 0.1] {
        check_filter(
            |logits| keep_top_p(logits, p),
            &[0.3, 0.5, 0.2],
            &[0.0, 1.0, 0.0],
        );
    }
}

#[test]
fn min_p_compares_with_the_most_probable_token() {
    let before = [0.1, 0.4, 0.2, 0.3];
    check_filter(|logits| keep_min_p(logits, 0.0), &before, &before);
    check_filter(|logits| keep_min_p(logits, 0.24), &before, &before);
    let without_first = [0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0];
    check_filter(|logits| keep_min_p(logits, 0.26), &before, &without_first);
    check_filter(
        |logits| keep_min_p(logits, 0.6),
        &before,
        &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0],
    );
    check_filter(
        |logits| keep_min_p(logits, 1.0),
        &before,
        &[0.0, 1.0, 0.0, 0.0],
    );
    check_filter(|logits| keep_min_p(logits, 1.0), &[0.5, 0.5], &[0.5, 0.5]);
}

#[test]
fn no_logits_make_a_filter_panic() {
    for mut logits in [
        vec![],
        vec![f32::NAN, 1.0, -0.0, 0.0],
        vec![NONE; 3],
        vec![f32::INFINITY],
    ] {
        penalize_repetition(&mut logits, &[0, 1], 1.2);
        keep_top_k(&mut logits, 1);
        keep_top_p(&mut logits, 0.5);
        keep_min_p(&mut logits, 0.5);
        scale_by_temperature(&mut logits, 0.5);
        softmax(&logits);
        most_probable(&logits);
    }
}

/// The frequency of each token in 40 000 draws.
fn frequencies(settings: SamplingSettings, logits: &[f32], history: &[u32]) -> Vec<f64> {
    let mut sampler = Sampler::new(settings, 7).unwrap();
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..40_000 {
        counts[sampler.sample(logits, history).unwrap() as usize] += 1.0 / 40_000.0;
    }
    counts
}

#[test]
fn draws_follow_the_distribution() {
    let probabilities = [0.1, 0.4, 0.0, 0.2, 0.3];
    let found = frequencies(PLAIN, &logits(&probabilities), &[]);
    for (found, expected) in found.iter().zip(probabilities) {
        // At most five standard deviations of the frequency.
        assert!(
            (found - expected).abs() < 0.0125,
            "{found} is not {expected}"
        );
    }
    assert_eq!(found[2], 0.0);
}

#[test]
fn the_filters_are_applied_in_order() {
    // The penalty halves the first logit, the temperature doubles all: 2, 4, 3, 1, 0. Top-k drops
    // the last, top-p (over 4, 3, 2, 1: 0.644, 0.237, 0.087, 0.032) the one before it, and min-p
    // the 2, whose ratio to the 4 is 0.135.
    let settings = SamplingSettings {
        temperature: 0.5,
        top_k: Some(4),
        top_p: Some(0.9),
        min_p: Some(0.2),
        repetition_penalty: 2.0,
    };
    let logits = [2.0, 2.0, 1.5, 0.5, 0.0];
    let found = frequencies(settings.clone(), &logits, &[0]);
    let ratio = (-1.0_f64).exp();
    assert_eq!((found[0], found[3], found[4]), (0.0, 0.0, 0.0));
    assert!((found[1] - 1.0 / (1.0 + ratio)).abs() < 0.0125);
    let found = frequencies(
        SamplingSettings {
            min_p: None,
            ..settings
        },
        &logits,
        &[0],
    );
    assert!(found[0] > 0.05 && found[3] == 0.0 && found[4] == 0.0);
}

#[test]
fn temperature_zero_takes_the_largest_logit_and_the_lowest_id() {
    let mut sampler = Sampler::new(GREEDY, 1).unwrap();
    assert_eq!(sampler.sample(&[0.0, 3.0, 2.0, 3.0], &[]), Ok(1));
    assert_eq!(sampler.sample(&[NONE, -3.0], &[]), Ok(1));
    let settings = SamplingSettings {
        repetition_penalty: 2.0,
        ..GREEDY
    };
    let mut sampler = Sampler::new(settings, 1).unwrap();
    assert_eq!(sampler.sample(&[0.0, 3.0, 2.0, 3.0], &[1]), Ok(3));
    assert_eq!(sampler.sample(&[0.0, 3.0, 2.0, 3.0], &[1, 3]), Ok(2));
}

#[test]
fn the_seed_decides_the_draws() {
    let draws = |seed| -> Vec<u32> {
        let mut sampler = Sampler::new(PLAIN, seed).unwrap();
        (0..50)
            .map(|_| sampler.sample(&[0.0; 10], &[]).unwrap())
            .collect()
    };
    assert_eq!(draws(1), draws(1));
    assert_ne!(draws(1), draws(2));
}

#[test]
fn logits_without_a_distribution_are_refused() {
    for settings in [PLAIN, GREEDY] {
        let mut sampler = Sampler::new(settings, 1).unwrap();
        let mut sample = |logits: &[f32]| sampler.sample(logits, &[]).unwrap_err();
        assert_eq!(sample(&[0.0, f32::NAN]), GenerateError::NanLogits);
        assert_eq!(sample(&[f32::INFINITY, f32::NAN]), GenerateError::NanLogits);
        assert_eq!(sample(&[0.0, f32::INFINITY]), GenerateError::InfiniteLogits);
        assert_eq!(sample(&[NONE, NONE]), GenerateError::InfiniteLogits);
        assert_eq!(sample(&[]), GenerateError::NoLogits);
    }
    let message = GenerateError::NanLogits.to_string();
    assert_eq!(
        message,
        "the model returns NaN: its weights are not finite, or too large"
    );
}

/// The error message for the changed settings; empty if they are accepted.
fn message(change: impl FnOnce(&mut SamplingSettings)) -> String {
    let mut settings = PLAIN;
    change(&mut settings);
    let error = Sampler::new(settings, 0).err();
    error.map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn each_bad_setting_is_named_with_its_value_and_range() {
    assert_eq!(message(|_| ()), "");
    let negative = message(|settings| settings.temperature = -0.5);
    assert_eq!(
        negative,
        "temperature is -0.5; it must be a finite number of at least 0"
    );
    assert_eq!(
        message(|settings| settings.top_k = Some(0)),
        "top-k is 0; it must be at least 1"
    );
    let zero = message(|settings| settings.top_p = Some(0.0));
    assert_eq!(zero, "top-p is 0; it must be above 0 and at most 1");
    let above = message(|settings| settings.min_p = Some(1.5));
    assert_eq!(above, "min-p is 1.5; it must be from 0 to 1");
    let zero = message(|settings| settings.repetition_penalty = 0.0);
    assert_eq!(
        zero,
        "repetition-penalty is 0; it must be a finite number above 0"
    );
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(message(|settings| settings.temperature = bad).starts_with("temperature is"));
        assert!(message(|settings| settings.top_p = Some(bad)).starts_with("top-p is"));
        assert!(message(|settings| settings.min_p = Some(bad)).starts_with("min-p is"));
        let penalty = message(|settings| settings.repetition_penalty = bad);
        assert!(penalty.starts_with("repetition-penalty is"));
    }
}

#[test]
fn the_ends_of_each_range_are_accepted() {
    assert_eq!(message(|settings| settings.temperature = 0.0), "");
    assert_eq!(message(|settings| settings.top_k = Some(1)), "");
    assert_eq!(message(|settings| settings.top_p = Some(1.0)), "");
    assert_eq!(message(|settings| settings.min_p = Some(0.0)), "");
    assert_eq!(message(|settings| settings.min_p = Some(1.0)), "");
}
