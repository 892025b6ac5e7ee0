//! The block as an operation of Burn, with its own backward pass.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Dispatch, ExtensionType, Flex, backend_extension,
};
use burn::tensor::Tensor;

use super::backward::backward;
use super::cached::forward_cached;
use super::forward::{Linear, Pass, Saved, Sizes, Weights, forward};
use super::{BlockSettings, BlockWeights, KeysAndValues, Masks};
use crate::cpu::{Cpu, Precision};
use crate::tensor::{contiguous, from_buffer, sizes, values, weight, widened};

/// Calls the operation.
pub(super) fn call(
    x: Tensor<3>,
    weights: BlockWeights,
    settings: BlockSettings,
) -> (Tensor<3>, KeysAndValues) {
    check(&x, &weights, settings);
    let BlockWeights {
        norm_1,
        qkv,
        projection,
        norm_2,
        expand,
        project,
    } = weights;
    let parameters = Parameters {
        norm_1_weight: norm_1.weight.into_dispatch(),
        norm_1_bias: norm_1.bias.into_dispatch(),
        qkv_weight: qkv.weight.into_dispatch(),
        qkv_bias: qkv.bias.into_dispatch(),
        projection_weight: projection.weight.into_dispatch(),
        projection_bias: projection.bias.into_dispatch(),
        norm_2_weight: norm_2.weight.into_dispatch(),
        norm_2_bias: norm_2.bias.into_dispatch(),
        expand_weight: expand.weight.into_dispatch(),
        expand_bias: expand.bias.into_dispatch(),
        project_weight: project.weight.into_dispatch(),
        project_bias: project.bias.into_dispatch(),
    };
    let (output, keys, values) = <Dispatch as TransformerBackend>::transformer_block(
        x.into_dispatch(),
        parameters,
        settings,
    );
    let all = KeysAndValues {
        keys: Tensor::from_dispatch(keys),
        values: Tensor::from_dispatch(values),
    };
    (Tensor::from_dispatch(output), all)
}

fn check(x: &Tensor<3>, weights: &BlockWeights, settings: BlockSettings) {
    let [_, _, hidden] = x.dims();
    let [inner, _] = weights.expand.weight.dims();
    for norm in [&weights.norm_1, &weights.norm_2] {
        assert_eq!(norm.weight.dims(), [hidden], "size of a norm's weight");
        assert_eq!(norm.bias.dims(), [hidden], "size of a norm's bias");
    }
    for (name, linear, outputs, inputs) in [
        ("qkv", &weights.qkv, 3 * hidden, hidden),
        ("projection", &weights.projection, hidden, hidden),
        ("expand", &weights.expand, inner, hidden),
        ("project", &weights.project, hidden, inner),
    ] {
        assert_eq!(linear.weight.dims(), [outputs, inputs], "weight of {name}");
        assert_eq!(linear.bias.dims(), [outputs], "bias of {name}");
    }
    assert!(
        settings.heads > 0 && hidden % settings.heads == 0,
        "{} heads do not divide {hidden}",
        settings.heads
    );
}

/// Whether [`call_cached`] takes the tensors: it computes no gradients.
pub(super) fn is_plain(
    x: &Tensor<3>,
    weights: &BlockWeights,
    settings: BlockSettings,
    earlier: &KeysAndValues,
) -> bool {
    let of_weights = weights.qkv.weight.is_autodiff();
    let of_earlier = earlier.keys.is_autodiff() || earlier.values.is_autodiff();
    settings.dropout.is_none() && !x.is_autodiff() && !of_weights && !of_earlier
}

