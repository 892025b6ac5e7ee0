//! Guarantees that other frameworks do not test, one per test.

use gradclip::{
    Accumulated, ClipAction, ClipPolicy, ClipReport, Clipper, NonFinite, NormOrder, Threshold,
    Unscaled,
};

use crate::fuzzing::Random;
use crate::model::{Buffer, Model, STORAGES, Stored, Tensor, step};
use crate::support::{Named, POLICIES, assert_close, clipper, parts, reference_norm};

fn once(policy: &str, model: Model) -> (Model, ClipReport) {
    step(&mut clipper(policy, NonFinite::Error), model)
}

/// The policies without state.
fn fixed() -> impl Iterator<Item = &'static str> {
    const ADAPTIVE: [&str; 6] = ["autoclip", "zclip", "adagc", "median", "skip", ".."];
    let is_fixed = |policy: &&str| ADAPTIVE.iter().all(|name| !policy.contains(name));
    POLICIES.into_iter().filter(is_fixed)
}

/// Bits and report of each tensor by name, and the report of the whole.
fn by_name(model: &Model, report: &ClipReport) -> (Vec<String>, String) {
    let tensors = model.0.iter().zip(&report.tensors);
    let mut entries: Vec<String> = tensors
        .map(|(tensor, entry)| format!("{} {:?} {entry:?}", tensor.name, tensor.gradient.bits()))
        .collect();
    entries.sort();
    let mut all = report.clone();
    all.tensors.clear();
    (entries, format!("{all:?}"))
}

