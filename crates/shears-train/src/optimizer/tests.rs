//! The update in place against the one composed of Burn's operations.

use std::collections::HashMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Distribution, Tensor};
use gradclip::{AdamClipping, ClipPolicy, Clipper, NonFinite, Outcome, Unscaled};
use gradclip_burn::{ClippedGradients, ModuleGradients};
use shears_kernels::Elements;

use super::{Optimizer, OptimizerKind, OptimizerSettings};
use crate::tensors::module_tensors;

/// A matrix that is in two places, a vector, a cube, and one that never has a gradient.
#[derive(Module, Debug)]
struct Net {
    table: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
    cube: Param<Tensor<3>>,
    idle: Param<Tensor<2>>,
    tied: Param<Tensor<2>>,
}

impl Net {
    fn new(device: &Device) -> Net {
        let range = Distribution::Uniform(-1.0, 1.0);
        let table = Param::from_tensor(Tensor::random([37, 21], range, device));
        Net {
            tied: table.clone(),
            table,
            bias: Param::from_tensor(Tensor::random([21], range, device)),
            cube: Param::from_tensor(Tensor::random([3, 4, 5], range, device)),
            idle: Param::from_tensor(Tensor::random([2, 2], range, device)),
        }
    }

    /// Gradients that depend on the weights and on the step.
    fn gradients(&self, step: usize) -> ModuleGradients {
        let table = self.table.val() * self.tied.val() * (step as f64 + 0.5);
        let bias = self.bias.val().sin();
        let cube = (self.cube.val() * 0.3).exp();
        let loss = table.sum() + bias.sum() * 3.0 + cube.sum();
        ModuleGradients::collect(loss.backward(), self, &ClipPolicy::none()).unwrap()
    }

    fn addresses(&self) -> [*const f32; 5] {
        fn address<const D: usize>(param: &Param<Tensor<D>>) -> *const f32 {
            let elements = Elements::of(param.val().inner()).unwrap();
            elements.as_slice().as_ptr()
        }
        [
            address(&self.table),
            address(&self.bias),
            address(&self.cube),
            address(&self.idle),
            address(&self.tied),
        ]
    }
}

