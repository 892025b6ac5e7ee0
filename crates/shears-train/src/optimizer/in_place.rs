//! In-place updates on the CPU device: all parameters in one call, each in one pass over memory.
//!
//! Burn's modules are updated by value. First, parameters are taken out of the module, tied ones at
//! every occurrence, so that nothing else shares their storage, each with its gradient and clipping
//! factor (`ClippedGradients::take_with_factor`). Then `shears_kernels::update` updates all of them
//! and applies the factors. Finally the module is mapped again to put them back.

use std::collections::{HashMap, HashSet};

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, TensorData};
use gradclip_burn::ClippedGradients;
use shears_kernels::{Adam, Elements, Parameter, UpdateRule};
use shears_model::{ParameterMapper, map_parameters};

use super::{Moments, Optimizer, OptimizerKind, OptimizerSettings, Updated};

/// A parameter taken out of its module.
struct Taken {
    id: ParamId,
    name: String,
    weight: Elements,
    gradient: TensorData,
    factor: f64,
    weight_decay: f64,
    tracked: bool,
    required: bool,
}

/// Updates the parameters that can be updated in place, and removes them from the module and the
/// gradients.
pub(super) fn update<M: Module>(
    optimizer: &mut Optimizer,
    module: M,
    gradients: &mut ClippedGradients,
    lr: f64,
) -> (M, HashMap<ParamId, Updated>) {
    let mut take = Take {
        gradients,
        settings: &optimizer.settings,
        taken: Vec::new(),
        seen: HashSet::new(),
    };
    let module = map_parameters(module, &mut take);
    let taken = take.taken;
    (module, apply(optimizer, taken, lr))
}

/// Updates what was taken out of a module.
fn apply(optimizer: &mut Optimizer, mut taken: Vec<Taken>, lr: f64) -> HashMap<ParamId, Updated> {
    let rule = rule(optimizer, lr);
    let clipping = optimizer.clipping.as_ref();
    let resets = clipping.is_some_and(|clipping| clipping.resets_moments(optimizer.updates));
    let moments = taken.iter().map(|taken| {
        let known = optimizer.moments.remove(&taken.name);
        Moments::prepare(known.filter(|_| !resets), taken, &rule)
    });
    let mut moments: Vec<Moments<Elements>> = moments.collect();
    let parameters = taken.iter_mut().zip(&mut moments);
    let parameters = parameters.map(|(taken, moments)| Parameter {
        weight: taken.weight.as_mut_slice(),
        gradient: taken.gradient.as_slice().expect(SAME_TYPE),
        factor: taken.factor,
        first: slice_of(&mut moments.first),
        second: slice_of(&mut moments.second),
        weight_decay: taken.weight_decay,
    });
    shears_kernels::update(&rule, parameters.collect());
    let mut updated = HashMap::new();
    for (taken, moments) in taken.into_iter().zip(moments) {
        let shape = taken.weight.shape().to_vec();
        let moments = Moments {
            first: moments.first.map(Elements::into_flat),
            second: moments.second.map(Elements::into_flat),
        };
        optimizer.moments.insert(taken.name, moments);
        let value = Updated {
            value: taken.weight.into_flat(),
            shape,
            tracked: taken.tracked,
            required: taken.required,
        };
        updated.insert(taken.id, value);
    }
    updated
}

fn slice_of(moment: &mut Option<Elements>) -> &mut [f32] {
    moment
        .as_mut()
        .map(Elements::as_mut_slice)
        .unwrap_or_default()
}

const SAME_TYPE: &str = "the gradient of an f32 parameter is f32";

fn rule(optimizer: &Optimizer, lr: f64) -> UpdateRule {
    let Optimizer {
        settings, updates, ..
    } = *optimizer;
    let clipping = optimizer.clipping.as_ref();
    let epsilon = settings.epsilon;
    match settings.kind {
        OptimizerKind::Sgd => UpdateRule::Sgd { lr },
        OptimizerKind::Momentum => UpdateRule::Momentum {
            lr,
            momentum: settings.momentum,
            nesterov: settings.nesterov,
        },
        OptimizerKind::RmsProp => UpdateRule::RmsProp {
            lr,
            alpha: settings.alpha,
            epsilon,
        },
        OptimizerKind::Adam | OptimizerKind::AdamW => UpdateRule::Adam(Adam {
            lr,
            beta1: settings.beta1,
            beta2: settings.beta2,
            epsilon,
            updates,
            decoupled: settings.kind == OptimizerKind::AdamW,
            lr_factor: clipping.map_or(1.0, |clipping| clipping.learning_rate_factor(updates)),
            spike_bound: clipping.and_then(|clipping| clipping.spike_bound(updates)),
            update_bound: clipping.and_then(|clipping| clipping.update_bound(updates)),
        }),
    }
}

impl Moments<Elements> {
    /// The moments that the rule has, those that are not known as zeros.
    fn prepare(known: Option<Moments>, parameter: &Taken, rule: &UpdateRule) -> Self {
        let known = known.unwrap_or_default();
        let zeros = || Elements::zeros(parameter.weight.as_slice().len());
        let take = |moment: Option<Tensor<1>>| match moment.map(Elements::of) {
            None => zeros(),
            Some(Ok(elements)) => elements,
            Some(Err(moment)) => panic!("moments are on {:?}, unlike the model", moment.device()),
        };
        Moments {
            first: rule.has_first_moment().then(|| take(known.first)),
            second: rule.has_second_moment().then(|| take(known.second)),
        }
    }
}

struct Take<'a> {
    gradients: &'a mut ClippedGradients,
    settings: &'a OptimizerSettings,
    taken: Vec<Taken>,
    /// The parameters already taken; tied ones occur again in the module.
    seen: HashSet<ParamId>,
}

impl ParameterMapper for Take<'_> {
    fn map<const D: usize>(&mut self, name: String, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, weight, mapper) = param.consume();
        let device = weight.device().without_autodiff();
        let missing = || Tensor::<D>::zeros([0; D], &device);
        if self.seen.contains(&id) {
            return Param::from_mapped_value(id, missing(), mapper);
        }
        if !Elements::accepts(&weight) {
            return Param::from_mapped_value(id, weight, mapper);
        }
        let Some((gradient, factor)) = self.gradients.take_with_factor(id) else {
            return Param::from_mapped_value(id, weight, mapper);
        };
        let (tracked, required) = (weight.is_autodiff(), weight.is_require_grad());
        let Ok(weight) = Elements::of(weight.inner()) else {
            unreachable!("the weight was accepted above");
        };
        self.taken.push(Taken {
            id,
            name,
            weight,
            gradient,
            factor,
            weight_decay: self.settings.decay_of(D),
            tracked,
            required,
        });
        self.seen.insert(id);
        Param::from_mapped_value(id, missing(), mapper)
    }
}
