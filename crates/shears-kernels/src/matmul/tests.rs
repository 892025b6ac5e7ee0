use burn::tensor::bf16;

use super::{FEW_ROWS, Initial, Packed, Weight, product_of_few_rows, transposed_product};
use crate::cpu::{Bf16Unit, Cpu, Products};
use crate::testing::elements;

/// The largest difference from a product in f64, in units in the last place of 1 per term: a sum of
/// random values in (-1, 1) stays well below 1.
fn error(
    c: &[f32],
    (rows, inner, columns): (usize, usize, usize),
    entry: impl Fn(usize, usize) -> f64,
) -> f64 {
    let mut worst = 0.0_f64;
    for row in 0..rows {
        for column in 0..columns {
            let difference = f64::from(c[row * columns + column]) - entry(row, column);
            worst = worst.max(difference.abs());
        }
    }
    worst / (f64::from(f32::EPSILON) * (1.0 + inner as f64))
}

/// Including sizes beyond one block in every dimension.
const SHAPES: [(usize, usize, usize); 11] = [
    (1, 1, 1),
    (2, 0, 3),
    (3, 5, 7),
    (25, 128, 512),
    (50, 300, 65),
    (7, 257, 33),
    (130, 20, 48),
    (241, 64, 17),
    (14, 512, 40),
    (1100, 13, 20),
    (30, 250, 9),
];

