//! PyTorch checkpoints: nanoGPT's, and those of recurrent models, whose parts are found by name
//! suffix and shape.

use std::collections::HashMap;
use std::path::Path;

use pytorch_reader::{PickleValue, PytorchReader};
use shears_data::{Tokenizer, TokenizerKind};
use shears_model::{Architecture, ModelConfig, ParameterInfo};

use crate::catalogue::{Catalogue, Origin, Wanted};
use crate::error::ExchangeError;
use crate::foreign;
use crate::names::{Family, LAYERS_MAX, Naming, Piece, SIZE_MAX, model_config, tensors};
use crate::source::{ModelSource, StoredWeights};

/// The prefix that `torch.compile` adds to all names.
const COMPILED: &str = "_orig_mod.";
/// The most tensors that a message names.
const MOST_NAMED: usize = 12;

/// Opens a file: determines its kind, and lists the names and shapes of its weights.
pub(crate) fn open(path: &Path) -> Result<ModelSource, ExchangeError> {
    foreign::check(path)?;
    match PytorchReader::read_pickle_data(path, Some("model_args")) {
        Ok(PickleValue::Dict(arguments)) => nano_gpt(path, &arguments),
        _ => {
            let mut catalogue = Catalogue::default();
            catalogue.add_pytorch(path, None)?;
            recurrent(path, catalogue)
        }
    }
}

/// A nanoGPT checkpoint, with `meta.pkl` beside it if its tokens are characters.
fn nano_gpt(
    path: &Path,
    arguments: &HashMap<String, PickleValue>,
) -> Result<ModelSource, ExchangeError> {
    let size_up_to = |most: u64, key: &str| match arguments.get(key) {
        Some(PickleValue::Int(size)) if (1..=most as i64).contains(size) => Ok(*size as usize),
        _ => {
            let problem = format!("needs a {key} from 1 to {most} in its model_args");
            Err(ExchangeError::refused(path, problem))
        }
    };
    let size = |key: &str| size_up_to(SIZE_MAX, key);
    let (hidden, vocabulary) = (size("n_embd")?, size("vocab_size")?);
    let config = ModelConfig {
        layers: size_up_to(LAYERS_MAX, "n_layer")?,
        heads: size("n_head")?,
        context: size("block_size")?,
        ..model_config(Architecture::Transformer, hidden)
    };
    let valid = config.validate();
    valid.map_err(|error| ExchangeError::refused(path, format!("has no valid model: {error}")))?;
    let has_biases = match arguments.get("bias") {
        None => true,
        Some(PickleValue::Bool(bias)) => *bias,
        Some(_) => {
            let problem = "needs a bias that is True or False in its model_args";
            return Err(ExchangeError::refused(path, problem));
        }
    };
    let mut catalogue = Catalogue::default();
    catalogue.add_pytorch(path, Some("model"))?;
    catalogue.strip_prefix(COMPILED);
    let wanted: Vec<Wanted> = tensors(&config, vocabulary)
        .into_iter()
        .filter_map(|ParameterInfo { name: ours, shape }| {
            let pieces = Naming::HuggingFace.pieces(Family::Gpt2, &config, &ours, &shape)?;
            let is_left_out = !has_biases && ours.ends_with(".bias");
            // nanoGPT uses `nn.Linear`, whose matrices are like ours.
            let pieces = pieces.into_iter().map(|piece| Piece {
                transposed: false,
                ..piece
            });
            let origin = match is_left_out {
                true => Origin::Zeros,
                false => Origin::Files(pieces.collect()),
            };
            Some(Wanted {
                ours,
                shape,
                origin,
            })
        })
        .collect();
    catalogue.check(path, &wanted, |name| {
        name == "lm_head.weight" || name.ends_with(".attn.bias")
    })?;
    let (layers, hidden) = (config.layers, config.hidden);
    Ok(ModelSource {
        description: format!("a nanoGPT checkpoint, {layers} x {hidden}"),
        config,
        vocabulary,
        tokenizer: characters(&path.with_file_name("meta.pkl"))?,
        end_token: None,
        weights: StoredWeights::Files {
            catalogue,
            wanted,
            beside: Vec::new(),
        },
    })
}

