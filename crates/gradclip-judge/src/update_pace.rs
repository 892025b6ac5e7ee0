//! How fast the weights of a model change.

use std::fmt;
use std::ops::RangeInclusive;

use gradclip::significant;

/// Networks whose fastest matrix changes by less than this have a rate far below the best one.
const SHORT_BELOW: f64 = 1e-3;

/// How fast the weights of a model change: for each matrix, the norm of a step's update relative to
/// that of the weights. Biases and gains do not belong here: they start at or near zero, so that
/// any update is large relative to them.
///
/// ```
/// use gradclip_judge::UpdatePace;
///
/// let weights = [("embedding".to_owned(), 0.003), ("output".to_owned(), 0.4)];
/// let pace = UpdatePace::of(&weights).expect("there are weights");
/// assert!(pace.is_fast() && !pace.is_still());
/// assert!(pace.to_string().contains("`output`"));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct UpdatePace {
    /// The matrix that changes least, and its share.
    pub slowest: (String, f64),
    /// The matrix that changes most, and its share.
    pub fastest: (String, f64),
}

impl UpdatePace {
    /// The relative update of a matrix in a step of training that goes well. 0.001 is a common rule
    /// of thumb; small networks, trained by Adam or gradient descent at their best rates, show
    /// 0.0002 to 0.04. At more than twice these bounds, a matrix hardly learns, or replaces within
    /// ten steps what it has learned.
    pub const ORDINARY: RangeInclusive<f64> = 1e-5..=0.1;

    /// Takes the typical share of each matrix (the median over steps). Returns `None` if no share
    /// is finite.
    #[must_use]
    pub fn of(weights: &[(String, f64)]) -> Option<UpdatePace> {
        let known = weights.iter().filter(|(_, share)| share.is_finite());
        let by_share = |a: &&(String, f64), b: &&(String, f64)| a.1.total_cmp(&b.1);
        Some(UpdatePace {
            slowest: known.clone().min_by(by_share)?.clone(),
            // `max_by` returns the last of equal elements; from the end, that is the first matrix.
            fastest: known.rev().max_by(by_share)?.clone(),
        })
    }

    /// Whether a matrix changes so fast that it forgets.
    #[must_use]
    pub fn is_fast(&self) -> bool {
        self.fastest.1 > *Self::ORDINARY.end()
    }

    /// Whether steps ten times as long would still be ordinary, and these are so short that a loss
    /// that hardly falls may fall with those.
    pub(crate) fn has_room(&self) -> bool {
        let fastest = self.fastest.1;
        let stays_ordinary = 10.0 * fastest <= *Self::ORDINARY.end();
        stays_ordinary && (fastest < SHORT_BELOW || self.is_still())
    }

    /// Whether a matrix hardly changes.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.slowest.1 < *Self::ORDINARY.start()
    }
}

impl fmt::Display for UpdatePace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (slowest, fastest) = (&self.slowest, &self.fastest);
        let [low, high] = [slowest.1, fastest.1].map(significant);
        if !self.is_fast() && !self.is_still() {
            return write!(
                formatter,
                "weights change at an ordinary pace: a step's update is {low} (`{}`) to {high} \
                 (`{}`) of their norm",
                slowest.0, fastest.0
            );
        }
        if self.is_fast() {
            let most = significant(*Self::ORDINARY.end());
            write!(
                formatter,
                "`{}` changes so fast that it forgets: a step's update is {high} of its norm (up \
                 to {most} is ordinary); a lower learning rate slows it",
                fastest.0
            )?;
        }
        if self.is_still() {
            let separator = if self.is_fast() { "; " } else { "" };
            let least = significant(*Self::ORDINARY.start());
            write!(
                formatter,
                "{separator}`{}` hardly learns: a step's update is {low} of its norm (from {least} \
                 on is ordinary)",
                slowest.0
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::UpdatePace;

    fn pace(shares: &[f64]) -> UpdatePace {
        let weights = shares.iter().enumerate();
        let weights = weights.map(|(index, share)| (format!("w{index}"), *share));
        UpdatePace::of(&weights.collect::<Vec<_>>()).expect("there are weights")
    }

    #[test]
    fn both_sides_of_both_borders() {
        assert!(!pace(&[1e-5, 0.1]).is_still() && !pace(&[1e-5, 0.1]).is_fast());
        assert!(pace(&[1e-5_f64.next_down(), 0.01]).is_still());
        assert!(pace(&[0.01, 0.1_f64.next_up()]).is_fast());
        assert_eq!(UpdatePace::of(&[("w".to_owned(), f64::NAN)]), None);
    }

    #[test]
    fn words_name_the_matrix() {
        let both = pace(&[0.5, 0.0, 0.003]).to_string();
        for part in [
            "`w0` changes so fast",
            "0.5 of its norm",
            "; `w1` hardly learns",
        ] {
            assert!(both.contains(part), "{both}");
        }
        let ordinary = pace(&[0.003, 0.02]).to_string();
        assert!(
            ordinary.contains("0.003 (`w0`) to 0.02 (`w1`)"),
            "{ordinary}"
        );
    }
}
