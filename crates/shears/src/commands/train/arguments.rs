//! The flags of `shears train`, and what they ask for.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use shears_train::Setting;
use toml::Value;

use crate::exit::{Misuse, misuse};
use crate::screen;
use crate::settings::{Given, Scope, Settings};
use crate::watch::Show;
use crate::world::World;

/// Train a model on text, or resume a run
///
/// Settings come from the preset, then the config file, then flags. The resolved plan is written to
/// the run's folder as plan.toml, which can serve as a config file. Every flag has a config key of
/// the same name.
///
/// A run's folder holds plan.toml, events.jsonl (one line per step: loss, learning rate, speed, and
/// everything clipping measured), tokenizer.json (Hugging Face format) and checkpoints. Ctrl-C
/// abandons the step, saves and exits; `--resume` takes it again and continues bit for bit, even
/// after a crash or a kill -9.
#[derive(Args, Debug, Default)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct TrainArguments {
    #[command(flatten)]
    pub(crate) settings: Settings<EverySetting>,

    #[command(flatten)]
    pub(crate) outside: Outside,

    /// Settings from a TOML file; every flag has a key of the same name
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = RUN)]
    pub(crate) config: Option<PathBuf>,

    /// Resume a run, bit for bit, from its newest intact checkpoint
    ///
    /// Without RUN, the newest run in runs/. A finished run continues with a larger --steps. These
    /// settings may change: steps, lr, min-lr, clip, max-skips, eval-every, eval-tokens,
    /// save-every, sample-every, patience, keep. Changes are recorded in plan.toml and
    /// events.jsonl. Any other setting that affects the result must be the same, and so must the
    /// folder. The learning rate continues as if the run had had the new settings from its start,
    /// and a new clipping policy starts without history. If the text has moved, name it: `train
    /// TEXT --resume RUN`.
    #[arg(long, value_name = "RUN", num_args = 0..=1)]
    #[arg(value_hint = ValueHint::DirPath, help_heading = RUN)]
    pub(crate) resume: Option<Option<PathBuf>>,
}

/// `shears train` takes all settings.
#[derive(Debug, Default)]
pub(crate) struct EverySetting;

impl Scope for EverySetting {
    fn takes(_: &Setting) -> bool {
        true
    }
}

/// Where to write and how, which is not part of the plan.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Outside {
    /// CPU threads [default: all cores]; any number gives the same bits
    #[arg(long, value_name = "N", help_heading = RUN)]
    pub(crate) threads: Option<usize>,

    /// Folder of the run [default: runs/PRESET-TIME]
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath, help_heading = RUN)]
    pub(crate) out: Option<PathBuf>,

    /// Print JSON lines instead of text
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,

    /// Print nothing but errors and warnings
    #[arg(long, short, help_heading = OUTPUT)]
    pub(crate) quiet: bool,

    /// Also print the shapes of the model, the memory that training takes, and at the end
    /// everything known about the clipping
    #[arg(long, short, help_heading = OUTPUT)]
    pub(crate) verbose: bool,

    /// Write TensorBoard event files to the run's folder: losses, norms, samples, settings
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) tensorboard: bool,

    /// Draw losses, norms and clipping on the full terminal during the run
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) tui: bool,
}

impl Outside {
    /// Whether the run is shown by what begins with its history.
    pub(crate) fn listens(&self) -> bool {
        self.tui || self.tensorboard
    }

    /// Fills what was not given as a flag from the config file.
    pub(crate) fn or(mut self, given: &Given) -> Result<Outside, Misuse> {
        for (key, value) in &given.outside {
            let needed = match (key.as_str(), value) {
                ("out", Value::String(folder)) => {
                    self.out.get_or_insert_with(|| folder.into());
                    continue;
                }
                ("threads", Value::Integer(threads @ 0..)) => {
                    self.threads.get_or_insert(*threads as usize);
                    continue;
                }
                ("out", _) => "a folder in quotes",
                ("threads", _) => "a whole number, at least 1",
                (switch, Value::Boolean(is_on)) => {
                    let switch = match switch {
                        "json" => &mut self.json,
                        "quiet" => &mut self.quiet,
                        "verbose" => &mut self.verbose,
                        "tensorboard" => &mut self.tensorboard,
                        _ => &mut self.tui,
                    };
                    *switch |= is_on;
                    continue;
                }
                _ => "true or false",
            };
            return Err(given.of_config(key, &format!("`{key}`: {value} is not {needed}")));
        }
        Ok(self)
    }
}

/// What the command is asked to do, checked as far as possible without reading the text.
pub(super) struct Asked {
    pub(super) given: Given,
    pub(super) outside: Outside,
    pub(super) resume: Option<Option<PathBuf>>,
    pub(super) show: Show,
}

impl Asked {
    pub(super) fn of(world: &World, arguments: TrainArguments) -> anyhow::Result<Asked> {
        let TrainArguments {
            settings,
            outside,
            config,
            resume,
        } = arguments;
        // Only the first of several processes needs the files; it sends the plan to the others.
        let config = config.filter(|_| world.is_first());
        let given = Given::read(settings.0, config.as_deref())?;
        let mut outside = outside.or(&given)?;
        let Outside {
            json, quiet, tui, ..
        } = outside;
        let conflicts = [
            (json && quiet, "--json and --quiet exclude each other"),
            (
                outside.verbose && (json || quiet),
                "--verbose is for text output; leave out --json and --quiet",
            ),
            (
                resume.is_some() && outside.out.is_some(),
                "a resumed run stays in its folder; leave out --out (or `out` in the config)",
            ),
            (
                tui && !world.is_alone(),
                "--tui takes the terminal, which several processes cannot share; leave it out",
            ),
            (tui && json, "--tui and --json exclude each other"),
            (tui && quiet, "--tui and --quiet exclude each other"),
            (
                tui && !screen::is_possible(),
                "--tui draws on a terminal, and standard output is not one; leave it out",
            ),
        ];
        if let Some((_, problem)) = conflicts.iter().find(|(is_so, _)| *is_so) {
            misuse!("{problem}");
        }
        // Only the first of several processes writes and prints.
        outside.verbose &= world.is_first();
        outside.tensorboard &= world.is_first();
        let show = match (json, quiet || !world.is_first()) {
            (_, true) => Show::Quiet,
            (true, false) => Show::Json,
            (false, false) => Show::Text,
        };
        Ok(Asked {
            given,
            outside,
            resume,
            show,
        })
    }
}

const RUN: &str = "Run";
const OUTPUT: &str = "Output";

const EXAMPLES: &str = "Examples:
  shears train                                            the built-in text, an LSTM
  shears train book.txt --preset gpt-128                  a Transformer
  shears train book.txt --clip value:1 --optimizer sgd --lr 0.5
  cat *.txt | shears train - --tokenizer bpe:1000 --out runs/mine
  shears train --resume runs/mine
  shears train --resume runs/mine --steps 4000 --lr 5e-4";
