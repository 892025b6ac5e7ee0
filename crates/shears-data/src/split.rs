//! Splits a text into training and validation text.

/// Splits a text after its first `floor(0.9 * characters)` characters, as nanoGPT does: training
/// text, validation text. The split depends only on the text.
#[must_use]
pub fn split(text: &str) -> (&str, &str) {
    let place = text
        .char_indices()
        .nth(train_part(text.chars().count()))
        .map_or(text.len(), |(offset, _)| offset);
    text.split_at(place)
}

/// How many of `chars` characters belong to the training text.
pub(crate) fn train_part(chars: usize) -> usize {
    // In integers: `0.9 * chars` has no exact floating-point form. Split into quotient and
    // remainder, so that the product cannot overflow.
    chars / 10 * 9 + chars % 10 * 9 / 10
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn nine_tenths_of_the_characters() {
        for chars in 0..500_usize {
            let text = "龍".repeat(chars);
            let (train, validation) = split(&text);
            assert_eq!(
                train.chars().count(),
                (chars as f64 * 0.9) as usize,
                "{chars}"
            );
            assert_eq!(format!("{train}{validation}"), text);
        }
    }
}
