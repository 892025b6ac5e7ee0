//! Down-sampling: a range of steps as about a thousand buckets, each with its minimum and maximum,
//! so that no spike disappears however many steps there are.

use std::ops::Range;

use gradclip::{ClipAction, ClipPolicy};
use gradclip_judge::statistics::{LATELY, median, share};
use gradclip_judge::{Spikes, goes_by_norm_of_all};
use serde::Serialize;
use shears_run::{Columns, Evaluation, ExchangeSummary, Tensors};

/// The most spikes that are named; those with the largest norms.
const MOST_SPIKES: usize = 6;

/// A quantity by buckets. Non-finite values are ignored; a bucket without finite ones has NaN,
/// which is null in JSON.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Band {
    pub(crate) min: Vec<f32>,
    pub(crate) mean: Vec<f32>,
    pub(crate) max: Vec<f32>,
}

/// The part of a gradient that was cut off, by buckets: at the bucket's largest clipped gradient,
/// from the norm after clipping to the norm before.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Cut {
    pub(crate) top: Vec<f32>,
    pub(crate) bottom: Vec<f32>,
}

/// A spike, at its largest gradient.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Spike {
    pub(crate) step: u64,
    pub(crate) norm: f64,
    /// The norm relative to the usual one.
    pub(crate) times: f64,
}

/// What the charts show of a range of steps.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Series {
    /// First and last step of the whole run.
    pub(crate) whole: Option<(u64, u64)>,
    /// Steps per bucket.
    pub(crate) bucket: usize,
    /// Steps in the range.
    pub(crate) rows: usize,
    /// The last step of each bucket.
    pub(crate) step: Vec<u64>,
    pub(crate) loss: Band,
    pub(crate) norm: Band,
    /// The step of each bucket with the largest gradient.
    pub(crate) norm_peak: Vec<u64>,
    /// The spikes of the range with the largest gradients, largest first.
    pub(crate) spikes: Vec<Spike>,
    pub(crate) cut: Cut,
    pub(crate) threshold: Vec<f32>,
    pub(crate) coefficient: Band,
    /// Share of clipped steps among the last hundred at the end of the bucket.
    pub(crate) clipped_share: Vec<f32>,
    /// The number of skipped steps in each bucket, and the last of them.
    pub(crate) skipped: Vec<usize>,
    pub(crate) skipped_step: Vec<Option<u64>>,
    /// The number of steps in each bucket with a non-finite gradient or loss.
    pub(crate) not_finite: Vec<usize>,
    pub(crate) lr: Vec<f32>,
    /// Seconds of training per token of a step, summed up to the end of the bucket.
    pub(crate) seconds_per_token: Vec<f64>,
    pub(crate) tokens_per_second: Band,
    /// For a run of several processes, by buckets: the time of the exchange of gradients, waiting
    /// included, and how much longer the slowest computed than the fastest, in ms.
    pub(crate) exchange_ms: Vec<f32>,
    pub(crate) waited_ms: Vec<f32>,
    pub(crate) evaluations: Vec<Evaluation>,
    /// The steps with a sample.
    pub(crate) samples: Vec<u64>,
}

/// A table of tensors over steps.
#[derive(Debug, Serialize)]
pub(crate) struct HeatMap {
    pub(crate) names: Vec<String>,
    /// The layer of each tensor, and whether it is a matrix: weights say more than biases.
    pub(crate) layers: Vec<String>,
    pub(crate) weights: Vec<bool>,
    /// The last step of each bucket.
    pub(crate) step: Vec<u64>,
    /// For each tensor, the maximum of each bucket.
    pub(crate) values: Vec<Vec<f32>>,
    /// The median of a tensor's finite values.
    pub(crate) median: Vec<Option<f64>>,
}

/// The buckets of a range of rows. They start at multiples of a power of two, so that those of a
/// growing run do not move.
fn buckets(rows: &Range<usize>, most: usize) -> (usize, Vec<Range<usize>>) {
    let size = rows.len().div_ceil(most.max(1)).next_power_of_two().max(1);
    let first = rows.start / size;
    let last = rows.end.div_ceil(size);
    let cut = |bucket: usize| (bucket * size).max(rows.start)..((bucket + 1) * size).min(rows.end);
    let buckets = (first..last).map(cut).filter(|bucket| !bucket.is_empty());
    (size, buckets.collect())
}

impl Band {
    fn of<T: Copy + Into<f64>>(values: &[T], buckets: &[Range<usize>]) -> Band {
        let mut band = Band::default();
        for bucket in buckets {
            let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
            let (mut sum, mut count) = (0.0, 0.0);
            for value in &values[bucket.clone()] {
                let value: f64 = (*value).into();
                if value.is_finite() {
                    min = min.min(value);
                    max = max.max(value);
                    sum += value;
                    count += 1.0;
                }
            }
            let finite = |value: f64| if count > 0.0 { value as f32 } else { f32::NAN };
            band.min.push(finite(min));
            band.max.push(finite(max));
            band.mean.push(finite(sum / count));
        }
        band
    }
}

