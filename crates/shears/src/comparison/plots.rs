//! The figures of a comparison, as SVG.

use gradclip::ClipAction;
use gradclip_judge::statistics::mean;
use shears_figure::{
    Axis, Colour, Figure, Panel, Series, extent, heat_map, range_with_near, usual_range,
};
use shears_run::Columns;

use super::picture::{Picture, chart};
use super::results::Outcome;
use super::smooth::smoothed;
use super::time::through_time;
use super::words::{Findings, Group};
use super::{Comparison, Run};
use crate::report::{percent, step_number};

/// The runs that represent a variant in the figures.
struct Shown<'a> {
    /// Index of the variant.
    index: usize,
    name: String,
    /// One per seed, at least one.
    runs: Vec<&'a Run>,
}

/// All figures, in the order of the report.
pub(super) fn draw(comparison: &Comparison, findings: &Findings) -> anyhow::Result<Vec<Picture>> {
    let shown = all_shown(comparison, findings);
    let mut pictures = vec![losses(comparison, &shown)?];
    if comparison.has_rates() {
        pictures.push(rates(comparison, findings)?);
    }
    pictures.push(norms(&shown)?);
    pictures.push(shares(&shown)?);
    pictures.push(distribution(&shown)?);
    for Shown { index, name, runs } in &shown {
        pictures.extend(layers(*index, name, &runs[0].outcome)?);
        pictures.extend(through_time(*index, name, &runs[0].outcome)?);
    }
    Ok(pictures)
}

/// The runs of each variant at its best learning rate, or at the lowest if none converged.
fn all_shown<'a>(comparison: &'a Comparison, findings: &Findings) -> Vec<Shown<'a>> {
    let shown = |variant: usize| {
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
    };
    (0..comparison.variants.len()).filter_map(shown).collect()
}

