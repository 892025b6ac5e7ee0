//! Spikes in the norms of a run, found without looking at any policy.

use gradclip::ClipAction;

use super::account::Taken;

/// A norm more than so many times the usual one is a spike.
pub(crate) const TIMES_USUAL: f64 = 3.0;
/// The usual norm is the median of so many finite norms before the step.
pub(crate) const WINDOW: usize = 50;
/// With fewer norms than this before it, a step has no usual norm.
pub(crate) const FEWEST: usize = 10;

/// A step, or several in a row, with a norm far above the usual one. Steps whose norm is not finite
/// neither begin a spike nor end it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spike {
    /// The first of its steps, as an index.
    pub(crate) first: usize,
    /// The last of its steps.
    pub(crate) last: usize,
    /// The one whose norm is the most times the usual one.
    pub(crate) peak: usize,
    /// How many times.
    pub(crate) times: f64,
}

/// What became of a spike under a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Catch {
    /// A step was left out, or clipped to no more than the bound that makes a spike; so many steps
    /// after its first one.
    Caught { late: usize },
    /// Steps were clipped, and all of them were still above that bound.
    InPart,
    /// No step of it was clipped or left out.
    Missed,
}

/// The spikes of a run, with the bound that each step had to exceed.
#[derive(Clone, Debug)]
pub(crate) struct Spikes {
    pub(crate) list: Vec<Spike>,
    bounds: Vec<Option<f64>>,
}

impl Spikes {
    pub(crate) fn find(norms: &[f64]) -> Self {
        let mut list: Vec<Spike> = Vec::new();
        let mut bounds = Vec::with_capacity(norms.len());
        let mut finite: Vec<f64> = Vec::new();
        let mut going_on = false;
        for (index, &norm) in norms.iter().enumerate() {
            let usual = usual(&finite);
            bounds.push(usual.map(|usual| TIMES_USUAL * usual));
            if !norm.is_finite() {
                continue;
            }
            finite.push(norm);
            let times = usual.map_or(0.0, |usual| norm / usual);
            if times <= TIMES_USUAL {
                going_on = false;
                continue;
            }
            match list.last_mut().filter(|_| going_on) {
                Some(spike) => {
                    spike.last = index;
                    if times > spike.times {
                        (spike.peak, spike.times) = (index, times);
                    }
                }
                None => list.push(Spike {
                    first: index,
                    last: index,
                    peak: index,
                    times,
                }),
            }
            going_on = true;
        }
        Spikes { list, bounds }
    }

    /// What became of a spike under the policy that took these steps.
    pub(crate) fn catch(&self, spike: &Spike, taken: &[Taken]) -> Catch {
        let mut acted = false;
        let steps = taken.iter().zip(&self.bounds).enumerate();
        for (index, (step, bound)) in steps.take(spike.last + 1).skip(spike.first) {
            let Some(bound) = *bound else { continue };
            // A step that is not finite is left out for that, whatever the policy is.
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
}

/// The median of the last norms, once there are enough, and if it is not zero.
fn usual(finite: &[f64]) -> Option<f64> {
    if finite.len() < FEWEST {
        return None;
    }
    let window = &finite[finite.len().saturating_sub(WINDOW)..];
    super::account::median(window.to_vec()).filter(|median| *median > 0.0)
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

    fn extents(norms: &[f64]) -> Vec<(usize, usize, usize)> {
        let spikes = Spikes::find(norms).list;
        spikes.iter().map(|s| (s.first, s.last, s.peak)).collect()
    }

    fn cut(norms: &[f64], threshold: f64) -> Vec<Taken> {
        let taken = norms.iter().map(|&norm| Taken {
            action: match norm > threshold {
                true => ClipAction::Clip,
                false => ClipAction::Keep,
            },
            norm_before: norm,
            norm_after: norm.min(threshold),
            threshold: Some(threshold),
        });
        taken.collect()
    }

    #[test]
    fn more_than_three_times_the_median_is_a_spike() {
        assert_eq!(extents(&with(&[])), []);
        assert_eq!(extents(&with(&[(40, 3.0)])), []);
        assert_eq!(extents(&with(&[(40, 3.0_f64.next_up())])), [(40, 40, 40)]);
        let spikes = Spikes::find(&with(&[(40, 8.0)])).list;
        assert_eq!(spikes[0].times, 8.0);
    }

    #[test]
    fn steps_in_a_row_are_one_spike_that_starts_at_the_first() {
        let norms = with(&[(40, 4.0), (41, 9.0), (42, 5.0), (44, 6.0)]);
        assert_eq!(extents(&norms), [(40, 42, 41), (44, 44, 44)]);
    }

    #[test]
    fn the_first_ten_norms_only_teach() {
        let norms = with(&[(0, 1e3), (9, 50.0), (10, 50.0)]);
        assert_eq!(extents(&norms), [(10, 10, 10)]);
        // A norm that is not finite does not count among the ten.
        assert_eq!(extents(&with(&[(3, f64::NAN), (10, 50.0)])), []);
        assert_eq!(extents(&[5.0; 7]), []);
        assert_eq!(extents(&[]), []);
    }

    #[test]
    fn what_is_not_finite_neither_begins_nor_ends_a_spike() {
        let norms = with(&[(40, 4.0), (41, f64::NAN), (42, 5.0), (60, f64::INFINITY)]);
        assert_eq!(extents(&norms), [(40, 42, 42)]);
    }

    #[test]
    fn a_new_level_is_no_spike_for_ever() {
        let mut norms = vec![1.0; 60];
        norms.extend([10.0; 100]);
        // After 25 steps half of the window is of the new level.
        assert_eq!(extents(&norms), [(60, 84, 60)]);
    }

    #[test]
    fn without_a_usual_norm_nothing_is_a_spike() {
        let mut norms = vec![0.0; 30];
        norms.push(1.0);
        assert_eq!(extents(&norms), []);
    }

    #[test]
    fn caught_in_part_and_missed() {
        let norms = with(&[(40, 4.0), (41, 9.0), (42, 5.0)]);
        let spikes = Spikes::find(&norms);
        let catch = |threshold: f64| spikes.catch(&spikes.list[0], &cut(&norms, threshold));
        assert_eq!(catch(1.0), Catch::Caught { late: 0 });
        assert_eq!(catch(3.0), Catch::Caught { late: 0 });
        assert_eq!(catch(3.5), Catch::InPart);
        assert_eq!(catch(8.0), Catch::InPart);
        assert_eq!(catch(9.0), Catch::Missed);
        // A policy that learns may act late, here by leaving out the last step.
        let mut taken = cut(&norms, 9.0);
        taken[42].action = ClipAction::Skip;
        taken[42].norm_after = 0.0;
        let caught = spikes.catch(&spikes.list[0], &taken);
        assert_eq!(caught, Catch::Caught { late: 2 });
    }

    #[test]
    fn to_leave_out_what_is_not_finite_catches_nothing() {
        let norms = with(&[(40, 4.0), (41, f64::NAN), (42, 5.0)]);
        let spikes = Spikes::find(&norms);
        let mut taken = cut(&norms, 9.0);
        taken[41].action = ClipAction::Skip;
        taken[41].norm_after = 0.0;
        assert_eq!(spikes.catch(&spikes.list[0], &taken), Catch::Missed);
    }
}
