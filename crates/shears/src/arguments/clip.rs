//! The command line of `shears clip`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use shears_train::{ClipPolicy, NonFinite};

use crate::settings::checked;

/// Clip gradients that another program saved
///
/// Each file holds the gradients of one step by name, of type F64, F32, F16 or BF16; several files
/// are consecutive steps of one run, which a policy that learns sees in that order. Any framework
/// can write them. In PyTorch, after loss.backward():
///
/// from safetensors.torch import save_file
///
/// save_file({n: p.grad for n, p in model.named_parameters()}, "step0.safetensors")
///
/// (with `if p.grad is not None` at the end of the braces, if some parameters are frozen). Files
/// in --out-dir keep names, shapes, types and metadata; what is not clipped keeps its bits.
///
/// JSON keys: step, action (keep, clip or skip), norm_before, norm_after, coefficient, threshold,
/// nonfinite, tensors.[].{name, norm_before, norm_after, coefficient, nonfinite}. What is not
/// finite is null.
#[derive(Args, Debug)]
#[command(after_long_help = CLIP_EXAMPLES)]
pub(crate) struct ClipArguments {
    /// Safetensors files of gradients, one a step
    #[arg(required = true, value_name = "STEP", value_hint = ValueHint::FilePath)]
    pub(crate) steps: Vec<PathBuf>,

    /// Clipping policy, as `train --clip` takes it: rules such as global-norm:1, joined by `+`, or
    /// none
    ///
    /// `agc` compares gradients with --params. It counts output units on the last axis, as Burn and
    /// JAX have them; for files from PyTorch say agc:0.01,unit=first. Rules that work inside Adam
    /// (update-rms, spam) are refused.
    #[arg(long, value_name = "POLICY", value_parser = checked::<ClipPolicy>)]
    pub(crate) policy: String,

    /// Safetensors file of the parameters, by the names of their gradients; `agc` needs it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) params: Option<PathBuf>,

    /// What to do with a gradient that has a NaN or an infinity: error, skip, zero
    ///
    /// `error` ends with exit code 1 and names the tensors; files of steps before it stay. `skip`
    /// leaves the step out: no file, and the policy learns nothing from it. `zero` sets those
    /// elements to zero.
    #[arg(
        long,
        visible_alias = "non-finite",
        value_name = "RULE",
        value_parser = checked::<NonFinite>,
        default_value = "error"
    )]
    pub(crate) nonfinite: String,

    /// Folder to write the clipped gradients to, under the names of their files [default: none;
    /// nothing is written]
    ///
    /// Made if it does not exist. Files in it are replaced, but never one that was read.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out_dir: Option<PathBuf>,

    /// Print one JSON object a step
    #[arg(long)]
    pub(crate) json: bool,
}

const CLIP_EXAMPLES: &str = "Examples:
  shears clip step0.safetensors --policy global-norm:1
  shears clip grads/*.safetensors --policy zclip --nonfinite skip --out-dir clipped
  shears clip step0.safetensors --policy agc:0.01,unit=first --params model.safetensors
  shears clip step0.safetensors --policy value:5+global-norm:1 --json";
