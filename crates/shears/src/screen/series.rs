//! Numbers by step, for charts of a run of any length.

/// When there are so many points, each two neighbours become one. A terminal shows fewer.
const MOST: usize = 1024;

/// A curve in a bounded number of points.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    points: Vec<Point>,
    /// Numbers in a point, once it is full.
    stride: u64,
}

/// Numbers of steps that follow each other.
#[derive(Clone, Copy, Debug)]
struct Point {
    step: u64,
    count: u64,
    /// How many of them are finite, and their sum.
    finite: u64,
    sum: f64,
    /// Infinite if one of them is not finite.
    max: f64,
}

impl Series {
    /// Adds the number of the next step. One that is not finite is no part of a mean.
    pub(super) fn push(&mut self, step: u64, value: f64) {
        self.stride = self.stride.max(1);
        let finite = value.is_finite();
        let point = Point {
            step,
            count: 1,
            finite: u64::from(finite),
            sum: if finite { value } else { 0.0 },
            max: if finite { value } else { f64::INFINITY },
        };
        match self.points.last_mut() {
            Some(last) if last.count < self.stride => *last = last.joined(point),
            _ => self.points.push(point),
        }
        if self.points.len() > MOST {
            let pairs = self.points.chunks(2);
            self.points = pairs
                .map(|pair| match pair {
                    [first, second] => first.joined(*second),
                    _ => pair[0],
                })
                .collect();
            self.stride *= 2;
        }
    }

    pub(super) fn means(&self) -> Vec<(f64, f64)> {
        let points = self.points.iter().filter(|point| point.finite > 0);
        points
            .map(|point| (point.step as f64, point.sum / point.finite as f64))
            .collect()
    }

    /// The largest number of each point: a spike stays one, however long the run. Infinite where a
    /// number was not finite.
    pub(super) fn maxima(&self) -> Vec<(f64, f64)> {
        let points = self.points.iter();
        points.map(|point| (point.step as f64, point.max)).collect()
    }
}

impl Point {
    fn joined(self, next: Point) -> Point {
        Point {
            step: self.step,
            count: self.count + next.count,
            finite: self.finite + next.finite,
            sum: self.sum + next.sum,
            max: self.max.max(next.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_its_mean_and_its_spike() {
        let mut series = Series::default();
        for step in 1..=100_000_u64 {
            series.push(step, if step == 54_321 { 1000.0 } else { 1.0 });
        }
        series.push(100_001, f64::NAN);
        let means = series.means();
        assert!(
            means.len() > MOST / 4 && means.len() <= MOST,
            "{}",
            means.len()
        );
        assert!(means.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let spikes = series
            .maxima()
            .into_iter()
            .filter(|point| point.1 == 1000.0);
        assert_eq!(spikes.count(), 1);
        let endless = series.maxima().into_iter().filter(|p| p.1.is_infinite());
        assert_eq!(endless.count(), 1);
        let count: u64 = series.points.iter().map(|point| point.finite).sum();
        assert_eq!(count, 100_000);
    }
}
