//! The pictures of a comparison, as SVG.

use shears_figure::{Axis, Colour, Series, heat_map};

use super::picture::{Picture, chart};
use super::results::{Outcome, smoothed};
use super::time::through_time;
use super::words::{Findings, Group};
use super::{Comparison, Run};
use crate::report::step_number;

/// The runs that stand for a variant in the pictures.
struct Shown<'a> {
    /// Of the variant.
    index: usize,
    name: String,
    /// One for each seed, and at least one.
    runs: Vec<&'a Run>,
}

/// All pictures, in the order of the report.
pub(super) fn draw(comparison: &Comparison, findings: &Findings) -> anyhow::Result<Vec<Picture>> {
    let shown: Vec<Shown<'_>> = (0..comparison.variants.len())
        .filter_map(|variant| shown(comparison, findings, variant))
        .collect();
    let mut pictures = vec![losses(comparison, &shown)?];
    if comparison.has_rates() {
        pictures.push(rates(comparison, findings)?);
    }
    for variant in &shown {
        pictures.push(norms(variant)?);
    }
    pictures.push(shares(&shown)?);
    pictures.push(distribution(&shown)?);
    for Shown { index, name, runs } in &shown {
        pictures.extend(layers(*index, name, &runs[0].outcome)?);
        pictures.extend(through_time(*index, name, &runs[0].outcome)?);
    }
    Ok(pictures)
}

/// Those of a variant's best learning rate, or, where none converged, of the lowest.
fn shown<'a>(comparison: &'a Comparison, findings: &Findings, variant: usize) -> Option<Shown<'a>> {
    let groups = findings.groups.iter();
    let lowest = groups
        .filter(|group| group.variant == variant)
        .min_by(|left, right| left.lr.total_cmp(&right.lr));
    let group = findings.best[variant].map_or(lowest, |best| findings.groups.get(best))?;
    Some(Shown {
        index: variant,
        name: match comparison.rates.len() {
            1 => group.policy.clone(),
            _ => format!("{}, lr {}", group.policy, group.lr),
        },
        runs: comparison.seeds_of(variant, group.rate),
    })
}

/// The axis of steps, for runs of these lengths: a logarithmic one if else a run that ended early
/// could not be seen.
fn steps(lengths: impl Iterator<Item = usize>) -> Axis {
    const EARLY: f64 = 0.1;
    let (shortest, longest) = extent(lengths.map(|steps| steps as f64));
    let axis = match shortest < EARLY * longest {
        true => Axis::log("step, log scale"),
        false => Axis::linear("step"),
    };
    axis.written_as(step_number)
}

/// The smallest and the largest.
fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

/// A value for each step, from the first on.
fn by_step(values: impl IntoIterator<Item = f64>) -> Vec<(f64, f64)> {
    (1..).map(f64::from).zip(values).collect()
}

/// A variant's series without anything in it. The lines are thinner from one to the next, so that
/// of those that lie on each other all can be seen.
fn series_of(index: usize, name: &str) -> Series {
    Series {
        name: name.to_string(),
        colour: Colour::Series(index),
        width: [4, 3, 2].get(index).copied().unwrap_or(2),
        ..Series::default()
    }
}