impl Series {
    /// The steps from `from` to `to` in at most `points` buckets.
    pub(crate) fn of(
        columns: &Columns,
        from: Option<u64>,
        to: Option<u64>,
        points: usize,
    ) -> Series {
        let range = columns.range(from, to);
        let (bucket, buckets) = buckets(&range, points);
        let last = |values: &[f32]| -> Vec<f32> {
            buckets
                .iter()
                .map(|bucket| values[bucket.end - 1])
                .collect()
        };
        let inside =
            |step: u64| from.is_none_or(|from| step >= from) && to.is_none_or(|to| step <= to);
        let mut series = Series {
            whole: columns
                .step
                .first()
                .copied()
                .zip(columns.step.last().copied()),
            bucket,
            rows: range.len(),
            step: buckets
                .iter()
                .map(|bucket| columns.step[bucket.end - 1])
                .collect(),
            loss: Band::of(&columns.loss, &buckets),
            norm: Band::of(&columns.norm_before, &buckets),
            spikes: spikes(columns, &range),
            coefficient: Band::of(&columns.coefficient, &buckets),
            lr: last(&columns.lr),
            seconds_per_token: seconds_per_token(columns, &buckets),
            tokens_per_second: Band::of(&columns.tokens_per_second, &buckets),
            evaluations: thinned(
                columns
                    .evaluations
                    .iter()
                    .copied()
                    .filter(|evaluation| inside(evaluation.step)),
                points,
            ),
            samples: thinned(
                columns
                    .samples
                    .iter()
                    .map(|sample| sample.step)
                    .filter(|step| inside(*step)),
                points,
            ),
            ..Series::default()
        };
        for bucket in &buckets {
            series.push_clipping(columns, bucket.clone());
            if !columns.exchanges.is_empty() {
                series.push_exchanges(columns, bucket);
            }
        }
        series
    }

    /// Removes thresholds that cannot be compared with the norm of all tensors: those of single
    /// elements, units or tensors.
    pub(crate) fn hide_other_thresholds(&mut self, policy: &ClipPolicy) {
        if !goes_by_norm_of_all(policy) {
            self.threshold.fill(f32::NAN);
        }
    }

    /// Adds the mean exchange times of a bucket; NaN where one process trained alone.
    fn push_exchanges(&mut self, columns: &Columns, bucket: &Range<usize>) {
        let (first, last) = (columns.step[bucket.start], columns.step[bucket.end - 1]);
        let start = columns.exchanges.partition_point(|(step, _)| *step < first);
        let end = columns.exchanges.partition_point(|(step, _)| *step <= last);
        let exchanges = columns.exchanges[start..end].iter();
        let all = ExchangeSummary::of(exchanges.map(|(_, exchange)| exchange));
        let mean = |of: fn(&ExchangeSummary) -> f64| all.map_or(f32::NAN, |all| of(&all) as f32);
        self.exchange_ms.push(mean(|all| all.ms));
        self.waited_ms.push(mean(|all| all.waited_ms));
    }

    /// The largest norm in each of `points` buckets of a run, and the threshold at its end.
    pub(crate) fn norm_curve(
        columns: &Columns,
        policy: &ClipPolicy,
        points: usize,
    ) -> (Vec<f32>, Vec<f32>) {
        let (_, buckets) = buckets(&(0..columns.rows()), points);
        let mut series = Series::default();
        for bucket in &buckets {
            series.push_clipping(columns, bucket.clone());
        }
        series.hide_other_thresholds(policy);
        let norms = Band::of(&columns.norm_before, &buckets).max;
        (norms, series.threshold)
    }

