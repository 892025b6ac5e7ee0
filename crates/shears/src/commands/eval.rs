//! `shears eval`: how well a trained model predicts a text.

use std::process::ExitCode;
use std::sync::Arc;

use burn::tensor::Device;
use shears_data::{Corpus, DataError, Source};
use shears_model::LanguageModel;
use shears_train::{Evaluation, Streams, evaluate, load_corpora};

use crate::arguments::EvalArguments;
use crate::model::{Trained, Work, device, with_trained_model};
use crate::output::say;

pub(crate) fn run(arguments: &EvalArguments) -> anyhow::Result<ExitCode> {
    super::set_threads(arguments.threads)?;
    let trained = Trained::open(arguments.run.open()?, &arguments.checkpoint)?;
    let (tokens, characters): (Arc<[u32]>, usize) = match &arguments.data {
        Some(path) => {
            let corpus = Corpus::load(&Source::Files(vec![path.clone()]))?;
            let tokens = trained.tokenizer.encode(&corpus.text)?;
            (tokens.into(), corpus.text.chars().count())
        }
        None => {
            let kept = trained.run.input_path();
            let tokenizer = Some(trained.run.tokenizer()?);
            let corpora = load_corpora(&trained.plan, Some(&kept), tokenizer)?;
            (corpora.validation, corpora.validation_characters)
        }
    };
    let device = device(&trained.plan.device);
    let streams = match arguments.exact {
        true => Streams::ONE,
        false => Streams::default(),
    };
    let vocabulary = trained.tokenizer.vocab_size();
    let work = Evaluate {
        tokens,
        characters,
        streams,
        device,
    };
    let evaluation = with_trained_model(&trained.plan, vocabulary, trained.parameters, work)??;
    if arguments.json {
        let mut line = serde_json::to_value(evaluation)?;
        line["checkpoint"] = trained.path.display().to_string().into();
        say!("{line}");
    } else {
        say!("checkpoint {}", trained.path.display());
        say!("val loss {:.4} nats a token", evaluation.val_loss);
        say!("{:.4} bits a character", evaluation.bits_per_char);
        say!(
            "perplexity {:.3} ({} tokens)",
            evaluation.perplexity,
            evaluation.tokens
        );
    }
    Ok(ExitCode::SUCCESS)
}

struct Evaluate {
    tokens: Arc<[u32]>,
    characters: usize,
    streams: Streams,
    device: Device,
}

impl Work for Evaluate {
    type Output = Result<Evaluation, DataError>;

    fn with<M: LanguageModel>(self, model: M) -> Self::Output {
        let Evaluate {
            tokens,
            characters,
            streams,
            device,
        } = self;
        evaluate(&model, &tokens, characters, streams, &device)
    }
}