/// Computes a block outside automatic differentiation.
///
/// # Panics
///
/// If the tensors are not [`is_plain`].
pub(super) fn call_cached(
    x: Tensor<3>,
    weights: BlockWeights,
    settings: BlockSettings,
    earlier: KeysAndValues,
) -> (Tensor<3>, KeysAndValues) {
    check(&x, &weights, settings);
    let shape = x.dims();
    let BlockWeights {
        norm_1,
        qkv,
        projection,
        norm_2,
        expand,
        project,
    } = weights;
    let parameters = [
        primitive(norm_1.weight),
        primitive(norm_1.bias),
        primitive(qkv.weight),
        primitive(qkv.bias),
        primitive(projection.weight),
        primitive(projection.bias),
        primitive(norm_2.weight),
        primitive(norm_2.bias),
        primitive(expand.weight),
        primitive(expand.bias),
        primitive(project.weight),
        primitive(project.bias),
    ];
    let call = Call::new(primitive(x), parameters, settings);
    let call = match call.sizes.is_one_position() {
        true => call,
        false => call.widened(),
    };
    let earlier = [primitive(earlier.keys), primitive(earlier.values)];
    let (output, [keys, values]) = forward_cached(
        Cpu::current().with(call.precision),
        call.sizes,
        values(&call.x),
        call.weights(),
        earlier,
    );
    let all = KeysAndValues {
        keys: Tensor::from_primitive::<Flex>(keys),
        values: Tensor::from_primitive::<Flex>(values),
    };
    (from_buffer(output, shape), all)
}

fn primitive<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let tensor = tensor.try_into_primitive::<Flex>();
    tensor.expect("the tensor is on the CPU device, outside automatic differentiation")
}

/// [`BlockWeights`], on some backend.
#[derive(Debug, ExtensionType)]
struct Parameters<B: Backend> {
    norm_1_weight: FloatTensor<B>,
    norm_1_bias: FloatTensor<B>,
    qkv_weight: FloatTensor<B>,
    qkv_bias: FloatTensor<B>,
    projection_weight: FloatTensor<B>,
    projection_bias: FloatTensor<B>,
    norm_2_weight: FloatTensor<B>,
    norm_2_bias: FloatTensor<B>,
    expand_weight: FloatTensor<B>,
    expand_bias: FloatTensor<B>,
    project_weight: FloatTensor<B>,
    project_bias: FloatTensor<B>,
}

impl<B: Backend> Parameters<B> {
    fn into_array(self) -> [FloatTensor<B>; 12] {
        [
            self.norm_1_weight,
            self.norm_1_bias,
            self.qkv_weight,
            self.qkv_bias,
            self.projection_weight,
            self.projection_bias,
            self.norm_2_weight,
            self.norm_2_bias,
            self.expand_weight,
            self.expand_bias,
            self.project_weight,
            self.project_bias,
        ]
    }
}

