//! What became of the spikes of a run under a policy.

use gradclip::ClipAction;
use gradclip_judge::{ReplayedStep, Spike, Spikes};
use serde::Serialize;

/// What became of a spike under a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub(crate) enum Catch {
    /// A step was skipped, or clipped to at most the bound of a spike, this many steps after the
    /// first.
    Caught { late: usize },
    /// Steps were clipped, but stayed above the bound.
    #[serde(rename = "in part")]
    InPart,
    /// No step was clipped or skipped.
    Missed,
}

/// What became of a spike under the policy that took these steps.
pub(crate) fn catch(spikes: &Spikes, spike: &Spike, taken: &[ReplayedStep]) -> Catch {
    let mut acted = false;
    let steps = taken.iter().zip(&spikes.bounds).enumerate();
    for (index, (step, bound)) in steps.take(spike.last + 1).skip(spike.first) {
        let Some(bound) = *bound else { continue };
        // Every policy skips a step that is not finite.
        if step.action == ClipAction::Keep || !step.norm_before.is_finite() {
            continue;
        }
        if step.norm_after <= bound {
            let late = index - spike.first;
            return Catch::Caught { late };
        }
        acted |= step.norm_after < step.norm_before;
    }
    match acted {
        true => Catch::InPart,
        false => Catch::Missed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(changes: &[(usize, f64)]) -> Vec<f64> {
        let mut norms = vec![1.0; 100];
        for &(index, norm) in changes {
            norms[index] = norm;
        }
        norms
    }

    fn cut(norms: &[f64], threshold: f64) -> Vec<ReplayedStep> {
        let taken = norms.iter().map(|&norm| {
            let action = match norm > threshold {
                true => ClipAction::Clip,
                false => ClipAction::Keep,
            };
            ReplayedStep::taken(action, norm, norm.min(threshold), Some(threshold))
        });
        taken.collect()
    }

    #[test]
    fn partly_caught_and_missed_spikes() {
        let norms = with(&[(40, 4.0), (41, 9.0), (42, 5.0)]);
        let spikes = Spikes::find(norms.clone());
        let catch =
            |threshold: f64| super::catch(&spikes, &spikes.list[0], &cut(&norms, threshold));
        assert_eq!(catch(1.0), Catch::Caught { late: 0 });
        assert_eq!(catch(3.0), Catch::Caught { late: 0 });
        assert_eq!(catch(3.5), Catch::InPart);
        assert_eq!(catch(8.0), Catch::InPart);
        assert_eq!(catch(9.0), Catch::Missed);
        // A policy that learns may act late, here by leaving out the last step.
        let mut taken = cut(&norms, 9.0);
        taken[42].action = ClipAction::Skip;
        taken[42].norm_after = 0.0;
        let caught = super::catch(&spikes, &spikes.list[0], &taken);
        assert_eq!(caught, Catch::Caught { late: 2 });
    }

    #[test]
    fn skipping_non_finite_steps_catches_no_spikes() {
        let norms = with(&[(40, 4.0), (41, f64::NAN), (42, 5.0)]);
        let spikes = Spikes::find(norms.clone());
        let mut taken = cut(&norms, 9.0);
        taken[41].action = ClipAction::Skip;
        taken[41].norm_after = 0.0;
        assert_eq!(
            super::catch(&spikes, &spikes.list[0], &taken),
            Catch::Missed
        );
    }
}
