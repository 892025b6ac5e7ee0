//! Cuts a streamed text before its first stop text.

use crate::error::GenerateError;

/// Finds stop texts in a text that arrives in pieces.
///
/// However the text is divided into pieces, what is released is the text before the earliest stop
/// text. Text is held back while it may still become a stop text; a complete stop text also waits
/// for one that started before it. What is held back is always shorter than the longest stop text.
#[derive(Clone, Debug)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// Text that is certainly before any stop text, and whether one follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) text: String,
    pub(crate) stopped: bool,
}

impl StopMatcher {
    pub(crate) fn new(stops: Vec<String>) -> Result<Self, GenerateError> {
        if stops.iter().any(String::is_empty) {
            return Err(GenerateError::EmptyStop);
        }
        Ok(StopMatcher {
            stops,
            held: String::new(),
        })
    }

    /// Adds the next piece.
    pub(crate) fn push(&mut self, piece: &str) -> Release {
        self.held.push_str(piece);
        let undecided = self.undecided();
        match self.complete() {
            Some(start) if undecided.is_none_or(|earlier| start <= earlier) => {
                self.release(start, true)
            }
            _ => self.release(undecided.unwrap_or(self.held.len()), false),
        }
    }

    /// Decides about what is held back, as no more text follows.
    pub(crate) fn finish(&mut self) -> Release {
        match self.complete() {
            Some(start) => self.release(start, true),
            None => self.release(self.held.len(), false),
        }
    }

    /// Where the first complete stop text starts.
    fn complete(&self) -> Option<usize> {
        self.stops
            .iter()
            .filter_map(|stop| self.held.find(stop))
            .min()
    }

    /// Where the first text starts that could still become a stop text.
    fn undecided(&self) -> Option<usize> {
        let mut starts = self.held.char_indices().map(|(start, _)| start);
        starts.find(|&start| {
            let end = &self.held[start..];
            self.stops
                .iter()
                .any(|stop| stop.len() > end.len() && stop.starts_with(end))
        })
    }

    fn release(&mut self, until: usize, stopped: bool) -> Release {
        let rest = self.held.split_off(until);
        let text = std::mem::take(&mut self.held);
        if !stopped {
            self.held = rest;
        }
        Release { text, stopped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes the pieces; returns what each released, and whether a stop text was found.
    fn released(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops = stops.iter().map(|stop| stop.to_string()).collect();
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut texts = Vec::new();
        for piece in pieces {
            let Release { text, stopped } = matcher.push(piece);
            texts.push(text);
            if stopped {
                return (texts, true);
            }
        }
        let Release { text, stopped } = matcher.finish();
        texts.push(text);
        (texts, stopped)
    }

    #[track_caller]
    fn check(stops: &[&str], pieces: &[&str], expected: &[&str], stopped: bool) {
        let expected = expected.iter().map(|text| text.to_string()).collect();
        assert_eq!(released(stops, pieces), (expected, stopped));
    }

    #[test]
    fn a_stop_text_across_pieces_is_cut_exactly() {
        check(&["END"], &["to E", "N", "D of"], &["to ", "", ""], true);
        check(&["END"], &["to the END of"], &["to the "], true);
    }

    #[test]
    fn a_false_start_of_a_stop_text_is_not_lost() {
        check(&["END"], &["E", "N", "T"], &["", "", "ENT", ""], false);
        check(&["END"], &["EN"], &["", "EN"], false);
        check(&["aab"], &["aa", "a", "ab"], &["", "a", "a"], true);
    }

    #[test]
    fn the_stop_text_that_starts_first_wins() {
        // "cd" is already complete, but "abcdef" may still turn out to start before it.
        check(&["cd", "abcdef"], &["abcd", "e", "f"], &["", "", ""], true);
        check(&["cd", "abcdef"], &["abcd", "x"], &["", "ab"], true);
        check(&["cd", "abcdef"], &["abcd"], &["", "ab"], true);
        check(&["bc", "ab"], &["xa", "bc"], &["x", ""], true);
    }

    #[test]
    fn characters_stay_whole() {
        check(
            &["é!", "漢字"],
            &["aé", "漢", "x漢", "字"],
            &["a", "é", "漢x", ""],
            true,
        );
    }

    #[test]
    fn an_empty_stop_text_is_refused() {
        let stops = vec!["a".to_string(), String::new()];
        assert_eq!(
            StopMatcher::new(stops).unwrap_err(),
            GenerateError::EmptyStop
        );
    }

    #[test]
    fn the_text_does_not_depend_on_its_pieces() {
        // All texts of 6 letters out of {a, b, é}, all ways to cut them into pieces.
        let stop_sets: [&[&str]; 4] = [&["ab"], &["aab", "ba"], &["éa", "aéaa"], &["bb", "abba"]];
        for (stops, number) in stop_sets
            .into_iter()
            .flat_map(|s| (0..729).map(move |n| (s, n)))
        {
            let letters = (0..6).map(|place| ['a', 'b', 'é'][number / 3_usize.pow(place) % 3]);
            let letters: Vec<char> = letters.collect();
            let text: String = letters.iter().collect();
            let first_stop = stops.iter().filter_map(|stop| text.find(stop)).min();
            let expected = (
                &text[..first_stop.unwrap_or(text.len())],
                first_stop.is_some(),
            );
            for cuts in 0..32 {
                let mut pieces = vec![String::new()];
                for (place, letter) in letters.iter().enumerate() {
                    if place > 0 && cuts >> (place - 1) & 1 == 1 {
                        pieces.push(String::new());
                    }
                    pieces.last_mut().unwrap().push(*letter);
                }
                let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                let (texts, stopped) = released(stops, &pieces);
                assert_eq!(
                    (texts.concat().as_str(), stopped),
                    expected,
                    "{pieces:?} {stops:?}"
                );
            }
        }
    }
}