#[backend_extension(Autodiff, Flex)]
trait TransformerBackend: Backend {
    /// Output, keys, values.
    fn transformer_block(
        x: FloatTensor<Self>,
        #[extension_type] parameters: Parameters<Self>,
        settings: BlockSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl TransformerBackend for Flex {
    fn transformer_block(
        x: FlexTensor,
        parameters: Parameters<Self>,
        settings: BlockSettings,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let call = Call::new(x, parameters.into_array(), settings).widened();
        let (output, qkv, _) = call.forward();
        let [keys, values] = call.keys_and_values(&qkv);
        (output, keys, values)
    }
}

impl<C: CheckpointStrategy> TransformerBackend for Autodiff<Flex, C> {
    fn transformer_block(
        x: FloatTensor<Self>,
        parameters: Parameters<Self>,
        settings: BlockSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (x, x_node) = x.into_parts();
        let parts = parameters.into_array().map(|tensor| tensor.into_parts());
        let mut nodes = vec![x_node];
        let parameters = parts.map(|(tensor, node)| {
            nodes.push(node);
            tensor
        });
        let nodes: [_; 13] = nodes.try_into().expect("an input and twelve parameters");
        let call = Call::new(x, parameters, settings);
        let (output, qkv, saved) = call.forward();
        let [keys, values] = call.keys_and_values(&qkv).map(Self::from_inner);
        let output = match Block.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let saved = Mutex::new(Some((qkv, saved)));
                prepared.finish(Arc::new(Record { call, saved }), output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        };
        (output, keys, values)
    }
}

/// Everything that a call reads, contiguous.
#[derive(Debug)]
struct Call {
    sizes: Sizes,
    masks: Option<Masks>,
    precision: Precision,
    x: FlexTensor,
    /// In the order of [`Parameters`].
    parameters: [FlexTensor; 12],
}

impl Call {
    fn new(x: FlexTensor, parameters: [FlexTensor; 12], settings: BlockSettings) -> Call {
        let [batch, time, hidden] = sizes(&x);
        let [inner, _] = sizes(&parameters[8]);
        let sizes = Sizes {
            batch,
            time,
            hidden,
            inner,
            heads: settings.heads,
        };
        Call {
            sizes,
            masks: settings.masks(),
            precision: settings.precision,
            x: contiguous(x),
            parameters: parameters.map(contiguous),
        }
    }

    /// With weights that products of many rows read.
    fn widened(self) -> Call {
        Call {
            parameters: self.parameters.map(widened),
            ..self
        }
    }

    fn weights<'a>(&'a self) -> Weights<'a> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = &self.parameters;
        let linear = |of: &'a FlexTensor, bias| Linear {
            weight: weight(of),
            bias: values(bias),
        };
        Weights {
            norm_1: [a, b].map(values),
            qkv: linear(c, d),
            projection: linear(e, f),
            norm_2: [g, h].map(values),
            expand: linear(i, j),
            project: linear(k, l),
        }
    }

    /// The output, queries with keys and values, and what backward needs besides.
    fn forward(&self) -> (FlexTensor, FlexTensor, Saved) {
        let x = values(&self.x);
        let Pass { qkv, saved, output } = forward(
            Cpu::current().with(self.precision),
            self.sizes,
            x,
            self.weights(),
            self.masks,
        );
        let Sizes {
            batch,
            time,
            hidden,
            ..
        } = self.sizes;
        let qkv = qkv.into_tensor([batch, time, 3 * hidden]);
        (output.into_tensor([batch, time, hidden]), qkv, saved)
    }

    /// Keys and values, where the product left them.
    fn keys_and_values(&self, qkv: &FlexTensor) -> [FlexTensor; 2] {
        let hidden = self.sizes.hidden;
        [1, 2].map(|part| {
            let layout = qkv.layout().narrow(2, part * hidden, hidden);
            qkv.clone().with_layout(layout)
        })
    }
}

/// What backward needs.
#[derive(Debug)]
struct Record {
    call: Call,
    /// Used up by backward, which reuses the memory.
    saved: Mutex<Option<(FlexTensor, Saved)>>,
}

/// The backward pass of the block.
#[derive(Debug)]
struct Block;

impl Backward<Flex, 13> for Block {
    type State = Arc<Record>;

    fn backward(
        self,
        ops: Ops<Self::State, 13>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let Record { call, saved } = &*ops.state;
        let saved = saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (qkv, saved) = saved.expect("a graph is gone through backward once");
        let sizes = call.sizes;
        let found = backward(
            Cpu::current().with(call.precision),
            sizes,
            values(&call.x),
            call.weights(),
            call.masks,
            (values(&qkv), saved),
            values(&gradient),
        );
        drop((qkv, gradient));
        let Sizes {
            batch,
            time,
            hidden,
            ..
        } = sizes;
        let [x, parameters @ ..] = ops.parents;
        if let Some(x) = x {
            gradients.register::<Flex>(x.id, found.x.into_tensor([batch, time, hidden]));
        }
        let pairs = [
            found.norm_1,
            found.qkv,
            found.projection,
            found.norm_2,
            found.expand,
            found.project,
        ];
        let given = call.parameters.iter().zip(pairs.into_iter().flatten());
        for (parent, (parameter, gradient)) in parameters.into_iter().zip(given) {
            if let Some(parent) = parent {
                let gradient = gradient.into_tensor(parameter.layout().shape().clone());
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}
