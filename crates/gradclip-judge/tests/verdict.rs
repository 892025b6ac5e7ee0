//! The verdict on a run: every class on both sides of its limits, and the sentences.

use gradclip::{ClipAction, ClipPolicy, Clipper, NonFinite, Unscaled};
use gradclip_judge::{Class, Judgement, Run, StepRecord, Tone, UpdatePace, judge};

fn policy(text: &str) -> ClipPolicy {
    text.parse().expect("a policy")
}

/// A step under `global-norm:threshold`.
fn step(step: u64, norm_before: f64, threshold: Option<f64>) -> StepRecord {
    let clipped = threshold.is_some_and(|threshold| norm_before > threshold);
    StepRecord {
        step,
        loss: Some(2.0),
        norm_before,
        threshold,
        coefficient: threshold.map_or(1.0, |threshold| (threshold / norm_before).min(1.0)),
        action: match clipped {
            true => ClipAction::Clip,
            false => ClipAction::Keep,
        },
        non_finite: false,
    }
}

fn not_finite(step: u64) -> StepRecord {
    StepRecord {
        step,
        loss: Some(f64::NAN),
        norm_before: f64::NAN,
        threshold: None,
        coefficient: 0.0,
        action: ClipAction::Skip,
        non_finite: true,
    }
}

fn steps(norms: &[f64], threshold: Option<f64>) -> Vec<StepRecord> {
    let numbered = (1..).zip(norms);
    numbered
        .map(|(number, norm)| step(number, *norm, threshold))
        .collect()
}

fn clipped_at(norms: &[f64], threshold: f64) -> Judgement {
    let policy = policy(&format!("global-norm:{threshold}"));
    judge(&Run::new(&policy, steps(norms, Some(threshold))))
}

fn unclipped(norms: &[f64]) -> Judgement {
    judge(&Run::new(&ClipPolicy::none(), steps(norms, None)))
}

/// `spikes` norms of `spike`, spread over `all` that are 0.5 otherwise.
fn spiking(all: usize, spikes: usize, spike: f64) -> Vec<f64> {
    let every = all / spikes.max(1);
    let is_spike =
        |index: usize| spikes > 0 && index % every == every - 1 && index / every < spikes;
    (0..all)
        .map(|index| if is_spike(index) { spike } else { 0.5 })
        .collect()
}

fn class_of(norms: &[f64], threshold: f64) -> Class {
    clipped_at(norms, threshold).verdict.class
}

#[test]
fn off_and_idle() {
    assert_eq!(unclipped(&[1.0; 40]).verdict.class, Class::Off);
    assert_eq!(class_of(&[1.0; 40], f64::INFINITY), Class::Idle);
    // Equal to the threshold is not above it.
    assert_eq!(class_of(&[1.0; 40], 1.0), Class::Idle);
    assert_ne!(class_of(&[1.0_f64.next_up(); 40], 1.0), Class::Idle);
}

#[test]
fn too_short_ends_at_twenty_steps() {
    assert_eq!(class_of(&[1.0; 19], 5.0), Class::TooShort);
    assert_eq!(class_of(&[1.0; 20], 5.0), Class::Idle);
    let none = judge(&Run::new(&ClipPolicy::none(), []));
    assert_eq!(none.verdict.class, Class::TooShort);
    assert_eq!(none.verdict.sentence, "too short to say: no step was taken");
    assert_eq!(none.advice, None);
}

#[test]
fn seldom_is_below_one_percent_and_decisive_above_twice() {
    assert_eq!(class_of(&spiking(1000, 9, 9.0), 1.0), Class::SeldomDecisive);
    assert_eq!(class_of(&spiking(1000, 10, 9.0), 1.0), Class::TrimsSpikes);
    // Cut to a half is not to less than half.
    assert_eq!(class_of(&spiking(1000, 9, 2.0), 1.0), Class::TrimsSpikes);
    let just_above = spiking(1000, 9, 2.0_f64.next_up());
    assert_eq!(class_of(&just_above, 1.0), Class::SeldomDecisive);
}

#[test]
fn up_to_a_tenth_are_spikes() {
    assert_eq!(class_of(&spiking(1000, 100, 1.9), 1.0), Class::TrimsSpikes);
    let more = spiking(1001, 101, 1.9);
    assert_eq!(class_of(&more, 1.0), Class::NearOrdinary);
    // More, if most of them are cut to less than half.
    assert_eq!(class_of(&spiking(1001, 101, 9.0), 1.0), Class::TrimsSpikes);
    // What was called healthy: 44 % at 0.25, with a median of 0.247.
    let norms: Vec<f64> = (0..100).map(|i| 0.225 + 0.000_45 * f64::from(i)).collect();
    let near = clipped_at(&norms, 0.25);
    assert_eq!(near.verdict.class, Class::NearOrdinary);
    let words = &near.verdict.sentence;
    assert!(
        words.contains("lies among ordinary norms (median norm 0.247, p90 0.265)"),
        "{words}"
    );
    assert!(words.contains("cut 44 of 100 steps (44 %)"), "{words}");
    assert_eq!(near.advice, None);
    assert_eq!(near.verdict.next.unwrap().to_string(), "--steps 200");
}

