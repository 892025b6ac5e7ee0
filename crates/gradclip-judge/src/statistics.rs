//! The statistics behind judgements, defined once for terminal, page, reports and libraries.

/// The window of recent steps over which the share of clipped ones is counted.
pub const LATELY: usize = 100;

/// The values in ascending order, with NaNs at the ends.
#[must_use]
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The quantile at `share` (0 to 1) of values in ascending order, interpolated linearly between the
/// two nearest order statistics (definition 7 of Hyndman and Fan 1996, as in NumPy). `None` for no
/// values.
#[must_use]
pub fn quantile(sorted_values: &[f64], share: f64) -> Option<f64> {
    let position = share * sorted_values.len().checked_sub(1)? as f64;
    let below = position.floor();
    let low = *sorted_values.get(below as usize)?;
    let high = *sorted_values.get(below as usize + usize::from(position > below))?;
    Some(low + (high - low) * (position - below))
}

/// The median; for an even number of values, the mean of the two in the middle. `None` for no
/// values.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// The arithmetic mean. `None` for no values.
#[must_use]
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    (count > 0.0).then(|| sum / count)
}

/// The share of flags that are set, from 0 to 1; 0 for no flags.
#[must_use]
pub fn share(flags: impl IntoIterator<Item = bool>) -> f64 {
    mean(flags.into_iter().map(|flag| f64::from(u8::from(flag)))).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::{mean, median, quantile, share};

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7.0], 0.9), Some(7.0));
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(2.5));
        assert_eq!(quantile(&[0.0, 10.0], 0.1), Some(1.0));
        assert_eq!(quantile(&[0.0, 1.0, 2.0], 1.0), Some(2.0));
    }

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median([]), None);
        assert_eq!(median([4.0]), Some(4.0));
        assert_eq!(median([3.0, 1.0]), Some(2.0));
        assert_eq!(median([3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 4.0, 3.0]), Some(3.5));
        // Half of their sum is not finite, but their median is.
        assert_eq!(median([f64::MAX, f64::MAX]), Some(f64::MAX));
    }

    #[test]
    fn means_and_shares() {
        assert_eq!(mean([]), None);
        assert_eq!(mean([1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(share([]), 0.0);
        assert_eq!(share([true, false, false, true]), 0.5);
        assert_eq!(share([true, false, false]), 1.0 / 3.0);
    }
}
