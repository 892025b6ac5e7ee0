//! The flags of `shears bench`.

use clap::{Args, ValueEnum};

use super::TrainArguments;

/// Time training steps, clipping, or generation
///
/// `--part train`: whole steps (forward, backward, clip, update) on random tokens, after a warm-up.
/// JSON keys: ms_per_step.{min,median,max}, phases.{forward,backward,clip,update}.{min,median,max},
/// tokens_per_second, peak_rss_bytes, memory_estimate_bytes.
///
/// `--part clip`: the clipping policy and the optimizer on random gradients of the model, beside
/// one read of them. `clip` measures and decides and leaves the scaling to the update;
/// `clip_in_place` scales as well. JSON keys:
/// ms.{read,clip,clip_and_update,clip_in_place}.{min,median,max}, parameters, tensors.
///
/// `--part generate`: one text, token by token, at temperature 1, by a model that learned nothing.
/// JSON keys: tokens_per_second.{min,median,max}, tokens, peak_rss_bytes.
///
/// Any training flag overrides the preset; `--steps` is the number of steps, rounds or tokens that
/// are timed [default: 20, 20; of tokens the context, or 500].
#[derive(Args, Debug)]
#[command(after_long_help = BENCH_EXAMPLES)]
pub(crate) struct BenchArguments {
    /// What to time
    #[arg(long, value_enum, default_value_t = BenchPart::Train)]
    pub(crate) part: BenchPart,

    /// Size of the vocabulary; 65 is that of the characters of Tiny Shakespeare
    #[arg(long, value_name = "N", default_value_t = 65, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) vocabulary: u32,

    #[command(flatten)]
    pub(crate) train: TrainArguments,
}

/// A part of the program that can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchPart {
    /// Training steps
    Train,
    /// Clipping and update
    Clip,
    /// Generation
    Generate,
}

const BENCH_EXAMPLES: &str = "Examples:
  shears bench --preset lstm-128 --threads 2
  shears bench --preset gpt-384 --batch 16 --steps 5 --json
  shears bench --part clip --preset gpt-384
  shears bench --part clip --preset gpt-384 --layers 12 --hidden 768 --heads 12 --window 1024 \
      --vocabulary 50257 --tied=false
  shears bench --part generate --preset lstm-512 --steps 300";