/// What is cut has to stand out from the rest, however seldom it is.
#[test]
fn spikes_are_more_than_twice_the_others() {
    for (all, some) in [(1000, 50), (1000, 5)] {
        let mild = clipped_at(&spiking(all, some, 1.0), 0.9).verdict;
        assert_eq!(mild.class, Class::NearOrdinary, "{mild}");
        let words = &mild.sentence;
        assert!(words.contains("upper end of the ordinary norms"), "{words}");
        let above = class_of(&spiking(all, some, 1.0_f64.next_up()), 0.9);
        assert_eq!(above, Class::TrimsSpikes);
    }
    let mild = clipped_at(&spiking(300, 14, 0.735), 0.7);
    assert_eq!(mild.verdict.next.unwrap().to_string(), "--steps 600");
    assert_eq!(mild.advice, None);

    // The same for steps that are left out.
    let policy = policy("skip:3,window=16");
    let leaving_out = |norm: f64| {
        let steps = (1..=300).map(|number| match number % 50 {
            0 => StepRecord {
                action: ClipAction::Skip,
                coefficient: 0.0,
                ..step(number, norm, None)
            },
            _ => step(number, 0.5, None),
        });
        judge(&Run::new(&policy, steps)).verdict
    };
    let ordinary = leaving_out(1.0);
    assert_eq!(ordinary.class, Class::NearOrdinary);
    assert!(ordinary.sentence.contains("ordinary steps"), "{ordinary}");
    // So few that it hardly matters.
    assert_eq!(ordinary.next.unwrap().to_string(), "--steps 600");
    let spikes = leaving_out(1.0_f64.next_up());
    assert_eq!(spikes.class, Class::TrimsSpikes);
    assert!(
        !spikes.notes.concat().contains("ordinary"),
        "{:?}",
        spikes.notes
    );
}

/// A threshold that is not of the norm of all tensors does not lie among such norms.
#[test]
fn thresholds_of_elements_are_not_compared_with_norms() {
    let policy = policy("value:0.1");
    let clipped = (1..=300).map(|number| StepRecord {
        loss: Some(falling(number)),
        threshold: Some(0.1),
        coefficient: 0.95,
        action: ClipAction::Clip,
        ..step(number, 0.9, None)
    });
    let mut run = Run::new(&policy, clipped);
    (run.lr, run.adaptive) = (Some(0.3), false);
    let verdict = judge(&run).verdict;
    assert_eq!(verdict.class, Class::NearOrdinary);
    assert!(!verdict.sentence.contains("lies"), "{verdict}");
}

#[test]
fn the_last_threshold_in_force_is_reported() {
    let policy = policy("adagc:warmup=50");
    let warm_up_alone = |steps: u64| {
        let each = (1..=steps).map(|number| StepRecord {
            threshold: Some(1.0).filter(|_| number < 50),
            ..step(number, 0.5, None)
        });
        judge(&Run::new(&policy, each)).verdict.numbers
    };
    let numbers = warm_up_alone(49);
    assert_eq!((numbers.threshold, numbers.fixed), (Some(1.0), true));
    let numbers = warm_up_alone(50);
    assert_eq!(numbers.threshold, None);
    let words = numbers.to_string();
    assert!(words.ends_with("; threshold 1 until step 49"), "{words}");
}

#[test]
fn an_incomplete_window_is_reported() {
    let idle = |text: &str, count: u64, from: u64| {
        let policy = policy(text);
        let steps = (1..=count).map(|number| StepRecord {
            threshold: Some(2.0).filter(|_| number >= from),
            ..step(number, 0.5, None)
        });
        judge(&Run::new(&policy, steps)).verdict.sentence
    };
    let filling = "idle: `skip:6` was still filling its window (64 steps of the 64 it needs): \
                   nothing could be clipped; the largest norm was 0.5";
    assert_eq!(idle("skip:6", 64, 65), filling);
    let judged = idle("skip:6", 65, 65);
    assert!(judged.contains("in force from step 65 on"), "{judged}");
    assert!(!judged.contains("filling"), "{judged}");
    let beside = idle("skip:6+global-norm:2", 40, 1);
    assert!(
        beside.contains("the threshold 2 was never reached"),
        "{beside}"
    );
    assert!(
        beside.ends_with("(40 steps of the 64 it needs)"),
        "{beside}"
    );
    assert!(!idle("global-norm:2", 40, 1).contains("filling"));
    assert!(idle("median:3,window=6", 100, 7).contains("never reached"));
}