/// The axis of steps for the runs that are shown.
fn steps(shown: &[Shown<'_>]) -> Axis {
    let runs = shown.iter().flat_map(|variant| &variant.runs);
    let longest = runs
        .map(|run| run.outcome.columns.rows())
        .max()
        .unwrap_or(1);
    let axis = Axis::linear("step").within(0.0, longest as f64);
    axis.written_as(step_number)
}

/// Pairs each value with its step, counted from 1.
fn by_step(values: impl IntoIterator<Item = f64>) -> Vec<(f64, f64)> {
    (1..).map(f64::from).zip(values).collect()
}

/// An empty series for a variant. Lines get thinner from one to the next, so that lines on top of
/// each other stay visible.
fn series_of(index: usize, name: &str) -> Series {
    Series {
        width: [4, 3, 2].get(index).copied().unwrap_or(2),
        ..Series::named(name, Colour::Series(index))
    }
}

/// Loss and norms in one figure that needs no explanation.
pub(super) fn overview(comparison: &Comparison, findings: &Findings) -> anyhow::Result<String> {
    let shown = all_shown(comparison, findings);
    let mut loss = loss_panel(comparison, &shown);
    loss.title = format!("Training loss, {}", comparison.model);
    let norms = shown.iter().map(|variant| norm_panel(&shown, variant));
    stacked([loss].into_iter().chain(norms).collect())
}

/// Panels with the same steps, one below the other.
fn stacked(panels: Vec<Panel>) -> anyhow::Result<String> {
    let figure = Figure {
        title: String::new(),
        panels,
        columns: 1,
        height: 230,
    };
    Ok(figure.svg()?)
}

fn losses(comparison: &Comparison, shown: &[Shown<'_>]) -> anyhow::Result<Picture> {
    Ok(Picture {
        name: "loss".into(),
        title: "Loss".into(),
        reading: "Lines: training loss, smoothed (median of 15 steps, then mean of 15), mean over \
                  the seeds, with a band from the lowest to the highest; the raw loss of runs that \
                  diverged. Dots: validation loss. A cross at the upper edge: a run diverged \
                  there; a triangle: the line is above the figure. Each policy at its best \
                  learning rate."
            .into(),
        svg: Figure::of(loss_panel(comparison, shown)).svg()?,
    })
}

fn loss_panel(comparison: &Comparison, shown: &[Shown<'_>]) -> Panel {
    let mut series = Vec::new();
    for Shown { index, name, runs } in shown {
        let curve = |run: &&Run| match run.outcome.converged() {
            true => smoothed(&run.outcome.loss()),
            // Its last steps are the point.
            false => run.outcome.loss(),
        };
        let curves: Vec<Vec<f64>> = runs.iter().map(curve).collect();
        // The mean ends with the shortest seed.
        let all = curves.iter().map(Vec::len).min().unwrap_or(0);
        let at = |step: usize| curves.iter().map(move |loss| loss[step]);
        let means = (0..all).map(|step| at(step).sum::<f64>() / curves.len() as f64);
        let band = (0..all).filter_map(|step| {
            let (low, high) = extent(at(step))?;
            Some(((step + 1) as f64, low, high))
        });
        let several = curves.len() > 1;
        let evaluations = runs.iter().flat_map(|run| &run.outcome.columns.evaluations);
        let broke = runs.iter().filter(|run| run.outcome.broke_off());
        let crosses: Vec<f64> = broke.map(|run| run.outcome.columns.rows() as f64).collect();
        let name = match crosses.as_slice() {
            [] => name.clone(),
            [step] => format!("{name}: diverged at step {step}"),
            several => format!("{name}: {} of {} diverged", several.len(), runs.len()),
        };
        series.push(Series {
            line: by_step(means),
            band: band.filter(|_| several).collect(),
            points: evaluations
                .map(|found| (found.step as f64, found.val_loss))
                .collect(),
            crosses,
            ..series_of(*index, &name)
        });
    }
    // An untrained model begins here; worse losses are marked at the edge.
    let runs = comparison.runs.iter();
    let first = runs.filter_map(|run| run.outcome.columns.loss.first().copied());
    let first = first.filter(|loss| loss.is_finite()).reduce(f32::max);
    let y = Axis::linear("nats per token").at_most(1.2 * first.map_or(f64::INFINITY, f64::from));
    Panel::new(steps(shown), y, series)
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
        let band = converged.iter().filter_map(|group| {
            let (low, high) = extent(group.val_losses.iter().copied())?;
            Some((group.lr, low, high))
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
            "Lower is better; a wide valley forgives a badly chosen learning rate. The band spans \
             the seeds; a cross at the upper edge: not every seed converged."
                .into(),
        svg: chart(
            Axis::log("learning rate, log scale").with_room(0.03),
            Axis::linear("nats per token"),
            series,
        )?,
    })
}

fn norms(shown: &[Shown<'_>]) -> anyhow::Result<Picture> {
    let panels = shown.iter().map(|variant| norm_panel(shown, variant));
    Ok(Picture {
        name: "norm".into(),
        title: "Gradient norm".into(),
        reading: format!(
            "Filled: what clipping cut off. A cross at the upper edge: the step was skipped, \
             because its gradient was not finite or an outlier; a triangle: the norm is above the \
             figure. One seed each, at the policy's best learning rate. {}",
            sentences(shown)
        ),
        svg: stacked(panels.collect())?,
    })
}

/// The verdicts of the runs whose norms are shown.
fn sentences(shown: &[Shown<'_>]) -> String {
    let of = |Shown { name, runs, .. }: &Shown<'_>| {
        let verdict = &runs[0].outcome.judgement.as_ref()?.verdict;
        Some(format!("{name}: {}.", verdict.sentence))
    };
    shown.iter().filter_map(of).collect::<Vec<_>>().join(" ")
}

/// The norms of a variant's first seed, over the steps of the longest run.
fn norm_panel(shown: &[Shown<'_>], variant: &Shown<'_>) -> Panel {
    let Run { plan, outcome, .. } = variant.runs[0];
    let seed = plan.seed;
    let columns = &outcome.columns;
    let norms = by_step(columns.norm_before.iter().copied());
    let cut = norms.iter().zip(&columns.coefficient).zip(&columns.action);
    let cut = cut.filter(|(_, action)| **action != ClipAction::Skip);
    let cut = cut.map(|((&(step, norm), coefficient), _)| (step, norm * coefficient, norm));
    let skipped = outcome
        .steps_with(ClipAction::Skip)
        .map(|row| (row + 1) as f64);
    let skipped: Vec<f64> = skipped.collect();
    let clipped = outcome.steps_with(ClipAction::Clip).count();
    let series = |name: &str, colour| Series::named(name, Colour::Series(colour));
    let mut all = vec![Series {
        line: norms.clone(),
        width: 1,
        ..series("norm before clipping", 1)
    }];
    if clipped > 0 {
        all.push(Series {
            band: cut.collect(),
            ..series("cut off by clipping", 2)
        });
    }
    if columns
        .threshold
        .iter()
        .any(|threshold| threshold.is_finite())
    {
        all.push(Series {
            line: by_step(columns.threshold.iter().copied()),
            dashed: true,
            ..series("threshold", 3)
        });
    }
    let skips = skipped.len();
    if skips > 0 {
        all.push(Series {
            crosses: skipped,
            ..series("skipped step", 0)
        });
    }
    Panel {
        title: format!(
            "Gradient norm, {}, seed {seed}: {}; {} of the steps clipped, {skips} skipped",
            variant.name,
            outcome.class().map_or("", |class| class.1),
            percent(clipped as f64 / columns.rows().max(1) as f64),
        ),
        ..Panel::new(steps(shown), norm_axis(shown), all)
    }
}

/// The axis of all norms that are shown, including thresholds that are not far from them.
fn norm_axis(shown: &[Shown<'_>]) -> Axis {
    let axis = Axis::log("norm, log scale");
    let logs = || shown.iter().map(|variant| &variant.runs[0].outcome.columns);
    let norms = logs().flat_map(|log| log.norm_before.iter().copied());
    let Some(range) = usual_range(norms, true) else {
        return axis;
    };
    let thresholds = logs().flat_map(|log| log.threshold.iter().copied());
    let (low, high) = range_with_near(range, thresholds);
    axis.within(low / 1.2, high * 1.2)
}

fn shares(shown: &[Shown<'_>]) -> anyhow::Result<Picture> {
    /// Steps per mean.
    const WINDOW: usize = 50;
    let mut series = Vec::new();
    for Shown { index, name, runs } in shown {
        series.push(Series {
            line: shares_kept(&runs[0].outcome.columns, WINDOW),
            ..series_of(*index, name)
        });
    }
    Ok(Picture {
        name: "coefficient".into(),
        title: "How much of the gradient's length is kept".into(),
        reading: format!(
            "The coefficient, norm after over norm before, as the mean of {WINDOW} steps without \
             skipped ones: 1 is an untouched gradient. A line that stays far below 1 means that \
             the threshold acts as a second learning rate."
        ),
        svg: chart(steps(shown), Axis::linear("coefficient"), series)?,
    })
}

/// The mean coefficient of every `window` steps, at the last of them, without skipped steps:
/// nothing of those is kept, even if nothing clips.
fn shares_kept(columns: &Columns, window: usize) -> Vec<(f64, f64)> {
    let parts = columns.coefficient.chunks(window);
    let parts = parts.zip(columns.action.chunks(window)).enumerate();
    let means = parts.filter_map(|(index, (part, actions))| {
        let applied = part.iter().zip(actions);
        let applied = applied.filter(|(_, action)| **action != ClipAction::Skip);
        let mean = mean(applied.map(|(coefficient, _)| *coefficient))?;
        Some(((index * window + part.len()) as f64, mean))
    });
    means.collect()
}

fn distribution(shown: &[Shown<'_>]) -> anyhow::Result<Picture> {
    /// Per decade.
    const BINS: f64 = 12.0;
    let mut series = Vec::new();
    for Shown { index, name, runs } in shown {
        let norms = runs.iter().flat_map(|run| &run.outcome.columns.norm_before);
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
    let columns = &outcome.columns;
    let layers = columns.layer_norms(0..columns.rows()).unwrap_or_default();
    let rows: Vec<(&str, &[f64])> = layers
        .iter()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_steps_do_not_count_as_cut() {
        let columns = Columns {
            coefficient: vec![1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0],
            action: vec![
                ClipAction::Keep,
                ClipAction::Skip,
                ClipAction::Clip,
                ClipAction::Keep,
                ClipAction::Skip,
                ClipAction::Skip,
                ClipAction::Keep,
            ],
            ..Columns::default()
        };
        let expected = [(2.0, 1.0), (4.0, 0.75), (7.0, 1.0)];
        assert_eq!(shares_kept(&columns, 2), expected);
    }
}
