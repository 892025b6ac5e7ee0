//! Gradients of every storage type, with shapes and parameters, as from an adapter.

pub(crate) use gradclip::Buffer;
use gradclip::{AsElements, ClipReport, Clipper, Gradient, Gradients, Unscaled};
use half::{bf16, f16};

use crate::fuzzing::Random;
use crate::support::parts;

pub(crate) const STORAGES: [&str; 4] = ["f32", "f64", "f16", "bf16"];

/// What the tests do with a [`Buffer`].
pub(crate) trait Stored {
    /// Rounds to the storage type.
    fn of(storage: &str, values: &[f64]) -> Self;
    /// Exact.
    fn to_f64(&self) -> Vec<f64>;
    /// The bits of the storage, including NaN payloads.
    fn bits(&self) -> Vec<u64>;
    /// Replaces one element.
    fn set(&mut self, index: usize, value: f64);
}

impl Stored for Buffer {
    fn of(storage: &str, values: &[f64]) -> Buffer {
        let values = values.iter().copied();
        match storage {
            "f32" => Buffer::F32(values.map(|value| value as f32).collect()),
            "f64" => Buffer::F64(values.collect()),
            "f16" => Buffer::F16(values.map(f16::from_f64).collect()),
            "bf16" => Buffer::Bf16(values.map(bf16::from_f64).collect()),
            other => panic!("unknown storage type {other}"),
        }
    }

    fn to_f64(&self) -> Vec<f64> {
        match self {
            Buffer::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
            Buffer::F64(values) => values.clone(),
            Buffer::F16(values) => values.iter().map(|value| value.to_f64()).collect(),
            Buffer::Bf16(values) => values.iter().map(|value| value.to_f64()).collect(),
            other => panic!("unknown storage type {other:?}"),
        }
    }

    fn bits(&self) -> Vec<u64> {
        match self {
            Buffer::F32(values) => values.iter().map(|n| n.to_bits().into()).collect(),
            Buffer::F64(values) => values.iter().map(|n| n.to_bits()).collect(),
            Buffer::F16(values) => values.iter().map(|n| n.to_bits().into()).collect(),
            Buffer::Bf16(values) => values.iter().map(|n| n.to_bits().into()).collect(),
            other => panic!("unknown storage type {other:?}"),
        }
    }

    fn set(&mut self, index: usize, value: f64) {
        match self {
            Buffer::F32(values) => values[index] = value as f32,
            Buffer::F64(values) => values[index] = value,
            Buffer::F16(values) => values[index] = f16::from_f64(value),
            Buffer::Bf16(values) => values[index] = bf16::from_f64(value),
            other => panic!("unknown storage type {other:?}"),
        }
    }
}

/// One parameter of a model with its gradient.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) gradient: Buffer,
    pub(crate) parameter: Option<Buffer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model(pub(crate) Vec<Tensor>);

impl Model {
    /// Tensors of all storage types in two layers and a head, uniform in `[-scale, scale)`, with
    /// parameters of ones.
    pub(crate) fn random(random: &mut Random, scale: f64) -> Model {
        let shapes: [(&str, &[usize], &str); 6] = [
            ("layers.0.weight", &[4, 3], "f32"),
            ("layers.0.bias", &[3], "f32"),
            ("layers.1.weight", &[3, 5], "f64"),
            ("layers.1.bias", &[5], "bf16"),
            ("head.weight", &[5, 2], "f16"),
            ("norm", &[1], "f32"),
        ];
        let tensor = |(name, shape, storage): (&str, &[usize], &str)| {
            let elements = shape.iter().product();
            let uniform = random.values(elements);
            let gradient: Vec<f64> = uniform.iter().map(|u| f64::from(*u) * scale).collect();
            Tensor {
                name: name.to_owned(),
                shape: shape.to_vec(),
                gradient: Buffer::of(storage, &gradient),
                parameter: Some(Buffer::of(storage, &vec![1.0; elements])),
            }
        };
        Model(shapes.map(tensor).into())
    }

    /// One `f64` vector, with a parameter of ones.
    pub(crate) fn vector(gradient: &[f64]) -> Model {
        Model(vec![Tensor {
            name: "w".to_owned(),
            shape: vec![gradient.len()],
            gradient: Buffer::of("f64", gradient),
            parameter: Some(Buffer::of("f64", &vec![1.0; gradient.len()])),
        }])
    }

    /// The model in one storage type.
    pub(crate) fn stored_as(mut self, storage: &str) -> Model {
        for tensor in &mut self.0 {
            tensor.gradient = Buffer::of(storage, &tensor.gradient.to_f64());
        }
        self
    }

    pub(crate) fn bits(&self) -> Vec<Vec<u64>> {
        self.0.iter().map(|tensor| tensor.gradient.bits()).collect()
    }

    /// All gradients concatenated.
    pub(crate) fn flat(&self) -> Vec<f64> {
        self.0
            .iter()
            .flat_map(|tensor| tensor.gradient.to_f64())
            .collect()
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.flat().iter().all(|number| number.is_finite())
    }
}

impl Gradients for Model {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for tensor in &mut self.0 {
            let mut gradient = Gradient::new(&tensor.name, tensor.gradient.as_elements())
                .with_shape(&tensor.shape);
            if let Some(parameter) = &tensor.parameter {
                gradient = gradient.with_parameter(parameter.values());
            }
            visitor(gradient);
        }
    }
}

/// One successful step.
pub(crate) fn step(clipper: &mut Clipper, model: Model) -> (Model, ClipReport) {
    parts(
        clipper
            .clip(Unscaled::single(model))
            .expect("no error is expected"),
    )
}
