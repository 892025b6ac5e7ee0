//! The predictions of a trained model, for comparison with other programs:
//! `cargo run --release -p shears-exchange --example logits -- SOURCE PROMPT TOKENS FILE`.
//!
//! SOURCE is as for `--init-from`. Continues the prompt, a text or `ids:` with comma-separated ids,
//! by TOKENS most probable tokens, and writes a safetensors file: `tokens` (prompt and
//! continuation) and `logits` `[TOKENS, vocabulary]`, those that each new token was chosen from.
//! `tools/check_export.py` and `tools/check_import.py` run it.

use std::error::Error;
use std::path::Path;

use burn::tensor::Device;
use safetensors::tensor::{Dtype, TensorView};
use shears_exchange::ModelSource;
use shears_generate::{Generator, most_probable};
use shears_model::{
    Architecture, Initializer, LanguageModel, ModelConfig, Transformer, gru, lstm, rnn,
};
use shears_train::{NamedTensor, load_parameters};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, prompt, count, out] = arguments.as_slice() else {
        return Err("four arguments are needed: SOURCE PROMPT TOKENS FILE".into());
    };
    let source = ModelSource::open(Path::new(source))?;
    let prompt = match (prompt.strip_prefix("ids:"), &source.tokenizer) {
        (Some(ids), _) => ids
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<u32>, _>>()?,
        (None, Some((_, tokenizer))) => tokenizer.encode(prompt)?,
        (None, None) => return Err("the model has no tokenizer; give ids:1,2,3".into()),
    };
    let (config, vocabulary, count) = (source.config.clone(), source.vocabulary, count.parse()?);
    let tensors = source.read()?.tensors;
    let (tokens, logits) = predict(&config, vocabulary, tensors, prompt, count)?;
    write(out, &tokens, &logits, count)
}

type Predicted = (Vec<u32>, Vec<f32>);

fn predict(
    config: &ModelConfig,
    vocabulary: usize,
    tensors: Vec<NamedTensor>,
    prompt: Vec<u32>,
    count: usize,
) -> Result<Predicted, Box<dyn Error>> {
    let device = Device::flex();
    let start = &mut Initializer::new(1, &device);
    let model = match config.architecture {
        Architecture::Transformer => {
            let model = Transformer::new(vocabulary, config, start);
            return go_on(&load_parameters(model, tensors)?, &device, prompt, count);
        }
        Architecture::Rnn => rnn(vocabulary, config, start),
        Architecture::Lstm => lstm(vocabulary, config, start),
        Architecture::Gru => gru(vocabulary, config, start),
    };
    go_on(&load_parameters(model, tensors)?, &device, prompt, count)
}

fn go_on<M: LanguageModel>(
    model: &M,
    device: &Device,
    mut tokens: Vec<u32>,
    count: usize,
) -> Result<Predicted, Box<dyn Error>> {
    let mut all = Vec::new();
    let mut generator = Generator::new(model, device);
    generator.read(&tokens)?;
    for _ in 0..count {
        let logits = generator.logits()?;
        let token = most_probable(logits);
        all.extend_from_slice(logits);
        tokens.push(token);
        generator.read(&[token])?;
    }
    Ok((tokens, all))
}

fn write(path: &str, tokens: &[u32], logits: &[f32], count: usize) -> Result<(), Box<dyn Error>> {
    let ids: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
    let values: Vec<u8> = logits
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let shape = vec![count, logits.len() / count.max(1)];
    let tensors = [
        (
            "tokens",
            TensorView::new(Dtype::U32, vec![tokens.len()], &ids)?,
        ),
        ("logits", TensorView::new(Dtype::F32, shape, &values)?),
    ];
    Ok(safetensors::serialize_to_file(
        tensors,
        None,
        Path::new(path),
    )?)
}
