//! The optimizers, with PyTorch's formulas and defaults. A step only takes clipped gradients.
//!
//! `Rule` composes an update from Burn's operations, for every device. On the CPU device `in_place`
//! computes it in one pass over memory: the same bits, but for the mean of `update-rms`, which it
//! sums in `f64`.

mod in_place;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use gradclip::AdamClipping;
use gradclip_burn::ClippedGradients;
use shears_model::{ParameterMapper, map_parameters, named_enum};

use crate::tensors::{LazyTensor, NamedTensor};

named_enum! {
    /// The update rule.
    pub enum OptimizerKind: "optimizer" {
        /// `w <- w - lr g`.
        Sgd = "sgd",
        /// Heavy-ball momentum as PyTorch has it: `m <- mu m + g; w <- w - lr m`.
        Momentum = "momentum",
        /// Hinton's RMSprop: `v <- a v + (1 - a) g^2; w <- w - lr g / (sqrt(v) + eps)`.
        RmsProp = "rmsprop",
        /// Adam (Kingma & Ba 2015), with weight decay added to the gradient.
        Adam = "adam",
        /// AdamW (Loshchilov & Hutter 2019), with decoupled weight decay of matrices only.
        AdamW = "adamw",
    }
}

impl OptimizerKind {
    /// The moments per parameter, as named by [`Optimizer::tensors`].
    pub(crate) fn moments(self) -> &'static [&'static str] {
        match self {
            OptimizerKind::Sgd => &[],
            OptimizerKind::Momentum => &["first"],
            OptimizerKind::RmsProp => &["second"],
            OptimizerKind::Adam | OptimizerKind::AdamW => &["first", "second"],
        }
    }
}

/// The settings of all update rules; each rule uses some of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerSettings {
    /// The update rule.
    pub kind: OptimizerKind,
    /// The momentum factor.
    pub momentum: f64,
    /// Nesterov's variant of momentum (Sutskever et al. 2013, as PyTorch has it).
    pub nesterov: bool,
    /// RMSprop's decay of the mean square.
    pub alpha: f64,
    /// Adam's decay of the first moment.
    pub beta1: f64,
    /// Adam's decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator of RMSprop and Adam.
    pub epsilon: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// An update rule with its moments, by parameter name.
#[derive(Debug)]
pub struct Optimizer {
    settings: OptimizerSettings,
    /// The rules of the clipping policy that work inside Adam.
    clipping: Option<AdamClipping>,
    moments: BTreeMap<String, Moments>,
    updates: u64,
}

/// The moments of one parameter, flattened.
#[derive(Clone, Debug)]
struct Moments<T = Tensor<1>> {
    first: Option<T>,
    second: Option<T>,
}

impl<T> Default for Moments<T> {
    fn default() -> Self {
        let (first, second) = (None, None);
        Moments { first, second }
    }
}

impl Optimizer {
    /// Creates an optimizer without moments.
    pub fn new(settings: OptimizerSettings, clipping: Option<AdamClipping>) -> Self {
        Optimizer {
            settings,
            clipping,
            moments: BTreeMap::new(),
            updates: 0,
        }
    }

    /// The number of applied updates.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Applies one update to every parameter that has a gradient.
    ///
    /// On the CPU device parameters and moments are updated in place, without a copy unless there
    /// is a clone of the module.
    pub fn step<M: Module>(&mut self, module: M, mut gradients: ClippedGradients, lr: f64) -> M {
        self.updates += 1;
        let (module, updated) = in_place::update(self, module, &mut gradients, lr);
        self.compose(module, gradients, lr, updated)
    }

    /// Updates with Burn's operations, on every device. Parameters in `updated` get that value.
    fn compose<M: Module>(
        &mut self,
        module: M,
        gradients: ClippedGradients,
        lr: f64,
        updated: HashMap<ParamId, Updated>,
    ) -> M {
        let mut update = Update {
            optimizer: self,
            gradients,
            lr,
            updated,
        };
        map_parameters(module, &mut update)
    }

    /// The moments by name, for a checkpoint: `NAME.first` and `NAME.second`.
    pub fn tensors(&self) -> Vec<NamedTensor> {
        self.lazy_tensors().iter().map(LazyTensor::read).collect()
    }

