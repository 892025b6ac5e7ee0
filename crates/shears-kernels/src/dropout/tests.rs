//! Masks: published vectors of the generator, agreement of both paths, dependence on inputs.

use burn::tensor::{Device, Tensor};
use pulp::{Simd, WithSimd};

use super::{Dropout, DropoutKey, Mask, dropout, dropout_plain, philox};
use crate::cpu::Cpu;
use crate::testing::{assert_close, read, tensor};

struct Draw {
    counter: [u32; 4],
    key: [u32; 2],
}

impl WithSimd for Draw {
    type Output = [u32; 4];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [u32; 4] {
        let counter = self.counter.map(|word| simd.splat_u32s(word));
        let outputs = philox(simd, counter, self.key);
        outputs.map(|words| bytemuck::cast_slice(std::slice::from_ref(&words))[0])
    }
}

/// `kat_vectors` of the Random123 library, which the paper's authors publish.
#[test]
fn philox_matches_the_published_vectors() {
    let known = [
        (
            [0; 4],
            [0; 2],
            [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8],
        ),
        (
            [u32::MAX; 4],
            [u32::MAX; 2],
            [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD],
        ),
        (
            [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
            [0xA409_3822, 0x299F_31D0],
            [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1],
        ),
    ];
    for cpu in Cpu::all().into_iter().step_by(3) {
        for (counter, key, expected) in known {
            assert_eq!(cpu.run(Draw { counter, key }), expected, "{cpu:?}");
        }
    }
}

fn keyed(key: [u32; 2], probability: f64) -> Dropout {
    Dropout {
        key: DropoutKey::of(key),
        probability,
    }
}

fn rows(cpu: Cpu, mask: Mask, first: usize, count: usize, width: usize) -> Vec<f32> {
    let mut values = vec![1.0; count * width];
    mask.apply_to_rows(cpu, first, &mut values, width);
    values
}

#[test]
fn masks_depend_only_on_key_site_and_position() {
    let mask = keyed([1, 2], 0.3).mask(4, 900);
    let one = rows(Cpu::all()[0], mask, 0, 900, 77);
    for cpu in Cpu::all() {
        assert_eq!(rows(cpu, mask, 0, 900, 77), one, "{cpu:?}");
        assert_eq!(rows(cpu, mask, 600, 300, 77), one[600 * 77..], "{cpu:?}");
        // A row's mask does not depend on its width.
        let narrow = rows(cpu, mask, 0, 3, 70);
        assert_eq!(narrow[70..140], one[77..147], "{cpu:?}");
    }
    let cpu = Cpu::current();
    let others = [
        keyed([2, 2], 0.3).mask(4, 900),
        keyed([1, 3], 0.3).mask(4, 900),
        keyed([1, 2], 0.3).mask(5, 900),
    ];
    for other in others {
        let other = rows(cpu, other, 0, 900, 77);
        let equal = one.iter().zip(&other).filter(|(a, b)| a == b).count();
        // Independent masks agree in 0.3^2 + 0.7^2 = 58 % of the elements.
        let share = equal as f64 / one.len() as f64;
        assert!((share - 0.58).abs() < 0.01, "{share}");
    }
}

/// Sequences computed separately have the same masks as in a whole batch.
#[test]
fn a_part_of_a_batch_has_the_masks_of_the_whole() {
    let (batch, time, width) = (6, 5, 70);
    let device = Device::flex();
    let ones = |sizes| Tensor::<3>::ones(sizes, &device);
    for call in [dropout, dropout_plain] {
        let whole = keyed([3, 8], 0.4);
        let batch_first = call(ones([batch, time, width]), whole, 2);
        let time_first = call(ones([time, batch, width]), whole.with_time_first(), 2);
        for (first, count) in [(0, 2), (2, 1), (3, 3), (0, batch)] {
            let key = whole.key.for_sequences(first, count, batch);
            let part = Dropout { key, ..whole };
            let found = call(ones([count, time, width]), part, 2);
            let expected = batch_first.clone().narrow(0, first, count);
            assert_eq!(read(&found), read(&expected), "{count} from {first}");
            let found = call(ones([time, count, width]), part.with_time_first(), 2);
            let expected = time_first.clone().narrow(1, first, count);
            assert_eq!(read(&found), read(&expected), "{count} from {first}");
        }
    }
}

/// Within four standard deviations, overall and for every position in a group.
#[test]
fn the_kept_share_matches_the_probability() {
    for probability in [0.0, 0.1, 0.2, 0.5, 0.999] {
        let count = 8192;
        let values = rows(
            Cpu::current(),
            keyed([7, 7], probability).mask(0, 900),
            0,
            count,
            128,
        );
        let scale = (1.0 / (1.0 - probability)) as f32;
        assert!(values.iter().all(|&value| value == 0.0 || value == scale));
        for place in 0..128 {
            let kept = (0..count).filter(|row| values[row * 128 + place] != 0.0);
            let share = kept.count() as f64 / count as f64;
            let deviation = (probability * (1.0 - probability) / count as f64).sqrt();
            let distance = (share - (1.0 - probability)).abs();
            assert!(
                distance <= 4.5 * deviation,
                "{probability} {place}: {share}"
            );
        }
    }
}

#[test]
fn both_paths_agree_in_values_and_gradients() {
    let device = Device::flex().autodiff();
    let values: Vec<f32> = (0..3 * 5 * 70).map(|i| i as f32 / 100.0 - 3.0).collect();
    let setting = keyed([3, 9], 0.4);
    let run = |call: fn(Tensor<3>, Dropout, u32) -> Tensor<3>| {
        let input = tensor(&values, [3, 5, 70], &device);
        let output = call(input.clone(), setting, 2);
        let gradients = (output.clone() * output.clone()).sum().backward();
        [read(&output), read(&input.grad(&gradients).unwrap())]
    };
    for (fused, plain) in run(dropout).iter().zip(run(dropout_plain)) {
        assert_close("dropout", fused, &plain, 2e-7);
    }
}

#[test]
fn keys_of_parts_differ_in_half_of_their_bits() {
    let key = DropoutKey::of([1, 0]);
    let parts: Vec<DropoutKey> = (0..1000).map(|number| key.part(number)).collect();
    assert_eq!(parts[3], DropoutKey::of([1, 0]).part(3));
    assert_ne!(parts[3], DropoutKey::of([2, 0]).part(3));
    assert_ne!(key.part(1).part(2), key.part(2).part(1));
    let bits = |[left, right]: [DropoutKey; 2]| -> u32 {
        let words = left.words.iter().zip(right.words);
        words.map(|(left, right)| (left ^ right).count_ones()).sum()
    };
    let pairs = parts.windows(2).map(|pair| bits([pair[0], pair[1]]));
    let differing: Vec<u32> = pairs.collect();
    // 32 of 64 bits with a standard deviation of 4.
    let mean = f64::from(differing.iter().sum::<u32>()) / differing.len() as f64;
    assert!((mean - 32.0).abs() < 0.6, "{mean}");
    assert!(differing.iter().all(|count| (10..=54).contains(count)));
}