#[test]
fn a_second_learning_rate_cuts_the_median_step() {
    // The median step is the border: cut to a half, and to less.
    assert_eq!(class_of(&[2.0; 100], 1.0), Class::SecondLearningRate);
    assert_eq!(
        class_of(&spiking(100, 50, 9.0), 1.0),
        Class::SecondLearningRate
    );
    // More than a quarter to less than half.
    assert_eq!(class_of(&spiking(100, 25, 9.0), 1.0), Class::TrimsSpikes);
    let many = clipped_at(&spiking(100, 26, 152.0), 1.0).verdict;
    assert_eq!(many.class, Class::SecondLearningRate);
    assert!(many.sentence.contains("the length of many steps"), "{many}");
    assert_eq!(class_of(&spiking(100, 49, 2.0), 1.0), Class::NearOrdinary);
    // Nearly every step, by a tenth or hardly.
    assert_eq!(class_of(&[1.11; 100], 1.0), Class::SecondLearningRate);
    assert_eq!(class_of(&[1.09; 100], 1.0), Class::NearOrdinary);
    let most =
        |cut: usize| -> Vec<f64> { (0..100).map(|i| if i < cut { 1.5 } else { 0.5 }).collect() };
    assert_eq!(class_of(&most(90), 1.0), Class::NearOrdinary);
    assert_eq!(class_of(&most(91), 1.0), Class::SecondLearningRate);
}

/// What is to be tried next lengthens no step of gradient descent, and leaves a good policy alone.
#[test]
fn the_next_experiment_never_lengthens_steps() {
    let next = |norms: &[f64], adaptive: bool, last_loss: f64| {
        let policy = policy("global-norm:1");
        let count = norms.len();
        let steps = norms.iter().enumerate().map(|(index, norm)| StepRecord {
            loss: Some(if index + 1 == count {
                last_loss
            } else {
                falling(index as u64)
            }),
            ..step(index as u64 + 1, *norm, Some(1.0))
        });
        let mut run = Run::new(&policy, steps);
        (run.lr, run.adaptive) = (Some(3.0), adaptive);
        judge(&run).verdict.next.unwrap().to_string()
    };
    // Nor is it the same run again, as twice the threshold at half the rate would be.
    assert_eq!(next(&[9.0; 300], false, 3.0), "--steps 600");
    assert_eq!(next(&[9.0; 300], true, 3.0), "--steps 600");
    assert_eq!(next(&[9.0; 300], false, 4.1), "--lr 0.3");
    assert_eq!(next(&spiking(300, 9, 9.0), false, 3.0), "--steps 600");
    assert_eq!(next(&[0.5; 300], false, 3.0), "--steps 600");
}

/// Under an optimizer of Adam's kind a tight threshold is not a learning rate.
#[test]
fn adaptive_optimizers_are_not_called_throttled() {
    let judged = |text: &str, adaptive: bool| {
        let policy = policy(text);
        let mut run = Run::new(&policy, steps(&[9.0; 300], Some(1.0)));
        run.adaptive = adaptive;
        judge(&run).verdict
    };
    // Adam divides by the usual size of each element, so clamping elements shortens no step either,
    // whether or not the clamp of a chain ever acted.
    for text in ["global-norm:1", "value:1", "value:5+global-norm:1"] {
        let verdict = judged(text, false);
        assert!(
            verdict.sentence.contains("as a learning rate does"),
            "{verdict}"
        );
        assert!(verdict.notes.concat().contains("held back"), "{verdict}");
        let verdict = judged(text, true);
        assert_eq!(verdict.class, Class::SecondLearningRate);
        assert!(verdict.sentence.contains("no shorter"), "{verdict}");
        assert!(!verdict.to_string().contains("held back"), "{verdict}");
    }
    // Its moments remember the gradients from before a threshold fell.
    let policy = policy("global-norm:1..0.1@200");
    let fallen = (1..=300).map(|number| match number {
        ..=150 => step(number, 0.9, Some(1.0)),
        _ => step(number, 0.9, Some(0.1)),
    });
    let mut run = Run::new(&policy, fallen);
    run.adaptive = true;
    let verdict = judge(&run).verdict;
    assert_eq!(verdict.class, Class::SecondLearningRate);
    assert!(
        verdict.sentence.ends_with("so these steps may be shorter"),
        "{verdict}"
    );
}

/// A threshold that moves is named where it cut: at the end it may be above all norms.
#[test]
fn a_moving_threshold_is_the_one_that_cut() {
    let policy = policy("zclip");
    let steps = (1..=299).map(|number| match number % 30 {
        0 => step(number, 0.85, Some(0.8)),
        _ => step(number, 0.6, Some(1.0)),
    });
    let verdict = judge(&Run::new(&policy, steps)).verdict;
    assert_eq!(verdict.class, Class::NearOrdinary);
    let place = "the threshold (median 0.8 where it cut) lies at the upper end";
    assert!(verdict.sentence.contains(place), "{verdict}");
}

/// What would be the same run again is not proposed.
#[test]
fn a_threshold_that_would_have_clipped_nothing_is_not_tried_next() {
    let after = |norm: f64, steps: u64, adaptive: bool| {
        let records = (1..=steps).map(|number| StepRecord {
            loss: Some(falling(number)),
            ..step(number, norm, None)
        });
        let none = ClipPolicy::none();
        let mut run = Run::new(&none, records);
        run.adaptive = adaptive;
        let judged = judge(&run);
        let advised = judged.advice.map(|advice| advice.policy);
        (advised, judged.verdict.next.unwrap().to_string())
    };
    let net = Some("global-norm:4".to_owned());
    assert_eq!(after(2.0, 300, false), (net, "--steps 600".to_owned()));
    // Too few steps for an advice: the usual policy, if it would cut one of them.
    let usual = "--clip global-norm:1".to_owned();
    assert_eq!(after(1.0_f64.next_up(), 90, false), (None, usual));
    let longer = (None, "--steps 180".to_owned());
    assert_eq!(after(1.0, 90, false), longer);
    // What Adam would hardly notice.
    assert_eq!(after(2.0, 90, true), longer);
}

