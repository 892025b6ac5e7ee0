//! Checks that a [`Scan`] or a [`Scale`] is bitwise equal to the plain one.

use gradclip::{Scale, Scan, Scanned, scale, scan};

use crate::cases::random_bits;

/// The block and lane sizes in the contract of [`scan`].
const BLOCK_ELEMENTS: usize = 65_536;
const LANES: usize = 16;

/// Compares a scan with [`gradclip::scan`], bit for bit, over lengths around the edges of lanes and
/// blocks, values of every magnitude, non-finite values, many small tensors, and 0 to 5 threads.
///
/// # Panics
///
/// On the first difference, naming the case.
pub fn check_scan(candidate: Scan) {
    if let Err(difference) = find_scan_difference(candidate) {
        panic!("the scan does not conform: {difference}");
    }
}

pub(super) fn find_scan_difference(candidate: Scan) -> Result<(), String> {
    for (name, tensors) in cases() {
        let tensors: Vec<&[f32]> = tensors.iter().map(Vec::as_slice).collect();
        let wanted: Vec<[u64; 3]> = scan(&tensors, 1).into_iter().map(bits).collect();
        for threads in [0, 1, 2, 3, 5] {
            let given: Vec<[u64; 3]> = candidate(&tensors, threads).into_iter().map(bits).collect();
            if given.len() != wanted.len() {
                let (given, wanted) = (given.len(), wanted.len());
                return Err(format!("{name}: {given} results for {wanted} tensors"));
            }
            if let Some(index) = (0..wanted.len()).find(|&index| given[index] != wanted[index]) {
                let (given, wanted) = (given[index], wanted[index]);
                return Err(format!(
                    "{name}, {threads} threads, tensor {index}: the bits of sum, maximum and \
                     count are {given:x?}, and those of the plain scan {wanted:x?}"
                ));
            }
        }
    }
    Ok(())
}

/// Compares a scaling function with [`gradclip::scale`], bit for bit, over the finite cases of
/// [`check_scan`] and factors that keep, shorten, lengthen, and round to zero.
///
/// # Panics
///
/// On the first difference, naming the case.
pub fn check_scale(candidate: Scale) {
    if let Err(difference) = find_scale_difference(candidate) {
        panic!("the scaling does not conform: {difference}");
    }
}

pub(super) fn find_scale_difference(candidate: Scale) -> Result<(), String> {
    for (name, tensors) in cases() {
        if !tensors.iter().flatten().all(|value| value.is_finite()) {
            continue;
        }
        for first in 0..FACTORS.len() {
            let factors = FACTORS.iter().cycle().skip(first).copied();
            let factors: Vec<f64> = factors.take(tensors.len()).collect();
            let wanted = scaled(scale, &tensors, &factors, 1);
            for threads in [0, 1, 2, 3, 5] {
                let given = scaled(candidate, &tensors, &factors, threads);
                if given.1 != wanted.1 {
                    let (given, wanted) = (given.1, wanted.1);
                    return Err(format!(
                        "{name}, {threads} threads, factors {factors:?}: {given} elements rounded \
                         to zero, and {wanted} by the plain scaling"
                    ));
                }
                if given.0 != wanted.0 {
                    return Err(format!(
                        "{name}, {threads} threads, factors {factors:?}: other bits than the plain \
                         scaling"
                    ));
                }
            }
        }
    }
    Ok(())
}

const FACTORS: [f64; 5] = [0.3, 1.0, 1e-42, 1.7, 1e-3];

/// The bits of all elements after scaling, and how many were rounded to zero.
fn scaled(scale: Scale, tensors: &[Vec<f32>], factors: &[f64], threads: usize) -> (Vec<u32>, u64) {
    let mut tensors = tensors.to_vec();
    let slices = tensors.iter_mut().map(Vec::as_mut_slice).collect();
    let rounded_to_zero = scale(slices, factors, threads);
    let bits = tensors.iter().flatten().map(|value| value.to_bits());
    (bits.collect(), rounded_to_zero)
}

fn bits(scanned: Scanned) -> [u64; 3] {
    [
        scanned.sum_of_squares.to_bits(),
        u64::from(scanned.max_magnitude.to_bits()),
        scanned.non_finite,
    ]
}

fn cases() -> Vec<(String, Vec<Vec<f32>>)> {
    let mut cases = vec![("no tensor".into(), Vec::new())];
    let blocks = [1, 2, 3].map(|count| count * BLOCK_ELEMENTS);
    let lanes = [0, LANES, 4 * LANES, 63 * LANES];
    for edge in lanes.into_iter().chain(blocks) {
        for length in [edge.saturating_sub(1), edge, edge + 1, edge + LANES / 2] {
            let name = format!("{length} elements");
            cases.push((name, vec![values(length, length as u64, moderate)]));
        }
    }
    let length = 2 * BLOCK_ELEMENTS + 21;
    cases.push(("any bits".into(), vec![values(length, 1, any_bits)]));
    let subnormal = |bits: u32| f32::from_bits(bits & 0x807F_FFFF);
    cases.push(("subnormal".into(), vec![values(length, 2, subnormal)]));
    let huge = |bits: u32| f32::from_bits((bits & 0x80FF_FFFF) | 0x7E00_0000);
    cases.push(("huge".into(), vec![values(length, 3, huge)]));
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 1, LANES, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, length - 1] {
            let mut tensor = values(length, 4, moderate);
            tensor[place] = bad;
            cases.push((format!("{bad} at {place}"), vec![tensor]));
        }
        cases.push((format!("only {bad}"), vec![vec![bad; BLOCK_ELEMENTS + 3]]));
    }
    let sizes = (0..300).map(|index| match index % 50 {
        49 => 3 * BLOCK_ELEMENTS + index,
        _ => index * index % 1000,
    });
    let tensors = sizes.map(|size| values(size, size as u64, moderate));
    cases.push(("many tensors".into(), tensors.collect()));
    cases.push(("only empty tensors".into(), vec![Vec::new(); 5]));
    cases
}

fn any_bits(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// Between 1e-6 and 1e3 in magnitude.
fn moderate(bits: u32) -> f32 {
    let exponent = 107 + (bits >> 23) % 30;
    f32::from_bits((bits & 0x807F_FFFF) | (exponent << 23))
}

/// Values made of random bits.
fn values(length: usize, seed: u64, value: impl Fn(u32) -> f32) -> Vec<f32> {
    let bits = random_bits(seed).take(length);
    bits.map(|bits| value(bits as u32)).collect()
}
