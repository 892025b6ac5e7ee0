//! Tests that the suite accepts correct adapters and refuses broken ones.

use gradclip::{AsElements, ClipAction, ClipError, ClipRule, Clipper, RuleForm};
use half::{bf16, f16};

use super::{Adapter, Buffer, Clipping, NamedTensor, StorageType, cases, clip_plain};

/// Plain slices, with the inputs and outputs tampered with.
struct Tampered<Before, After> {
    before: Before,
    after: After,
}

/// A correct [`Adapter::mean`].
macro_rules! plain_mean {
    () => {
        fn mean(&mut self, micro_batches: &[Vec<NamedTensor>]) -> Vec<NamedTensor> {
            super::mean::plain(micro_batches)
        }
    };
}

impl<Before, After> Adapter for Tampered<Before, After>
where
    Before: FnMut(&mut Vec<NamedTensor>),
    After: FnMut(&mut Clipping, &[NamedTensor]),
{
    fn storage_types(&self) -> Vec<StorageType> {
        StorageType::ALL.into()
    }

    fn clip(
        &mut self,
        clipper: &mut Clipper,
        tensors: &[NamedTensor],
    ) -> Result<Clipping, ClipError> {
        let mut given = tensors.to_vec();
        (self.before)(&mut given);
        let mut clipping = clip_plain(clipper, given)?;
        (self.after)(&mut clipping, tensors);
        Ok(clipping)
    }

    plain_mean!();
}

#[track_caller]
fn refused(
    before: impl FnMut(&mut Vec<NamedTensor>),
    after: impl FnMut(&mut Clipping, &[NamedTensor]),
    because: &str,
) {
    let problem = super::find_difference(&mut Tampered { before, after });
    let problem = problem.expect_err("a broken adapter must be refused");
    assert!(problem.contains(because), "{problem}");
}

fn as_given(_: &mut Vec<NamedTensor>) {}

fn as_clipped(_: &mut Clipping, _: &[NamedTensor]) {}

/// Maps elements in place, through f64.
fn map(buffer: &mut Buffer, change: impl Fn(f64) -> f64) {
    match buffer {
        Buffer::F32(values) => {
            values
                .iter_mut()
                .for_each(|n| *n = change(f64::from(*n)) as f32);
        }
        Buffer::F64(values) => values.iter_mut().for_each(|n| *n = change(*n)),
        Buffer::F16(values) => {
            values
                .iter_mut()
                .for_each(|n| *n = f16::from_f64(change(n.to_f64())));
        }
        Buffer::Bf16(values) => {
            values
                .iter_mut()
                .for_each(|n| *n = bf16::from_f64(change(n.to_f64())));
        }
        other => panic!("the suite lacks this storage type: {other:?}"),
    }
}

#[test]
fn an_unmodified_adapter_passes() {
    super::check(&mut Tampered {
        before: as_given,
        after: as_clipped,
    });
}

#[test]
fn tensors_may_be_in_any_order() {
    super::check(&mut Tampered {
        before: |tensors: &mut Vec<NamedTensor>| {
            tensors.sort_by(|left, right| left.name.cmp(&right.name));
        },
        after: |clipping: &mut Clipping, _: &[NamedTensor]| clipping.tensors.reverse(),
    });
}

#[test]
fn an_adapter_without_storage_types_is_refused() {
    struct Nothing;
    impl Adapter for Nothing {
        fn storage_types(&self) -> Vec<StorageType> {
            vec![]
        }
        fn clip(&mut self, _: &mut Clipper, _: &[NamedTensor]) -> Result<Clipping, ClipError> {
            unreachable!("there is nothing to clip")
        }
        plain_mean!();
    }
    assert!(super::find_difference(&mut Nothing).is_err());
}

#[test]
#[should_panic(
    expected = "the adapter does not conform: below the threshold, `global-norm:10.5` \
    in f32, non-finite error, step 0: the norm before is 10.000001, not 10.0"
)]
fn a_norm_off_by_a_millionth_is_refused() {
    super::check(&mut Tampered {
        before: as_given,
        after: |clipping: &mut Clipping, _: &[NamedTensor]| clipping.report.norm_before += 1e-6,
    });
}

#[test]
fn a_scale_per_tensor_is_refused() {
    let each_by_itself = |clipping: &mut Clipping, tensors: &[NamedTensor]| {
        for (tensor, given) in clipping.tensors.iter_mut().zip(tensors) {
            let norm = clipping
                .report
                .tensors
                .iter()
                .find(|report| report.name == given.name);
            let norm = norm.map_or(0.0, |report| report.norm_before);
            if norm > clipping.report.norm_after {
                let coefficient = clipping.report.norm_after / norm;
                tensor.gradient = given.gradient.clone();
                map(&mut tensor.gradient, |value| value * coefficient);
            }
        }
    };
    refused(as_given, each_by_itself, "above the threshold");
}