/// The characters of nanoGPT's `meta.pkl`, by id.
fn characters(path: &Path) -> Result<Option<(TokenizerKind, Tokenizer)>, ExchangeError> {
    if !path.is_file() {
        return Ok(None);
    }
    let refused = |problem: &str| ExchangeError::refused(path, problem);
    foreign::check(path)?;
    let read = PytorchReader::read_pickle_data(path, Some("itos"));
    let Ok(PickleValue::Dict(by_id)) = read else {
        return Err(refused("lacks itos, the characters by id"));
    };
    let character = |id: usize| match by_id.get(&id.to_string()) {
        Some(PickleValue::String(text)) => {
            let mut characters = text.chars();
            characters.next().filter(|_| characters.next().is_none())
        }
        _ => None,
    };
    let symbols: Option<Vec<char>> = (0..by_id.len()).map(character).collect();
    let symbols =
        symbols.ok_or_else(|| refused("has an itos with an entry that is not one character"))?;
    let tokenizer = Tokenizer::of_characters(&symbols)?;
    Ok(Some((TokenizerKind::Char, tokenizer)))
}

/// A recurrent model of any class: its one RNN, one embedding and one linear layer.
pub(crate) fn recurrent(path: &Path, catalogue: Catalogue) -> Result<ModelSource, ExchangeError> {
    let found = Found { path, catalogue };
    let (config, vocabulary, wanted) = found.parts()?;
    found
        .catalogue
        .check(path, &wanted, |name| name.contains("optim"))?;
    let (cell, layers, hidden) = (config.architecture, config.layers, config.hidden);
    Ok(ModelSource {
        description: format!("a PyTorch {cell}, {layers} x {hidden}"),
        config,
        vocabulary,
        tokenizer: None,
        end_token: None,
        weights: StoredWeights::Files {
            catalogue: found.catalogue,
            wanted,
            beside: Vec::new(),
        },
    })
}

/// The tensors of a file that may contain a recurrent model.
struct Found<'a> {
    path: &'a Path,
    catalogue: Catalogue,
}

