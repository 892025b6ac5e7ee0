//! The chart of `shears replay`: the norm of each step, and the threshold of each policy.

use gradclip::NormOrder;
use shears_figure::{
    Axis, Colour, Figure, FigureError, MOST_COLOURS, Panel, Series, extent, range_with_near,
};

use super::Replayed;
use super::account::Account;
use crate::report::step_number;

/// Maximum number of policies besides the one of the run.
pub(super) const MOST_POLICIES: usize = MOST_COLOURS - 1;

/// The text of the SVG file.
pub(super) fn svg(replayed: &Replayed) -> Result<String, FigureError> {
    let (low, high) = range(replayed);
    let name = replayed.run.file_name().unwrap_or(replayed.run.as_os_str());
    let x = Axis::linear("step").written_as(step_number);
    let y = match replayed.plan.clip.order() {
        NormOrder::TWO => Axis::log("norm of all gradients, log scale"),
        order => Axis::log(format!("norm (p={order}) of all gradients, log scale")),
    };
    let y = y.within(low, high);
    let mut series = norms(replayed);
    // The run's own line is the thinnest and drawn last, the others get thicker from line to line,
    // so that lines on top of each other all stay visible.
    let mut accounts: Vec<(usize, &Account)> = replayed.accounts.iter().enumerate().collect();
    accounts.rotate_left(1);
    for (index, account) in accounts {
        let width = match index {
            0 => 1,
            _ => (replayed.accounts.len() - index + 1).clamp(2, 4) as u32,
        };
        series.push(Series {
            colour: Colour::Series(index),
            width,
            ..threshold(replayed, account, low, high)
        });
    }
    let figure = Figure {
        title: format!(
            "Gradient norms of {}, and where policies would have clipped (open loop)",
            name.display()
        ),
        height: 420,
        ..Figure::of(Panel::new(x, y, series))
    };
    figure.svg()
}

/// The norms, the spikes and the steps that are not finite.
fn norms(replayed: &Replayed) -> Vec<Series> {
    let steps = replayed.steps.iter().map(|step| *step as f64);
    let line: Vec<(f64, f64)> = steps.zip(replayed.norms.iter().copied()).collect();
    let peaks = replayed.spikes.list.iter().map(|spike| line[spike.peak]);
    let peaks: Vec<(f64, f64)> = peaks.collect();
    let non_finite = line.iter().filter(|(_, norm)| !norm.is_finite());
    let crosses: Vec<f64> = non_finite.map(|(step, _)| *step).collect();
    let mut series = vec![Series {
        line,
        width: 1,
        ..Series::named("gradient norm", Colour::Grey)
    }];
    if !peaks.is_empty() {
        let name = format!("spike ({})", peaks.len());
        series.push(Series {
            peaks,
            ..Series::named(name, Colour::Ink)
        });
    }
    if !crosses.is_empty() {
        let name = format!("not finite ({})", crosses.len());
        series.push(Series {
            crosses,
            ..Series::named(name, Colour::Ink)
        });
    }
    series
}

/// The thresholds of a policy. If no line is visible, the legend says why.
fn threshold(replayed: &Replayed, account: &Account, low: f64, high: f64) -> Series {
    let values: Vec<f64> = thresholds(account).collect();
    let note = match account.goes_by_all() {
        false => " (no line: not by the global norm)",
        true if values.iter().all(|value| value.is_nan()) => " (no threshold)",
        true if values.iter().all(|value| value.is_nan() || *value > high) => " (above the figure)",
        true if values.iter().all(|value| value.is_nan() || *value < low) => " (below the figure)",
        true => "",
    };
    let steps = replayed.steps.iter().map(|step| *step as f64);
    // Outside, it would be drawn along the edge.
    let inside = |value: f64| {
        if (low..=high).contains(&value) {
            value
        } else {
            f64::NAN
        }
    };
    Series {
        name: format!("{}: {}{note}", account.label, account.policy),
        line: steps.zip(values.into_iter().map(inside)).collect(),
        end: account.label.clone(),
        ..Series::default()
    }
}

/// The threshold of each step; NaN if there is none, or it does not apply to the global norm.
fn thresholds(account: &Account) -> impl Iterator<Item = f64> {
    let by_all = account.goes_by_all();
    let steps = account.taken.iter();
    steps.map(move |step| step.threshold.filter(|_| by_all).unwrap_or(f64::NAN))
}

/// The range of the norms, and of thresholds that are not too far from them.
fn range(replayed: &Replayed) -> (f64, f64) {
    let norms = replayed.norms.iter().copied().filter(|norm| *norm > 0.0);
    let Some(range) = extent(norms) else {
        return (0.1, 10.0);
    };
    let thresholds = replayed.accounts.iter().flat_map(thresholds);
    let (low, high) = range_with_near(range, thresholds);
    (
        (low / 1.3).max(f64::MIN_POSITIVE),
        (high * 1.6).min(f64::MAX),
    )
}
