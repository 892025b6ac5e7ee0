//! Numbers for humans: three significant digits.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};

/// Formats a number as in reports: three significant digits without trailing zeros.
///
/// ```
/// let printed = [0.4096, 12.44, 1234.0, 1.5e-7].map(gradclip::significant);
/// assert_eq!(printed, ["0.41", "12.4", "1230", "1.5e-7"]);
/// ```
#[must_use]
pub fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    // Round to three digits first: 9.996 becomes "10", with another exponent.
    let scientific = format!("{value:.2e}");
    let (Some((mantissa, exponent)), Ok(rounded)) =
        (scientific.split_once('e'), scientific.parse::<f64>())
    else {
        return scientific;
    };
    match exponent.parse::<i32>() {
        Ok(exponent @ -4..=5) => {
            let decimals = usize::try_from(2 - exponent).unwrap_or(0);
            without_trailing_zeros(&format!("{rounded:.decimals$}")).to_owned()
        }
        _ => format!("{}e{exponent}", without_trailing_zeros(mantissa)),
    }
}

fn without_trailing_zeros(number: &str) -> &str {
    if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::significant;

    #[test]
    fn three_digits_for_any_size() {
        let cases = [
            (0.0, "0"),
            (5.0, "5"),
            (0.4096, "0.41"),
            (12.44, "12.4"),
            (9.996, "10"),
            (99.96, "100"),
            (123_456.0, "123000"),
            (-0.012_34, "-0.0123"),
            (1.5e-7, "1.5e-7"),
            (2e30, "2e30"),
            (f64::INFINITY, "inf"),
        ];
        for (value, expected) in cases {
            assert_eq!(significant(value), expected);
        }
    }
}
