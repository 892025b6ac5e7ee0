//! The first line of a log: the model and the machine that it describes.

use serde::{Deserialize, Serialize};

/// The format of logs that this program writes. Format 1 had no header.
pub const FORMAT: u32 = 2;

/// What a reader of a log needs to know about the model and the machine, so that nobody builds a
/// model to read a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format of the lines that follow; see [`FORMAT`].
    pub format: u32,
    /// All trained parameters, in the order of the forward pass.
    pub parameters: Vec<Parameter>,
    /// Where tensors live, for example `cpu`.
    pub device: String,
    /// Precision of the products with weights: `f32` or `bf16`.
    pub precision: String,
}

/// A parameter of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// The path of the tensor in the model, for example `layers.0.weight_hh`.
    pub name: String,
    /// The layer it belongs to, for example `layers.0`.
    pub layer: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Parameter {
    /// Whether it is a matrix, and not a bias or a gain.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() > 1
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Header {
    /// The layers in the order of the forward pass, each with its parameters.
    pub fn layers(&self) -> Vec<(&str, Vec<&Parameter>)> {
        let mut layers: Vec<(&str, Vec<&Parameter>)> = Vec::new();
        for parameter in &self.parameters {
            // A parameter shared by two layers may come between those of another one.
            match layers.iter_mut().find(|(name, _)| *name == parameter.layer) {
                Some((_, members)) => members.push(parameter),
                None => layers.push((&parameter.layer, vec![parameter])),
            }
        }
        layers
    }
}