/// A loss that falls by a third over 300 steps.
fn falling(step: u64) -> f64 {
    4.0 - 0.004 * step as f64
}

/// Where the loss no longer falls, more steps and longer ones lead nowhere.
#[test]
fn a_loss_that_no_longer_falls_asks_for_a_lower_rate() {
    let next = |second_half: f64, norm: f64| {
        let policy = policy("global-norm:5");
        let steps = (1..=400).map(|number| StepRecord {
            loss: Some(match number {
                ..=100 => 4.0,
                101..=200 => 2.0,
                _ => second_half,
            }),
            ..step(number, norm, Some(5.0))
        });
        let mut run = Run::new(&policy, steps);
        run.lr = Some(1.0);
        judge(&run).verdict.next.unwrap().to_string()
    };
    for norm in [0.5, 20.0] {
        assert_eq!(next(1.95, norm), "--steps 800");
        assert_eq!(next(1.96, norm), "--lr 0.3");
        assert_eq!(next(2.0, norm), "--lr 0.3");
        assert_eq!(next(4.1, norm), "--lr 0.1");
    }
}

/// Where the loss has hardly fallen because the weights hardly change, a lower rate would be worse.
#[test]
fn a_loss_that_hardly_moves_at_a_small_rate_asks_for_a_higher_one() {
    let next = |shares: [f64; 2], val_loss: f64| {
        let policy = policy("global-norm:5");
        let records = (1..=300).map(|number| StepRecord {
            loss: Some(4.05 - 1e-4 * number as f64),
            ..step(number, 0.5, Some(5.0))
        });
        let mut run = Run::new(&policy, records);
        (run.lr, run.val_loss) = (Some(0.002), Some(val_loss));
        let weights = [("embedding", shares[0]), ("output", shares[1])];
        run.pace = UpdatePace::of(&weights.map(|(name, share)| (name.to_owned(), share)));
        judge(&run).verdict.next.unwrap().to_string()
    };
    // An LSTM by gradient descent at 0.002 and at 0.2, and a network by Adam at 1e-6.
    for shares in [[5.6e-8, 5e-5], [4.5e-6, 3.7e-3], [6.4e-7, 1.8e-5]] {
        assert_eq!(next(shares, 4.0), "--lr 0.02");
        // By chance the first batch was easier than the validation text.
        assert_eq!(next(shares, 4.06), "--lr 0.02");
    }
    // Weights that change at an ordinary pace need no longer steps, or cannot take them.
    for shares in [[1e-5, 1e-3], [1e-6, 0.011], [4e-3, 0.02]] {
        assert_eq!(next(shares, 4.0), "--lr 0.0006");
    }
}

/// Ten times a threshold that cuts nearly all of every gradient still cuts, and lengthens steps that
/// hardly change the weights, but none that do.
#[test]
fn a_threshold_far_too_low_is_raised_where_weights_hardly_change() {
    let next = |norm: f64, share: f64, adaptive: bool| {
        let policy = policy("global-norm:0.5");
        let records = (1..=300).map(|number| StepRecord {
            loss: Some(falling(number)),
            ..step(number, norm, Some(0.5))
        });
        let mut run = Run::new(&policy, records);
        (run.lr, run.adaptive) = (Some(1.0), adaptive);
        run.pace = UpdatePace::of(&[("output".to_owned(), share)]);
        judge(&run).verdict.next.unwrap().to_string()
    };
    assert_eq!(next(5.1, 9e-4, false), "--clip global-norm:5");
    for (norm, share, adaptive) in [(4.9, 9e-4, false), (5.1, 1e-3, false), (5.1, 9e-4, true)] {
        assert_eq!(next(norm, share, adaptive), "--steps 600");
    }
}

/// The first steps have none before them that would make a spike of them.
#[test]
fn a_large_norm_that_is_no_spike_gives_no_advice() {
    let with = |longest: f64| {
        let mut norms = vec![0.2; 300];
        norms[3] = longest;
        unclipped(&norms).advice
    };
    assert!(with(2.0).is_some());
    assert_eq!(with(2.1), None);
}

#[test]
fn throttled_norms_are_not_advised_as_thresholds() {
    let judged = clipped_at(&[0.8; 300], 0.03);
    assert_eq!(judged.advice, None);
    let words = judged.verdict.to_string();
    for part in ["held back", "lower learning rate", "one step at a time"] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!(judged.verdict.next.unwrap().to_string(), "--steps 600");
}

