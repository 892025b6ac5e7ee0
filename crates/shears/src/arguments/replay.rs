//! The command line of `shears replay`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use shears_train::ClipPolicy;

use crate::settings::checked;

/// Show what other clipping policies would have done with a run's gradients
///
/// Reads the norm of every step from the run's events.jsonl and shows it to each policy: how often
/// and how hard it would have clipped, which steps it would have left out, by which thresholds, and
/// which spikes it would have caught. The first row is what the run itself did. Nothing is trained:
/// this is open loop. Under another policy the run would have taken other steps and met other
/// gradients, so it tells what a policy does with norms like these, not how the run would have
/// ended.
///
/// A spike is a step, or several in a row, whose norm is more than 3 times the median of the 50
/// finite norms before it (of at least 10). It is caught at the first of its steps that the policy
/// leaves out or clips to no more than that.
///
/// coefficient: what is left of the norm of clipped steps. norm removed: the mean share taken away,
/// over all steps but those left out. left out: as outliers, not for being non-finite. warm-up: the
/// steps before every rule of the policy had seen enough.
///
/// Rules that norms do not suffice for are refused: value, agc, p other than 2, update-rms, spam.
///
/// JSON keys: run, clip, open_loop, steps, non_finite, step, norm, spike_definition, spikes.[].{
/// first_step, last_step, peak_step, norm, times_median}, policies.[].{label, policy, clipped,
/// clipped_share, coefficient.{median, smallest}, norm_removed, left_out, warm_up, threshold.{first,
/// median, last, min, max}, spikes.{caught, at_once, each}, actions, thresholds, coefficients}.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ReplayArguments {
    /// Folder of the run
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) run: PathBuf,

    /// Policy to show the run's gradients to, as for `train --clip`; can be given several times
    #[arg(long = "policy", value_name = "POLICY", required = true, value_parser = checked::<ClipPolicy>)]
    pub(crate) policies: Vec<String>,

    /// Draw norms and thresholds into this file, which must not be there yet and end in .svg
    ///
    /// At most 6 policies. Those that go tensor by tensor have no line: their thresholds are not of
    /// the norm that is drawn.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) plot: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

const EXAMPLES: &str = "Examples:
  shears replay runs/mine --policy global-norm:1 --policy zclip:max=inf
  shears replay runs/mine --policy autoclip:10 --policy skip:6+global-norm:1 --plot replay.svg";