fn losses(comparison: &Comparison, shown: &[Shown<'_>]) -> anyhow::Result<Picture> {
    let mut series = Vec::new();
    for Shown { index, name, runs } in shown {
        let smooth: Vec<Vec<f64>> = runs.iter().map(|run| smoothed(&run.outcome.loss)).collect();
        // As far as all seeds got.
        let all = smooth.iter().map(Vec::len).min().unwrap_or(0);
        let at = |step: usize| smooth.iter().map(move |loss| loss[step]);
        let means = (0..all).map(|step| at(step).sum::<f64>() / smooth.len() as f64);
        let band = (0..all).map(|step| {
            let (low, high) = extent(at(step));
            ((step + 1) as f64, low, high)
        });
        let several = smooth.len() > 1;
        let evaluations = runs.iter().flat_map(|run| &run.outcome.evaluations);
        let diverged = runs.iter().filter(|run| !run.outcome.converged());
        series.push(Series {
            line: by_step(means),
            band: band.filter(|_| several).collect(),
            points: evaluations
                .map(|(step, loss)| (*step as f64, *loss))
                .collect(),
            crosses: diverged.map(|run| run.outcome.loss.len() as f64).collect(),
            ..series_of(*index, name)
        });
    }
    // A model that knows nothing begins here; what is worse is cut off.
    let runs = comparison.runs.iter();
    let first = runs.filter_map(|run| run.outcome.loss.first().copied());
    let first = first.filter(|loss| loss.is_finite()).reduce(f64::max);
    let lengths = shown.iter().flat_map(|variant| &variant.runs);
    Ok(Picture {
        name: "loss".into(),
        title: "Loss".into(),
        reading:
            "Lines: training loss, smoothed, mean over the seeds, with the band that they lie \
                  in. Dots: validation loss. A cross at the upper edge: a run diverged there. Each \
                  policy at its best learning rate."
                .into(),
        svg: chart(
            steps(lengths.map(|run| run.outcome.loss.len())),
            Axis::linear("nats a token").at_most(1.2 * first.unwrap_or(f64::INFINITY)),
            series,
        )?,
    })
}

fn rates(comparison: &Comparison, findings: &Findings) -> anyhow::Result<Picture> {
    let mut series = Vec::new();
    for (index, variant) in comparison.variants.iter().enumerate() {
        let groups = findings.groups.iter();
        let mut groups: Vec<&Group> = groups.filter(|group| group.variant == index).collect();
        groups.sort_by(|left, right| left.lr.total_cmp(&right.lr));
        let (converged, diverged): (Vec<&Group>, Vec<&Group>) =
            groups.iter().partition(|group| group.val_loss.is_some());
        let loss = |group: &&Group| (group.lr, group.val_loss.unwrap_or(f64::NAN));
        let band = converged.iter().map(|group| {
            let (low, high) = extent(group.val_losses.iter().copied());
            (group.lr, low, high)
        });
        series.push(Series {
            line: groups.iter().map(loss).collect(),
            points: converged.iter().map(loss).collect(),
            band: band.collect(),
            crosses: diverged.iter().map(|group| group.lr).collect(),
            ..series_of(index, &variant.name)
        });
    }
    Ok(Picture {
        name: "learning-rates".into(),
        title: "Validation loss against learning rate".into(),
        reading:
            "Lower is better; a wide valley forgives a badly chosen learning rate. The band is \
                  where the seeds lie; a cross at the upper edge: not every \
                  seed converged."
                .into(),
        svg: chart(
            Axis::log("learning rate, log scale").with_room(0.03),
            Axis::linear("nats a token"),
            series,
        )?,
    })
}

fn norms(shown: &Shown<'_>) -> anyhow::Result<Picture> {
    let Run { seed, outcome, .. } = shown.runs[0];
    let after = outcome.norm.iter().zip(&outcome.coefficient);
    let after = after.map(|(norm, coefficient)| norm * coefficient);
    let thresholds = outcome.threshold.iter().map(|t| t.unwrap_or(f64::NAN));
    let series = |name: &str, colour, line| Series {
        name: name.into(),
        colour: Colour::Series(colour),
        line,
        ..Series::default()
    };
    let series = vec![
        series("before clipping", 6, by_step(outcome.norm.iter().copied())),
        series("after", 1, by_step(after)),
        Series {
            dashed: true,
            ..series("threshold", 2, by_step(thresholds))
        },
    ];
    Ok(Picture {
        name: format!("norm-{}", shown.index + 1),
        title: format!("Gradient norm: {}", shown.name),
        reading: format!(
            "Where the line before clipping is above the one after, length was cut off: at {:.1} % \
             of the steps. Seed {seed}.",
            100.0 * outcome.clipped_share(),
        ),
        svg: chart(
            steps([outcome.norm.len()].into_iter()),
            Axis::log("norm, log scale"),
            series,
        )?,
    })
}

fn shares(shown: &[Shown<'_>]) -> anyhow::Result<Picture> {
    /// Steps that a share is taken of.
    const WINDOW: usize = 50;
    let mut series = Vec::new();
    for Shown { index, name, runs } in shown {
        let windows = runs[0].outcome.coefficient.chunks(WINDOW).enumerate();
        let means = windows.map(|(index, part)| {
            let mean = part.iter().sum::<f64>() / part.len() as f64;
            ((index * WINDOW + part.len()) as f64, mean)
        });
        series.push(Series {
            line: means.collect(),
            ..series_of(*index, name)
        });
    }
    let lengths = shown
        .iter()
        .map(|variant| variant.runs[0].outcome.loss.len());
    Ok(Picture {
        name: "coefficient".into(),
        title: "How much of the gradient's length is kept".into(),
        reading: format!(
            "The coefficient, norm after over norm before, as the mean of {WINDOW} steps: 1 is an \
             untouched gradient. A line that stays far below 1 means that the threshold acts as a \
             second learning rate."
        ),
        svg: chart(steps(lengths), Axis::linear("coefficient"), series)?,
    })
}

fn distribution(shown: &[Shown<'_>]) -> anyhow::Result<Picture> {
    /// Of each decade.
    const BINS: f64 = 12.0;
    let mut series = Vec::new();
    for Shown { index, name, runs } in shown {
        let norms = runs.iter().flat_map(|run| &run.outcome.norm);
        let bins: Vec<i64> = norms
            .filter(|norm| norm.is_finite() && **norm > 0.0)
            .map(|norm| (norm.log10() * BINS).floor() as i64)
            .collect();
        let (Some(&first), Some(&last)) = (bins.iter().min(), bins.iter().max()) else {
            continue;
        };
        let share = |bin: i64| {
            let count = bins.iter().filter(|other| **other == bin).count();
            let x = 10_f64.powf((bin as f64 + 0.5) / BINS);
            (x, 100.0 * count as f64 / bins.len() as f64)
        };
        series.push(Series {
            line: (first - 1..=last + 1).map(share).collect(),
            ..series_of(*index, name)
        });
    }
    Ok(Picture {
        name: "norm-distribution".into(),
        title: "How the norms are distributed".into(),
        reading:
            "Share of steps with a gradient norm, before clipping, of about that size. A long \
                  tail to the right is what clipping is for."
                .into(),
        svg: chart(
            Axis::log("norm before clipping, log scale"),
            Axis::linear("% of steps"),
            series,
        )?,
    })
}

fn layers(index: usize, name: &str, outcome: &Outcome) -> anyhow::Result<Option<Picture>> {
    let rows = outcome.layers.iter();
    let rows: Vec<(&str, &[f64])> = rows
        .map(|(layer, norms)| (layer.as_str(), norms.as_slice()))
        .collect();
    let picture = |svg| Picture {
        name: format!("layers-{}", index + 1),
        title: format!("Gradient of each layer: {name}"),
        reading: "Norm before clipping, on a log scale; grey is zero or not finite. A layer that \
                  stays dark while others are bright receives little gradient, which clipping \
                  cannot cure."
            .into(),
        svg,
    };
    Ok(heat_map(&rows)?.map(picture))
}
