//! Updates on the CPU device: all parameters in one go, each in one pass over memory, in place.
//!
//! Burn's modules change by value. Parameters are taken out of the module first, each of the places
//! of a tied one, so that nobody else holds their numbers; then all are updated together; then the
//! module is visited again and gets them back.

use std::collections::{BTreeMap, HashMap, HashSet};

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Tensor, TensorData};
use gradclip_burn::ClippedGradients;
use shears_kernels::{Numbers, Parameter, UpdateRule};

use super::{Moments, Optimizer, OptimizerKind, OptimizerSettings, Updated};

/// A parameter outside its module.
struct Taken {
    id: ParamId,
    name: String,
    weight: Numbers,
    gradient: TensorData,
    factor: f64,
    weight_decay: f64,
    tracked: bool,
    required: bool,
}

/// Applies an update to the parameters that it can be applied to in place. They are missing in the
/// module that is returned, and in the gradients.
pub(super) fn update<M: Module>(
    optimizer: &mut Optimizer,
    module: M,
    gradients: &mut ClippedGradients,
    lr: f64,
) -> (M, HashMap<ParamId, Updated>) {
    let mut take = Take {
        gradients,
        settings: &optimizer.settings,
        path: Vec::new(),
        taken: Vec::new(),
        places: HashSet::new(),
    };
    let module = module.map(&mut take);
    let mut taken = take.taken;
    let rule = rule(&optimizer.settings, lr, optimizer.updates);
    let mut moments: Vec<_> = taken
        .iter()
        .map(|taken| Pair::of(&mut optimizer.moments, taken, &rule))
        .collect();
    let parameters = taken.iter_mut().zip(&mut moments);
    let parameters = parameters.map(|(taken, moments)| Parameter {
        weight: taken.weight.as_mut_slice(),
        gradient: taken.gradient.as_slice().expect(OF_ONE_TYPE),
        factor: taken.factor,
        first: slice_of(&mut moments.first),
        second: slice_of(&mut moments.second),
        weight_decay: taken.weight_decay,
    });
    shears_kernels::update(&rule, parameters.collect());
    let mut updated = HashMap::new();
    for (taken, moments) in taken.into_iter().zip(moments) {
        let shape = taken.weight.shape().to_vec();
        optimizer.moments.insert(taken.name, moments.into());
        let value = Updated {
            value: taken.weight.into_flat(),
            shape,
            tracked: taken.tracked,
            required: taken.required,
        };
        updated.insert(taken.id, value);
    }
    (module, updated)
}

fn slice_of(moment: &mut Option<Numbers>) -> &mut [f32] {
    moment
        .as_mut()
        .map(Numbers::as_mut_slice)
        .unwrap_or_default()
}

const OF_ONE_TYPE: &str = "the gradient of an f32 parameter is f32";

fn rule(settings: &OptimizerSettings, lr: f64, updates: u64) -> UpdateRule {
    let OptimizerSettings {
        momentum,
        nesterov,
        alpha,
        beta1,
        beta2,
        epsilon,
        ..
    } = *settings;
    match settings.kind {
        OptimizerKind::Sgd => UpdateRule::Sgd { lr },
        OptimizerKind::Momentum => UpdateRule::Momentum {
            lr,
            momentum,
            nesterov,
        },
        OptimizerKind::RmsProp => UpdateRule::RmsProp { lr, alpha, epsilon },
        OptimizerKind::Adam | OptimizerKind::AdamW => UpdateRule::Adam {
            lr,
            beta1,
            beta2,
            epsilon,
            updates,
            decoupled: settings.kind == OptimizerKind::AdamW,
        },
    }
}

/// The moments of a parameter outside the optimizer.
struct Pair {
    first: Option<Numbers>,
    second: Option<Numbers>,
}

impl Pair {
    /// Takes those that the rule has, or starts them from zero.
    fn of(moments: &mut BTreeMap<String, Moments>, parameter: &Taken, rule: &UpdateRule) -> Pair {
        let known = moments.remove(&parameter.name).unwrap_or_default();
        let zeros = || Numbers::zeros(parameter.weight.as_slice().len());
        let take = |moment: Option<Tensor<1>>| match moment.map(Numbers::of) {
            None => zeros(),
            Some(Ok(numbers)) => numbers,
            Some(Err(moment)) => panic!("moments are on {:?}, unlike the model", moment.device()),
        };
        Pair {
            first: rule.has_first_moment().then(|| take(known.first)),
            second: rule.has_second_moment().then(|| take(known.second)),
        }
    }
}

impl From<Pair> for Moments {
    fn from(pair: Pair) -> Moments {
        Moments {
            first: pair.first.map(Numbers::into_flat),
            second: pair.second.map(Numbers::into_flat),
        }
    }
}

struct Take<'a> {
    gradients: &'a mut ClippedGradients,
    settings: &'a OptimizerSettings,
    path: Vec<String>,
    taken: Vec<Taken>,
    /// Those that were taken, which may have further places in the module.
    places: HashSet<ParamId>,
}

impl ModuleMapper for Take<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, weight, mapper) = param.consume();
        let device = weight.device().without_autodiff();
        let missing = || Tensor::<D>::zeros([0; D], &device);
        if self.places.contains(&id) {
            return Param::from_mapped_value(id, missing(), mapper);
        }
        if !Numbers::has(&weight) {
            return Param::from_mapped_value(id, weight, mapper);
        }
        let Some((gradient, factor)) = self.gradients.take_with_factor(id) else {
            return Param::from_mapped_value(id, weight, mapper);
        };
        let (tracked, required) = (weight.is_autodiff(), weight.is_require_grad());
        let Ok(weight) = Numbers::of(weight.inner()) else {
            unreachable!("it was asked whether the weight has numbers");
        };
        self.taken.push(Taken {
            id,
            name: self.path.join("."),
            weight,
            gradient,
            factor,
            weight_decay: self.settings.decay_of(D),
            tracked,
            required,
        });
        self.places.insert(id);
        Param::from_mapped_value(id, missing(), mapper)
    }
}