#[test]
fn an_explosion_is_a_hundred_times_the_median_and_reaches_the_optimizer() {
    let lost = |spike: f64, threshold: Option<f64>| {
        let mut steps = steps(&[1.0, 1.0, spike], threshold);
        steps.extend((4..=12).map(not_finite));
        let policy = policy(&threshold.map_or("none".into(), |t| format!("global-norm:{t}")));
        let mut run = Run::new(&policy, steps);
        run.diverged = true;
        judge(&run)
    };
    assert_eq!(lost(100.0, None).verdict.class, Class::NotFinite);
    let exploded = lost(3e6, None);
    assert_eq!(exploded.verdict.class, Class::Exploded);
    assert_eq!(
        lost(100.0_f64.next_up(), None).verdict.class,
        Class::Exploded
    );
    // What clipping has cut did not explode the weights.
    assert_eq!(lost(3e6, Some(5.0)).verdict.class, Class::NotFinite);

    let words = exploded.verdict.to_string();
    let start = "exploded at step 3 (norm 3e6), not finite from step 4 (9 of 12 steps, 75 %)";
    assert!(words.starts_with(start), "{words}");
    let next = exploded.verdict.next.unwrap().to_string();
    assert_eq!(next, "--clip global-norm:1");
    assert_eq!(exploded.advice.unwrap().policy, "global-norm:1");
    for unknown in ["shortened", "cosine", "direction", "zclip"] {
        assert!(!words.contains(unknown), "{words}");
    }
}

/// Of two norms the median is half of the larger one.
#[test]
fn an_explosion_is_found_after_few_norms() {
    let lost = |norms: &[f64]| {
        let none = ClipPolicy::none();
        let mut run = Run::new(&none, steps(norms, None));
        run.diverged = true;
        judge(&run).verdict
    };
    for norms in [
        [0.5, 40.0, 60.0],
        [0.5, 0.5, 60.0],
        [0.5, 0.6, 3e6],
        [0.0, 0.5, 60.0],
    ] {
        assert_eq!(lost(&norms).class, Class::Exploded, "{norms:?}");
    }
    // The first gradient has no predecessor, so it is compared with 1.
    assert_eq!(lost(&[100.0]).class, Class::NotFinite);
    assert_eq!(lost(&[100.0]).sentence, "not finite from step 2");
    let first = lost(&[100.0_f64.next_up()]);
    assert_eq!(first.class, Class::Exploded);
    let words = "exploded at step 1 (norm 100), not finite from step 2";
    assert_eq!(first.sentence, words);
    assert_eq!(first.next.unwrap().to_string(), "--clip global-norm:1");
    // Below a hundred times the least; with ten norms it is the median that counts.
    assert_eq!(lost(&[0.5, 20.0, 50.0]).class, Class::NotFinite);
    let with = |ordinary: usize| {
        let mut norms = vec![1.0; ordinary];
        norms[0] = 0.5;
        norms.push(60.0);
        lost(&norms).class
    };
    assert_eq!(with(9), Class::Exploded);
    assert_eq!(with(10), Class::NotFinite);
}

#[test]
fn the_largest_norm_of_an_explosion_is_reported() {
    let none = ClipPolicy::none();
    let mut steps = steps(&[1.0, 34.0, 6730.0, 1e34], None);
    steps.extend((5..=14).map(not_finite));
    let mut run = Run::new(&none, steps);
    run.diverged = true;
    let words = judge(&run).verdict.sentence;
    let start = "exploded at step 3 (norm 6730, up to 1e34 at step 4), not finite from step 5 (10 ";
    assert!(words.starts_with(start), "{words}");
}

#[test]
fn a_recovered_explosion_is_not_an_explosion() {
    let mut norms = vec![0.5; 300];
    norms[200] = 3e6;
    assert_eq!(unclipped(&norms).verdict.class, Class::Off);
    // A hundred steps before the end it is no longer the cause.
    let ended_after = |more: usize| {
        let mut norms = vec![0.5; 200];
        norms.push(3e6);
        norms.extend(vec![0.5; more]);
        let none = ClipPolicy::none();
        let mut run = Run::new(&none, steps(&norms, None));
        run.diverged = true;
        judge(&run).verdict.class
    };
    assert_eq!(ended_after(99), Class::Exploded);
    assert_eq!(ended_after(100), Class::NotFinite);
}

#[test]
fn a_loss_that_ends_far_above_its_start_is_an_explosion() {
    let ending_at = |loss: f64| {
        let steps = (1..=40).map(|number| StepRecord {
            loss: Some(if number <= 20 { 4.0 } else { loss }),
            ..step(number, 9.0, Some(1.0))
        });
        let policy = policy("global-norm:1");
        judge(&Run::new(&policy, steps)).verdict
    };
    assert_eq!(ending_at(6.0).class, Class::SecondLearningRate);
    let lost = ending_at(6.0_f64.next_up());
    assert_eq!(lost.class, Class::Exploded);
    let words = "exploded: the loss rose from 4 to 6, and stayed far above its start from step 21 \
                 on";
    assert_eq!(lost.sentence, words);
}

