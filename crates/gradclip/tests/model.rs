//! Gradients of every storage type, with shapes and parameters, as an adapter would hand them out.

use gradclip::{ClipReport, Clipper, Elements, Gradient, Gradients, Unscaled, Values};
use half::{bf16, f16};

use crate::fuzzing::Random;
use crate::support::parts;

pub(crate) const STORAGES: [&str; 4] = ["f32", "f64", "f16", "bf16"];

/// Numbers in one storage type.
#[derive(Clone, Debug)]
pub(crate) enum Numbers {
    F32(Vec<f32>),
    F64(Vec<f64>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Numbers {
    /// Rounds to the storage type.
    pub(crate) fn of(storage: &str, numbers: &[f64]) -> Numbers {
        let numbers = numbers.iter().copied();
        match storage {
            "f32" => Numbers::F32(numbers.map(|number| number as f32).collect()),
            "f64" => Numbers::F64(numbers.collect()),
            "f16" => Numbers::F16(numbers.map(f16::from_f64).collect()),
            "bf16" => Numbers::Bf16(numbers.map(bf16::from_f64).collect()),
            other => panic!("unknown storage type {other}"),
        }
    }

    /// Exact.
    pub(crate) fn to_f64(&self) -> Vec<f64> {
        match self {
            Numbers::F32(numbers) => numbers.iter().map(|number| f64::from(*number)).collect(),
            Numbers::F64(numbers) => numbers.clone(),
            Numbers::F16(numbers) => numbers.iter().map(|number| number.to_f64()).collect(),
            Numbers::Bf16(numbers) => numbers.iter().map(|number| number.to_f64()).collect(),
        }
    }

    /// Differs wherever a bit of the storage does; a NaN keeps its payload.
    pub(crate) fn bits(&self) -> Vec<u64> {
        match self {
            Numbers::F32(numbers) => numbers.iter().map(|n| u64::from(n.to_bits())).collect(),
            Numbers::F64(numbers) => numbers.iter().map(|n| n.to_bits()).collect(),
            Numbers::F16(numbers) => numbers.iter().map(|n| u64::from(n.to_bits())).collect(),
            Numbers::Bf16(numbers) => numbers.iter().map(|n| u64::from(n.to_bits())).collect(),
        }
    }

    /// Replaces one element.
    pub(crate) fn set(&mut self, index: usize, number: f64) {
        match self {
            Numbers::F32(numbers) => numbers[index] = number as f32,
            Numbers::F64(numbers) => numbers[index] = number,
            Numbers::F16(numbers) => numbers[index] = f16::from_f64(number),
            Numbers::Bf16(numbers) => numbers[index] = bf16::from_f64(number),
        }
    }

    fn elements(&mut self) -> Elements<'_> {
        match self {
            Numbers::F32(numbers) => numbers.as_mut_slice().into(),
            Numbers::F64(numbers) => numbers.as_mut_slice().into(),
            Numbers::F16(numbers) => numbers.as_mut_slice().into(),
            Numbers::Bf16(numbers) => numbers.as_mut_slice().into(),
        }
    }

    fn values(&self) -> Values<'_> {
        match self {
            Numbers::F32(numbers) => numbers.as_slice().into(),
            Numbers::F64(numbers) => numbers.as_slice().into(),
            Numbers::F16(numbers) => numbers.as_slice().into(),
            Numbers::Bf16(numbers) => numbers.as_slice().into(),
        }
    }
}

/// One parameter of a model with its gradient.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) gradient: Numbers,
    pub(crate) parameter: Option<Numbers>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model(pub(crate) Vec<Tensor>);

impl Model {
    /// Tensors of all storage types in two layers and a head, uniform in `[-scale, scale)`. The
    /// parameters are made of ones.
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
                gradient: Numbers::of(storage, &gradient),
                parameter: Some(Numbers::of(storage, &vec![1.0; elements])),
            }
        };
        Model(shapes.map(tensor).into())
    }

    /// One vector of double precision, with ones for its parameter.
    pub(crate) fn vector(gradient: &[f64]) -> Model {
        Model(vec![Tensor {
            name: "w".to_owned(),
            shape: vec![gradient.len()],
            gradient: Numbers::of("f64", gradient),
            parameter: Some(Numbers::of("f64", &vec![1.0; gradient.len()])),
        }])
    }

    /// The same in one storage type.
    pub(crate) fn stored_as(mut self, storage: &str) -> Model {
        for tensor in &mut self.0 {
            tensor.gradient = Numbers::of(storage, &tensor.gradient.to_f64());
        }
        self
    }

    pub(crate) fn bits(&self) -> Vec<Vec<u64>> {
        self.0.iter().map(|tensor| tensor.gradient.bits()).collect()
    }

    /// All gradients behind one another.
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
            let mut gradient =
                Gradient::new(&tensor.name, tensor.gradient.elements()).with_shape(&tensor.shape);
            if let Some(parameter) = &tensor.parameter {
                gradient = gradient.with_parameter(parameter.values());
            }
            visitor(gradient);
        }
    }
}

/// One step that goes well.
pub(crate) fn step(clipper: &mut Clipper, model: Model) -> (Model, ClipReport) {
    parts(
        clipper
            .clip(Unscaled::single(model))
            .expect("no error is expected"),
    )
}
