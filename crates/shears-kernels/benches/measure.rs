//! Measuring gradients compared with reading them, in GB/s: `cargo bench -p shears-kernels --bench
//! measure`. `RAYON_NUM_THREADS` sets the threads.
//!
//! All three read the same data: `read` only adds in `f32`, `scan` is what clipping calls, and
//! `plain_scan` is the same without SIMD chosen at run time.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// Fits the L2 cache, fits the L3 cache, and `gpt-384`.
const ELEMENTS: [usize; 3] = [65_536, 2_097_152, 10_770_816];

/// `count` tensors of `elements / count` elements each.
fn tensors(elements: usize, count: usize) -> Vec<Vec<f32>> {
    let tensor: Vec<f32> = (0..elements / count).map(|i| (i as f32).sin()).collect();
    vec![tensor; count]
}

fn slices(tensors: &[Vec<f32>]) -> Vec<&[f32]> {
    tensors.iter().map(Vec::as_slice).collect()
}

fn bench<T>(
    bencher: Bencher<'_, '_>,
    elements: usize,
    count: usize,
    work: impl Fn(&[&[f32]], usize) -> T,
) {
    let tensors = tensors(elements, count);
    let (tensors, threads) = (slices(&tensors), rayon::current_num_threads());
    bencher
        .counter(BytesCount::of_many::<f32>(elements))
        .bench_local(|| work(black_box(&tensors), threads));
}

#[divan::bench(args = ELEMENTS)]
fn read(bencher: Bencher<'_, '_>, elements: usize) {
    bench(bencher, elements, 1, shears_kernels::read);
}

#[divan::bench(args = ELEMENTS)]
fn scan(bencher: Bencher<'_, '_>, elements: usize) {
    bench(bencher, elements, 1, shears_kernels::scan);
}

#[divan::bench(args = ELEMENTS)]
fn plain_scan(bencher: Bencher<'_, '_>, elements: usize) {
    bench(bencher, elements, 1, gradclip::scan);
}

#[divan::bench(args = [64, 1024])]
fn read_of_many_tensors(bencher: Bencher<'_, '_>, count: usize) {
    bench(bencher, 2_097_152, count, shears_kernels::read);
}

#[divan::bench(args = [64, 1024])]
fn scan_of_many_tensors(bencher: Bencher<'_, '_>, count: usize) {
    bench(bencher, 2_097_152, count, shears_kernels::scan);
}
