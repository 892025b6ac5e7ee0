//! Runs the conformance suite over Burn tensors: through `backward`, the adapter and back.

use std::ops::Range;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Element, Gradients, Tensor, TensorData};
use gradclip_burn::gradclip::{Accumulated, ClipError, ClipPolicy, Clipper, Outcome, Unscaled};
use gradclip_burn::{ClippedGradients, ModuleGradients};
use gradclip_suite::{Adapter, Buffer, Clipping, NamedTensor, StorageType, check};

/// A parameter of any rank in the suite.
#[derive(Clone, Debug)]
enum AnyParam {
    One(Param<Tensor<1>>),
    Two(Param<Tensor<2>>),
    Three(Param<Tensor<3>>),
    Four(Param<Tensor<4>>),
}

/// Runs the same code for each rank.
macro_rules! for_each_rank {
    ($param:expr, $inner:ident => $body:expr) => {
        match $param {
            AnyParam::One($inner) => $body,
            AnyParam::Two($inner) => $body,
            AnyParam::Three($inner) => $body,
            AnyParam::Four($inner) => $body,
        }
    };
}

/// Runs the same code for each rank, keeping the rank.
macro_rules! map_each_rank {
    ($param:expr, $inner:ident => $body:expr) => {
        match $param {
            AnyParam::One($inner) => AnyParam::One($body),
            AnyParam::Two($inner) => AnyParam::Two($body),
            AnyParam::Three($inner) => AnyParam::Three($body),
            AnyParam::Four($inner) => AnyParam::Four($body),
        }
    };
}

/// A module whose parameters have the suite's names.
#[derive(Clone, Debug)]
struct Named(Vec<(String, AnyParam)>);

impl Named {
    fn map_params(self, mut map: impl FnMut(AnyParam) -> AnyParam) -> Self {
        let params = self.0.into_iter();
        Named(params.map(|(name, param)| (name, map(param))).collect())
    }
}

impl Module for Named {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        let collect = |devices, (_, param): &(String, AnyParam)| for_each_rank!(param, param => param.collect_devices(devices));
        self.0.iter().fold(devices, collect)
    }

    fn fork(self, device: &Device) -> Self {
        self.map_params(|param| map_each_rank!(param, param => param.fork(device)))
    }

    fn to_device(self, device: &Device) -> Self {
        self.map_params(|param| map_each_rank!(param, param => param.to_device(device)))
    }

    fn train(self) -> Self {
        self.map_params(|param| map_each_rank!(param, param => param.train()))
    }

    fn valid(&self) -> Self {
        self.clone()
            .map_params(|param| map_each_rank!(param, param => param.valid()))
    }

    fn materialize(self) -> Self {
        self.map_params(|param| map_each_rank!(param, param => param.materialize()))
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        for (name, param) in &self.0 {
            visitor.enter_module(name, "Named");
            for_each_rank!(param, param => param.visit(visitor));
            visitor.exit_module(name, "Named");
        }
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        self.map_params(|param| map_each_rank!(param, param => Module::map(param, mapper)))
    }
}

fn data(buffer: &Buffer, shape: &[usize]) -> TensorData {
    match buffer {
        Buffer::F32(values) => TensorData::new(values.clone(), shape),
        Buffer::F64(values) => TensorData::new(values.clone(), shape),
        Buffer::F16(values) => TensorData::new(values.clone(), shape),
        Buffer::Bf16(values) => TensorData::new(values.clone(), shape),
        other => panic!("no such type in Burn: {other:?}"),
    }
}

fn tensor<const D: usize>(buffer: &Buffer, shape: &[usize]) -> Tensor<D> {
    let data = data(buffer, shape);
    let dtype = data.dtype();
    Tensor::from_data(data, (&Device::flex().autodiff(), dtype))
}

/// Builds a module with parameters for the tensors.
fn module(tensors: &[NamedTensor]) -> Named {
    fn parameter<const D: usize>(named: &NamedTensor) -> Param<Tensor<D>> {
        Param::from_tensor(match &named.parameter {
            Some(parameter) => tensor(parameter, &named.shape),
            None => tensor(&named.gradient, &named.shape).zeros_like(),
        })
    }
    let param = |named: &NamedTensor| match named.shape.len() {
        1 => AnyParam::One(parameter(named)),
        2 => AnyParam::Two(parameter(named)),
        3 => AnyParam::Three(parameter(named)),
        _ => AnyParam::Four(parameter(named)),
    };
    let params = tensors
        .iter()
        .map(|named| (named.name.clone(), param(named)));
    Named(params.collect())
}

/// Obtains the given gradients as derivatives of inner products with the parameters.
fn backward(module: &Named, tensors: &[NamedTensor]) -> Gradients {
    fn inner_product<const D: usize>(param: &Param<Tensor<D>>, named: &NamedTensor) -> Tensor<1> {
        let gradient = tensor(&named.gradient, &named.shape);
        (param.val() * gradient).sum().cast(DType::F64)
    }
    // A loss for the case without tensors.
    let device = Device::flex().autodiff();
    let nothing = Tensor::<1>::zeros([1], &device).require_grad();
    let mut loss = nothing.sum().cast(DType::F64);
    for ((_, param), named) in module.0.iter().zip(tensors) {
        loss = loss + for_each_rank!(param, param => inner_product(param, named));
    }
    loss.backward()
}

