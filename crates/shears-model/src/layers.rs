//! Layers shared by several models, with PyTorch's weight layout, and their initialisation.

use crate::config::{BlockConfig, Norm, Precision};
use burn::backend::DispatchTensor;
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Device, Int, Shape, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

use shears_kernels::{Dropout, WithBias, filled, linear, narrowed, norm, output_loss};

/// Creates parameters whose initial values depend only on the seed and their order.
///
/// Parameters are lazy: listing a model's parameters ([`crate::parameters`]) allocates nothing. The
/// `k`-th parameter draws from the `k`-th stream of one ChaCha generator, so that the order of
/// first use does not matter.
#[derive(Debug)]
pub struct Initializer {
    seed: u64,
    next_stream: u64,
    device: Device,
}

impl Initializer {
    /// Creates an initializer for a model on `device`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Initializer {
            seed,
            next_stream: 0,
            device: device.clone(),
        }
    }

    /// Uniform in `[-bound, bound)`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f64) -> Param<Tensor<D>> {
        self.parameter(shape, move |generator, values| {
            values.fill_with(|| (generator.random::<f64>() * 2.0 - 1.0) as f32 * bound as f32);
        })
    }

    /// Normal with mean 0 and the given standard deviation.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f64) -> Param<Tensor<D>> {
        self.parameter(shape, move |generator, values| {
            values.fill_with(|| {
                let sample: f64 = StandardNormal.sample(generator);
                (sample * std) as f32
            });
        })
    }

    /// All elements `value`.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        self.parameter(shape, move |_, values| values.fill(value))
    }

    /// Values written by `fill`, which gets the parameter's own generator.
    pub fn parameter<const D: usize>(
        &mut self,
        shape: [usize; D],
        fill: impl Fn(&mut ChaCha8Rng, &mut [f32]) + Send + Sync + 'static,
    ) -> Param<Tensor<D>> {
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        generator.set_stream(self.next_stream);
        self.next_stream += 1;
        let create = move |device: &Device, require_grad: bool| {
            let data = filled(shape, |values| fill(&mut generator.clone(), values));
            let tensor = Tensor::from_data(data, device);
            if require_grad {
                tensor.require_grad()
            } else {
                tensor
            }
        };
        let require_grad = self.device.is_autodiff();
        let shape = Shape::from(shape);
        Param::uninitialized(
            ParamId::new(),
            create,
            self.device.clone(),
            require_grad,
            shape,
        )
    }
}

/// `y = x Wᵀ + b`, with PyTorch's weight layout `[out, in]`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `[.., in]` to `[.., out]`.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        linear(
            input,
            self.weight.val(),
            self.bias.as_ref().map(|bias| bias.val()),
        )
    }
}

/// Converts the matrices of a module to bf16, if that is the precision of its products; see
/// [`narrowed`]. Every matrix of the module must be the weight of a product.
pub(crate) fn store_in<M: Module>(precision: Precision, module: M) -> M {
    struct Narrow;
    impl ModuleMapper for Narrow {
        fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match D {
                2 => parameter.map(|tensor| {
                    let shape = tensor.dims();
                    let rows = shape.iter().product::<usize>() / shape[D - 1].max(1);
                    narrowed(tensor.reshape([rows, shape[D - 1]])).reshape(shape)
                }),
                _ => parameter,
            }
        }
    }
    match precision {
        Precision::F32 => module,
        Precision::Bf16 => module.map(&mut Narrow),
    }
}

/// A token embedding.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, size]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// `[batch, time]` to `[batch, time, size]`.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [batch, time] = tokens.dims();
        let weight = self.weight.val();
        let [_, size] = weight.dims();
        weight
            .select(0, tokens.reshape([batch * time]))
            .reshape([batch, time, size])
    }
}

/// The hidden states `[batch, hidden]` at the last step of the time dimension, `dimension`.
pub(crate) fn last_step(hidden: Tensor<3>, dimension: usize) -> Tensor<2> {
    let last = match hidden.dims()[dimension] {
        1 => hidden,
        time => hidden.narrow(dimension, time - 1, 1),
    };
    last.squeeze_dim(dimension)
}

/// The output layer, with its own weights or those of the embedding.
#[derive(Module, Debug)]
pub struct Output {
    /// `[vocabulary, hidden]`; absent when tied (Press & Wolf 2017).
    pub weight: Option<Param<Tensor<2>>>,
    /// `[vocabulary]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Output {
    /// `[.., hidden]` to logits `[.., vocabulary]`.
    pub fn forward<const D: usize>(&self, hidden: Tensor<D>, embedding: &Embedding) -> Tensor<D> {
        let (weight, bias) = self.tensors(embedding);
        linear(hidden, weight, bias)
    }

    /// The mean negative log-likelihood, in nats, of the targets `[rows, columns]` given the hidden
    /// states `[rows, columns, hidden]`.
    pub fn loss(
        &self,
        hidden: Tensor<3>,
        embedding: &Embedding,
        targets: Tensor<2, Int>,
        precision: Precision,
    ) -> Tensor<1> {
        let [rows, columns, size] = hidden.dims();
        let (weight, bias) = self.tensors(embedding);
        let positions = rows * columns;
        let hidden = hidden.reshape([positions, size]);
        let targets = targets.reshape([positions]);
        output_loss(hidden, weight, bias, targets, precision.into())
    }

    fn tensors(&self, embedding: &Embedding) -> (Tensor<2>, Option<Tensor<1>>) {
        let weight = self.weight.as_ref().unwrap_or(&embedding.weight);
        (weight.val(), self.bias.as_ref().map(|bias| bias.val()))
    }

    /// The weight `[vocabulary, hidden]` and the bias.
    pub(crate) fn parameters(&self, embedding: &Embedding) -> WithBias<DispatchTensor> {
        let (weight, bias) = self.tensors(embedding);
        WithBias::new(weight.into_dispatch(), bias.map(Tensor::into_dispatch))
    }
}

pub(crate) fn with_bias<const D: usize>(
    weight: &Param<Tensor<D>>,
    bias: Option<&Param<Tensor<1>>>,
) -> WithBias<DispatchTensor> {
    let bias = bias.map(|bias| bias.val().into_dispatch());
    WithBias::new(weight.val().into_dispatch(), bias)
}

/// Normalisation over the last dimension.
#[derive(Module, Debug)]
pub struct Normalization {
    /// `[size]`
    pub weight: Param<Tensor<1>>,
    /// `[size]`
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    norm: shears_kernels::Norm,
}

impl Normalization {
    /// Creates a norm with weight 1 and bias 0. RMSNorm never has a bias.
    pub fn new(size: usize, block: &BlockConfig, initializer: &mut Initializer) -> Self {
        let has_bias = block.bias && block.norm == Norm::Layer;
        Normalization {
            weight: initializer.constant([size], 1.0),
            bias: has_bias.then(|| initializer.constant([size], 0.0)),
            norm: block.norm(),
        }
    }

    /// `[.., size]` to `[.., size]`.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        norm(input, self.norm, self.weight.val(), bias)
    }
}

/// Sets each element to zero with the probability of `dropout` and scales the others by `1 / (1 -
/// p)`; without dropout it returns the input. Each `site` in the model has its own masks.
pub fn dropout<const D: usize>(input: Tensor<D>, dropout: Option<Dropout>, site: u32) -> Tensor<D> {
    match dropout {
        Some(dropout) => shears_kernels::dropout(input, dropout, site),
        None => input,
    }
}
