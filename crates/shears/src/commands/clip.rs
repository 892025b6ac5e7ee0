//! `shears clip`: clips gradients that another program saved, and reports what that did.

mod history;
mod order;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueHint};
use gradclip::{
    AsElements, ClipAction, ClipPolicy, ClipReport, Clipper, Gradient, Gradients, NonFinite,
    Unscaled,
};

use crate::exit::{Misuse, misuse};
use crate::gradient_files::{OtherTypes, TensorFile};
use crate::new_file::resolved;
use crate::output::{complain, one_line};
use crate::settings::checked;
use report::Reporter;
use shears_run::{create_folders, folder_of};

/// Clip gradients that another program saved
///
/// Each file holds the named gradients of one step, of type F64, F32, F16 or BF16. Several files
/// are consecutive steps of one run; an adaptive policy sees them in that order. Any framework can
/// write them. In PyTorch, after loss.backward():
///
/// from safetensors.torch import save_file
///
/// save_file({n: p.grad for n, p in model.named_parameters()}, "step0.safetensors")
///
/// (with `if p.grad is not None` inside the braces if some parameters are frozen). Files in --out
/// keep names, shapes, types and metadata; gradients that are not clipped keep their bits.
///
/// JSON keys: step, action (keep, clip or skip), norm_before, norm_after, coefficient, threshold,
/// non_finite, rounded_to_zero, tensors.[].{name, norm_before, norm_after, coefficient,
/// non_finite}. Values that are not finite are null. rounded_to_zero counts elements that became
/// zero because the result is too small for their type.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ClipArguments {
    /// Safetensors files of gradients, one per step
    ///
    /// Files in alphabetical order, as a shell expands a pattern, are sorted by the numbers in
    /// their names: step2 before step10.
    #[arg(required = true, value_name = "STEP", value_hint = ValueHint::FilePath)]
    pub(crate) steps: Vec<PathBuf>,

    /// Clipping policy as for `train --clip`: rules such as global-norm:1, joined by `+`, or none
    ///
    /// `agc` compares gradients with --params. It expects output units on the last axis, as in Burn
    /// and JAX; for files from PyTorch use agc:0.01,unit=first. Rules that work inside Adam
    /// (update-rms, spam) are refused.
    #[arg(long, value_name = "POLICY", value_parser = checked::<ClipPolicy>)]
    pub(crate) clip: String,

    /// Safetensors file of the parameters, named like their gradients; `agc` needs it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) params: Option<PathBuf>,

    /// A tensor of the output layer, which `agc` does not clip; repeatable
    #[arg(long, value_name = "NAME")]
    pub(crate) output_layer: Vec<String>,

    /// File with the state of an adaptive policy; read at the start, and updated when all steps are
    /// done
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) state: Option<PathBuf>,

    /// What to do with a gradient that has a NaN or an infinity: error, skip, zero
    ///
    /// `error` names the tensors and exits with code 1; files of earlier steps remain. `skip` drops
    /// the step: no file is written, and the policy learns nothing from it. `zero` sets those
    /// elements to zero.
    #[arg(long, value_name = "RULE", value_parser = checked::<NonFinite>, default_value = "error")]
    pub(crate) non_finite: String,

    /// Folder for the clipped gradients, under the names of their files [default: none; nothing is
    /// written]
    ///
    /// Created if it does not exist. Existing files in it are replaced, but never an input.
    #[arg(long, alias = "out-dir", value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,

    /// Print one JSON object per step
    #[arg(long)]
    pub(crate) json: bool,
}

