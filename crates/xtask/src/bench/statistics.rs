//! Spreads and ratios of measurements that were taken in turn.

use gradclip_judge::statistics::median;

/// Smallest, median and largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

/// The spread of some numbers; none for an empty list.
pub(super) fn spread(values: &[f64]) -> Option<Spread> {
    let median = median(values.iter().copied())?;
    let (min, max) = shears_figure::extent(values.iter().copied())?;
    Some(Spread { min, median, max })
}

/// How the rounds of two programs compare: the spread of their quotients, round by round.
///
/// Whatever slows a whole round (another process, a slower clock) slows both programs, and cancels
/// in its quotient, but not in a quotient of medians.
pub(super) fn ratio(numerators: &[f64], denominators: &[f64]) -> Option<Spread> {
    let pairs = numerators.iter().zip(denominators);
    let quotients: Vec<f64> = pairs.map(|(above, below)| above / below).collect();
    spread(&quotients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_ends() {
        let spread = spread(&[2.0, 8.0, 4.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (2.0, 4.0, 8.0));
        assert_eq!(super::spread(&[]), None);
    }

    #[test]
    fn a_disturbed_round_does_not_change_the_ratio() {
        // Every round says 2, although the second was four times as slow for both.
        let spread = ratio(&[20.0, 80.0, 20.0], &[10.0, 40.0, 10.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (2.0, 2.0, 2.0));
        assert_eq!(ratio(&[1.0], &[]), None);
    }
}
