use burn::tensor::Device;

use super::{embedding, embedding_plain};
use crate::testing::{assert_close, elements, integers, read, tensor, whole};

#[test]
fn matches_the_composition() {
    let device = Device::flex().autodiff();
    for [batch, time, size, vocabulary, start] in
        [[1, 1, 1, 1, 0], [3, 5, 70, 4, 2], [2, 9, 16, 40, 1]]
    {
        let context = start + time + 2;
        let run = |fused: bool, with_positions: bool| {
            let weight = tensor(&elements(vocabulary * size, 1), [vocabulary, size], &device);
            let positions = tensor(&elements(context * size, 2), [context, size], &device);
            let tokens = integers(batch * time, vocabulary, 3);
            let tokens = whole(&tokens, [batch, time], &device);
            let call = match fused {
                true => embedding,
                false => embedding_plain,
            };
            let added = with_positions.then(|| (positions.clone(), start));
            let rows = call(tokens, weight.clone(), added);
            let gradients = (rows.clone() * rows.clone()).sum().backward();
            let mut found = vec![read(&rows), read(&weight.grad(&gradients).unwrap())];
            found.extend(positions.grad(&gradients).map(|gradient| read(&gradient)));
            found
        };
        for with_positions in [true, false] {
            let (found, expected) = (run(true, with_positions), run(false, with_positions));
            assert_eq!(found.len(), if with_positions { 3 } else { 2 });
            for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let what = format!("{batch} x {time} x {size}, {with_positions}: {n}");
                assert_close(&what, found, expected, 1e-6);
            }
        }
    }
}

#[test]
#[should_panic(expected = "a position outside the context")]
fn a_window_longer_than_the_context_is_refused() {
    let device = Device::flex().autodiff();
    let (weight, positions) = (elements(4, 1), elements(4, 2));
    let tokens = whole(&[0, 1, 0], [1, 3], &device);
    let weight = tensor(&weight, [2, 2], &device);
    embedding(
        tokens,
        weight,
        Some((tensor(&positions, [2, 2], &device), 0)),
    );
}