const EXAMPLES: &str = "Examples:
  shears clip step0.safetensors --clip global-norm:1
  shears clip grads/*.safetensors --clip zclip --non-finite skip --out clipped
  shears clip step0.safetensors --clip agc:0.01,unit=first --params model.safetensors
  shears clip step0.safetensors --clip value:5+global-norm:1 --json
  shears clip step7.safetensors --clip autoclip:10 --state history.json --out clipped";

pub(crate) fn run(arguments: &ClipArguments) -> anyhow::Result<ExitCode> {
    let policy: ClipPolicy = arguments.clip.parse()?;
    let non_finite: NonFinite = arguments.non_finite.parse()?;
    check_policy(&policy, arguments)?;
    let sources = check_sources(arguments)?;
    if let Some(folder) = &arguments.out {
        check_targets(folder, arguments, &sources)?;
    }
    let params = arguments.params.as_deref();
    let params = params.map(Parameters::read).transpose()?;
    if let Some(file) = &arguments.state {
        check_state(file, arguments, &sources)?;
    }
    if let Some(folder) = &arguments.out {
        let create = create_folders(folder);
        create.with_context(|| format!("cannot create {}", folder.display()))?;
        // A path like `new/..` only resolves now.
        check_targets(folder, arguments, &sources)?;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut reporter = Reporter::new(arguments, &policy, non_finite);
    let mut clipper = Clipper::new(policy, non_finite)?
        .with_threads(threads)
        .with_output_layer(&arguments.output_layer);
    if let Some(file) = &arguments.state {
        history::restore(&mut clipper, file)?;
    }
    let ordered = order::by_number(&arguments.steps);
    if ordered.is_some() {
        complain!("shears: sorting the files by the numbers in their names");
    }
    let steps = ordered.as_ref().unwrap_or(&arguments.steps);
    // If this call fails, the output of an earlier one must not be mistaken for its own.
    for target in steps.iter().filter_map(|path| target(arguments, path)) {
        remove(&target)?;
    }
    let mut names = Names::default();
    for (step, path) in steps.iter().enumerate() {
        let file = TensorFile::read(path, OtherTypes::Refuse)?;
        names.check(path, &file);
        let target = target(arguments, path);
        let report = clip_file(&mut clipper, path, file, params.as_ref(), target)?;
        reporter.step(step, path, &report)?;
    }
    if let Some(file) = &arguments.state {
        history::save(&clipper, file)?;
    }
    reporter.end();
    Ok(ExitCode::SUCCESS)
}

fn remove(file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// The names of the tensors of the first file, which later files should have as well.
#[derive(Default)]
struct Names(Option<(PathBuf, BTreeSet<String>)>);

impl Names {
    fn check(&mut self, path: &Path, file: &TensorFile) {
        let here: BTreeSet<String> = file.tensors.iter().map(|t| t.name.clone()).collect();
        let (first, there) = self
            .0
            .get_or_insert_with(|| (path.to_path_buf(), here.clone()));
        let missing = there
            .difference(&here)
            .map(|name| format!("lacks `{name}`"));
        let more = here.difference(there).map(|name| format!("has `{name}`"));
        if let Some(difference) = missing.chain(more).next() {
            let (path, first) = (path.display(), first.display());
            let difference = one_line(&difference);
            complain!("shears: warning: {path} has other tensors than {first}: it {difference}");
        }
    }
}

/// Clips one step, and writes it unless it is skipped.
fn clip_file(
    clipper: &mut Clipper,
    path: &Path,
    file: TensorFile,
    params: Option<&Parameters>,
    target: Option<PathBuf>,
) -> anyhow::Result<ClipReport> {
    if let Some(params) = params {
        params.check(path, &file)?;
    }
    let mut step = Step { file, params };
    let outcome = clipper.clip(Unscaled::single(&mut step));
    let outcome = outcome.with_context(|| path.display().to_string())?;
    let report = outcome.report().clone();
    match target {
        Some(target) if report.action != ClipAction::Skip => step.file.write(&target)?,
        _ => {}
    }
    Ok(report)
}

/// The gradients of one file, with their parameters.
struct Step<'a> {
    file: TensorFile,
    params: Option<&'a Parameters>,
}

impl Gradients for Step<'_> {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for tensor in &mut self.file.tensors {
            let params = self
                .params
                .and_then(|params| params.file.tensor(&tensor.name));
            let elements = tensor.values.as_elements();
            let gradient = Gradient::new(&tensor.name, elements).with_shape(&tensor.shape);
            visitor(match params {
                Some(params) => gradient.with_parameter(params.values.values()),
                None => gradient,
            });
        }
    }
}

/// The parameters of the model, for `agc`.
struct Parameters {
    path: PathBuf,
    file: TensorFile,
}

impl Parameters {
    /// Reads them, without tensors of other types, such as counters.
    fn read(path: &Path) -> anyhow::Result<Parameters> {
        Ok(Parameters {
            path: path.to_path_buf(),
            file: TensorFile::read(path, OtherTypes::LeaveOut)?,
        })
    }

    /// Checks that each gradient has a parameter of the same shape.
    fn check(&self, path: &Path, gradients: &TensorFile) -> anyhow::Result<()> {
        let (path, params) = (path.display(), self.path.display());
        for gradient in &gradients.tensors {
            let (name, shape) = (&gradient.name, &gradient.shape);
            match self.file.tensor(name) {
                None => bail!(
                    "{path}: the parameter of gradient `{name}` is not in {params}, or not of \
                     type F64, F32, F16 or BF16"
                ),
                Some(param) if param.shape != *shape => bail!(
                    "{path}: gradient `{name}` has shape {shape:?}, and its parameter in \
                     {params} has {:?}",
                    param.shape
                ),
                Some(param) if !param.is_finite() => {
                    bail!("{params}: parameter `{name}` has values that are not finite")
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// The file for the clipped gradients of this file.
fn target(arguments: &ClipArguments, path: &Path) -> Option<PathBuf> {
    let folder = arguments.out.as_ref()?;
    Some(folder.join(path.file_name()?))
}

fn check_policy(policy: &ClipPolicy, arguments: &ClipArguments) -> Result<(), Misuse> {
    if let Some(rule) = policy.rules_inside_adam().next() {
        let name = rule.name();
        misuse!(
            "`{name}` works inside Adam, on its moments and its update, which a file of gradients \
             does not have; `shears train --clip {name}:...` has them"
        );
    }
    if policy.needs_parameters() && arguments.params.is_none() {
        misuse!("`agc` compares gradients with parameters; give them with --params FILE");
    }
    let unused = [
        (arguments.params.is_some(), "--params"),
        (!arguments.output_layer.is_empty(), "--output-layer"),
    ];
    let unused = unused.into_iter().find(|(is_given, _)| *is_given);
    if let Some((_, flag)) = unused.filter(|_| !policy.needs_parameters()) {
        misuse!("{flag} is about `agc`, which is not in {policy}; leave it out");
    }
    Ok(())
}

/// The input files, with their canonical paths.
fn check_sources(arguments: &ClipArguments) -> Result<Vec<(PathBuf, &Path)>, Misuse> {
    let paths = arguments.steps.iter().chain(&arguments.params);
    let mut sources = Vec::new();
    for path in paths {
        let fail = |problem: String| Misuse(format!("{} {problem}", path.display()));
        let found = fs::canonicalize(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => fail("does not exist".into()),
            _ => fail(format!("cannot be read: {error}")),
        })?;
        if !found.is_file() {
            return Err(fail("is not a file".into()));
        }
        sources.push((found, path.as_path()));
    }
    Ok(sources)
}

/// Refuses a history that would replace another file of this call, or whose folder does not exist.
fn check_state(
    file: &Path,
    arguments: &ClipArguments,
    sources: &[(PathBuf, &Path)],
) -> Result<(), Misuse> {
    let folder = folder_of(file);
    if !folder.is_dir() {
        misuse!(
            "--state {}: there is no folder {}",
            file.display(),
            folder.display()
        );
    }
    let state = resolved(file);
    let targets = arguments.steps.iter();
    let mut targets = targets.filter_map(|path| target(arguments, path));
    let is_target = targets.any(|target| resolved(&target) == state);
    let is_source = sources
        .iter()
        .any(|(source, _)| Some(source) == state.as_ref());
    if is_target || is_source {
        misuse!("--state {} is another file of this call", file.display());
    }
    Ok(())
}

/// Refuses to overwrite an input, and to write two steps to one file.
fn check_targets(
    folder: &Path,
    arguments: &ClipArguments,
    sources: &[(PathBuf, &Path)],
) -> Result<(), Misuse> {
    if folder.exists() && !folder.is_dir() {
        misuse!("--out {} is not a folder", folder.display());
    }
    let mut names: BTreeMap<&OsStr, &Path> = BTreeMap::new();
    for path in &arguments.steps {
        let name = path.file_name().unwrap_or_default();
        let target = folder.join(name);
        if let Some(other) = names.insert(name, path) {
            let [other, path, target] = [other, path, &target].map(Path::display);
            misuse!("{other} and {path} would both be written to {target}");
        }
        let Ok(existing) = fs::canonicalize(&target) else {
            continue;
        };
        if !existing.is_file() {
            let target = target.display();
            misuse!("{target} exists and is not a regular file; choose another --out");
        }
        if let Some((_, source)) = sources.iter().find(|(source, _)| *source == existing) {
            misuse!(
                "{} would be overwritten by the clipped gradients; choose another --out",
                source.display()
            );
        }
    }
    Ok(())
}
