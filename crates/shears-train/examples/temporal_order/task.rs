//! The sequences of the temporal-order task, as drawn by `tempOrder.py` of Pascanu's `trainingRNNs`
//! (after task 6a of Hochreiter & Schmidhuber 1997).

use rand::{Rng, RngExt};

/// Symbols: two to remember, four distractors.
pub(super) const SYMBOLS: usize = 6;
/// Ordered pairs of two symbols.
pub(super) const CLASSES: usize = 4;

/// Sequences of equal length, with their classes.
#[derive(Debug, PartialEq)]
pub(super) struct Sequences {
    /// `[length, count]`
    pub(super) symbols: Vec<i32>,
    pub(super) classes: Vec<i32>,
}

/// Draws sequences of distractors 2 to 5, with a 0 or 1 at a position in `[length / 10, 2 length /
/// 10)` and another in `[5 length / 10, 6 length / 10)`. The class is the first plus twice the
/// second.
pub(super) fn draw(generator: &mut impl Rng, length: usize, count: usize) -> Sequences {
    let tenth = length / 10;
    let mut symbols: Vec<i32> = (0..length * count)
        .map(|_| generator.random_range(2..SYMBOLS as i32))
        .collect();
    let classes = (0..count).map(|sequence| {
        let mut class = 0;
        for (from, weight) in [(tenth, 1), (length / 2, 2)] {
            let place = from + generator.random_range(0..tenth);
            let symbol = generator.random_range(0..2);
            symbols[place * count + sequence] = symbol;
            class += weight * symbol;
        }
        class
    });
    let classes = classes.collect();
    Sequences { symbols, classes }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn two_symbols_are_in_place_and_determine_the_class() {
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        for length in [10, 25, 100] {
            let count = 200;
            let Sequences { symbols, classes } = draw(&mut generator, length, count);
            for (sequence, &class) in classes.iter().enumerate() {
                let of = symbols.iter().skip(sequence).step_by(count).enumerate();
                let told: Vec<(usize, i32)> = of
                    .filter(|(_, symbol)| **symbol < 2)
                    .map(|(place, symbol)| (place, *symbol))
                    .collect();
                let [(first, a), (second, b)] = told[..] else {
                    panic!("{told:?}");
                };
                assert!((length / 10..2 * (length / 10)).contains(&first));
                assert!((length / 2..length / 2 + length / 10).contains(&second));
                assert_eq!(class, a + 2 * b);
            }
            // All four classes, and all distractors.
            assert!((0..4).all(|class| classes.contains(&class)));
            assert!((2..6).all(|symbol| symbols.contains(&symbol)));
        }
    }
}