/// The gradient of one parameter, as passed to the optimizer.
fn read(param: &AnyParam, params: &GradientsParams, storage: StorageType) -> Buffer {
    let data = match param {
        AnyParam::One(param) => params.get::<1>(param.id).map(Tensor::into_data),
        AnyParam::Two(param) => params.get::<2>(param.id).map(Tensor::into_data),
        AnyParam::Three(param) => params.get::<3>(param.id).map(Tensor::into_data),
        AnyParam::Four(param) => params.get::<4>(param.id).map(Tensor::into_data),
    };
    let data = data.expect("every parameter has a gradient");
    fn values<E: Element>(data: TensorData) -> Vec<E> {
        data.try_to_vec()
            .expect("a gradient comes back in its own type")
    }
    match storage {
        StorageType::F32 => Buffer::F32(values(data)),
        StorageType::F64 => Buffer::F64(values(data)),
        StorageType::F16 => Buffer::F16(values(data)),
        StorageType::Bf16 => Buffer::Bf16(values(data)),
        other => panic!("no such type in Burn: {other}"),
    }
}

/// Burn's adapter, with immediate or deferred scaling.
struct Burn {
    defer: bool,
}

impl Adapter for Burn {
    fn storage_types(&self) -> Vec<StorageType> {
        StorageType::ALL.into()
    }

    fn has_shape(&self, shape: &[usize]) -> bool {
        // Burn has no tensors without axes.
        (1..=4).contains(&shape.len()) && !shape.contains(&0)
    }

    fn units(&self, shape: &[usize]) -> Option<Range<usize>> {
        Some(match shape.len() {
            0 | 1 => 0..0,
            2 => 1..2,
            _ => 0..1,
        })
    }

    fn clip(
        &mut self,
        clipper: &mut Clipper,
        tensors: &[NamedTensor],
    ) -> Result<Clipping, ClipError> {
        let module = module(tensors);
        let gradients = backward(&module, tensors);
        let collected = ModuleGradients::collect(gradients, &module, clipper.policy());
        let collected = collected.expect("a CPU gives its data");
        let unscaled = Unscaled::single(collected);
        let outcome = match self.defer {
            true => match clipper.clip_deferred(unscaled, None)? {
                Outcome::Apply(deferred) => Outcome::Apply(ClippedGradients::from(deferred)),
                Outcome::Skip { gradients, report } => Outcome::Skip { gradients, report },
            },
            false => match clipper.clip(unscaled)? {
                Outcome::Apply(clipped) => Outcome::Apply(ClippedGradients::from(clipped)),
                Outcome::Skip { gradients, report } => Outcome::Skip { gradients, report },
            },
        };
        Ok(match outcome {
            Outcome::Apply(clipped) => {
                let report = clipped.report().clone();
                let params = clipped.into_params(&module);
                let after = tensors
                    .iter()
                    .zip(&module.0)
                    .map(|(named, (_, param))| NamedTensor {
                        gradient: read(param, &params, StorageType::of(&named.gradient)),
                        ..named.clone()
                    });
                Clipping {
                    tensors: after.collect(),
                    report,
                    may_step: true,
                }
            }
            Outcome::Skip { gradients, report } => Clipping {
                tensors: as_given(&gradients, tensors),
                report,
                may_step: false,
            },
        })
    }

    fn mean(&mut self, micro_batches: &[Vec<NamedTensor>]) -> Vec<NamedTensor> {
        let module = module(&micro_batches[0]);
        let mut collected = micro_batches.iter().map(|tensors| {
            let gradients = backward(&module, tensors);
            ModuleGradients::collect(gradients, &module, &ClipPolicy::none())
                .expect("a CPU gives its data")
        });
        let first = collected.next().expect("there is a first one");
        let mut sum = Accumulated::new(first);
        collected.for_each(|gradients| sum.add(gradients));
        let mean = sum.in_one_process().without_loss_scale();
        as_given(mean.gradients(), &micro_batches[0])
    }
}

/// The tensors from the adapter, in the original order.
fn as_given(gradients: &ModuleGradients, tensors: &[NamedTensor]) -> Vec<NamedTensor> {
    let pairs = gradients.iter().zip(tensors);
    let named = pairs.map(|((name, values), named)| {
        assert_eq!(name, named.name);
        NamedTensor {
            gradient: values.into(),
            ..named.clone()
        }
    });
    named.collect()
}

#[test]
fn burn_conforms() {
    check(&mut Burn { defer: false });
}

#[test]
fn burn_conforms_with_deferred_scaling() {
    check(&mut Burn { defer: true });
}