impl Found<'_> {
    fn parts(&self) -> Result<(ModelConfig, usize, Vec<Wanted>), ExchangeError> {
        let names = || self.catalogue.tensors.keys();
        for (part, what) in [
            ("_reverse", "bidirectional models"),
            ("weight_hr_l", "models with projections"),
        ] {
            if let Some(name) = names().find(|name| name.contains(part)) {
                let problem = format!("has `{name}`: {what} are not supported");
                return Err(ExchangeError::refused(self.path, problem));
            }
        }
        let first = self.one("RNN", names().filter(|name| name.ends_with("weight_ih_l0")))?;
        let prefix = first
            .strip_suffix("weight_ih_l0")
            .unwrap_or_default()
            .to_string();
        let (rows, inputs) = self.matrix(&first)?;
        let (_, hidden) = self.matrix(&format!("{prefix}weight_hh_l0"))?;
        let cell = match rows / hidden.max(1) {
            1 => Architecture::Rnn,
            3 => Architecture::Gru,
            4 => Architecture::Lstm,
            gates => {
                let problem = format!("has an RNN with {gates} gates, which PyTorch does not have");
                return Err(ExchangeError::refused(self.path, problem));
            }
        };
        let (layers, mut wanted) = self.layers(&prefix, rows, inputs, hidden);
        let is_of_rnn = |name: &str| {
            let parts = ["weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l"];
            parts.iter().any(|part| name.contains(part))
        };
        let bias_of = |name: &str| name.replace("weight", "bias");
        let has_bias = |name: &&String| self.catalogue.tensors.contains_key(&bias_of(name));
        let others = || names().filter(|name| !is_of_rnn(name));
        let output = others().filter(|name| self.matrix(name).is_ok_and(|(_, of)| of == hidden));
        let output = self.one("output layer", output.filter(has_bias))?;
        let (vocabulary, _) = self.matrix(&output)?;
        let embedding = others().filter(|name| **name != output);
        let embedding: Vec<&String> = embedding
            .filter(|name| {
                self.matrix(name)
                    .is_ok_and(|shape| shape == (vocabulary, inputs))
            })
            .collect();
        let origin = match embedding.as_slice() {
            [] if inputs == vocabulary => Origin::Identity,
            _ => whole(self.one("embedding", embedding.into_iter())?, vocabulary),
        };
        wanted.push(Wanted {
            ours: "embedding.weight".to_string(),
            shape: vec![vocabulary, inputs],
            origin,
        });
        wanted.push(self.wanted("output.bias".into(), vec![vocabulary], bias_of(&output)));
        wanted.push(self.wanted("output.weight".into(), vec![vocabulary, hidden], output));
        let config = ModelConfig {
            layers,
            embedding: inputs,
            ..model_config(cell, hidden)
        };
        Ok((config, vocabulary, wanted))
    }

    /// The number of layers of the RNN, and their tensors.
    fn layers(
        &self,
        prefix: &str,
        rows: usize,
        inputs: usize,
        hidden: usize,
    ) -> (usize, Vec<Wanted>) {
        let is_there = |layer: &usize| {
            let name = format!("{prefix}weight_ih_l{layer}");
            self.catalogue.tensors.contains_key(&name)
        };
        let layers = (0..).take_while(is_there).count();
        let mut wanted = Vec::new();
        for layer in 0..layers {
            let columns = if layer == 0 { inputs } else { hidden };
            for (part, shape) in [
                ("weight_ih", vec![rows, columns]),
                ("weight_hh", vec![rows, hidden]),
                ("bias_ih", vec![rows]),
                ("bias_hh", vec![rows]),
            ] {
                let theirs = format!("{prefix}{part}_l{layer}");
                wanted.push(self.wanted(format!("layers.{layer}.{part}"), shape, theirs));
            }
        }
        (layers, wanted)
    }

    /// A tensor of the file, or zeros for a bias that the file lacks.
    fn wanted(&self, ours: String, shape: Vec<usize>, theirs: String) -> Wanted {
        let is_there = self.catalogue.tensors.contains_key(&theirs);
        let is_bias = shape.len() == 1;
        let origin = match is_there || !is_bias {
            true => whole(theirs, shape[0]),
            false => Origin::Zeros,
        };
        Wanted {
            ours,
            shape,
            origin,
        }
    }

    /// The rows and columns of a matrix.
    fn matrix(&self, name: &str) -> Result<(usize, usize), ExchangeError> {
        let shape = self
            .catalogue
            .tensors
            .get(name)
            .map(|stored| stored.shape.as_slice());
        match shape {
            Some([rows, columns]) => Ok((*rows, *columns)),
            _ => Err(ExchangeError::refused(
                self.path,
                format!("has no matrix `{name}`"),
            )),
        }
    }

    /// The name, if there is exactly one.
    fn one<'n>(
        &self,
        what: &str,
        mut names: impl Iterator<Item = &'n String>,
    ) -> Result<String, ExchangeError> {
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(name.clone()),
            (first, _) => {
                let how_many = if first.is_none() {
                    "no"
                } else {
                    "more than one"
                };
                let problem = format!(
                    "has {how_many} {what} that can be recognised by name and shape; it has {}",
                    self.list()
                );
                Err(ExchangeError::refused(self.path, problem))
            }
        }
    }

    fn list(&self) -> String {
        let tensors = self.catalogue.tensors.iter().take(MOST_NAMED);
        let named = tensors.map(|(name, stored)| {
            let name: String = name.chars().take(60).collect();
            format!("`{name}` {:?}", stored.shape)
        });
        let list = named.collect::<Vec<_>>().join(", ");
        match self.catalogue.tensors.len().saturating_sub(MOST_NAMED) {
            0 if list.is_empty() => "no tensor".to_string(),
            0 => list,
            more => format!("{list} and {more} more"),
        }
    }
}

/// A whole tensor of the file, with this many rows.
fn whole(name: String, rows: usize) -> Origin {
    Origin::Files(vec![Piece {
        name,
        rows: 0..rows,
        transposed: false,
        interleaved: None,
    }])
}
