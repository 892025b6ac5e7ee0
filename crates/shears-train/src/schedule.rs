//! Learning-rate schedules: pure functions of the number of applied updates.

use shears_model::named_enum;

named_enum! {
    /// The shape of a schedule after warm-up.
    pub enum ScheduleKind: "schedule" {
        /// A constant rate.
        Constant = "constant",
        /// Half a cosine from the rate to the minimum (Loshchilov & Hutter 2017).
        Cosine = "cosine",
        /// Linear from the rate to the minimum.
        Linear = "linear",
        /// The rate times `decay-factor` after every `decay-every` updates.
        Step = "step",
    }
}

/// A schedule with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The shape after warm-up.
    pub kind: ScheduleKind,
    /// The highest rate.
    pub lr: f64,
    /// The final rate of `cosine` and `linear`, and the minimum of `step`.
    pub min_lr: f64,
    /// Updates over which the rate rises linearly.
    pub warmup: u64,
    /// Updates of the whole run.
    pub steps: u64,
    /// Updates between two decays of `step`.
    pub decay_every: u64,
    /// The factor of each decay of `step`.
    pub decay_factor: f64,
}

impl Schedule {
    /// The rate of the update after `updates` previous ones.
    pub fn at(&self, updates: u64) -> f64 {
        if updates < self.warmup {
            // nanoGPT's form: no update of the warm-up has rate zero or the full rate.
            return self.lr * (updates + 1) as f64 / (self.warmup + 1) as f64;
        }
        let decaying = self.steps.saturating_sub(self.warmup).max(1);
        let progress = ((updates - self.warmup) as f64 / decaying as f64).min(1.0);
        let span = self.lr - self.min_lr;
        match self.kind {
            ScheduleKind::Constant => self.lr,
            ScheduleKind::Cosine => {
                self.min_lr + span * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            ScheduleKind::Linear => self.min_lr + span * (1.0 - progress),
            ScheduleKind::Step => {
                let decays = (updates - self.warmup) / self.decay_every;
                let factor = self.decay_factor.powf(decays as f64);
                (self.lr * factor).max(self.min_lr)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        let (lr, min_lr, warmup, steps) = (1.0, 0.1, 100, 2000);
        Schedule {
            kind,
            lr,
            min_lr,
            warmup,
            steps,
            decay_every: 500,
            decay_factor: 0.5,
        }
    }

    #[track_caller]
    fn check(kind: ScheduleKind, points: &[(u64, f64)]) {
        for &(updates, expected) in points {
            let got = schedule(kind).at(updates);
            assert!(
                (got - expected).abs() < 1e-12,
                "{kind} at {updates}: {got}, not {expected}"
            );
        }
    }

    #[test]
    fn every_kind_warms_up_and_ends_at_its_minimum() {
        let warmup = [(0, 1.0 / 101.0), (99, 100.0 / 101.0)];
        for &kind in ScheduleKind::ALL {
            check(kind, &warmup);
        }
        check(ScheduleKind::Constant, &[(100, 1.0), (5000, 1.0)]);
        check(
            ScheduleKind::Cosine,
            &[(100, 1.0), (1050, 0.55), (2000, 0.1), (9000, 0.1)],
        );
        check(
            ScheduleKind::Linear,
            &[(100, 1.0), (1050, 0.55), (2000, 0.1), (9000, 0.1)],
        );
        check(
            ScheduleKind::Step,
            &[(599, 1.0), (600, 0.5), (1100, 0.25), (90000, 0.1)],
        );
    }
}