    /// Adds what clipping did in a bucket.
    fn push_clipping(&mut self, columns: &Columns, bucket: Range<usize>) {
        let norm = |row: usize| columns.norm_before[row];
        // `max_by` returns the last of equal elements; from the end, that is the first step.
        let from_last = || bucket.clone().rev();
        let finite = from_last().filter(|row| norm(*row).is_finite());
        let longest = finite.max_by(|left, right| norm(*left).total_cmp(&norm(*right)));
        self.norm_peak
            .push(columns.step[longest.unwrap_or(bucket.end - 1)]);

        let clipped = from_last().filter(|row| columns.action[*row] == ClipAction::Clip);
        let cut = clipped.max_by(|left, right| norm(*left).total_cmp(&norm(*right)));
        self.cut
            .top
            .push(cut.map_or(f32::NAN, |row| norm(row) as f32));
        self.cut
            .bottom
            .push(cut.map_or(f32::NAN, |row| columns.norm_after[row]));
        let mut thresholds = bucket.clone().rev().map(|row| columns.threshold[row]);
        let threshold = thresholds.find(|threshold| threshold.is_finite());
        self.threshold
            .push(threshold.map_or(f32::NAN, |threshold| threshold as f32));

        let is = |row: &usize, action: ClipAction| columns.action[*row] == action;
        let lately = bucket.end.saturating_sub(LATELY)..bucket.end;
        let share = share(lately.map(|row| is(&row, ClipAction::Clip)));
        self.clipped_share.push(share as f32);
        let is_finite = |row: &usize| norm(*row).is_finite() && columns.loss[*row].is_finite();
        let finite = bucket.clone().filter(is_finite).count();
        self.not_finite.push(bucket.len() - finite);
        let mut skipped = bucket.clone().filter(|row| is(row, ClipAction::Skip));
        self.skipped.push(skipped.clone().count());
        self.skipped_step
            .push(skipped.next_back().map(|row| columns.step[row]));
    }
}

/// See [`Series::seconds_per_token`]. If steps are missing, as in a sample, the next step counts
/// for them.
fn seconds_per_token(columns: &Columns, buckets: &[Range<usize>]) -> Vec<f64> {
    let end = buckets.last().map_or(0, |bucket| bucket.end);
    let (mut sum, mut before) = (0.0, 0);
    let mut sums = Vec::with_capacity(end);
    for row in 0..end {
        let speed = f64::from(columns.tokens_per_second[row]);
        let steps = columns.step[row].saturating_sub(before);
        before = columns.step[row];
        if speed > 0.0 {
            sum += steps as f64 / speed;
        }
        sums.push(sum);
    }
    buckets.iter().map(|bucket| sums[bucket.end - 1]).collect()
}

fn spikes(columns: &Columns, range: &Range<usize>) -> Vec<Spike> {
    // From the start of the run, so that zooming does not change what counts as a spike.
    let found = Spikes::find(columns.norm_before[..range.end].iter().copied());
    let inside = found
        .list
        .iter()
        .filter(|spike| range.contains(&spike.peak));
    let mut spikes: Vec<Spike> = inside
        .map(|spike| Spike {
            step: columns.step[spike.peak],
            norm: columns.norm_before[spike.peak],
            times: spike.times,
        })
        .collect();
    spikes.sort_by(|left, right| right.norm.total_cmp(&left.norm));
    spikes.truncate(MOST_SPIKES);
    spikes
}

/// At most `most` of the items, evenly chosen, always including the last one.
fn thinned<T>(items: impl Iterator<Item = T>, most: usize) -> Vec<T> {
    let items: Vec<T> = items.collect();
    let (count, stride) = (items.len(), items.len().div_ceil(most.max(1)).max(1));
    let chosen = items.into_iter().enumerate();
    let chosen = chosen.filter(|(place, _)| (count - 1 - place).is_multiple_of(stride));
    chosen.map(|(_, item)| item).collect()
}

impl HeatMap {
    /// The norms of each tensor's gradient over a range of steps.
    pub(crate) fn of_norms(
        columns: &Columns,
        from: Option<u64>,
        to: Option<u64>,
        most: usize,
    ) -> HeatMap {
        let (_, buckets) = buckets(&columns.range(from, to), most);
        let steps = buckets.iter().map(|bucket| columns.step[bucket.end - 1]);
        HeatMap::of(columns, &columns.tensors, steps.collect(), &buckets)
    }

    /// The size of each tensor's update relative to its weights, at the steps of a range that have
    /// it.
    pub(crate) fn of_ratios(
        columns: &Columns,
        from: Option<u64>,
        to: Option<u64>,
        most: usize,
    ) -> HeatMap {
        let rows = columns.range(from, to);
        let position = |row: usize| columns.ratio_rows.partition_point(|known| *known < row);
        let (_, buckets) = buckets(&(position(rows.start)..position(rows.end)), most);
        let steps = buckets
            .iter()
            .map(|bucket| columns.step[columns.ratio_rows[bucket.end - 1]]);
        HeatMap::of(columns, &columns.ratios, steps.collect(), &buckets)
    }

    fn of(
        columns: &Columns,
        tensors: &Tensors,
        step: Vec<u64>,
        buckets: &[Range<usize>],
    ) -> HeatMap {
        let (layers, weights) = tensors
            .names
            .iter()
            .map(|name| layer_of(columns, name))
            .unzip();
        let values = maxima(&tensors.values, buckets);
        let of_row = |row: &Vec<f32>| {
            let finite = row.iter().filter(|value| value.is_finite());
            median(finite.map(|value| f64::from(*value)))
        };
        HeatMap {
            names: tensors.names.clone(),
            layers,
            weights,
            step,
            median: values.iter().map(of_row).collect(),
            values,
        }
    }
}