#[test]
fn adaptive_optimizers_are_known() {
    for kind in OptimizerKind::ALL {
        let divides = kind.moments().contains(&"second");
        let is_listed = shears_run::ADAPTIVE_OPTIMIZERS.contains(&kind.name());
        assert_eq!(is_listed, divides, "{kind}");
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn settings(kind: OptimizerKind, nesterov: bool, weight_decay: f64) -> OptimizerSettings {
    OptimizerSettings {
        kind,
        momentum: 0.9,
        nesterov,
        alpha: 0.99,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay,
    }
}

fn all_settings() -> Vec<OptimizerSettings> {
    let kinds = [
        (OptimizerKind::Sgd, false),
        (OptimizerKind::Momentum, false),
        (OptimizerKind::Momentum, true),
        (OptimizerKind::RmsProp, false),
        (OptimizerKind::Adam, false),
        (OptimizerKind::AdamW, false),
    ];
    let with_decays = |(kind, nesterov)| [0.0, 0.1].map(|decay| settings(kind, nesterov, decay));
    kinds.into_iter().flat_map(with_decays).collect()
}

fn deferred(policy: &str, gradients: ModuleGradients) -> ClippedGradients {
    let policy: ClipPolicy = policy.parse().unwrap();
    let mut clipper = Clipper::for_adam(policy, NonFinite::Error);
    match clipper.clip_deferred(Unscaled::single(gradients), None) {
        Ok(Outcome::Apply(deferred)) => deferred.into(),
        other => panic!("the gradients are finite: {other:?}"),
    }
}

/// All weights and moments. Minus zero counts as zero: moments in place start as zero and not as
/// the first gradient.
fn elements(net: &Net, optimizer: &Optimizer) -> Vec<(String, Vec<f32>)> {
    let tensors = module_tensors(net).into_iter().chain(optimizer.tensors());
    let elements = tensors.map(|tensor| (tensor.name, tensor.data.try_to_vec().unwrap()));
    elements.collect()
}

#[test]
fn in_place_and_composed_updates_have_the_same_bits() {
    for settings in all_settings() {
        // No factor, one for all, and one for each.
        for policy in ["none", "global-norm:0.5", "norm:0.1"] {
            let mut net = Net::new(&device());
            let mut other = net.clone();
            let mut optimizer = Optimizer::new(settings, None);
            let mut oracle = Optimizer::new(settings, None);
            for step in 0..8 {
                let gradients = deferred(policy, net.gradients(step));
                net = optimizer.step(net, gradients, 0.01);
                let gradients = deferred(policy, other.gradients(step));
                oracle.updates += 1;
                other = oracle.compose(other, gradients, 0.01, HashMap::new());
                let (given, wanted) = (elements(&net, &optimizer), elements(&other, &oracle));
                assert_eq!(given, wanted, "{settings:?}, {policy}, step {step}");
            }
            assert_eq!(optimizer.updates(), 8);
            // It still trains: every place of every parameter is tracked as before.
            assert!(net.tied.val().is_require_grad() && net.idle.val().is_require_grad());
        }
    }
}

/// SPAM to the bit. The mean of `update-rms` is summed in another precision: to 1e-6 of the largest
/// element.
#[test]
fn rules_inside_adam_agree_with_their_composition() {
    const STEPS: usize = 50;
    for kind in [OptimizerKind::Adam, OptimizerKind::AdamW] {
        for (policy, tolerance) in [
            ("spam:theta=1.1,reset=25,warmup=4", 0.0),
            ("global-norm:0.5+update-rms:0.7", 1e-6),
        ] {
            let settings = settings(kind, false, 0.1);
            let clipping = || AdamClipping::of(&policy.parse().unwrap());
            let mut net = Net::new(&device());
            let mut other = net.clone();
            let mut plain = net.clone();
            let mut optimizer = Optimizer::new(settings, clipping());
            let mut oracle = Optimizer::new(settings, clipping());
            let mut unclipped = Optimizer::new(settings, None);
            for step in 0..STEPS {
                let gradients = deferred(policy, net.gradients(step));
                net = optimizer.step(net, gradients, 0.01);
                let gradients = deferred(policy, other.gradients(step));
                oracle.updates += 1;
                other = oracle.compose(other, gradients, 0.01, HashMap::new());
                let gradients = deferred(policy, plain.gradients(step));
                plain = unclipped.step(plain, gradients, 0.01);
            }
            let (given, wanted) = (elements(&net, &optimizer), elements(&other, &oracle));
            for ((name, given), (_, wanted)) in given.iter().zip(&wanted) {
                let largest = wanted
                    .iter()
                    .fold(0.0_f32, |most, value| most.max(value.abs()));
                for (given, wanted) in given.iter().zip(wanted) {
                    let error = (given - wanted).abs();
                    assert!(
                        error <= tolerance * largest,
                        "{kind}, {policy}, {name}: {given} {wanted}"
                    );
                }
            }
            assert_ne!(given, elements(&plain, &unclipped), "{policy} does nothing");
        }
    }
}

#[test]
fn weights_and_moments_stay_where_they_are() {
    for settings in all_settings() {
        let mut net = Net::new(&device());
        let mut optimizer = Optimizer::new(settings, None);
        let moments = |optimizer: &Optimizer| -> Vec<*const f32> {
            let moments = optimizer.moments.values();
            let tensors = moments.flat_map(|moments| [&moments.first, &moments.second]);
            let addresses = tensors.flatten().map(|tensor| {
                let elements = Elements::of(tensor.clone()).unwrap();
                elements.as_slice().as_ptr()
            });
            addresses.collect()
        };
        let weights = net.addresses();
        assert_eq!(weights[0], weights[4], "tied");
        let mut first_moments = None;
        for step in 0..3 {
            let gradients = deferred("global-norm:0.5", net.gradients(step));
            net = optimizer.step(net, gradients, 0.01);
            assert_eq!(net.addresses(), weights, "{settings:?}, step {step}");
            let moments = moments(&optimizer);
            assert_eq!(*first_moments.get_or_insert(moments.clone()), moments);
        }
    }
}

#[test]
fn a_clone_of_the_module_keeps_its_values() {
    let mut net = Net::new(&device());
    let mut optimizer = Optimizer::new(settings(OptimizerKind::Adam, false, 0.0), None);
    let clone = net.clone();
    let before = elements(&clone, &optimizer);
    let gradients = deferred("none", net.gradients(0));
    net = optimizer.step(net, gradients, 0.01);
    let untouched = Optimizer::new(optimizer.settings, None);
    assert_eq!(elements(&clone, &untouched), before);
    assert_ne!(elements(&net, &untouched), before);
}
