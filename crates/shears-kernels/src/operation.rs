//! Makes operations of this crate available in Burn: dispatch and automatic differentiation.
//!
//! An [`Operation`] is a forward and a backward pass on tensors of the CPU device. [`call`] runs it
//! on Burn's tensors: directly outside automatic differentiation, and as one node of the graph
//! within.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients as GradientsOfGraph;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, BackendTensor, Dispatch, DispatchAutodiffContext,
    DispatchTensor, DispatchTensorKind, ExtensionType, Flex, backend_extension,
};
use burn::tensor::Shape;

use crate::abandon::is_abandoned;
use crate::buffer::Buffer;
use crate::tensor::{Whole, contiguous};

/// A function of `N` float tensors with its own backward pass. The implementing type holds its
/// settings and integer inputs.
pub(crate) trait Operation<const N: usize>: Send + 'static {
    /// What the backward pass needs.
    type Saved: Send + 'static;

    /// The shapes of the output and the constants, for operations that take long.
    fn shapes(&self, _inputs: &[FlexTensor; N]) -> Option<Vec<Shape>> {
        None
    }

    /// Computes the outputs. The inputs may be non-contiguous.
    fn forward(self, inputs: [FlexTensor; N], needs_backward: bool) -> Forward<Self::Saved>;

    /// Computes the gradients of the inputs from that of the first output, which is contiguous.
    /// Those that are not `wanted` may be `None`.
    fn backward(
        saved: Self::Saved,
        gradient: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N];
}

/// The result of a forward pass.
pub(crate) struct Forward<S> {
    /// The output through which gradients flow.
    pub(crate) output: FlexTensor,
    /// Further outputs, constants for automatic differentiation.
    pub(crate) constants: Vec<FlexTensor>,
    /// What the backward pass needs; required only if `needs_backward` is set.
    pub(crate) saved: Option<S>,
}

impl<S> Forward<S> {
    /// The result of an operation with one output.
    pub(crate) fn of(output: FlexTensor, saved: S) -> Self {
        Forward {
            output,
            constants: Vec::new(),
            saved: Some(saved),
        }
    }
}

/// Runs an operation on tensors that all satisfy [`crate::tensor::is_ours`], and returns its output
/// and its constants.
///
/// Outside automatic differentiation, as in generation, it calls the operation directly: Burn's
/// dispatch allocates several times per call, which slows down token generation.
pub(crate) fn call<O: Operation<N>, const N: usize>(
    operation: O,
    inputs: [DispatchTensor; N],
) -> (DispatchTensor, Vec<DispatchTensor>) {
    if !inputs.iter().all(is_plain) {
        let outputs =
            <Dispatch as OperationBackend>::call::<O, N>(operation, Inputs(inputs.into()));
        let mut outputs = outputs.into_iter();
        let output = outputs.next().expect("an operation has an output");
        return (output, outputs.collect());
    }
    let found = operation.forward(inputs.map(unwrap_plain), false);
    let constants = found.constants.into_iter().map(wrap_plain);
    (wrap_plain(found.output), constants.collect())
}

/// [`call`] for an operation with one output.
pub(crate) fn call_with_one_output<O: Operation<N>, const N: usize>(
    operation: O,
    inputs: [DispatchTensor; N],
) -> DispatchTensor {
    let (output, _) = call(operation, inputs);
    output
}

/// Whether a tensor is outside automatic differentiation.
pub(crate) fn is_plain(tensor: &DispatchTensor) -> bool {
    matches!(tensor.kind, DispatchTensorKind::Flex(_))
        && tensor.autodiff == DispatchAutodiffContext::Disabled
}

/// The tensor of the CPU device.
///
/// # Panics
///
/// If the tensor is not [`is_plain`].
pub(crate) fn unwrap_plain(tensor: DispatchTensor) -> FlexTensor {
    match tensor.kind {
        DispatchTensorKind::Flex(tensor) => tensor.float(),
        _ => panic!("the tensor is tracked by automatic differentiation"),
    }
}

/// The tensor of the CPU device; `None` on another one or within automatic differentiation.
pub(crate) fn plain(tensor: DispatchTensor) -> Option<Whole> {
    is_plain(&tensor).then(|| Whole::new(unwrap_plain(tensor)))
}

fn wrap_plain(tensor: FlexTensor) -> DispatchTensor {
    DispatchTensor {
        kind: DispatchTensorKind::Flex(BackendTensor::Float(tensor)),
        autodiff: DispatchAutodiffContext::Disabled,
    }
}

