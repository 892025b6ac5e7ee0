//! Optimizer updates with a fused clipping factor, in GB/s read and written: `cargo bench -p
//! shears-kernels --bench update`. `RAYON_NUM_THREADS` sets the threads.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use shears_kernels::{Adam, Parameter, UpdateRule, update};

fn main() {
    divan::main();
}

/// Fits the L2 cache, fits the L3 cache, and `gpt-384`.
const ELEMENTS: [usize; 3] = [16_384, 1_048_576, 10_770_816];

fn bench(bencher: Bencher<'_, '_>, elements: usize, rule: UpdateRule, weight_decay: f64) {
    let moment = |has: bool| vec![0.0_f32; if has { elements } else { 0 }];
    let mut first = moment(rule.has_first_moment());
    let mut second = moment(rule.has_second_moment());
    let mut weight: Vec<f32> = (0..elements).map(|i| (i as f32).sin()).collect();
    let gradient: Vec<f32> = (0..elements).map(|i| (i as f32).cos()).collect();
    // The gradient is read; everything else is read and written.
    let written = weight.len() + first.len() + second.len();
    let bytes = BytesCount::of_many::<f32>(2 * written + elements);
    bencher.counter(bytes).bench_local(|| {
        let parameter = Parameter {
            weight: &mut weight,
            gradient: &gradient,
            factor: black_box(0.37),
            first: &mut first,
            second: &mut second,
            weight_decay,
        };
        update(black_box(&rule), vec![parameter]);
    });
}

const ADAMW: Adam = Adam {
    lr: 1e-3,
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-8,
    updates: 10,
    decoupled: true,
    lr_factor: 1.0,
    spike_bound: None,
    update_bound: None,
};

#[divan::bench(args = ELEMENTS)]
fn adamw(bencher: Bencher<'_, '_>, elements: usize) {
    bench(bencher, elements, UpdateRule::Adam(ADAMW), 0.1);
}

#[divan::bench(args = ELEMENTS)]
fn adamw_bounded(bencher: Bencher<'_, '_>, elements: usize) {
    let adam = Adam {
        update_bound: Some(1.0),
        ..ADAMW
    };
    bench(bencher, elements, UpdateRule::Adam(adam), 0.1);
}

#[divan::bench(args = ELEMENTS)]
fn rmsprop(bencher: Bencher<'_, '_>, elements: usize) {
    let rule = UpdateRule::RmsProp {
        lr: 1e-3,
        alpha: 0.99,
        epsilon: 1e-8,
    };
    bench(bencher, elements, rule, 0.0);
}

#[divan::bench(args = ELEMENTS)]
fn momentum(bencher: Bencher<'_, '_>, elements: usize) {
    let rule = UpdateRule::Momentum {
        lr: 1e-3,
        momentum: 0.9,
        nesterov: true,
    };
    bench(bencher, elements, rule, 0.0);
}

#[divan::bench(args = ELEMENTS)]
fn sgd(bencher: Bencher<'_, '_>, elements: usize) {
    bench(bencher, elements, UpdateRule::Sgd { lr: 1e-3 }, 0.0);
}