#[test]
fn the_order_of_tensors_does_not_matter() {
    let orders: [[usize; 6]; 4] = [
        [0, 1, 2, 3, 4, 5],
        [5, 4, 3, 2, 1, 0],
        [3, 0, 5, 1, 4, 2],
        [1, 0, 2, 5, 3, 4],
    ];
    for policy in POLICIES {
        let mut clippers = orders.map(|order| (order, clipper(policy, NonFinite::Error)));
        for index in 0..40 {
            let results = clippers.each_mut().map(|(order, clipper)| {
                // Tensors of very different magnitudes make sums sensitive to their order.
                let mut model = Model::random(&mut Random(index), 10.0);
                for (place, tensor) in model.0.iter_mut().enumerate() {
                    let first = tensor.gradient.to_f64()[0];
                    tensor
                        .gradient
                        .set(0, first * 10.0_f64.powi(place as i32 - 3));
                }
                let model = Model(order.map(|place| model.0[place].clone()).into());
                let (after, report) = step(clipper, model);
                (by_name(&after, &report), clipper.state())
            });
            for other in &results[1..] {
                assert_eq!(*other, results[0], "{policy} at step {index}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let mut values = Random(4).values(600_001);
    for (index, value) in values.iter_mut().enumerate() {
        *value *= 10.0_f32.powi((index % 13) as i32 - 6);
    }
    let parameter = Buffer::F32(vec![1.0; values.len()]);
    for policy in POLICIES {
        let run = |threads: usize| -> String {
            let mut clipper = clipper(policy, NonFinite::Error).with_threads(threads);
            let mut steps = String::new();
            for index in 0..5 {
                let factor = if index == 4 {
                    100.0
                } else {
                    1.0 + index as f32 / 7.0
                };
                let gradient: Vec<f32> = values.iter().map(|value| value * factor).collect();
                let tensor = Tensor {
                    name: "w".to_owned(),
                    shape: vec![gradient.len()],
                    gradient: Buffer::F32(gradient),
                    parameter: Some(parameter.clone()),
                };
                let (after, report) = step(&mut clipper, Model(vec![tensor]));
                let bits = after.bits().into_iter().flatten();
                let digest = bits.fold(0, |digest: u64, bits| {
                    (digest.rotate_left(5) ^ bits).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                });
                steps += &format!("{digest} {report:?} {:?}\n", clipper.state());
            }
            steps
        };
        let one = run(1);
        for threads in [2, 5] {
            assert!(
                run(threads) == one,
                "{policy} differs with {threads} threads"
            );
        }
    }
}

/// The distance to the next value of the storage type.
fn one_unit_in_the_last_place(storage: &Buffer, number: f64) -> f64 {
    let (digits, least) = match storage {
        Buffer::F32(_) => (f32::EPSILON.into(), f64::from(f32::from_bits(1))),
        Buffer::F64(_) => (f64::EPSILON, f64::from_bits(1)),
        Buffer::F16(_) => (
            half::f16::EPSILON.to_f64(),
            half::f16::from_bits(1).to_f64(),
        ),
        Buffer::Bf16(_) => (
            half::bf16::EPSILON.to_f64(),
            half::bf16::from_bits(1).to_f64(),
        ),
        other => panic!("unknown storage type {other:?}"),
    };
    (number.abs() * digits).max(least)
}

#[test]
fn clipping_twice_is_clipping_once() {
    let cases = fixed().flat_map(|policy| STORAGES.map(|storage| (policy, storage)));
    for (policy, storage) in cases {
        for seed in 0..20 {
            let model = Model::random(&mut Random(seed), 20.0).stored_as(storage);
            let (once_clipped, _) = once(policy, model);
            let (twice, _) = once(policy, once_clipped.clone());
            for (once, twice) in once_clipped.0.iter().zip(&twice.0) {
                let pairs = once
                    .gradient
                    .to_f64()
                    .into_iter()
                    .zip(twice.gradient.to_f64());
                for (first, second) in pairs {
                    // Rounding can leave a norm slightly above its threshold, so that clipping
                    // again changes the last place: by one unit, or by two if the norm is no more
                    // precise than the elements.
                    let units = match once.gradient {
                        Buffer::F64(_) => 2.0,
                        _ => 1.0,
                    };
                    let bound = units * one_unit_in_the_last_place(&once.gradient, first);
                    assert!(
                        (first - second).abs() <= bound,
                        "{policy}: {first:e} {second:e}"
                    );
                }
            }
            if policy.starts_with("value") && !policy.contains('+') {
                assert_eq!(twice.bits(), once_clipped.bits(), "{policy}");
            }
        }
    }
    // If the result is exact in storage, no bit changes.
    for policy in [
        "norm:1",
        "global-norm:1",
        "group-norm:1",
        "block-rms:0.5",
        "normalize:1",
    ] {
        let (once_clipped, _) = once(policy, Model::vector(&[4.0, -4.0, 4.0, 4.0]));
        let (twice, report) = once(policy, once_clipped.clone());
        assert_eq!(
            (twice.bits(), report.action),
            (once_clipped.bits(), ClipAction::Keep)
        );
        assert_eq!(once_clipped.flat(), [0.5, -0.5, 0.5, 0.5]);
    }
}

fn times(model: &Model, factor: f64) -> Model {
    let mut scaled = model.clone();
    for tensor in &mut scaled.0 {
        for (index, number) in tensor.gradient.to_f64().into_iter().enumerate() {
            tensor.gradient.set(index, number * factor);
        }
    }
    scaled
}

#[test]
fn scaling_gradients_and_thresholds_scales_the_result() {
    // A power of two scales without rounding, so the bits agree. Except for ZClip, whose score has
    // a constant 1e-6, here as in the published code.
    let policies = [
        ("value:0.5", "value:2"),
        ("norm:1,p=1", "norm:4,p=1"),
        ("global-norm:1", "global-norm:4"),
        ("global-norm:1,p=inf", "global-norm:4,p=inf"),
        ("global-norm:2..1@16", "global-norm:8..4@16"),
        ("group-norm:1", "group-norm:4"),
        ("block-rms:0.1", "block-rms:0.4"),
        ("normalize:1", "normalize:4"),
        ("agc:0.01", "agc:0.04"),
        ("autoclip:10", "autoclip:10"),
        ("adagc:warmup=5", "adagc:abs=4,warmup=5"),
        ("median:2,window=8", "median:2,window=8"),
        ("skip:3,window=8", "skip:3,window=8"),
        ("value:5+global-norm:1", "value:20+global-norm:4"),
    ];
    for (policy, scaled_policy) in policies {
        let mut clipper = clipper(policy, NonFinite::Error);
        let mut scaled_clipper = crate::support::clipper(scaled_policy, NonFinite::Error);
        for index in 0..40 {
            let spike = if index % 17 == 16 { 64.0 } else { 1.0 };
            let model = Model::random(&mut Random(index), spike);
            let scaled_model = times(&model, 4.0);
            let (after, report) = step(&mut clipper, model);
            let (scaled_after, scaled_report) = step(&mut scaled_clipper, scaled_model);
            assert_eq!(
                scaled_report.action, report.action,
                "{policy} at step {index}"
            );
            for ((expected, found), tensor) in times(&after, 4.0)
                .0
                .iter()
                .zip(&scaled_after.0)
                .zip(&after.0)
            {
                // In half precision small values become subnormal, where rounding does not scale.
                if matches!(tensor.gradient, Buffer::F16(_)) {
                    continue;
                }
                let name = &tensor.name;
                assert_eq!(
                    found.gradient.bits(),
                    expected.gradient.bits(),
                    "{policy} {name}"
                );
            }
        }
    }
}

#[test]
fn rules_of_a_chain_are_applied_in_order() {
    for seed in 0..50 {
        let model = Model::random(&mut Random(seed), 10.0);
        let (first, _) = once("value:5", model.clone());
        let (second, _) = once("global-norm:1", first);
        let (chained, report) = once("value:5+global-norm:1", model);
        assert_eq!(chained.bits(), second.bits());
        assert_eq!((report.norm_after, report.threshold), (1.0, Some(1.0)));
    }
}

#[test]
fn negative_thresholds_and_nan_are_refused() {
    for value in [-1.0, -0.0, 0.0, f64::NAN, f64::NEG_INFINITY] {
        assert!(Threshold::new(value).is_err() && NormOrder::new(value).is_err());
        for name in [
            "value",
            "norm",
            "global-norm",
            "group-norm",
            "block-rms",
            "normalize",
            "agc",
            "median",
            "skip",
            "update-rms",
            "zclip:max=",
            "adagc:abs=",
            "adagc:rel=",
            "zclip:z=",
            "spam:theta=",
            "norm:1,p=",
            "agc:1,eps=",
        ] {
            let text = match name.ends_with('=') {
                true => format!("{name}{value}"),
                false => format!("{name}:{value}"),
            };
            assert!(text.parse::<ClipPolicy>().is_err(), "{text}");
        }
    }
}

#[test]
fn norms_are_reported_and_bounded() {
    for threshold in [0.1, 1.0, 7.5] {
        for policy in ["global-norm", "normalize", "norm", "group-norm"] {
            for seed in 0..20 {
                let model = Model::random(&mut Random(seed), 10.0);
                let before = model.flat();
                let (after, report) = once(&format!("{policy}:{threshold}"), model);
                let norm = |values: &[f64]| reference_norm(values.iter().copied(), 2.0);
                assert_close(report.norm_before, norm(&before), 1e-13);
                // Half precision has three digits.
                assert_close(report.norm_after, norm(&after.flat()), 1e-3);
                match policy {
                    "global-norm" | "normalize" => assert!(report.norm_after <= threshold),
                    "norm" => assert!(report.tensors.iter().all(|t| t.norm_after <= threshold)),
                    _ => {}
                }
                assert!(report.norm_after <= report.norm_before || policy == "normalize");
            }
        }
    }
}

#[test]
fn every_policy_acts_on_an_oversized_gradient() {
    for policy in POLICIES {
        let mut clipper = clipper(policy, NonFinite::Error);
        for index in 0..30 {
            step(&mut clipper, Model::random(&mut Random(index), 1.0));
        }
        let spike = Model::random(&mut Random(99), 1000.0);
        let before = spike.bits();
        let (after, report) = step(&mut clipper, spike);
        match report.action {
            ClipAction::Keep => panic!("{policy} kept {report:?}"),
            ClipAction::Skip => assert!(policy.contains("skip") && after.bits() == before),
            ClipAction::Clip => {
                assert_ne!(after.bits(), before, "{policy}");
                assert!(
                    report.norm_after < 0.5 * report.norm_before,
                    "{policy}: {report:?}"
                );
                assert!(
                    report.coefficient < 0.5 && report.norm_before > 900.0,
                    "{policy}"
                );
            }
        }
    }
    // Rules inside Adam are refused, unless an Adam applies them.
    for text in ["update-rms:1", "global-norm:1e9+spam"] {
        let policy: ClipPolicy = text.parse().unwrap();
        let refused = Clipper::new(policy.clone(), NonFinite::Error).unwrap_err();
        assert!(
            refused.to_string().contains("works inside Adam"),
            "{refused}"
        );
        let spike = Model::random(&mut Random(99), 1000.0);
        let mut beside = Clipper::for_adam(policy, NonFinite::Error);
        let (after, report) = step(&mut beside, spike.clone());
        assert_eq!(
            (after.bits(), report.action),
            (spike.bits(), ClipAction::Keep)
        );
    }
}

#[test]
fn micro_batches_are_clipped_like_one_batch() {
    // Values with few digits add exactly, so the bits must agree.
    let micro_batch = |index: u64| -> Named {
        let mut random = Random(index);
        let mut values = |count: usize| -> Vec<f32> {
            (0..count)
                .map(|_| (random.next() % 512) as f32 / 16.0 - 16.0)
                .collect()
        };
        vec![("layers.0.weight", values(20)), ("head", values(7))]
    };
    for count in [1_u64, 2, 4, 8] {
        for loss_scale in [1.0, 1024.0] {
            let scaled = |index: u64| -> Named {
                let times = |v: Vec<f32>| v.into_iter().map(|x| x * loss_scale as f32).collect();
                micro_batch(index)
                    .into_iter()
                    .map(|(name, v)| (name, times(v)))
                    .collect()
            };
            let mut accumulated = Accumulated::new(scaled(0));
            (1..count).for_each(|index| accumulated.add(scaled(index)));
            let mean = accumulated
                .in_one_process()
                .unscale(loss_scale)
                .expect("a good scale");
            let mut batch = micro_batch(0);
            for (place, (_, values)) in batch.iter_mut().enumerate() {
                for (element, value) in values.iter_mut().enumerate() {
                    let column = (0..count).map(|index| micro_batch(index)[place].1[element]);
                    *value = column.sum::<f32>() / count as f32;
                }
            }
            for policy in [
                "global-norm:1",
                "norm:1",
                "value:0.5",
                "block-rms:0.1",
                "group-norm:1",
            ] {
                let run = |gradients| {
                    let mut clipper = clipper(policy, NonFinite::Error);
                    parts(clipper.clip(gradients).expect("finite gradients"))
                };
                assert_eq!(
                    run(mean.clone()),
                    run(Unscaled::single(batch.clone())),
                    "{policy}"
                );
            }
        }
    }
}