#[backend_extension(Autodiff, Flex)]
trait OperationBackend: Backend {
    fn call<O: Operation<N>, const N: usize>(
        operation: O,
        #[extension_type] inputs: Inputs<Self>,
    ) -> Vec<FloatTensor<Self>>;
}

impl OperationBackend for Flex {
    fn call<O: Operation<N>, const N: usize>(
        operation: O,
        inputs: Inputs<Self>,
    ) -> Vec<FlexTensor> {
        let found = operation.forward(array(inputs.0), false);
        std::iter::once(found.output)
            .chain(found.constants)
            .collect()
    }
}

impl<C: CheckpointStrategy> OperationBackend for Autodiff<Flex, C> {
    fn call<O: Operation<N>, const N: usize>(
        operation: O,
        inputs: Inputs<Self>,
    ) -> Vec<FloatTensor<Self>> {
        let parts = inputs.0.into_iter().map(|input| input.into_parts());
        let (inputs, nodes): (Vec<_>, Vec<_>) = parts.unzip();
        let (inputs, nodes) = (array(inputs), array(nodes));
        let node = Node::<O, N>(PhantomData);
        let (output, constants) = match node.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let shapes = inputs
                    .each_ref()
                    .map(|input| input.layout().shape().clone());
                let found = forward(operation, inputs, true);
                let saved = Saved(Arc::new((shapes, Mutex::new(found.saved))));
                (prepared.finish(saved, found.output), found.constants)
            }
            OpsKind::UnTracked(prepared) => {
                let found = forward(operation, inputs, false);
                (prepared.finish(found.output), found.constants)
            }
        };
        let constants = constants.into_iter().map(Self::from_inner);
        std::iter::once(output).chain(constants).collect()
    }
}

/// The forward pass; zeros for one that takes long, if the work is abandoned.
fn forward<O: Operation<N>, const N: usize>(
    operation: O,
    inputs: [FlexTensor; N],
    needs_backward: bool,
) -> Forward<O::Saved> {
    let abandoned = is_abandoned().then(|| operation.shapes(&inputs)).flatten();
    let mut zeros = abandoned.into_iter().flatten().map(zeros);
    match zeros.next() {
        Some(output) => Forward {
            output,
            constants: zeros.collect(),
            saved: None,
        },
        None => operation.forward(inputs, needs_backward),
    }
}

fn zeros(shape: Shape) -> FlexTensor {
    Buffer::zeros(shape.num_elements()).into_tensor(shape)
}

fn array<T, const N: usize>(items: Vec<T>) -> [T; N] {
    let count = items.len();
    let array = items.try_into();
    array.unwrap_or_else(|_| unreachable!("{count} tensors for an operation on {N}"))
}

/// An operation in the graph of automatic differentiation.
struct Node<O, const N: usize>(PhantomData<O>);

/// The shapes of the inputs, and what the backward pass needs, which it takes in order to reuse the
/// memory.
struct Saved<S, const N: usize>(Arc<([Shape; N], Mutex<Option<S>>)>);

impl<O: Operation<N>, const N: usize> Backward<Flex, N> for Node<O, N> {
    type State = Saved<O::Saved, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        gradients: &mut GradientsOfGraph,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let (shapes, saved) = &*ops.state.0;
        let saved = saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let found = match is_abandoned() {
            true => shapes.clone().map(|shape| Some(zeros(shape))),
            false => {
                let saved = saved.expect("a graph is differentiated once");
                let wanted = ops.parents.each_ref().map(Option::is_some);
                O::backward(saved, gradient, wanted)
            }
        };
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

impl<O, const N: usize> fmt::Debug for Node<O, N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(std::any::type_name::<O>())
    }
}

impl<S, const N: usize> Clone for Saved<S, N> {
    fn clone(&self) -> Self {
        Saved(self.0.clone())
    }
}

impl<S, const N: usize> fmt::Debug for Saved<S, N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Saved")
    }
}

/// The input tensors of a call, on some backend.
struct Inputs<B: Backend>(Vec<FloatTensor<B>>);

/// As `#[derive(ExtensionType)]` generates for a struct of tensors.
impl<B: Backend> ExtensionType<B> for Inputs<B> {
    type Target = Inputs<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |tensor| DispatchTensor {
            kind: map_kind(BackendTensor::Float(tensor)),
            autodiff,
        };
        Inputs(self.0.into_iter().map(wrap).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        let unwrap = |tensor| unwrap_kind(tensor).float();
        Inputs(target.0.into_iter().map(unwrap).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let contexts = target.0.iter().map(|tensor| tensor.autodiff);
        contexts.fold(DispatchAutodiffContext::Disabled, |all, one| all.merge(one))
    }
}