#[test]
fn a_lost_tensor_is_refused() {
    let lose_one = |tensors: &mut Vec<NamedTensor>| drop(tensors.pop());
    refused(lose_one, as_clipped, "the report lacks `a.bias`");
    let lose_one = |clipping: &mut Clipping, _: &[NamedTensor]| drop(clipping.tensors.pop());
    refused(as_given, lose_one, "the tensor `a.bias` is lost");
    let double = |clipping: &mut Clipping, _: &[NamedTensor]| {
        let first = clipping.tensors.first().cloned();
        clipping.tensors.extend(first);
    };
    refused(as_given, double, "there are two tensors `b.weight`");
}

#[test]
fn another_name_is_refused() {
    let rename = |tensors: &mut Vec<NamedTensor>| {
        tensors.iter_mut().for_each(|tensor| tensor.name.push('x'));
    };
    refused(rename, as_clipped, "which was not given");
    let rename = |clipping: &mut Clipping, _: &[NamedTensor]| {
        clipping
            .tensors
            .iter_mut()
            .for_each(|tensor| tensor.name.push('x'));
    };
    refused(as_given, rename, "is lost");
    let rename_bad = |tensors: &mut Vec<NamedTensor>| {
        let bad = tensors.iter_mut().find(|tensor| tensor.name == "bad.w");
        bad.into_iter()
            .for_each(|tensor| tensor.name = String::from("bad.v"));
    };
    refused(rename_bad, as_clipped, "bad.v");
}

#[test]
fn a_zero_that_loses_its_sign_is_refused() {
    let without_sign = |value: f64| if value == 0.0 { 0.0 } else { value };
    let before = |tensors: &mut Vec<NamedTensor>| {
        tensors
            .iter_mut()
            .for_each(|tensor| map(&mut tensor.gradient, without_sign));
    };
    refused(
        before,
        as_clipped,
        "element 2 of `a.bias` has the bits 0x0, not 0x80000000",
    );
}

#[test]
fn rounding_half_precision_through_f32_is_refused() {
    for half in [StorageType::F16, StorageType::Bf16] {
        let twice = |clipping: &mut Clipping, tensors: &[NamedTensor]| {
            let coefficient = clipping.report.coefficient;
            let whole = clipping
                .report
                .tensors
                .iter()
                .all(|t| t.coefficient == coefficient);
            if clipping.report.action != ClipAction::Clip || !whole {
                return;
            }
            for (tensor, given) in clipping.tensors.iter_mut().zip(tensors) {
                if StorageType::of(&given.gradient) == half {
                    tensor.gradient = given.gradient.clone();
                    map(&mut tensor.gradient, |value| {
                        f64::from((value * coefficient) as f32)
                    });
                }
            }
        };
        refused(as_given, twice, "rounding once");
    }
}

#[test]
fn another_shape_or_type_is_refused() {
    let flatten = |clipping: &mut Clipping, _: &[NamedTensor]| {
        for tensor in &mut clipping.tensors {
            tensor.shape = vec![tensor.shape.iter().product()];
        }
    };
    refused(as_given, flatten, "the shape of `b.weight`");
    let widen = |clipping: &mut Clipping, _: &[NamedTensor]| {
        for tensor in &mut clipping.tensors {
            if let Buffer::F16(values) = &tensor.gradient {
                tensor.gradient = Buffer::F32(values.iter().map(|n| n.to_f32()).collect());
            }
        }
    };
    refused(as_given, widen, "the storage type of");
}

#[test]
fn a_step_that_should_be_skipped_is_refused() {
    let step_anyway = |clipping: &mut Clipping, _: &[NamedTensor]| clipping.may_step = true;
    refused(as_given, step_anyway, "whether the optimizer may step");
}

#[test]
fn a_forgotten_parameter_or_shape_is_refused() {
    let forget = |tensors: &mut Vec<NamedTensor>| {
        tensors
            .iter_mut()
            .for_each(|tensor| tensor.parameter = None);
    };
    refused(forget, as_clipped, "failed, but should succeed");
    let transpose = |tensors: &mut Vec<NamedTensor>| {
        tensors.iter_mut().for_each(|tensor| tensor.shape.reverse());
    };
    let back = |clipping: &mut Clipping, _: &[NamedTensor]| {
        clipping
            .tensors
            .iter_mut()
            .for_each(|tensor| tensor.shape.reverse());
    };
    refused(transpose, back, "agc");
}

