//! How far gradients reach back in time.

use std::fmt;

use gradclip::significant;

// Below this share of its largest, a gradient has vanished; above its inverse, it has exploded.
use crate::flow::VANISHING_BELOW as VANISHED_BELOW;

/// The flow of gradients through time in a recurrent model: the norms of the gradient of one
/// prediction's loss with respect to earlier carried states (the products of Jacobians in Pascanu
/// et al. 2013, equation 5).
///
/// ```
/// use gradclip_judge::TimeFlow;
///
/// let layer = [Some(1.0), Some(0.1), Some(1e-4), Some(1e-5)];
/// let flow = TimeFlow::of(100, &[&layer]).expect("the model carries a state");
/// assert_eq!(flow.reach(), Some(2));
/// assert!(flow.to_string().contains("vanish through time"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TimeFlow {
    /// Steps taken when it was measured.
    pub step: u64,
    /// The norm of the gradient with respect to the states of all layers, one token back, two
    /// tokens back, and so on; infinite where it was not finite.
    pub norms: Vec<f64>,
}

impl TimeFlow {
    /// Combines the norms of each layer, one token back, two tokens back, and so on; `None` is a
    /// norm that is not finite. Returns `None` for a model that carries no state.
    #[must_use]
    pub fn of(step: u64, layers: &[&[Option<f64>]]) -> Option<TimeFlow> {
        let distances = layers.iter().map(|norms| norms.len()).max()?;
        let norm = |distance: usize| {
            let of_layers = layers.iter().filter_map(|norms| norms.get(distance));
            let norms = of_layers.map(|norm| norm.unwrap_or(f64::INFINITY));
            norms.fold(0.0, f64::hypot)
        };
        let norms = (0..distances).map(norm).collect();
        Some(TimeFlow { step, norms })
    }

    /// The number of tokens beyond which less than a thousandth of the gradient one token back is
    /// left; `None` if more is left at the far end.
    #[must_use]
    pub fn reach(&self) -> Option<usize> {
        let near = *self.norms.first()?;
        let left = |norm: &f64| *norm >= VANISHED_BELOW * near && *norm > 0.0;
        let reach = self.norms.iter().rposition(left).map_or(0, |last| last + 1);
        Some(reach).filter(|reach| *reach < self.norms.len())
    }

    /// The gradient at the far end relative to the one a token back; `None` if that is zero or
    /// either is not finite.
    #[must_use]
    pub fn far_to_near(&self) -> Option<f64> {
        let (near, far) = (self.norms.first()?, self.norms.last()?);
        Some(far / near).filter(|ratio| ratio.is_finite())
    }
}

impl TimeFlow {
    /// What happens to gradients, and the figures that show it.
    fn finding(&self) -> (Finding, String) {
        let window = self.norms.len();
        if self.norms.iter().any(|norm| !norm.is_finite()) {
            return (Finding::NotFinite, "they are not finite".to_owned());
        }
        let Some(ratio) = self.far_to_near() else {
            return (Finding::None, "none flows back in time".to_owned());
        };
        if window == 1 {
            return (
                Finding::Reach,
                "one token back, as far as the window shows".to_owned(),
            );
        }
        let as_large = || {
            format!(
                "{window} tokens back they are {} times as large as one token back",
                significant(ratio)
            )
        };
        match self.reach() {
            Some(reach) => (
                Finding::Vanish,
                format!(
                    "beyond {reach} of {window} tokens back less than {VANISHED_BELOW} of the \
                     nearest is left"
                ),
            ),
            None if ratio > 1.0 / VANISHED_BELOW => (Finding::Explode, as_large()),
            None => (Finding::Reach, as_large()),
        }
    }

    /// A shorter form of the sentence, for where there is little room.
    #[must_use]
    pub fn short(&self) -> String {
        let (finding, numbers) = self.finding();
        match finding.verb() {
            Some(verb) => format!("{verb}: {numbers}"),
            None => numbers,
        }
    }
}

/// What happens to gradients on their way back in time.
enum Finding {
    NotFinite,
    None,
    Vanish,
    Explode,
    Reach,
}

impl Finding {
    fn verb(&self) -> Option<&'static str> {
        match self {
            Finding::NotFinite | Finding::None => None,
            Finding::Vanish => Some("vanish"),
            Finding::Explode => Some("explode"),
            Finding::Reach => Some("reach back"),
        }
    }
}

impl fmt::Display for TimeFlow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (finding, numbers) = self.finding();
        let at = self.step;
        match finding {
            Finding::NotFinite => {
                write!(
                    formatter,
                    "gradients through time are not finite at step {at}"
                )
            }
            Finding::None => write!(formatter, "no gradient flows back in time at step {at}"),
            Finding::Vanish => write!(
                formatter,
                "gradients vanish through time at step {at}: {numbers}, so that hardly any longer \
                 dependency is learned; clipping cannot cure that"
            ),
            Finding::Explode => write!(
                formatter,
                "gradients explode through time at step {at}: {numbers}, which is what clipping is \
                 for"
            ),
            Finding::Reach => write!(
                formatter,
                "gradients reach back in time at step {at}: {numbers} (below {VANISHED_BELOW} they \
                 would vanish)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_of_the_norms_is_described() {
        let flow = |norms: &[f64]| TimeFlow {
            step: 1,
            norms: norms.to_vec(),
        };
        let vanishing = flow(&[1.0, 0.1, 0.01, 1e-4, 1e-6]);
        assert_eq!(vanishing.reach(), Some(3));
        assert!(vanishing.to_string().contains("beyond 3 of 5 tokens"));
        let exploding = flow(&[1.0, 100.0, 5e3, 2e3]);
        assert_eq!(exploding.reach(), None);
        assert!(flow(&[1.0, 0.5, 0.2]).to_string().contains("0.2 times"));
        assert!(exploding.to_string().contains("explode"), "{exploding}");
        assert_eq!(flow(&[0.0, 0.0]).far_to_near(), None);
        assert!(flow(&[0.0, 0.0]).to_string().contains("no gradient"));
        // It grows, and then falls: what counts is the far end.
        assert_eq!(flow(&[1.0, 1e4, 5.0]).reach(), None);
        let broken = flow(&[f64::INFINITY, f64::INFINITY]).to_string();
        assert_eq!(broken, "gradients through time are not finite at step 1");
        assert!(
            flow(&[2.0])
                .to_string()
                .contains("as far as the window shows")
        );
        // The short form is part of the long one.
        for flow in [vanishing, exploding, flow(&[1.0, 0.5, 0.2])] {
            let short = flow.short();
            let (verb, numbers) = short.split_once(": ").unwrap();
            let words = flow.to_string();
            assert!(words.contains(verb) && words.contains(numbers), "{words}");
        }
    }
}