/// The layer of a tensor and whether it is a matrix, from the header of the log or else from its
/// name.
fn layer_of(columns: &Columns, name: &str) -> (String, bool) {
    let parameters = columns.header.iter().flat_map(|header| &header.parameters);
    match parameters
        .into_iter()
        .find(|parameter| parameter.name == name)
    {
        Some(parameter) => (parameter.layer.clone(), parameter.shape.len() > 1),
        None => {
            let (layer, last) = name.rsplit_once('.').unwrap_or((name, name));
            (layer.to_string(), last.contains("weight"))
        }
    }
}

fn maxima(columns: &[Vec<f32>], buckets: &[Range<usize>]) -> Vec<Vec<f32>> {
    let of_bucket = |values: &[f32]| {
        // `f32::max` ignores NaN.
        values.iter().copied().fold(f32::NAN, f32::max)
    };
    let of_column = |values: &Vec<f32>| {
        buckets
            .iter()
            .map(|bucket| of_bucket(&values[bucket.clone()]))
            .collect()
    };
    columns.iter().map(of_column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_norms(norms: impl Iterator<Item = f64>) -> Columns {
        let mut columns = Columns::default();
        for (row, norm) in norms.enumerate() {
            columns.step.push(row as u64 + 1);
            columns.offset.push(0);
            let action = if norm > 5.0 {
                ClipAction::Clip
            } else {
                ClipAction::Keep
            };
            columns.action.push(if norm.is_nan() {
                ClipAction::Skip
            } else {
                action
            });
            columns.norm_before.push(norm);
            columns.norm_after.push(norm.min(5.0) as f32);
            columns.threshold.push(5.0);
            columns.coefficient.push((5.0 / norm).min(1.0));
            for column in [
                &mut columns.loss,
                &mut columns.lr,
                &mut columns.tokens_per_second,
                &mut columns.cosine,
            ] {
                column.push(1.0);
            }
        }
        columns
    }

    #[test]
    fn one_spike_among_a_million_steps_is_visible() {
        let spike = 654_321;
        let norms = (1..=1_000_000).map(|step| if step == spike { 90.0 } else { 1.0 });
        let columns = with_norms(norms);
        let series = Series::of(&columns, None, None, 1000);
        assert!((500..=1000).contains(&series.step.len()));
        let place = series.norm.max.iter().position(|max| *max == 90.0).unwrap();
        assert_eq!(series.norm_peak[place], spike);
        assert_eq!(
            (series.cut.top[place], series.cut.bottom[place]),
            (90.0, 5.0)
        );
        assert_eq!(series.norm.min[place], 1.0);
        assert_eq!(
            series.cut.top.iter().filter(|top| top.is_finite()).count(),
            1
        );

        let near = Series::of(&columns, Some(spike - 5), Some(spike + 5), 1000);
        assert_eq!((near.bucket, near.rows), (1, 11));
        assert_eq!(near.norm.mean[5], 90.0);
        assert_eq!(near.whole, Some((1, 1_000_000)));
    }

    #[test]
    fn buckets_of_a_growing_run_are_stable() {
        let (size, before) = buckets(&(0..5000), 1000);
        let (same, after) = buckets(&(0..5100), 1000);
        assert_eq!((size, same), (8, 8));
        assert_eq!(before, after[..before.len()]);
        assert_eq!(buckets(&(3..3), 10).1, []);
        let (_, cut) = buckets(&(3..9), 3);
        assert_eq!(cut, [3..4, 4..6, 6..8, 8..9][..]);
    }

    #[test]
    fn non_finite_values_are_ignored_but_counted() {
        let columns = with_norms([1.0, f64::NAN, 3.0, f64::NAN].into_iter());
        let series = Series::of(&columns, None, None, 2);
        assert_eq!(series.norm.mean, [1.0, 3.0]);
        assert_eq!(series.skipped, [1, 1]);
        assert_eq!(series.skipped_step, [Some(2), Some(4)]);
        let alone = Series::of(&columns, Some(2), Some(2), 2);
        assert!(alone.norm.mean[0].is_nan());
        assert_eq!(serde_json::to_string(&alone.norm.mean).unwrap(), "[null]");
    }

    #[test]
    fn the_last_item_is_always_kept() {
        assert_eq!(thinned(0..10, 3), [1, 5, 9]);
        assert_eq!(thinned(0..2, 3), [0, 1]);
        assert!(thinned(0..0, 3).is_empty());
    }
}
