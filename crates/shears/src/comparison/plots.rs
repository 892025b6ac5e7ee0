//! The pictures of a comparison, as SVG.

use super::heat::heat;
use super::results::{Outcome, smoothed};
use super::time::through_time;
use super::words::Findings;
use super::{Comparison, Run};
use crate::chart::thinned;
use crate::figure::{Axes, POINTS, Series, chart, number, parts};

/// A picture, and how it is read.
pub(super) struct Picture {
    /// Of its file.
    pub(super) name: String,
    pub(super) title: String,
    pub(super) reading: String,
    pub(super) svg: String,
}

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
    if comparison.rates.len() > 1 {
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

fn losses(comparison: &Comparison, shown: &[Shown<'_>]) -> anyhow::Result<Picture> {
    let mut series = Vec::new();
    for Shown { index, name, runs } in shown {
        let smooth: Vec<Vec<f64>> = runs.iter().map(|run| smoothed(&run.outcome.loss)).collect();
        let longest = smooth.iter().map(Vec::len).max().unwrap_or(0);
        let every = longest.div_ceil(POINTS).max(1);
        let (mut line, mut band) = (Vec::new(), Vec::new());
        for step in (0..longest).step_by(every) {
            let at: Option<Vec<f64>> = smooth.iter().map(|loss| loss.get(step).copied()).collect();
            let x = (step + 1) as f64;
            let values = at.unwrap_or_default();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            line.push((x, mean));
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if values.len() > 1 && mean.is_finite() {
                band.push((x, low, high));
            }
        }
        let evaluations = runs.iter().flat_map(|run| &run.outcome.evaluations);
        series.push(Series {
            name: name.clone(),
            colour: *index,
            lines: parts(&line),
            band,
            points: evaluations
                .map(|(step, loss)| (*step as f64, *loss))
                .collect(),
            crosses: runs
                .iter()
                .filter(|run| !run.outcome.converged())
                .map(|run| run.outcome.loss.len() as f64)
                .collect(),
            dashed: false,
        });
    }
    // A model that knows nothing begins here; what is worse is cut off.
    let runs = comparison.runs.iter();
    let first = runs.filter_map(|run| run.outcome.loss.first());
    let first = first
        .copied()
        .filter(|loss| loss.is_finite())
        .reduce(f64::max);
    Ok(Picture {
        name: "loss".into(),
        title: "Loss".into(),
        reading:
            "Lines: training loss, smoothed, mean over the seeds, with the band that they lie \
                  in. Dots: validation loss. A cross at the upper edge: a run diverged there. Each \
                  policy at its best learning rate."
                .into(),
        svg: chart(
            &Axes {
                x: "step",
                y: "nats a token",
                highest: first.map(|first| 1.2 * first),
                ..Axes::default()
            },
            &series,
        )?,
    })
}

fn rates(comparison: &Comparison, findings: &Findings) -> anyhow::Result<Picture> {
    let mut series = Vec::new();
    for (index, variant) in comparison.variants.iter().enumerate() {
        let groups = findings
            .groups
            .iter()
            .filter(|group| group.variant == index);
        let mut of_variant: Vec<_> = groups.collect();
        of_variant.sort_by(|left, right| left.lr.total_cmp(&right.lr));
        let line: Vec<(f64, f64)> = of_variant
            .iter()
            .map(|group| (group.lr, group.val_loss.unwrap_or(f64::NAN)))
            .collect();
        series.push(Series {
            name: variant.name.clone(),
            colour: index,
            points: line
                .iter()
                .copied()
                .filter(|(_, loss)| loss.is_finite())
                .collect(),
            lines: parts(&line),
            band: of_variant
                .iter()
                .filter(|group| group.val_loss.is_some())
                .map(|group| {
                    let losses = group.val_losses.iter().copied();
                    let low = losses.clone().fold(f64::INFINITY, f64::min);
                    (group.lr, low, losses.fold(f64::NEG_INFINITY, f64::max))
                })
                .collect(),
            crosses: of_variant
                .iter()
                .filter(|group| group.val_loss.is_none())
                .map(|group| group.lr)
                .collect(),
            dashed: false,
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
            &Axes {
                x: "learning rate, log scale",
                y: "nats a token",
                log_x: true,
                ..Axes::default()
            },
            &series,
        )?,
    })
}

fn norms(shown: &Shown<'_>) -> anyhow::Result<Picture> {
    let Run { seed, outcome, .. } = shown.runs[0];
    let line = |values: Vec<f64>| {
        let points: Vec<(f64, Option<f64>)> = values
            .into_iter()
            .enumerate()
            .map(|(step, value)| {
                (
                    (step + 1) as f64,
                    Some(value).filter(|v| v.is_finite() && *v > 0.0),
                )
            })
            .collect();
        thinned(&points, POINTS / 2)
    };
    let after = outcome.norm.iter().zip(&outcome.coefficient);
    let thresholds = outcome.threshold.iter().map(|t| t.unwrap_or(f64::NAN));
    let series = [
        Series {
            name: "before clipping".into(),
            colour: 6,
            lines: line(outcome.norm.clone()),
            ..Series::default()
        },
        Series {
            name: "after".into(),
            colour: 1,
            lines: line(
                after
                    .map(|(norm, coefficient)| norm * coefficient)
                    .collect(),
            ),
            ..Series::default()
        },
        Series {
            name: "threshold".into(),
            colour: 2,
            lines: line(thresholds.collect()),
            dashed: true,
            ..Series::default()
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
            &Axes {
                x: "step",
                y: "norm, log scale",
                log_y: true,
                ..Axes::default()
            },
            &series,
        )?,
    })
}

fn shares(shown: &[Shown<'_>]) -> anyhow::Result<Picture> {
    /// Steps that a share is taken of.
    const WINDOW: usize = 50;
    let mut series = Vec::new();
    for Shown { index, name, runs } in shown {
        let points: Vec<(f64, f64)> = runs[0]
            .outcome
            .coefficient
            .chunks(WINDOW)
            .enumerate()
            .map(|(index, part)| {
                let mean = part.iter().sum::<f64>() / part.len() as f64;
                ((index * WINDOW + part.len()) as f64, mean)
            })
            .collect();
        series.push(Series {
            name: name.clone(),
            colour: *index,
            lines: parts(&points),
            ..Series::default()
        });
    }
    Ok(Picture {
        name: "coefficient".into(),
        title: "How much of the gradient's length is kept".into(),
        reading: format!(
            "The coefficient, norm after over norm before, as the mean of {WINDOW} steps: 1 is an \
             untouched gradient. A line that stays far below 1 means that the threshold acts as a \
             second learning rate."
        ),
        svg: chart(
            &Axes {
                x: "step",
                y: "coefficient",
                ..Axes::default()
            },
            &series,
        )?,
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
            name: name.clone(),
            colour: *index,
            lines: vec![(first - 1..=last + 1).map(share).collect()],
            ..Series::default()
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
            &Axes {
                x: "norm before clipping, log scale",
                y: "% of steps",
                log_x: true,
                ..Axes::default()
            },
            &series,
        )?,
    })
}

fn layers(index: usize, name: &str, outcome: &Outcome) -> anyhow::Result<Option<Picture>> {
    let Some(heat) = heat(&outcome.layers, outcome.loss.len())? else {
        return Ok(None);
    };
    Ok(Some(Picture {
        name: format!("layers-{}", index + 1),
        title: format!("Gradient of each layer: {name}"),
        reading: format!(
            "Light is a norm of {}, dark of {}, before clipping; grey is zero or not finite. A layer that \
             stays light while others are dark receives little gradient, which clipping cannot \
             cure.",
            number(heat.low),
            number(heat.high)
        ),
        svg: heat.svg,
    }))
}
