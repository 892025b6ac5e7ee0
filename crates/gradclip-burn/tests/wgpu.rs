//! The adapter on a `wgpu` device, such as Mesa's software Vulkan. Built with `--features wgpu`.

use burn::module::Param;
use burn::optim::SgdConfig;
use burn::tensor::{Device, DeviceKind, Tensor};
use gradclip_burn::gradclip::{ClipPolicy, Clipper, NonFinite, Outcome, Unscaled};
use gradclip_burn::{ClippedGradients, ModuleGradients};

/// A working device, or `None` with a message on standard error.
fn device() -> Option<Device> {
    let computes = std::panic::catch_unwind(|| {
        let device = Device::wgpu(DeviceKind::DefaultDevice).autodiff();
        let sum = Tensor::<1>::from_floats([1.0, 2.0], &device).sum();
        let values: Vec<f32> = sum.into_data().try_to_vec().ok()?;
        (values == [3.0]).then_some(device)
    });
    let device = computes.ok().flatten();
    if device.is_none() {
        eprintln!("skipped: this machine has no usable wgpu device");
    }
    device
}

#[test]
fn clipping_on_wgpu_equals_the_host_bit_for_bit() {
    let Some(device) = device() else { return };
    let weights: Vec<f32> = (0..300).map(|index| (index as f32).sin() * 40.0).collect();
    let weights = Tensor::<1>::from_floats(weights.as_slice(), &device).reshape([20, 15]);
    let model = Param::from_tensor(weights.clone());
    let gradients = |model: &Param<Tensor<2>>| {
        // The gradient of half the sum of squares is the weight itself, bit for bit.
        let loss = (model.val() * weights.clone()).sum();
        let policy = "agc:0.1".parse().expect("the policy is valid");
        ModuleGradients::collect(loss.backward(), model, &policy).unwrap()
    };
    for policy in [
        "global-norm:1",
        "value:2",
        "agc:0.1,unit=first",
        "norm:3,p=inf",
        "none",
    ] {
        let collected = gradients(&model);
        let mut expected: Vec<(String, Vec<f32>)> = collected
            .iter()
            .map(|(name, values)| (name.to_string(), single_precision(values)))
            .collect();
        if policy != "agc:0.1,unit=first" {
            let outcome = clipper(policy)
                .clip(Unscaled::single(&mut expected))
                .unwrap();
            assert!(matches!(outcome, Outcome::Apply(_)));
        }
        let Ok(Outcome::Apply(clipped)) = clipper(policy).clip(Unscaled::single(collected)) else {
            panic!("the gradients are finite");
        };
        if policy != "agc:0.1,unit=first" {
            let (_, values) = clipped.gradients().iter().next().unwrap();
            assert_eq!(single_precision(values), expected[0].1, "{policy}");
        }
        let clipped = ClippedGradients::from(clipped);
        let norm_after = clipped.report().norm_after;
        let params = clipped.into_params(&model);
        let gradient = params.get::<2>(model.id).unwrap();
        // Uploaded again and measured on the device.
        let norm: Vec<f32> = gradient
            .square()
            .sum()
            .sqrt()
            .into_data()
            .try_to_vec()
            .unwrap();
        if !policy.contains("p=") {
            assert!(
                (f64::from(norm[0]) / norm_after - 1.0).abs() < 1e-5,
                "{policy}: {norm:?}"
            );
        }
        let before: Vec<f32> = model.val().into_data().try_to_vec().unwrap();
        let stepped = SgdConfig::new().init().step(0.5, model.clone(), params);
        let after: Vec<f32> = stepped.val().into_data().try_to_vec().unwrap();
        assert_ne!(after, before, "{policy}");
    }
}

fn clipper(policy: &str) -> Clipper {
    Clipper::new(policy.parse::<ClipPolicy>().unwrap(), NonFinite::Error)
        .expect("no rule inside Adam")
}

fn single_precision(values: gradclip_burn::gradclip::Values<'_>) -> Vec<f32> {
    match values {
        gradclip_burn::gradclip::Values::F32(values) => values.to_vec(),
        other => panic!("the gradients are f32: {other:?}"),
    }
}