#[test]
fn clipping_twice_is_refused() {
    struct Twice;
    impl Adapter for Twice {
        fn storage_types(&self) -> Vec<StorageType> {
            vec![StorageType::F32]
        }
        fn clip(
            &mut self,
            clipper: &mut Clipper,
            tensors: &[NamedTensor],
        ) -> Result<Clipping, ClipError> {
            let _ = clip_plain(clipper, tensors.to_vec())?;
            clip_plain(clipper, tensors.to_vec())
        }
        plain_mean!();
    }
    let problem = super::find_difference(&mut Twice).unwrap_err();
    assert!(
        problem.contains("the state of the clipper differs"),
        "{problem}"
    );
}

#[test]
fn adding_half_precision_in_its_own_type_is_refused() {
    struct Narrow(StorageType);
    impl Adapter for Narrow {
        fn storage_types(&self) -> Vec<StorageType> {
            vec![self.0]
        }
        fn clip(&mut self, _: &mut Clipper, _: &[NamedTensor]) -> Result<Clipping, ClipError> {
            unreachable!("the mean is checked first")
        }
        fn mean(&mut self, micro_batches: &[Vec<NamedTensor>]) -> Vec<NamedTensor> {
            let mut sums = micro_batches[0].clone();
            for micro_batch in &micro_batches[1..] {
                for (sum, term) in sums.iter_mut().zip(micro_batch) {
                    let mut term = term.gradient.clone();
                    sum.gradient.as_elements().add(&term.as_elements());
                }
            }
            let factor = 1.0 / micro_batches.len() as f64;
            for sum in &mut sums {
                sum.gradient.as_elements().scale(factor);
            }
            sums
        }
    }
    let problem = super::find_difference(&mut Narrow(StorageType::Bf16)).unwrap_err();
    assert!(problem.contains("512 ones"), "{problem}");
    let problem = super::find_difference(&mut Narrow(StorageType::F16)).unwrap_err();
    assert!(problem.contains("above the largest f16"), "{problem}");
}

#[test]
fn every_rule_is_in_the_suite_and_acts() {
    let has = |policy: &str, rule: &str| policy.split([':', '+']).any(|part| part == rule);
    for RuleForm { name, .. } in ClipRule::forms() {
        let known = cases::POLICIES.iter().any(|policy| has(policy, name));
        assert!(known, "the suite has no policy with `{name}`");
    }

    let without_effect = ["none", "value:inf", "update-rms:1"];
    for case in cases::all(StorageType::F32) {
        let text = format!("{}", case.policy);
        if case.name != "a training run" || without_effect.contains(&text.as_str()) {
            continue;
        }
        let mut clipper = Clipper::for_adam(case.policy, case.non_finite);
        let acts = |tensors: Vec<NamedTensor>| {
            clip_plain(&mut clipper, tensors).unwrap().report.action != ClipAction::Keep
        };
        assert!(case.steps.into_iter().any(acts), "`{text}` never acts");
    }
}

#[test]
fn scans_with_different_bits_are_refused() {
    use super::scan::find_scan_difference;
    use gradclip::{Scanned, scan};

    fn sequential(tensors: &[&[f32]], _: usize) -> Vec<Scanned> {
        let sum = |values: &&[f32]| Scanned {
            sum_of_squares: values.iter().map(|value| f64::from(*value).powi(2)).sum(),
            ..scan(&[values], 1)[0]
        };
        tensors.iter().map(sum).collect()
    }
    fn without_the_last(tensors: &[&[f32]], threads: usize) -> Vec<Scanned> {
        scan(&tensors[..tensors.len().saturating_sub(1)], threads)
    }
    fn without_the_maximum(tensors: &[&[f32]], threads: usize) -> Vec<Scanned> {
        let scanned = scan(tensors, threads).into_iter();
        let forget = |scanned| Scanned {
            max_magnitude: 0.0,
            ..scanned
        };
        scanned.map(forget).collect()
    }
    assert_eq!(find_scan_difference(scan), Ok(()));
    for broken in [sequential, without_the_last, without_the_maximum] {
        assert!(find_scan_difference(broken).is_err());
    }
}

#[test]
fn scalings_with_different_bits_are_refused() {
    use super::scan::find_scale_difference;
    use gradclip::scale;

    fn in_single_precision(tensors: Vec<&mut [f32]>, factors: &[f64], _: usize) -> u64 {
        let mut rounded_to_zero = 0;
        for (values, factor) in tensors.into_iter().zip(factors) {
            let zeros = |values: &[f32]| values.iter().filter(|value| **value == 0.0).count();
            let before = zeros(values);
            values.iter_mut().for_each(|value| *value *= *factor as f32);
            rounded_to_zero += (zeros(values) - before) as u64;
        }
        rounded_to_zero
    }
    fn without_counting(tensors: Vec<&mut [f32]>, factors: &[f64], threads: usize) -> u64 {
        scale(tensors, factors, threads);
        0
    }
    assert_eq!(find_scale_difference(scale), Ok(()));
    for broken in [in_single_precision, without_counting] {
        assert!(find_scale_difference(broken).is_err());
    }
}