    /// The moments by name, read lazily.
    pub(crate) fn lazy_tensors<'a>(&self) -> Vec<LazyTensor<'a>> {
        let mut tensors = Vec::new();
        for (name, moments) in &self.moments {
            for (part, tensor) in [("first", &moments.first), ("second", &moments.second)] {
                if let Some(tensor) = tensor {
                    let name = format!("{name}.{part}");
                    tensors.push(LazyTensor::on_device(name, tensor.clone()));
                }
            }
        }
        tensors
    }

    /// Restores the moments returned by [`Optimizer::tensors`] after `updates` updates.
    pub fn restore(&mut self, tensors: Vec<NamedTensor>, updates: u64, device: &Device) {
        self.updates = updates;
        self.moments.clear();
        for NamedTensor { name, data } in tensors {
            let Some((parameter, part)) = name.rsplit_once('.') else {
                continue;
            };
            let moments = self.moments.entry(parameter.to_string()).or_default();
            let elements = data.num_elements();
            let flat =
                TensorData::from_bytes(data.into_bytes(), [elements], burn::tensor::DType::F32);
            let tensor = Tensor::from_data(flat, device);
            match part {
                "first" => moments.first = Some(tensor),
                _ => moments.second = Some(tensor),
            }
        }
    }
}

impl OptimizerSettings {
    /// The weight decay of a parameter of rank `axes`.
    fn decay_of(&self, axes: usize) -> f64 {
        match self.kind {
            OptimizerKind::AdamW if axes < 2 => 0.0,
            _ => self.weight_decay,
        }
    }
}

struct Update<'a> {
    optimizer: &'a mut Optimizer,
    gradients: ClippedGradients,
    lr: f64,
    /// New values by parameter, because tied weights are visited once per occurrence.
    updated: HashMap<ParamId, Updated>,
}

/// The new value of a parameter, and its autodiff flags.
struct Updated {
    value: Tensor<1>,
    shape: Vec<usize>,
    tracked: bool,
    required: bool,
}

impl Updated {
    fn tensor<const D: usize>(&self) -> Tensor<D> {
        let shape: [usize; D] = std::array::from_fn(|axis| self.shape[axis]);
        let value = self.value.clone().reshape(shape);
        let value = match self.tracked {
            true => Tensor::from_inner(value),
            false => value,
        };
        value.set_require_grad(self.required)
    }
}

impl ParameterMapper for Update<'_> {
    fn map<const D: usize>(&mut self, name: String, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, weight, mapper) = param.consume();
        if let Some(updated) = self.updated.get(&id) {
            return Param::from_mapped_value(id, updated.tensor(), mapper);
        }
        let Some(gradient) = self.gradients.take::<D>(id) else {
            return Param::from_mapped_value(id, weight, mapper);
        };
        let moments = self.optimizer.moments.entry(name);
        let rule = Rule {
            settings: &self.optimizer.settings,
            clipping: self.optimizer.clipping.as_ref(),
            lr: self.lr,
            weight_decay: self.optimizer.settings.decay_of(D),
        };
        let shape = weight.dims().to_vec();
        let elements: usize = shape.iter().product();
        let (tracked, required) = (weight.is_autodiff(), weight.is_require_grad());
        let flat = |tensor: Tensor<D>| -> Tensor<1> { tensor.reshape([elements]) };
        let updates = self.optimizer.updates;
        let moments = moments.or_default();
        let updated = Updated {
            value: rule.updated(flat(weight.inner()), flat(gradient), moments, updates),
            shape,
            tracked,
            required,
        };
        let tensor = updated.tensor();
        self.updated.insert(id, updated);
        Param::from_mapped_value(id, tensor, mapper)
    }
}

struct Rule<'a> {
    settings: &'a OptimizerSettings,
    clipping: Option<&'a AdamClipping>,
    lr: f64,
    weight_decay: f64,
}

