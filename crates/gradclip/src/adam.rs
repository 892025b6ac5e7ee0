//! The rules that work inside Adam, as values for an Adam implementation.

use crate::clip_rule::ClipRule;
use crate::math::cos;
use crate::policy::ClipPolicy;

/// What the rules of a policy require of an Adam optimizer at each update.
///
/// An Adam that applies them creates its clipper with
/// [`Clipper::for_adam`](crate::Clipper::for_adam). [`Clipper::new`](crate::Clipper::new) refuses
/// policies with such rules, so that none is silently ignored.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamClipping {
    policy: ClipPolicy,
}

impl AdamClipping {
    /// The rules of `policy` that work inside Adam; `None` if it has none.
    #[must_use]
    pub fn of(policy: &ClipPolicy) -> Option<AdamClipping> {
        let inside = policy.rules_inside_adam().next().is_some();
        inside.then(|| AdamClipping {
            policy: policy.clone(),
        })
    }

    /// Whether to set both moments to zero before update `t`, counted from 1 (SPAM, Huang et al.
    /// [2025](https://arxiv.org/abs/2501.06842)). The step count of the bias correction is not
    /// reset, as in the published code.
    #[must_use]
    pub fn resets_moments(&self, t: u64) -> bool {
        self.spam().any(|spam| t.is_multiple_of(spam.reset))
    }

    /// The bound of `g^2 / v` at update `t`, counted from 1 (SPAM). `None` for the first updates
    /// after the start and after each reset, in which spikes pass because the second moment is too
    /// young.
    ///
    /// Clamp elements above it to `sqrt(theta v)`, with `v` from before the update. Do not clamp
    /// elements with `v = 0`, which have no scale yet: clamping them to zero, as the published code
    /// does, would keep their `v` at zero until the next reset.
    #[must_use]
    pub fn spike_bound(&self, t: u64) -> Option<f64> {
        /// The number of updates after the start and each reset without clamping, as published.
        const SETTLING: u64 = 20;
        self.spam()
            .filter(|spam| t >= SETTLING && t % spam.reset >= SETTLING)
            .map(|spam| spam.theta)
            .reduce(f64::min)
    }

    /// The factor on the learning rate of update `t`, counted from 1, while it recovers from a
    /// reset (SPAM): `1 - 0.99 (1 + cos(pi k / (warmup + 1))) / 2` at `k` updates after the reset,
    /// otherwise 1.
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

    /// The bound C of update `t`, counted from 1, if any (StableAdamW, Wortsman et al.
    /// [2023](https://arxiv.org/abs/2304.13013), algorithm 2): divide the learning rate of a tensor
    /// by `max(1, RMS / C)`, where `RMS^2` is the mean of `g^2 / max(v, epsilon^2)` over the
    /// tensor, with the bias-corrected second moment `v` of this update.
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
    fn update_bound_follows_its_schedule() {
        let clipping = clipping("global-norm:1+update-rms:2..1@10");
        assert_eq!(clipping.update_bound(1), Some(2.0));
        assert_eq!(clipping.update_bound(6), Some(1.5));
        assert_eq!(clipping.update_bound(11), Some(1.0));
        assert_eq!(clipping.spike_bound(100), None);
        assert!(AdamClipping::of(&"global-norm:1".parse().unwrap()).is_none());
    }
}
