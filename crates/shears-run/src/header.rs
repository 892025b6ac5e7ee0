//! The first line of a log: the model and the machine that it describes.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// The format of logs that this program writes. Format 1 had no header.
pub const FORMAT: u32 = 2;

/// No tensor has more elements: sums over all tensors do not overflow.
const ELEMENTS_MAX: u64 = 1 << 40;

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
    /// Its shape, with 1 to 2^40 elements.
    #[serde(deserialize_with = "countable")]
    pub shape: Vec<usize>,
}

/// A shape whose elements can be counted and divided by.
fn countable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    let shape = Vec::<usize>::deserialize(deserializer)?;
    let mut sizes = shape.iter().map(|size| *size as u64);
    match sizes.try_fold(1, u64::checked_mul) {
        Some(1..=ELEMENTS_MAX) => Ok(shape),
        _ => Err(D::Error::custom(
            "has a shape without elements, or with too many",
        )),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_a_countable_number_of_elements() {
        let read = |shape: &str| {
            let parameter = format!("{{\"name\":\"a\",\"layer\":\"a\",\"shape\":{shape}}}");
            let parameter: Parameter = serde_json::from_str(&parameter).ok()?;
            Some(parameter.elements())
        };
        assert_eq!(read("[]"), Some(1));
        assert_eq!(read("[50257,768]"), Some(38_597_376));
        assert_eq!(read("[1048576,1048576]"), Some(1 << 40));
        for shape in [
            "[0]",
            "[3,0]",
            "[1048577,1048576]",
            "[4294967296,4294967296]",
        ] {
            assert_eq!(read(shape), None, "{shape}");
        }
        let max = usize::MAX;
        assert_eq!(read(&format!("[{max},{max}]")), None);
    }
}
