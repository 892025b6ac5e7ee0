//! The order statistics that judgements rest on.

pub(crate) fn sorted(numbers: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers
}

/// Linear interpolation between the two nearest order statistics.
pub(crate) fn quantile(sorted_numbers: &[f64], share: f64) -> Option<f64> {
    let position = share * sorted_numbers.len().checked_sub(1)? as f64;
    let below = position.floor();
    let low = *sorted_numbers.get(below as usize)?;
    let high = *sorted_numbers.get(below as usize + usize::from(position > below))?;
    Some(low + (high - low) * (position - below))
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7.0], 0.9), Some(7.0));
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(2.5));
        assert_eq!(quantile(&[0.0, 10.0], 0.1), Some(1.0));
        assert_eq!(quantile(&[0.0, 1.0, 2.0], 1.0), Some(2.0));
    }
}