#[test]
fn a_loss_that_rose_without_a_spike_asks_for_a_lower_rate() {
    let risen = |norm: f64| {
        let steps = (1..=40).map(|number| StepRecord {
            loss: Some(if number <= 20 { 4.0 } else { 900.0 }),
            ..step(number, if number == 20 { norm } else { 0.5 }, None)
        });
        let none = ClipPolicy::none();
        let mut run = Run::new(&none, steps);
        run.lr = Some(3.0);
        judge(&run)
    };
    // Nothing that the usual threshold would have cut.
    let slow = risen(0.5);
    assert_eq!(slow.advice, None);
    assert_eq!(slow.verdict.next.unwrap().to_string(), "--lr 0.3");
    // Where it would have cut a step, clipping is tried before the rate.
    let longer = risen(9.0);
    assert_eq!(longer.advice, None);
    let next = longer.verdict.next.unwrap().to_string();
    assert_eq!(next, "--clip global-norm:1");
    let spiked = risen(3e6);
    let words = &spiked.verdict.sentence;
    assert!(
        words.starts_with("exploded at step 20 (norm 3e6): the loss rose from 4 to 900"),
        "{words}"
    );
    assert_eq!(spiked.advice.unwrap().policy, "global-norm:1");
}

#[test]
fn more_than_one_percent_of_broken_steps_is_not_finite() {
    let with_broken = |broken: u64| {
        let mut steps = steps(&[0.5; 1000], Some(1.0));
        for number in 1..=broken {
            steps[number as usize * 10] = not_finite(number * 10 + 1);
        }
        let policy = policy("global-norm:1");
        let mut run = Run::new(&policy, steps);
        run.first_non_finite = Some("head.weight".into());
        judge(&run)
    };
    let few = with_broken(10);
    assert_eq!(few.verdict.class, Class::Idle);
    assert!(
        few.verdict.notes[0].starts_with("10 steps had non-finite gradients and were skipped"),
        "{:?}",
        few.verdict.notes
    );
    let many = with_broken(11);
    assert_eq!(many.verdict.class, Class::NotFinite);
    let words = "not finite: the first was step 11 (11 of 1000 steps, 1.1 %, first in \
                 `head.weight`)";
    assert_eq!(many.verdict.sentence, words);
    assert_eq!(many.advice, None);
}

#[test]
fn overfitting_suggests_stopping_at_the_lowest_validation_loss() {
    let policy = policy("global-norm:5");
    let steps = (1..=400).map(|number| StepRecord {
        loss: Some(falling(number)),
        ..step(number, 1.0, Some(5.0))
    });
    let mut run = Run::new(&policy, steps);
    run.lr = Some(1.0);
    let next = |run: &Run<'_>| judge(run).verdict.next.map(|next| next.to_string());
    run.best_val_loss = Some((150, 2.0));
    run.val_loss = Some(2.1);
    assert_eq!(next(&run).as_deref(), Some("--steps 800"));
    run.val_loss = Some(2.11);
    // At a constant rate that would be the run again, up to the checkpoint that it has.
    assert_eq!(next(&run), None);
    run.scheduled = true;
    assert_eq!(next(&run).as_deref(), Some("--steps 150"));
}

/// A loss that comes back from far above its start went there at too high a rate.
#[test]
fn a_loss_that_was_far_above_its_start_asks_for_a_lower_rate() {
    let policy = policy("global-norm:5");
    let next = |high: u64| {
        let steps = (1..=300).map(|number| StepRecord {
            loss: Some(match (101..101 + high).contains(&number) {
                true => 1.6 * falling(1),
                false => falling(number),
            }),
            ..step(number, 1.0, Some(5.0))
        });
        let mut run = Run::new(&policy, steps);
        run.lr = Some(1.0);
        judge(&run).verdict.next.map(|next| next.to_string())
    };
    assert_eq!(next(15).as_deref(), Some("--steps 600"));
    assert_eq!(next(16).as_deref(), Some("--lr 0.1"));
}

#[test]
fn a_run_that_ends_without_a_finite_loss_is_not_finite() {
    let none = ClipPolicy::none();
    let mut run = Run::new(&none, steps(&[1.0; 50], None));
    assert_eq!(judge(&run).verdict.class, Class::Off);
    run.val_loss = Some(f64::NAN);
    let judged = judge(&run);
    assert_eq!(judged.verdict.class, Class::NotFinite);
    assert_eq!(judged.verdict.sentence, "not finite: the validation loss");
    assert_eq!(judged.advice, None, "nothing was cut, and nothing exploded");
    run.val_loss = None;
    run.diverged = true;
    assert_eq!(judge(&run).verdict.sentence, "not finite from step 51");
    // Set to zero, and applied.
    let mut steps = steps(&[1.0; 50], Some(5.0));
    steps[49].loss = Some(f64::NAN);
    assert_eq!(
        judge(&Run::new(&none, steps)).verdict.class,
        Class::NotFinite
    );
}

#[test]
fn the_effect_of_skipping_is_reported() {
    let policy = policy("skip:1,window=16");
    let steps = (1..=300).map(|number| match number % 2 {
        0 => step(number, 0.5, None),
        _ => StepRecord {
            action: ClipAction::Skip,
            coefficient: 0.0,
            ..step(number, 0.6, None)
        },
    });
    let judged = judge(&Run::new(&policy, steps)).verdict;
    assert_eq!(judged.class, Class::NearOrdinary);
    let words = judged.to_string();
    for part in [
        "skipped 150 of 300 steps (50 %) as outliers",
        "these are ordinary steps",
    ] {
        assert!(words.contains(part), "{words}");
    }
    let rare = (1..=300).map(|number| match number {
        250 => StepRecord {
            action: ClipAction::Skip,
            coefficient: 0.0,
            ..step(number, 60.0, None)
        },
        _ => step(number, 0.5, None),
    });
    let rare = judge(&Run::new(&policy, rare)).verdict;
    assert_eq!(rare.class, Class::SeldomDecisive);
    assert!(!rare.to_string().contains("ordinary steps"), "{rare}");
}

