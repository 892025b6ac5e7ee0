//! Exporting the model of a run for another program.

use std::path::Path;

use anyhow::anyhow;
use shears_exchange::{
    Card, ExchangeError, GgufType, TrainedModel, export_gguf, export_huggingface, export_pytorch,
};
use shears_run::{Subject, checkpoint_step};
use shears_train::{Plan, RunFolder, Section, Which};

use super::{Dtype, ExportArguments, ExportFormat};
use crate::exit::misuse;
use crate::model::Trained;
use crate::new_file::{self, NewFolder};
use crate::output::say;
use crate::report;
use crate::run_log;
use crate::settings::plain;
use crate::watch::remove_when_asked;

pub(super) fn export(
    arguments: &ExportArguments,
    run: RunFolder,
    format: ExportFormat,
) -> anyhow::Result<()> {
    let Some(out) = &arguments.out else {
        misuse!("a model is exported to a folder; give one with --out FOLDER");
    };
    new_file::check_folder(out, &[])?;
    let trained = Trained::open(run, arguments.checkpoint.unwrap_or(Which::Best))?;
    let model = TrainedModel {
        config: trained.plan.model_config(),
        card: card_of(&trained)?,
        tensors: trained.parameters,
        tokenizer: &trained.tokenizer,
        end_token: trained.plan.end_token,
    };
    // The folder appears under its name once it is complete.
    let folder = NewFolder::beside(out)?;
    remove_when_asked(folder.path())?;
    let written = match format {
        ExportFormat::Gguf => export_gguf(&model, gguf_type(arguments), folder.path()),
        ExportFormat::Pytorch => export_pytorch(&model, folder.path()),
        _ => export_huggingface(&model, folder.path()),
    };
    written.map_err(|error| under_its_name(error, folder.path(), out))?;
    folder.put_in_place(out)?;
    say!("{} from {}", out.display(), trained.path.display());
    Ok(())
}

/// The error with the name that was given: the temporary folder is gone when it is read.
fn under_its_name(error: ExchangeError, temporary: &Path, out: &Path) -> anyhow::Error {
    let is_of_files = matches!(error, ExchangeError::Run(_));
    let error = anyhow::Error::from(error);
    let [temporary, out] = [temporary, out].map(|path| path.display().to_string());
    match is_of_files {
        true => anyhow!(format!("{error:#}").replace(&temporary, &out)),
        false => error,
    }
}

fn gguf_type(arguments: &ExportArguments) -> GgufType {
    match arguments.dtype.unwrap_or(Dtype::F32) {
        Dtype::F32 => GgufType::F32,
        Dtype::F16 => GgufType::F16,
        Dtype::Q8 => GgufType::Q8,
    }
}

/// The model card of the run.
fn card_of(trained: &Trained) -> anyhow::Result<Card> {
    let folder = trained.run.path();
    // A run that was resumed with other settings has a plan that this checkpoint never had.
    let saved = trained.run.checkpoints().load_plan(&trained.path);
    let plan = &saved.unwrap_or_else(|_| trained.plan.clone());
    let mut columns = run_log::read(&trained.run)?.columns;
    let mut facts = settings_of(plan);
    let step = checkpoint_step(&trained.path).unwrap_or(0);
    columns.truncate(step + 1);
    // The run was resumed from this checkpoint with other settings.
    columns.changes.retain(|change| change.step < step);
    let mut fact = |name: &str, value: String| facts.push((name.to_string(), value));
    fact(
        "checkpoint",
        format!(
            "step {} of {}",
            report::count(step),
            report::count(plan.steps)
        ),
    );
    let evaluated = columns.evaluations.iter().rfind(|found| found.step == step);
    if let Some(found) = evaluated {
        let (loss, bits) = (found.val_loss, found.bits_per_char);
        fact(
            "validation loss",
            format!("{loss:.4} nats per token, {bits:.4} bits per character"),
        );
    }
    fact("clipping", plan.clip.to_string());
    if columns.rows() > 0 {
        let subject = Subject {
            policy: plan.clip.clone(),
            lr: Some(plan.lr),
            ..Subject::of(folder)
        };
        let verdict = columns.judge(&subject).verdict;
        fact(
            "what clipping did",
            format!("{}; {}", verdict.sentence, verdict.numbers),
        );
    }
    fact(
        "trained by",
        format!("shears {}", env!("CARGO_PKG_VERSION")),
    );
    let name = folder.file_name().unwrap_or(folder.as_os_str());
    Ok(Card {
        name: name.to_string_lossy().into_owned(),
        facts,
    })
}

/// The settings that matter for using the model, or for training it again.
fn settings_of(plan: &Plan) -> Vec<(String, String)> {
    let plan = &plan.with_sizes();
    let mut facts = vec![("SHA-256 of the text".to_string(), plan.text_sha256.clone())];
    for setting in Plan::settings()
        .iter()
        .filter(|setting| setting.belongs(plan))
    {
        let name = setting.name.as_str();
        let matters = match setting.section {
            // Where the text was stored is private.
            Section::Text => name == "tokenizer",
            Section::Run => ["steps", "seed"].contains(&name),
            Section::Clipping => name == "non-finite",
            _ => true,
        };
        if let Some(value) = setting.value_in(plan).filter(|_| matters) {
            facts.push((name.to_string(), plain(&value)));
        }
    }
    facts
}
