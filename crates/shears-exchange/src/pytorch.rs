//! Exports a recurrent model under PyTorch's names, with a class that loads it, and imports it.

use std::path::Path;

use serde_json::{Value, json};
use shears_model::{Architecture, ModelConfig};

use crate::beside::{write_json, write_tokenizer};
use crate::catalogue::Catalogue;
use crate::checkpoint::recurrent;
use crate::error::ExchangeError;
use crate::export::TrainedModel;
use crate::foreign::unexpected;
use crate::huggingface::open_tokenizer;
use crate::safetensors_file::{self, Written};
use crate::source::{ModelSource, StoredWeights};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// Writes into an existing folder: weights under the names of `torch.nn`, config, tokenizer, and a
/// README with a class that loads them.
///
/// # Errors
///
/// [`ExchangeError::Unsupported`] for a Transformer; or if a file cannot be written.
pub fn export_pytorch(model: &TrainedModel<'_>, folder: &Path) -> Result<(), ExchangeError> {
    if model.config.architecture == Architecture::Transformer {
        return Err(ExchangeError::Unsupported {
            format: "pytorch",
            what: "a Transformer".to_string(),
            instead: "--format huggingface writes it".to_string(),
        });
    }
    let mut tensors = Vec::new();
    for tensor in &model.tensors {
        tensors.push(Written::whole(tensor, their_name(&tensor.name)?));
        if model.config.tied && tensor.name == "embedding.weight" {
            // A safetensors file stores no tensor under two names.
            tensors.push(Written::whole(tensor, "decoder.weight".to_string()));
        }
    }
    safetensors_file::write(&folder.join(WEIGHTS), tensors)?;
    write_json(folder, CONFIG, &config(model))?;
    write_tokenizer(folder, model.tokenizer.json())?;
    model
        .card
        .write(folder, "", &format!("{USAGE}{CODE}{AFTER}"))
}

fn their_name(ours: &str) -> Result<String, ExchangeError> {
    let of_layer = || {
        let (index, weight) = ours.strip_prefix("layers.")?.split_once('.')?;
        Some(format!("rnn.{weight}_l{index}"))
    };
    let name = match ours {
        "embedding.weight" => Some("encoder.weight".to_string()),
        "output.weight" => Some("decoder.weight".to_string()),
        "output.bias" => Some("decoder.bias".to_string()),
        _ => of_layer(),
    };
    name.ok_or_else(|| ExchangeError::Unsupported {
        format: "pytorch",
        what: format!("`{ours}`"),
        instead: "only models of its own can be exported".to_string(),
    })
}

fn config(model: &TrainedModel<'_>) -> Value {
    let mut json = shape(&model.config, model.vocabulary());
    json["dropout"] = model.config.dropout.into();
    json["shears"] = model.card.json();
    json
}

/// The keys of `config.json` that determine the model.
fn shape(config: &ModelConfig, vocabulary: usize) -> Value {
    let mut json = json!({
        "cell": config.architecture.name(),
        "vocab_size": vocabulary,
        "embedding_size": config.embedding,
        "hidden_size": config.hidden,
        "num_layers": config.layers,
        "tied": config.tied,
    });
    if config.architecture == Architecture::Rnn {
        json["nonlinearity"] = config.nonlinearity.name().into();
    }
    json
}

/// Opens a folder that [`export_pytorch`] wrote, with this `config.json`.
pub(crate) fn open(folder: &Path, config: &Value) -> Result<ModelSource, ExchangeError> {
    let config_path = folder.join(CONFIG);
    let refused = |key: &str, expected: &str| unexpected(&config_path, key, &config[key], expected);
    let mut catalogue = Catalogue::default();
    catalogue.add_safetensors(&folder.join(WEIGHTS))?;
    let mut source = recurrent(folder, catalogue)?;
    let model = &mut source.config;
    // The weights do not say these.
    let tied = config["tied"].as_bool();
    model.tied = tied.ok_or_else(|| refused("tied", "true or false"))?;
    if model.architecture == Architecture::Rnn {
        let name = config["nonlinearity"].as_str();
        let known = name.and_then(|name| name.parse().ok());
        model.nonlinearity = known.ok_or_else(|| refused("nonlinearity", "tanh or relu"))?;
    }
    for (key, found) in shape(model, source.vocabulary)
        .as_object()
        .into_iter()
        .flatten()
    {
        if config[key] != *found {
            return Err(refused(key, &format!("{found}, as its weights have it")));
        }
    }
    let valid = model.validate();
    valid.map_err(|error| {
        ExchangeError::refused(&config_path, format!("has no valid model: {error}"))
    })?;
    if let StoredWeights::Files { wanted, beside, .. } = &mut source.weights {
        // It is there twice.
        wanted.retain(|wanted| !model.tied || wanted.ours != "output.weight");
        beside.push(config_path);
    }
    source.tokenizer = open_tokenizer(folder)?;
    Ok(source)
}

const USAGE: &str = "
A text generator trained by Shears: an embedding, recurrent layers and a linear layer, with the
names and the gate order of `torch.nn`. In this folder:

";

const CODE: &str = r#"```python
import json, torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

class Generator(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        cell = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[config["cell"]]
        more = {key: config[key] for key in ["nonlinearity"] if key in config}
        self.encoder = torch.nn.Embedding(config["vocab_size"], config["embedding_size"])
        self.rnn = cell(config["embedding_size"], config["hidden_size"], config["num_layers"],
                        batch_first=True, **more)
        self.decoder = torch.nn.Linear(config["hidden_size"], config["vocab_size"])

    def forward(self, tokens, state=None):
        output, state = self.rnn(self.encoder(tokens), state)
        return self.decoder(output), state

model = Generator(json.load(open("config.json"))).eval()
model.load_state_dict(load_file("model.safetensors"))
tokenizer = Tokenizer.from_file("tokenizer.json")
logits, state = model(torch.tensor([tokenizer.encode("The ").ids]))
```
"#;

const AFTER: &str = "
For a text, sample from `logits[0, -1]` and call `model` with the new token and `state`. Dropout in
training acts after each layer, including the last.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_their_number_at_the_end() {
        let name = |ours| their_name(ours).unwrap();
        assert_eq!(name("layers.1.weight_hh"), "rnn.weight_hh_l1");
        assert_eq!(name("output.bias"), "decoder.bias");
        assert!(their_name("blocks.0.norm_1.weight").is_err());
    }
}