#[test]
fn the_engaged_steps_are_reported() {
    let mut early = vec![9.0; 5];
    early.extend([0.5; 95]);
    let words = clipped_at(&early, 1.0).verdict.sentence;
    assert!(words.contains(", all in the first 5;"), "{words}");
    early.reverse();
    let words = clipped_at(&early, 1.0).verdict.sentence;
    assert!(words.contains(", none before step 96;"), "{words}");
}

#[test]
fn rules_inside_adam_count_as_clipping() {
    let policy = policy("update-rms:1");
    let judged = judge(&Run::new(&policy, steps(&[0.5; 200], None)));
    assert_eq!(judged.verdict.class, Class::Off);
    let words = judged.verdict.to_string();
    assert!(
        words.contains("no rule clips the gradients themselves"),
        "{words}"
    );
    assert!(words.contains("`update-rms` works inside Adam"), "{words}");
    assert_eq!(judged.advice, None);
}

#[test]
fn coefficients_that_are_not_known_are_left_out() {
    let policy = policy("value:1+global-norm:1");
    let steps = (1..=200).map(|number| StepRecord {
        coefficient: if number % 20 == 0 { f64::NAN } else { 1.0 },
        action: if number % 20 == 0 {
            ClipAction::Clip
        } else {
            ClipAction::Keep
        },
        ..step(number, 0.5, None)
    });
    let verdict = judge(&Run::new(&policy, steps)).verdict;
    assert_eq!(verdict.class, Class::NearOrdinary);
    assert!(!verdict.to_string().contains("NaN"), "{verdict}");
}

#[test]
fn a_lost_direction_is_reported() {
    let policy = policy("value:0.1");
    let mut run = Run::new(&policy, steps(&[0.5; 200], Some(0.4)));
    run.cosine = Some(0.7);
    let words = judge(&run).verdict.to_string();
    assert!(
        words.contains("the mean cosine between before and after is 0.7"),
        "{words}"
    );
}

#[test]
fn the_first_of_equal_largest_norms_is_named() {
    let mut norms = vec![0.5; 40];
    (norms[6], norms[9], norms[30]) = (3.0, 3.0, 3.0);
    let numbers = unclipped(&norms).verdict.numbers;
    assert_eq!(numbers.norms.unwrap().max_at, 7);
}

#[test]
fn the_figures_fit_one_line() {
    let mut norms = vec![0.5; 363];
    norms.extend([12.44; 37]);
    let verdict = clipped_at(&norms, 5.0).verdict;
    assert_eq!(
        verdict.numbers.to_string(),
        "37 of 400 steps clipped (9.25 %); norm p10 0.5, median 0.5, p90 0.5, max 12.4 at step \
         364; threshold 5"
    );
    let short = clipped_at(&[1.0], 5.0).verdict;
    assert!(
        short.to_string().contains("0 of 1 step clipped (0 %)"),
        "{short}"
    );
}

#[test]
fn a_hundred_percent_means_all() {
    let mut norms = vec![2.0; 4000];
    let all = clipped_at(&norms, 1.0).verdict.numbers.to_string();
    assert!(all.contains("4000 of 4000 steps clipped (100 %)"), "{all}");
    norms[7] = 0.5;
    let most = clipped_at(&norms, 1.0).verdict.numbers.to_string();
    assert!(
        most.contains("3999 of 4000 steps clipped (more than 99.9 %)"),
        "{most}"
    );
}

#[test]
fn a_report_converts_to_a_record() {
    let mut clipper = Clipper::new(policy("global-norm:1"), NonFinite::Error).unwrap();
    let gradients = Unscaled::single([("w", [3.0_f32, 4.0])]);
    let outcome = clipper.clip(gradients).unwrap();
    let record = StepRecord::new(1, outcome.report(), Some(2.0));
    assert_eq!(record, step(1, 5.0, Some(1.0)));
    assert!(record.clipped() && record.engaged() && !record.skipped());
}

#[test]
fn classes_are_nine_with_names_and_tones() {
    let names = Class::ALL.map(Class::name).join(" ");
    let expected = "off idle seldom-decisive trims-spikes near-ordinary second-learning-rate \
                    exploded not-finite too-short";
    assert_eq!(names, expected);
    let bad = Class::ALL
        .into_iter()
        .filter(|class| class.tone() == Tone::Bad);
    assert_eq!(bad.collect::<Vec<_>>(), [Class::Exploded, Class::NotFinite]);
}

mod advice {
    use super::*;