#[test]
fn products_with_packed_weights() {
    for cpu in Cpu::all() {
        for shape @ (rows, inner, columns) in SHAPES {
            let a = elements(rows * inner, 1);
            let weight = elements(columns * inner, 2);
            let bias = elements(columns, 3);
            let before = elements(rows * columns, 4);
            for (start, initial) in [(0, "zero"), (1, "bias"), (2, "result")] {
                let start = [Initial::Zero, Initial::Bias(&bias), Initial::Result][start];
                let first = |row: usize, column: usize| match initial {
                    "zero" => 0.0,
                    "bias" => f64::from(bias[column]),
                    _ => f64::from(before[row * columns + column]),
                };
                let sum = |row: usize, column: usize, weight: &dyn Fn(usize) -> f32| {
                    let products =
                        (0..inner).map(|k| f64::from(a[row * inner + k]) * f64::from(weight(k)));
                    first(row, column) + products.sum::<f64>()
                };
                let mut c = before.clone();
                Packed::transposed(cpu, &weight, columns, inner).multiply(
                    cpu,
                    (&a, inner),
                    (&mut c, columns),
                    start,
                );
                let worst = error(&c, shape, |row, column| {
                    sum(row, column, &|k| weight[column * inner + k])
                });
                assert!(worst < 1.0, "{shape:?} {initial} {worst}");
                let mut c = before.clone();
                Packed::plain(cpu, &weight, inner, columns).multiply(
                    cpu,
                    (&a, inner),
                    (&mut c, columns),
                    start,
                );
                let worst = error(&c, shape, |row, column| {
                    sum(row, column, &|k| weight[k * columns + column])
                });
                assert!(worst < 1.0, "{shape:?} {initial} {worst}");
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_rows_per_call_or_threads() {
    let (rows, inner, columns) = (53, 300, 70);
    let (a, weight) = (elements(rows * inner, 5), elements(columns * inner, 6));
    for cpu in Cpu::all() {
        let packed = Packed::transposed(cpu, &weight, columns, inner);
        let mut whole = vec![0.0; rows * columns];
        packed.multiply(cpu, (&a, inner), (&mut whole, columns), Initial::Zero);
        let mut single = vec![0.0; rows * columns];
        for (a, c) in a.chunks(inner).zip(single.chunks_mut(columns)) {
            packed.multiply(cpu.alone(), (a, inner), (c, columns), Initial::Zero);
        }
        assert_eq!(whole, single);
    }
}

#[test]
fn rows_may_be_strided_and_blocks_are_finished_once() {
    for cpu in Cpu::all() {
        let (a, weight) = (elements(300 * 10, 7), elements(6 * 4, 8));
        let packed = Packed::transposed(cpu, &weight, 6, 4);
        let mut c = vec![7.0; 300 * 9];
        packed.multiply_then(cpu, (&a, 10), (&mut c, 9), Initial::Zero, |first, block| {
            for (row, values) in block.chunks_mut(9).enumerate() {
                values[6] += (first + row) as f32;
            }
        });
        for row in 0..300 {
            for column in 0..6 {
                let sum: f32 = (0..4)
                    .map(|k| a[row * 10 + k] * weight[column * 4 + k])
                    .sum();
                assert!((c[row * 9 + column] - sum).abs() < 1e-6);
            }
            assert_eq!(c[row * 9 + 6], 7.0 + row as f32);
            assert_eq!(c[row * 9 + 7..row * 9 + 9], [7.0; 2]);
        }
    }
}

#[test]
fn products_of_two_activations() {
    let mut bits = std::collections::HashMap::new();
    for cpu in Cpu::all() {
        let instructions = format!("{:?}", cpu.instructions);
        for shape @ (inner, rows, columns) in SHAPES {
            let (a, b) = (elements(rows * inner, 9), elements(columns * inner, 10));
            let before = elements(rows * columns, 11);
            for add in [false, true] {
                let mut c = before.clone();
                let factors = ((a.as_slice(), rows, rows), (b.as_slice(), columns, columns));
                transposed_product(cpu, inner, factors, &mut c, add);
                let worst = error(&c, (rows, inner, columns), |row, column| {
                    let products = (0..inner)
                        .map(|k| f64::from(a[k * rows + row]) * f64::from(b[k * columns + column]));
                    let first = f64::from(before[row * columns + column]);
                    products.sum::<f64>() + if add { first } else { 0.0 }
                });
                assert!(worst < 1.0, "{shape:?} {worst}");
                let first = bits
                    .entry((instructions.clone(), shape, add))
                    .or_insert_with(|| c.clone());
                assert_eq!(*first, c, "{shape:?}: threads change the bits");
            }
        }
    }
}

#[test]
fn few_rows_times_a_weight() {
    let shapes = [(1, 1), (4, 8), (9, 100), (65, 128), (3, 0), (600, 137)];
    for (cpu, (outputs, inner)) in Cpu::all()
        .into_iter()
        .flat_map(|cpu| shapes.map(|of| (cpu, of)))
    {
        let (weight, bias) = (elements(outputs * inner, 12), elements(outputs, 14));
        let narrow: Vec<bf16> = weight.iter().map(|x| bf16::from_f32(*x)).collect();
        let widened = rounded(&weight);
        for (stored, weight) in [
            (Weight::F32(&weight), &weight),
            (Weight::Bf16(&narrow), &widened),
        ] {
            let mut of_one_row = Vec::new();
            for rows in 1..=FEW_ROWS {
                let (x, stride) = (elements(rows * inner, 13), outputs + 3);
                let before = elements(rows * stride, 15);
                for start in [Initial::Zero, Initial::Bias(&bias), Initial::Result] {
                    let mut y = before.clone();
                    let weight_and_size = (stored, outputs);
                    let result = (&mut y[..], stride);
                    product_of_few_rows(cpu, weight_and_size, (&x, rows), result, start);
                    let mut packed = before.clone();
                    for (row, packed) in packed.chunks_mut(stride).enumerate() {
                        for (output, packed) in packed[..outputs].iter_mut().enumerate() {
                            let weights = &weight[output * inner..(output + 1) * inner];
                            let products = weights.iter().zip(&x[row * inner..]);
                            let sum: f64 =
                                products.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                            let initial = match start {
                                Initial::Zero => 0.0,
                                Initial::Bias(bias) => bias[output],
                                Initial::Result => *packed,
                            };
                            *packed = (sum + f64::from(initial)) as f32;
                        }
                    }
                    // The gaps between rows are not written.
                    let worst = error(&y, (1, inner, y.len()), |_, n| f64::from(packed[n]));
                    assert!(worst < 1.0, "{rows} x {outputs} x {inner}: {worst}");
                    if rows == 1 {
                        of_one_row.push(y[..outputs].to_vec());
                    } else if !matches!(start, Initial::Result) {
                        let which = usize::from(matches!(start, Initial::Bias(_)));
                        assert_eq!(y[..outputs], of_one_row[which], "{rows} rows");
                    }
                }
            }
        }
    }
}

/// Rounds to bf16.
fn rounded(values: &[f32]) -> Vec<f32> {
    let round = |x: &f32| f32::from(bf16::from_f32(*x));
    values.iter().map(round).collect()
}

#[test]
fn pairs_are_rounded_to_nearest_even() {
    let special = [
        0.0,
        -0.0,
        1.0,
        1.003_906_3,
        1.011_718_8,
        -3.4e38,
        1e-40,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for &x in elements(1000, 1).iter().chain(&special) {
        let bits = u32::from(bf16::from_f32(x).to_bits());
        let pair = super::pairs::pair(x, -1.0).to_bits();
        if x.is_nan() {
            assert!(f32::from_bits(pair << 16).is_nan());
        } else {
            assert_eq!(pair, 0xbf80_0000 | bits, "{x}");
        }
    }
}

/// Compares with products of rounded factors in `f64`, leaving only the rounding of sums.
#[test]
fn products_in_bf16() {
    let mut bits = std::collections::HashMap::new();
    for cpu in Cpu::all_bf16() {
        let way = format!("{:?} {:?}", cpu.instructions, cpu.products);
        for shape @ (rows, inner, columns) in SHAPES {
            let a = elements(rows * inner, 1);
            let weight = elements(columns * inner, 2);
            let before = elements(rows * columns, 4);
            let (a_rounded, weight_rounded) = (rounded(&a), rounded(&weight));
            let packed = [
                Packed::transposed(cpu, &weight, columns, inner),
                Packed::plain(cpu, &weight, inner, columns),
            ];
            for (transposed, packed) in packed.iter().enumerate() {
                let mut c = before.clone();
                packed.multiply(cpu, (&a, inner), (&mut c, columns), Initial::Result);
                let worst = error(&c, shape, |row, column| {
                    let weight = |k: usize| match transposed {
                        0 => weight_rounded[column * inner + k],
                        _ => weight_rounded[k * columns + column],
                    };
                    let products = (0..inner)
                        .map(|k| f64::from(a_rounded[row * inner + k]) * f64::from(weight(k)));
                    f64::from(before[row * columns + column]) + products.sum::<f64>()
                });
                assert!(worst < 1.0, "{way} {shape:?} {worst}");
                let first = bits
                    .entry((way.clone(), shape, transposed))
                    .or_insert(c.clone());
                assert_eq!(*first, c, "{way} {shape:?}: threads change the bits");
            }
        }
    }
}

#[test]
fn products_of_two_activations_in_bf16() {
    let mut bits = std::collections::HashMap::new();
    for cpu in Cpu::all_bf16() {
        let way = format!("{:?} {:?}", cpu.instructions, cpu.products);
        for shape @ (inner, rows, columns) in SHAPES {
            let (a, b) = (elements(rows * inner, 9), elements(columns * inner, 10));
            let (a_rounded, b_rounded) = (rounded(&a), rounded(&b));
            let before = elements(rows * columns, 11);
            let mut c = before.clone();
            let factors = ((a.as_slice(), rows, rows), (b.as_slice(), columns, columns));
            transposed_product(cpu, inner, factors, &mut c, true);
            let worst = error(&c, (rows, inner, columns), |row, column| {
                let products = (0..inner).map(|k| {
                    f64::from(a_rounded[k * rows + row])
                        * f64::from(b_rounded[k * columns + column])
                });
                products.sum::<f64>() + f64::from(before[row * columns + column])
            });
            assert!(worst < 1.0, "{way} {shape:?} {worst}");
            let first = bits.entry((way.clone(), shape)).or_insert(c.clone());
            assert_eq!(*first, c, "{way} {shape:?}: threads change the bits");
        }
    }
}

/// Without subnormals, which the instruction treats as zeros.
#[test]
fn widened_products_match_the_bf16_instruction() {
    let (rows, inner, columns) = (29, 300, 70);
    let (a, weight) = (elements(rows * inner, 5), elements(columns * inner, 6));
    let mut bits = std::collections::HashMap::new();
    for cpu in Cpu::all_bf16() {
        if cpu.products == Products::Bf16(Bf16Unit::Amx) {
            // AMX adds its sums of first and of second neighbours once per tile.
            continue;
        }
        let packed = Packed::transposed(cpu, &weight, columns, inner);
        let mut c = vec![0.0; rows * columns];
        packed.multiply(cpu, (&a, inner), (&mut c, columns), Initial::Zero);
        let first = bits.entry(()).or_insert_with(|| c.clone());
        assert_eq!(*first, c, "{cpu:?}");
    }
}
