//! The order of the files: a shell puts step10 before step2.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

/// The files sorted by the numbers in their names, if they are in alphabetical order as from a
/// shell; none if that changes nothing, or if they were given in an order of their own.
pub(super) fn by_number(steps: &[PathBuf]) -> Option<Vec<PathBuf>> {
    if !steps.is_sorted() {
        return None;
    }
    let mut sorted = steps.to_vec();
    sorted.sort_by(|left, right| natural(left, right));
    (sorted != steps).then_some(sorted)
}

fn natural(left: &Path, right: &Path) -> Ordering {
    let [left_text, right_text] = [left, right].map(|path| path.to_string_lossy().into_owned());
    pieces(&left_text)
        .cmp(&pieces(&right_text))
        .then_with(|| left.cmp(right))
}

/// Splits a text into characters and numbers. Without leading zeros, numbers compare by length
/// first.
fn pieces(text: &str) -> Vec<(char, usize, &str)> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let length = if digits == 0 {
            first.len_utf8()
        } else {
            digits
        };
        let (piece, after) = rest.split_at(length);
        rest = after;
        match digits {
            0 => pieces.push((first, 0, "")),
            _ => {
                let number = piece.trim_start_matches('0');
                // Compared with other characters, a number sorts like the digit 0.
                pieces.push(('0', number.len(), number));
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(names: &[&str]) -> Option<Vec<String>> {
        let steps: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        let ordered = by_number(&steps)?;
        Some(
            ordered
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
        )
    }

    #[test]
    fn numbers_count_where_a_shell_has_sorted() {
        let sorted = ordered(&["g/step1.x", "g/step10.x", "g/step2.x"]).unwrap();
        assert_eq!(sorted, ["g/step1.x", "g/step2.x", "g/step10.x"]);
        assert_eq!(ordered(&["step01", "step02", "step10"]), None);
        // This order was chosen by hand.
        assert_eq!(ordered(&["step2", "step10", "step1"]), None);
        assert_eq!(ordered(&["a", "b"]), None);
    }
}
