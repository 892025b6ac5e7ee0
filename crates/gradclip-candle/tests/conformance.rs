//! Runs the conformance suite over CPU tensors.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var, WithDType};
use candle_nn::VarMap;
use gradclip_candle::gradclip::{Accumulated, ClipError, ClipPolicy, Clipper, Outcome, Unscaled};
use gradclip_candle::{ClippedGradients, VarGradients};
use gradclip_suite::{Adapter, Buffer, Clipping, NamedTensor, StorageType, check};

struct Candle {
    /// Whether gradients of matrices are stored transposed.
    transposed: bool,
}

impl Candle {
    fn tensor(&self, buffer: &Buffer, shape: &[usize]) -> Tensor {
        fn tensor<T: WithDType>(values: &[T], shape: &[usize]) -> Tensor {
            Tensor::from_slice(values, shape, &Device::Cpu).expect("the shape fits")
        }
        let tensor = match buffer {
            Buffer::F32(values) => tensor(values, shape),
            Buffer::F64(values) => tensor(values, shape),
            Buffer::F16(values) => tensor(values, shape),
            Buffer::Bf16(values) => tensor(values, shape),
            other => panic!("unknown storage type: {other:?}"),
        };
        match self.transposed && tensor.rank() > 1 && tensor.elem_count() > 0 {
            true => tensor.t().unwrap().contiguous().unwrap().t().unwrap(),
            false => tensor,
        }
    }
}

/// Variables with the suite's names.
struct Vars {
    map: VarMap,
    by_name: HashMap<String, Var>,
}

impl Vars {
    fn named(&self, gradients: &VarGradients) -> Vec<NamedTensor> {
        let tensors = gradients.iter();
        let tensors =
            tensors.map(|(name, values)| named(name, self.by_name[name].dims(), values.into()));
        tensors.collect()
    }
}

impl Candle {
    fn vars(&self, tensors: &[NamedTensor]) -> Vars {
        let map = VarMap::new();
        let var = |tensor: &NamedTensor| {
            let parameter = match &tensor.parameter {
                Some(parameter) => self.tensor(parameter, &tensor.shape),
                None => self.tensor(&tensor.gradient, &tensor.shape),
            };
            (tensor.name.clone(), Var::from_tensor(&parameter).unwrap())
        };
        let by_name: HashMap<String, Var> = tensors.iter().map(var).collect();
        map.data().lock().unwrap().extend(by_name.clone());
        Vars { map, by_name }
    }

    fn gradients(&self, vars: &Vars, tensors: &[NamedTensor]) -> GradStore {
        let mut gradients = GradStore::default();
        for tensor in tensors {
            let gradient = self.tensor(&tensor.gradient, &tensor.shape);
            gradients.insert(&vars.by_name[&tensor.name], gradient);
        }
        gradients
    }
}

fn read(tensor: &Tensor) -> Buffer {
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::F64 => Buffer::F64(flat.to_vec1().unwrap()),
        DType::F16 => Buffer::F16(flat.to_vec1().unwrap()),
        DType::BF16 => Buffer::Bf16(flat.to_vec1().unwrap()),
        _ => Buffer::F32(flat.to_vec1().unwrap()),
    }
}

fn named(name: &str, shape: &[usize], gradient: Buffer) -> NamedTensor {
    NamedTensor {
        name: name.to_owned(),
        shape: shape.to_vec(),
        gradient,
        parameter: None,
        units: None,
    }
}

impl Adapter for Candle {
    fn storage_types(&self) -> Vec<StorageType> {
        StorageType::ALL.into()
    }

    fn units(&self, shape: &[usize]) -> Option<Range<usize>> {
        Some(0..usize::from(shape.len() > 1))
    }

    fn clip(
        &mut self,
        clipper: &mut Clipper,
        tensors: &[NamedTensor],
    ) -> Result<Clipping, ClipError> {
        let vars = self.vars(tensors);
        let gradients = self.gradients(&vars, tensors);
        let gradients = VarGradients::collect(gradients, &vars.map, clipper.policy());
        Ok(match clipper.clip(Unscaled::single(gradients.unwrap()))? {
            Outcome::Apply(clipped) => {
                let clipped = ClippedGradients::from(clipped);
                let report = clipped.report().clone();
                let store = clipped.into_grad_store().unwrap();
                assert_eq!(store.get_ids().count(), tensors.len());
                let tensors = vars.by_name.iter().map(|(name, var)| {
                    let gradient = store.get(var).expect("each variable has a gradient");
                    named(name, gradient.dims(), read(gradient))
                });
                Clipping {
                    tensors: tensors.collect(),
                    report,
                    may_step: true,
                }
            }
            Outcome::Skip { gradients, report } => Clipping {
                tensors: vars.named(&gradients),
                report,
                may_step: false,
            },
        })
    }

    fn mean(&mut self, micro_batches: &[Vec<NamedTensor>]) -> Vec<NamedTensor> {
        let vars = self.vars(&micro_batches[0]);
        let mut collected = micro_batches.iter().map(|tensors| {
            VarGradients::collect(
                self.gradients(&vars, tensors),
                &vars.map,
                &ClipPolicy::none(),
            )
            .unwrap()
        });
        let mut sum = Accumulated::new(collected.next().expect("there is a first one"));
        collected.for_each(|gradients| sum.add(gradients));
        let mean = sum.in_one_process().without_loss_scale();
        vars.named(mean.gradients())
    }
}

#[test]
fn candle_conforms() {
    check(&mut Candle { transposed: false });
}

#[test]
fn candle_conforms_with_transposed_gradients() {
    check(&mut Candle { transposed: true });
}