    #[test]
    fn calm_gradients_get_a_safety_net() {
        let norms: Vec<f64> = (0..200).map(|i| 1.0 + 0.01 * f64::from(i % 10)).collect();
        let advice = unclipped(&norms).advice.unwrap();
        assert_eq!(advice.policy, "global-norm:2.2");
        assert!(advice.reasons[0].contains("changed nothing"), "{advice}");
        // With one that was never reached, there is nothing to change.
        assert_eq!(
            clipped_at(&norms, 5.0).advice.unwrap().policy,
            "global-norm:5"
        );
    }

    #[test]
    fn one_spike_does_not_move_the_threshold() {
        let mut norms: Vec<f64> = (0..300).map(|i| 0.5 + 0.01 * f64::from(i % 7)).collect();
        let calm = norms.clone();
        norms[150] = 3e6;
        let advice = unclipped(&norms).advice.unwrap();
        assert_eq!(advice.policy, "global-norm:0.56");
        assert!(
            advice.reasons[0].contains("would have cut 1 of 300"),
            "{advice}"
        );
        assert_eq!(unclipped(&calm).advice.unwrap().policy, "global-norm:1.1");
        // The same for a threshold that the spike did not reach.
        assert_eq!(
            clipped_at(&norms, 1e7).advice.unwrap().policy,
            "global-norm:0.56"
        );
    }

    #[test]
    fn tenfold_spikes_are_worth_clipping() {
        let with = |spike: f64| {
            let mut norms = vec![0.5; 300];
            norms[150] = spike;
            unclipped(&norms).advice.unwrap().policy
        };
        assert_eq!(with(5.0), "global-norm:10");
        assert_eq!(with(5.0_f64.next_up()), "global-norm:0.5");
    }

    #[test]
    fn the_order_of_the_run_is_kept() {
        let policy = policy("global-norm:10000000,p=inf");
        let mut norms = vec![0.02; 300];
        norms[150] = 3.0;
        let advice = judge(&Run::new(&policy, steps(&norms, Some(1e7))))
            .advice
            .unwrap();
        assert_eq!(advice.policy, "global-norm:0.02,p=inf");
    }

    #[test]
    fn a_policy_that_cuts_spikes_is_kept() {
        let advice = clipped_at(&spiking(400, 8, 9.0), 1.0).advice.unwrap();
        assert_eq!(advice.policy, "global-norm:1");
        assert!(advice.reasons[0].contains("keep it"), "{advice}");
    }

    #[test]
    fn few_steps_get_no_advice() {
        assert_eq!(unclipped(&[1.0; 99]).advice, None);
        assert!(unclipped(&[1.0; 100]).advice.is_some());
        assert_eq!(unclipped(&[0.0; 100]).advice, None);
    }

    #[test]
    fn advice_after_an_explosion_is_the_usual_threshold_or_twice_the_median() {
        let after = |ordinary: f64, steps: usize| {
            let mut norms = vec![ordinary; steps];
            norms.push(ordinary * 1e6);
            let none = ClipPolicy::none();
            let mut run = Run::new(&none, super::steps(&norms, None));
            run.diverged = true;
            judge(&run).advice.unwrap().policy
        };
        assert_eq!(after(0.5, 30), "global-norm:1");
        assert_eq!(after(30.0, 19), "global-norm:1");
        assert_eq!(after(30.0, 20), "global-norm:60");
        assert_eq!(after(1e-9, 30), "global-norm:2e-9");
    }
}

/// A policy that was changed on the way.
#[test]
fn the_last_stretch_is_judged_and_the_others_are_named() {
    let stretches = [
        (1, policy("global-norm:0.1")),
        (201, policy("global-norm:5")),
    ];
    let until = |last: u64| {
        let steps = (1..=last).map(|number| match number {
            ..=200 => step(number, 0.5, Some(0.1)),
            210 => step(number, 40.0, Some(5.0)),
            _ => step(number, 0.5, Some(5.0)),
        });
        judge(&Run::in_stretches(&stretches, steps).unwrap()).verdict
    };
    let changed = until(400);
    assert_eq!(changed.class, Class::SeldomDecisive);
    let words = "seldom, decisive: the threshold 5 cut 1 of 200 steps (0.5 %) to 0.125 of its \
                 length, at step 210; the other steps kept every bit; this judges the steps from \
                 201 on, those before had `global-norm:0.1` (second learning rate)";
    assert_eq!(changed.sentence, words);
    assert_eq!(until(219).class, Class::TooShort);
    assert!(until(200).sentence.contains("the steps before had"));

    // One stretch is a run as any other.
    let steps = || (1..=200).map(|number| step(number, 0.5, Some(0.1)));
    let alone = Run::in_stretches(&stretches[..1], steps()).unwrap();
    assert_eq!(judge(&alone), judge(&Run::new(&stretches[0].1, steps())));
}

/// What the loss is compared with is where the run began, not where its policy was changed.
#[test]
fn a_rising_loss_is_reported_after_a_policy_change() {
    let stretches = [(1, policy("global-norm:1")), (51, policy("global-norm:2"))];
    let steps = (1..=100).map(|number| StepRecord {
        loss: Some(if number <= 20 { 4.0 } else { 9.0 }),
        ..step(number, 0.5, Some(1.0))
    });
    let verdict = judge(&Run::in_stretches(&stretches, steps).unwrap()).verdict;
    assert_eq!(verdict.class, Class::Exploded);
}