impl Rule<'_> {
    /// Computes the new weight; `updates` includes this update.
    fn updated(
        &self,
        weight: Tensor<1>,
        gradient: Tensor<1>,
        moments: &mut Moments,
        updates: u64,
    ) -> Tensor<1> {
        let settings = self.settings;
        let (gradient, weight) = match (self.weight_decay, settings.kind) {
            (0.0, _) => (gradient, weight),
            (decay, OptimizerKind::AdamW) => (gradient, weight * (1.0 - self.lr * decay)),
            (decay, _) => (gradient + weight.clone() * decay, weight),
        };
        match settings.kind {
            OptimizerKind::Sgd => weight - gradient * self.lr,
            OptimizerKind::Momentum => {
                let velocity = match moments.first.take() {
                    Some(velocity) => velocity * settings.momentum + gradient.clone(),
                    // PyTorch starts from the first gradient, not from zero.
                    None => gradient.clone(),
                };
                moments.first = Some(velocity.clone());
                let direction = match settings.nesterov {
                    true => gradient + velocity * settings.momentum,
                    false => velocity,
                };
                weight - direction * self.lr
            }
            OptimizerKind::RmsProp => {
                let square = decayed(moments.second.take(), square(&gradient), settings.alpha);
                moments.second = Some(square.clone());
                weight - gradient / (square.sqrt() + settings.epsilon) * self.lr
            }
            OptimizerKind::Adam | OptimizerKind::AdamW => {
                self.adam(weight, gradient, moments, updates)
            }
        }
    }

    fn adam(
        &self,
        weight: Tensor<1>,
        gradient: Tensor<1>,
        moments: &mut Moments,
        updates: u64,
    ) -> Tensor<1> {
        let (settings, clipping) = (self.settings, self.clipping);
        if clipping.is_some_and(|clipping| clipping.resets_moments(updates)) {
            *moments = Moments::default();
        }
        let bound = clipping.and_then(|clipping| clipping.spike_bound(updates));
        let gradient = match (bound, &moments.second) {
            (Some(bound), Some(second)) => without_spikes(gradient, second, bound),
            _ => gradient,
        };
        let update_bound = clipping.and_then(|clipping| clipping.update_bound(updates));
        let squares = square(&gradient);
        let bounded = update_bound.map(|bound| (bound, squares.clone()));
        let second = decayed(moments.second.take(), squares, settings.beta2);
        let first = decayed(moments.first.take(), gradient, settings.beta1);
        moments.first = Some(first.clone());
        moments.second = Some(second.clone());
        let factor = clipping.map_or(1.0, |clipping| clipping.learning_rate_factor(updates));
        let step_size = self.lr * factor / (1.0 - settings.beta1.powf(updates as f64));
        let bias = 1.0 - settings.beta2.powf(updates as f64);
        let divisor = bounded.map(|(bound, squares)| {
            // Wortsman et al. (2023), algorithm 2. In f32 the square of a small epsilon underflows
            // to zero, and 0 / 0 is NaN.
            let floor = (settings.epsilon * settings.epsilon).max(f64::from(f32::MIN_POSITIVE));
            let mean_square = (squares / (second.clone() / bias).clamp_min(floor)).mean();
            (mean_square.sqrt() / bound).clamp_min(1.0)
        });
        let update = first / (second.sqrt() / bias.sqrt() + settings.epsilon) * step_size;
        match divisor {
            Some(divisor) => weight - update / divisor,
            None => weight - update,
        }
    }
}

/// Clamps elements with `g^2 > bound v` to `sqrt(bound v)` (Huang et al. 2025, equation 2), except
/// elements with `v = 0`, which have no scale yet.
fn without_spikes(gradient: Tensor<1>, second: &Tensor<1>, bound: f64) -> Tensor<1> {
    let limit = (second.clone() * bound).sqrt();
    let limit = limit.mask_fill(second.clone().equal_elem(0.0), f32::MAX);
    gradient.max_pair(-limit.clone()).min_pair(limit)
}

fn square(gradient: &Tensor<1>) -> Tensor<1> {
    gradient.clone() * gradient.clone()
}

/// `decay * mean + (1 - decay) * value`, where a missing mean is zero.
fn decayed(mean: Option<Tensor<1>>, value: Tensor<1>, decay: f64) -> Tensor<1> {
    let value = value * (1.0 - decay);
    match mean {
        Some(mean) => mean * decay + value,
        None => value,
    }
}
