//! The rules that work inside Adam, as the numbers that an Adam has to use.

use crate::clip_rule::ClipRule;
use crate::math::cos;
use crate::policy::ClipPolicy;

/// What the rules of a policy ask of an Adam.
///
/// An Adam that applies them makes its clipper by
/// [`Clipper::beside_adam`](crate::Clipper::beside_adam); [`Clipper::new`](crate::Clipper::new)
/// refuses a policy with such rules, so that none is left out in silence.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamClipping {
    policy: ClipPolicy,
}

impl AdamClipping {
    /// The part of a policy that works inside Adam, `None` if there is none.
    #[must_use]
    pub fn of(policy: &ClipPolicy) -> Option<AdamClipping> {
        let inside = policy.rules_inside_adam().next().is_some();
        inside.then(|| AdamClipping {
            policy: policy.clone(),
        })
    }

    /// Whether both moments are to be set to zero before update `t`, counted from 1 (SPAM). The
    /// count that corrects the bias goes on, as in the published code.
    #[must_use]
    pub fn resets_moments(&self, t: u64) -> bool {
        self.spam().any(|spam| t.is_multiple_of(spam.reset))
    }

    /// The bound of `g^2 / v` at update `t`, counted from 1, `None` where spikes are let through
    /// because the second moment is too young (SPAM).
    ///
    /// Elements above it are clamped to `sqrt(theta v)`, with `v` from before the update. Elements
    /// with `v = 0` have no scale yet and are to be left alone: clamping them to zero, as the
    /// published code does, would keep their `v` at zero until the next reset.
    #[must_use]
    pub fn spike_bound(&self, t: u64) -> Option<f64> {
        /// The published code waits so many updates after the start and after each reset.
        const SETTLING: u64 = 20;
        self.spam()
            .filter(|spam| t >= SETTLING && t % spam.reset >= SETTLING)
            .map(|spam| spam.theta)
            .reduce(f64::min)
    }

    /// What the learning rate of update `t`, counted from 1, is multiplied with while it recovers
    /// from a reset (SPAM): `1 - 0.99 (1 + cos(pi k / (warmup + 1))) / 2` at `k` updates after it.
    #[must_use]
    pub fn learning_rate_factor(&self, t: u64) -> f64 {
        self.spam()
            .map(|spam| {
                let since = t % spam.reset;
                if t < spam.reset || since >= spam.warmup {
                    return 1.0;
                }
                let angle = core::f64::consts::PI * since as f64 / (spam.warmup + 1) as f64;
                1.0 - 0.99 * (1.0 + cos(angle)) / 2.0
            })
            .fold(1.0, f64::min)
    }

    /// The bound C of update `t`, counted from 1, if there is one (StableAdamW): the learning rate
    /// of a tensor is divided by `max(1, RMS / C)`, where RMS is the root of the mean of
    /// `g^2 / max(v, epsilon^2)` over the tensor, with the second moment `v` of this update,
    /// corrected for its bias.
    #[must_use]
    pub fn update_bound(&self, t: u64) -> Option<f64> {
        let bound = |rule: &ClipRule| match rule {
            ClipRule::UpdateRms { threshold } => Some(threshold.at(t.saturating_sub(1))),
            _ => None,
        };
        let bounds = self.policy.rules_inside_adam().filter_map(bound);
        bounds.reduce(f64::min)
    }

    fn spam(&self) -> impl Iterator<Item = Spam> {
        self.policy
            .rules_inside_adam()
            .filter_map(|rule| match rule {
                ClipRule::Spam {
                    theta,
                    reset,
                    warmup,
                } => Some(Spam {
                    theta: theta.get(),
                    reset: u64::from(reset.get()),
                    warmup: u64::from(*warmup),
                }),
                _ => None,
            })
    }
}

struct Spam {
    theta: f64,
    reset: u64,
    warmup: u64,
}

#[cfg(test)]
mod tests {
    use super::AdamClipping;
    use crate::policy::ClipPolicy;

    fn clipping(policy: &str) -> AdamClipping {
        AdamClipping::of(&policy.parse::<ClipPolicy>().unwrap()).unwrap()
    }

    #[test]
    fn spam_resets_and_recovers() {
        let spam = clipping("spam");
        assert!(!spam.resets_moments(499) && spam.resets_moments(500));
        assert_eq!(spam.spike_bound(19), None);
        assert_eq!(spam.spike_bound(20), Some(5000.0));
        assert_eq!(spam.spike_bound(519), None);
        assert_eq!(spam.spike_bound(520), Some(5000.0));
        assert_eq!(spam.learning_rate_factor(499), 1.0);
        assert!((spam.learning_rate_factor(500) - 0.01).abs() < 1e-15);
        assert!(spam.learning_rate_factor(649) < 1.0);
        assert_eq!(spam.learning_rate_factor(650), 1.0);
        assert_eq!(spam.update_bound(1), None);
    }

    #[test]
    fn the_bound_of_updates_follows_its_schedule() {
        let clipping = clipping("global-norm:1+update-rms:2..1@10");
        assert_eq!(clipping.update_bound(1), Some(2.0));
        assert_eq!(clipping.update_bound(6), Some(1.5));
        assert_eq!(clipping.update_bound(11), Some(1.0));
        assert_eq!(clipping.spike_bound(100), None);
        assert!(AdamClipping::of(&"global-norm:1".parse().unwrap()).is_none());
    }
}
