//! The whole pipeline: backward, collect, clip, into_params, step.

use burn::backend::Flex;
use burn::grad_clipping::GradientClippingConfig;
use burn::module::{Module, Param};
use burn::nn::conv::{
    Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, Conv3d, Conv3dConfig, ConvTranspose2d,
    ConvTranspose2dConfig,
};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::{DType, Device, Distribution, Gradients, Int, Tensor, TensorData};
use gradclip_burn::gradclip::{
    Accumulated, ClipAction, ClipError, ClipPolicy, Clipper, NonFinite, Outcome, Unscaled, Values,
};
use gradclip_burn::{ClipModule, ClippedGradients, ClippedOptimizer, ModuleGradients, StepError};

/// A module with arbitrary gradients; see [`Ranks::backward_to`].
#[derive(Module, Debug)]
struct Ranks {
    vector: Param<Tensor<1>>,
    matrix: Param<Tensor<2>>,
    cube: Param<Tensor<3>>,
}

#[derive(Module, Debug)]
struct Wrapped {
    layer: Linear,
}

#[derive(Module, Debug)]
struct TwoFields {
    first: Param<Tensor<1>>,
    second: Param<Tensor<1>>,
}

const VECTOR: [f32; 2] = [1.0, 2.0];
const MATRIX: [[f32; 2]; 2] = [[2.0, 0.0], [0.0, 4.0]];
const CUBE: [[[f32; 2]; 1]; 2] = [[[0.0, 4.0]], [[8.0, 0.0]]];
/// The square root of 1 + 4 + 4 + 16 + 16 + 64.
const GLOBAL_NORM: f64 = 10.246950765959598;

impl Ranks {
    fn new(device: &Device) -> Self {
        Ranks {
            vector: Param::from_tensor(Tensor::zeros([2], device)),
            matrix: Param::from_tensor(Tensor::zeros([2, 2], device)),
            cube: Param::from_tensor(Tensor::zeros([2, 1, 2], device)),
        }
    }

    /// The derivative of the inner product of a parameter and a constant is the constant.
    fn backward_to(&self, vector: [f32; 2]) -> Gradients {
        let device = device();
        let vector = Tensor::<1>::from_floats(vector, &device);
        let matrix = Tensor::<2>::from_floats(MATRIX, &device);
        let cube = Tensor::<3>::from_floats(CUBE, &device);
        let loss = (self.vector.val() * vector).sum()
            + (self.matrix.val() * matrix).sum()
            + (self.cube.val() * cube).sum();
        loss.backward()
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn clipper(policy: &str, non_finite: NonFinite) -> Clipper {
    let policy: ClipPolicy = policy.parse().expect("the policy is valid");
    Clipper::new(policy, non_finite).expect("no rule inside Adam")
}

fn clip(policy: &str, gradients: ModuleGradients) -> ClippedGradients {
    match clipper(policy, NonFinite::Error).clip(Unscaled::single(gradients)) {
        Ok(Outcome::Apply(clipped)) => clipped.into(),
        other => panic!("the gradients are finite: {other:?}"),
    }
}

fn collect<M: Module>(gradients: Gradients, module: &M) -> ModuleGradients {
    ModuleGradients::collect(gradients, module, &ClipPolicy::none())
        .expect("the gradients are f32 on a CPU")
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("the tensor is f32")
}

fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

fn owned(gradients: &ModuleGradients) -> Vec<(String, Vec<f32>)> {
    gradients
        .iter()
        .map(|(name, values)| (name.to_owned(), single_precision(values).to_vec()))
        .collect()
}

fn single_precision(values: Values<'_>) -> &[f32] {
    let Values::F32(values) = values else {
        panic!("the gradients are f32: {values:?}");
    };
    values
}

fn sgd() -> ModuleOptimizer {
    SgdConfig::new().init()
}

/// A randomly initialised layer and inputs.
fn drawn_layer(samples: usize) -> (Wrapped, Tensor<2>) {
    let device = device();
    let layer = LinearConfig::new(3, 2).init(&device);
    let inputs = Tensor::random([samples, 3], Distribution::Normal(0.0, 1.0), &device);
    (Wrapped { layer }, inputs)
}

#[test]
fn names_and_values_are_collected_in_module_order() {
    let (model, inputs) = drawn_layer(5);
    let gradients = model.layer.forward(inputs).square().mean().backward();
    let weight = model.layer.weight.val().grad(&gradients).unwrap();
    let bias = model
        .layer
        .bias
        .as_ref()
        .unwrap()
        .val()
        .grad(&gradients)
        .unwrap();
    let collected = collect(gradients, &model);
    let expected = [
        ("layer.weight".to_owned(), values(weight)),
        ("layer.bias".to_owned(), values(bias)),
    ];
    assert_eq!(owned(&collected), expected);
    assert_eq!((collected.len(), collected.is_empty()), (2, false));
}

#[test]
fn the_norm_is_global() {
    let model = Ranks::new(&device());
    let clipped = clip("global-norm:2", collect(model.backward_to(VECTOR), &model));
    let report = clipped.report();
    assert!((report.norm_before - GLOBAL_NORM).abs() < 1e-12);
    assert_eq!((report.norm_after, report.action), (2.0, ClipAction::Clip));
    let mut params = clipped.into_params(&model);
    let expected = |value: f32| (f64::from(value) * (2.0 / GLOBAL_NORM)) as f32;
    let vector = values(params.remove::<1>(model.vector.id).unwrap());
    let matrix = values(params.remove::<2>(model.matrix.id).unwrap());
    let cube = values(params.remove::<3>(model.cube.id).unwrap());
    assert_eq!(vector, [1.0, 2.0].map(expected));
    assert_eq!(matrix, [2.0, 0.0, 0.0, 4.0].map(expected));
    assert_eq!(cube, [0.0, 4.0, 8.0, 0.0].map(expected));
}

#[test]
fn burn_itself_clips_each_tensor_separately() {
    let model = Ranks::new(&device());
    let raw = GradientsParams::from_grads(model.backward_to(VECTOR), &model);
    let clipping = GradientClippingConfig::Norm(2.0);
    let burn = SgdConfig::new()
        .with_gradient_clipping(Some(clipping))
        .init();
    let by_burn = burn.clone().step(1.0, model.clone(), raw);
    let norm = |model: &Ranks| {
        let all = [
            values(model.vector.val()),
            values(model.matrix.val()),
            values(model.cube.val()),
        ];
        all.concat()
            .iter()
            .map(|value| f64::from(value * value))
            .sum::<f64>()
            .sqrt()
    };
    // Three tensors of norm 2 have a global norm of 2 sqrt(3).
    assert!((norm(&by_burn) - 12.0_f64.sqrt()).abs() < 1e-5);
    let ours = clip("global-norm:2", collect(model.backward_to(VECTOR), &model));
    let params = ours.into_params(&model);
    let by_us = sgd().step(1.0, model, params);
    assert!((norm(&by_us) - 2.0).abs() < 1e-6);
}

#[test]
fn unclipped_gradients_keep_their_bits() {
    let (model, inputs) = drawn_layer(5);
    let gradients = model.layer.forward(inputs).square().mean().backward();
    let expected = bits(model.layer.weight.val().grad(&gradients).unwrap());
    let clipped = clip("global-norm:1e6", collect(gradients, &model));
    assert_eq!(clipped.report().action, ClipAction::Keep);
    let mut params = clipped.into_params(&model);
    assert_eq!(
        bits(params.remove::<2>(model.layer.weight.id).unwrap()),
        expected
    );
}

#[test]
fn each_gradient_is_registered_with_the_rank_of_its_parameter() {
    let model = Ranks::new(&device());
    let params = clip("none", collect(model.backward_to(VECTOR), &model)).into_params(&model);
    assert_eq!(params.len(), 3);
    assert_eq!(params.get::<1>(model.vector.id).unwrap().dims(), [2]);
    assert_eq!(params.get::<2>(model.matrix.id).unwrap().dims(), [2, 2]);
    assert_eq!(params.get::<3>(model.cube.id).unwrap().dims(), [2, 1, 2]);
}

#[test]
fn a_gradient_is_taken_once_and_into_params_returns_the_rest() {
    let model = Ranks::new(&device());
    let mut clipped = clip("none", collect(model.backward_to(VECTOR), &model));
    assert_eq!(values(clipped.take::<1>(model.vector.id).unwrap()), VECTOR);
    assert!(clipped.take::<1>(model.vector.id).is_none());
    assert_eq!(clipped.into_params(&model).len(), 2);
}

#[test]
fn a_parameter_cloned_into_two_fields_counts_once() {
    let device = device();
    let first = Param::from_tensor(Tensor::<1>::zeros([2], &device));
    let model = TwoFields {
        second: first.clone(),
        first,
    };
    let constant = Tensor::<1>::from_floats([3.0, 4.0], &device);
    let loss = |model: &TwoFields| {
        (model.first.val() * constant.clone()).sum() + (model.second.val() * constant.clone()).sum()
    };
    let collected = collect(loss(&model).backward(), &model);
    assert_eq!(owned(&collected), [("first".to_owned(), vec![6.0, 8.0])]);
    assert_eq!(clip("global-norm:5", collected).report().norm_before, 10.0);

    // The README says that clones diverge under Burn's optimizers.
    let params = GradientsParams::from_grads(loss(&model).backward(), &model);
    let stepped = sgd().step(1.0, model.clone(), params);
    assert_eq!(values(stepped.first.val()), [-6.0, -8.0]);
    assert_eq!(values(stepped.second.val()), [0.0, 0.0]);

    // A second leaf with the same id, as after loading or moving a module.
    let (id, tensor, _) = model.second.clone().consume();
    let second = Param::initialized(id, tensor.detach().require_grad());
    let separated = TwoFields {
        first: model.first.clone(),
        second,
    };
    let collected = collect(loss(&separated).backward(), &separated);
    assert_eq!(owned(&collected), [("first".to_owned(), vec![6.0, 8.0])]);
}

#[test]
fn a_parameter_used_twice_counts_once() {
    let device = device();
    let model = LinearConfig::new(1, 1).with_bias(false).init(&device);
    let one = Tensor::<2>::from_floats([[1.0]], &device);
    let weight = values(model.weight.val())[0];
    // The derivative of w * w is 2 w.
    let loss = model.forward(model.forward(one)).sum();
    let collected = collect(loss.backward(), &model);
    assert_eq!(
        owned(&collected),
        [("weight".to_owned(), vec![2.0 * weight])]
    );
}

#[test]
fn a_parameter_without_gradient_is_omitted_and_unchanged() {
    let device = device();
    let model = TwoFields {
        first: Param::from_tensor(Tensor::ones([2], &device)),
        second: Param::from_tensor(Tensor::ones([2], &device)),
    };
    let collected = collect(model.second.val().sum().backward(), &model);
    assert_eq!(owned(&collected), [("second".to_owned(), vec![1.0, 1.0])]);
    let params = clip("none", collected).into_params(&model);
    let model = sgd().step(0.25, model, params);
    assert_eq!(values(model.first.val()), [1.0, 1.0]);
    assert_eq!(values(model.second.val()), [0.75, 0.75]);
}

#[test]
fn accumulated_micro_batches_equal_one_batch() {
    let (model, inputs) = drawn_layer(8);
    let backward = |inputs: Tensor<2>| {
        let loss = model.layer.forward(inputs).square().mean();
        collect(loss.backward(), &model)
    };
    let large = backward(inputs.clone());
    let mut accumulated = Accumulated::new(backward(inputs.clone().narrow(0, 0, 4)));
    accumulated.add(backward(inputs.narrow(0, 4, 4)));
    let mean = accumulated.in_one_process().without_loss_scale();
    for ((name, sum), (expected_name, expected)) in mean.gradients().iter().zip(large.iter()) {
        assert_eq!(name, expected_name);
        for (value, expected) in single_precision(sum).iter().zip(single_precision(expected)) {
            assert!(
                (value - expected).abs() < 1e-6,
                "{name}: {value} and {expected}"
            );
        }
    }
    let Ok(Outcome::Apply(ours)) = clipper("global-norm:0.1", NonFinite::Error).clip(mean) else {
        panic!("the gradients are finite");
    };
    let expected = clip("global-norm:0.1", large);
    assert_eq!(ours.report().action, ClipAction::Clip);
    assert!((ours.report().norm_before - expected.report().norm_before).abs() < 1e-6);
}

#[test]
#[should_panic(expected = "gradients of another module")]
fn gradients_of_another_module_cannot_be_added() {
    let (model, other) = (Ranks::new(&device()), Ranks::new(&device()));
    let mut sum = Accumulated::new(collect(model.backward_to(VECTOR), &model));
    sum.add(collect(other.backward_to(VECTOR), &other));
}

#[test]
fn a_skipped_step_leaves_every_parameter_bit_identical() {
    let mut model = Ranks::new(&device());
    let mut optimizer = AdamConfig::new().init();
    let mut clipper = clipper("global-norm:1", NonFinite::Skip);
    let mut applied = 0;
    let mut before = Vec::new();
    for vector in [VECTOR, [f32::NAN, f32::INFINITY]] {
        before = [
            bits(model.vector.val()),
            bits(model.matrix.val()),
            bits(model.cube.val()),
        ]
        .into();
        let gradients = collect(model.backward_to(vector), &model);
        match clipper.clip(Unscaled::single(gradients)).unwrap() {
            Outcome::Apply(clipped) => {
                applied += 1;
                let params = ClippedGradients::from(clipped).into_params(&model);
                model = optimizer.step(0.1, model, params);
            }
            Outcome::Skip { report, gradients } => {
                assert_eq!((report.non_finite, report.action), (2, ClipAction::Skip));
                assert_eq!(report.first_non_finite.as_deref(), Some("vector"));
                assert_eq!(gradients.len(), 3);
            }
        }
    }
    let after = vec![
        bits(model.vector.val()),
        bits(model.matrix.val()),
        bits(model.cube.val()),
    ];
    assert_eq!((applied, after), (1, before));
}

#[test]
fn the_error_names_the_tensor() {
    let (model, inputs) = drawn_layer(5);
    // The gradient of the weight is infinite; that of the bias, a sum of ones, is not.
    let gradients = model
        .layer
        .forward(inputs.mul_scalar(f32::INFINITY))
        .sum()
        .backward();
    let error = clipper("none", NonFinite::Error)
        .clip(Unscaled::single(collect(gradients, &model)))
        .unwrap_err();
    let ClipError::NonFinite { tensors } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(tensors[0].0, "layer.weight");
    assert_eq!(tensors.len(), 1);
    assert!(error.to_string().contains("`layer.weight`"));
}

#[test]
fn half_precision_keeps_its_type() {
    let device = device();
    let weight = TensorData::from([1.0_f32, 2.0]);
    let weight = Tensor::<1>::from_data(weight, (&device, DType::F16));
    let constant = TensorData::from([300.0_f32, 400.0]);
    let constant = Tensor::<1>::from_data(constant, (&device, DType::F16));
    let weight = Param::from_tensor(weight);
    // A single parameter is a module without a path.
    let collected = collect((weight.val() * constant).sum().backward(), &weight);
    let clipped = clip("global-norm:5", collected);
    // The square of 500 overflows f16, so the norm must not be computed in f16.
    assert_eq!(clipped.report().norm_before, 500.0);
    let params = clipped.into_params(&weight);
    let gradient = params.get::<1>(weight.id).unwrap();
    assert_eq!(gradient.dtype(), DType::F16);
    assert_eq!(values(gradient.cast(DType::F32)), [3.0, 4.0]);
    let stepped = sgd().step(1.0, weight, params);
    assert_eq!(values(stepped.val().cast(DType::F32)), [-2.0, -2.0]);
}

#[test]
fn double_precision_keeps_its_type() {
    let device = device();
    let double = Tensor::<1>::from_data(TensorData::from([1.0_f64, 2.0]), (&device, DType::F64));
    let constant = TensorData::from([3e300_f64, 4e300]);
    let constant = Tensor::<1>::from_data(constant, (&device, DType::F64));
    let model = Param::from_tensor(double);
    let collected = collect((model.val() * constant).sum().backward(), &model);
    let clipped = clip("global-norm:5", collected);
    assert_eq!(clipped.report().norm_before, 5e300);
    let params = clipped.into_params(&model);
    let gradient = params.get::<1>(model.id).unwrap();
    assert_eq!(gradient.dtype(), DType::F64);
    let gradient: Vec<f64> = gradient.into_data().try_to_vec().unwrap();
    assert!((gradient[0] - 3.0).abs() < 1e-15 && (gradient[1] - 4.0).abs() < 1e-15);
}

#[test]
fn adaptive_clipping_compares_with_the_parameters() {
    let device = device();
    let model = TwoFields {
        first: Param::from_tensor(Tensor::from_floats([3.0, 4.0], &device)),
        second: Param::from_tensor(Tensor::from_floats([0.3, 0.4], &device)),
    };
    let constant = Tensor::<1>::from_floats([7.0, 24.0], &device);
    let backward = || {
        let loss = (model.first.val() * constant.clone() + model.second.val()).sum();
        loss.backward()
    };
    let error = clipper("agc:0.5", NonFinite::Error)
        .clip(Unscaled::single(collect(backward(), &model)))
        .unwrap_err();
    assert!(matches!(error, ClipError::Parameter { .. }), "{error}");
    let collected =
        ModuleGradients::collect(backward(), &model, &"agc:0.5".parse().unwrap()).unwrap();
    let params = clip("agc:0.5", collected).into_params(&model);
    // Half the parameter's norm of 5 is 2.5, a tenth of the gradient's 25.
    let gradient = params.get::<1>(model.first.id).unwrap();
    assert_eq!(values(gradient), [0.7, 2.4]);
}

/// Every unit's gradient exceeds half the norm of its weights, so the clipped norms reveal the
/// units.
#[test]
fn adaptive_clipping_uses_the_units_of_each_layer() {
    #[derive(Module, Debug)]
    struct Layers {
        linear: Linear,
        convs: Vec<Conv2d>,
        line: Conv1d,
        volume: Conv3d,
        up: ConvTranspose2d,
        embedding: Embedding,
        own: Param<Tensor<2>>,
    }
    fn norms(values: &[f32], unit_of: impl Fn(usize) -> usize, units: usize) -> Vec<f64> {
        let mut squares = vec![0.0; units];
        for (index, value) in values.iter().enumerate() {
            squares[unit_of(index)] += f64::from(*value).powi(2);
        }
        squares.into_iter().map(f64::sqrt).collect()
    }
    let device = device();
    let model = Layers {
        linear: LinearConfig::new(3, 4).init(&device),
        convs: vec![Conv2dConfig::new([2, 5], [2, 3]).init(&device)],
        line: Conv1dConfig::new(2, 5, 3).init(&device),
        volume: Conv3dConfig::new([2, 5], [1, 2, 3]).init(&device),
        up: ConvTranspose2dConfig::new([2, 5], [2, 3]).init(&device),
        embedding: EmbeddingConfig::new(6, 4).init(&device),
        own: Param::from_tensor(Tensor::ones([3, 4], &device)),
    };
    fn loss<const D: usize>(param: &Param<Tensor<D>>) -> Tensor<1> {
        // The gradient of an element grows with its index.
        let tensor = param.val();
        let count = tensor.shape().num_elements() as i64;
        let places = Tensor::<1, Int>::arange(100..100 + count, &tensor.device()).float();
        (tensor.clone() * places.reshape(tensor.dims())).sum()
    }
    let total =
        loss(&model.linear.weight) + loss(&model.convs[0].weight) + loss(&model.line.weight);
    let total = total + loss(&model.volume.weight) + loss(&model.up.weight);
    let total = total + loss(&model.embedding.weight) + loss(&model.own);
    let policy = "agc:0.5".parse().unwrap();
    let collected = ModuleGradients::collect(total.backward(), &model, &policy).unwrap();
    let params = clip("agc:0.5", collected).into_params(&model);

    fn check<const D: usize>(
        params: &GradientsParams,
        param: &Param<Tensor<D>>,
        unit_of: impl Fn(usize) -> usize,
        units: usize,
    ) {
        let gradient = norms(&values(params.get::<D>(param.id).unwrap()), &unit_of, units);
        let weights = norms(&values(param.val()), &unit_of, units);
        for (gradient, weight) in gradient.iter().zip(weights) {
            assert!(
                (gradient / weight - 0.5).abs() < 1e-6,
                "{gradient} beside {weight}"
            );
        }
    }
    check(&params, &model.linear.weight, |index| index % 4, 4);
    check(&params, &model.convs[0].weight, |index| index / 12, 5);
    check(&params, &model.line.weight, |index| index / 6, 5);
    check(&params, &model.volume.weight, |index| index / 12, 5);
    check(&params, &model.up.weight, |index| index / 6 % 5, 5);
    check(&params, &model.embedding.weight, |index| index / 4, 6);
    check(&params, &model.own, |index| index % 4, 4);
}

#[test]
fn groups_and_units_can_be_set() {
    let model = Ranks::new(&device());
    let collected = || collect(model.backward_to(VECTOR), &model);
    // The parameters are in no layer, so each is its own group.
    let apart = clip("group-norm:9.5", collected());
    assert_eq!(apart.report().action, ClipAction::Keep);
    let one_group = clip("group-norm:9.5", collected().with_groups(|_| "all"));
    assert_eq!(one_group.report().norm_after, 9.5);
    let policy: ClipPolicy = "agc:1".parse().unwrap();
    let collected = ModuleGradients::collect(model.backward_to(VECTOR), &model, &policy).unwrap();
    let collected =
        collected.with_units(|name, shape| (name == "cube").then_some(0..shape.len() + 1));
    let error = clipper("agc:1", NonFinite::Error).clip(Unscaled::single(collected));
    assert!(matches!(error, Err(ClipError::Parameter { tensor, .. }) if tensor == "cube"));
}

#[test]
fn one_line_clips_the_result_of_backward() {
    let model = Ranks::new(&device());
    let mut clipper = clipper("global-norm:4", NonFinite::Skip);
    let (params, report) = clipper
        .clip_module(model.backward_to(VECTOR), &model)
        .unwrap();
    assert_eq!((report.norm_before, report.norm_after), (GLOBAL_NORM, 4.0));
    let wanted = clip("global-norm:4", collect(model.backward_to(VECTOR), &model));
    let wanted = wanted.into_params(&model);
    let bits_of = |params: &GradientsParams| bits(params.get::<3>(model.cube.id).unwrap());
    assert_eq!(bits_of(&params), bits_of(&wanted));

    let (params, report) = clipper
        .clip_module(model.backward_to([1.0, f32::NAN]), &model)
        .unwrap();
    assert_eq!((report.action, params.is_empty()), (ClipAction::Skip, true));
}

#[test]
fn a_clipped_optimizer_runs_backward_clips_and_steps() {
    let (mut model, inputs) = drawn_layer(4);
    let loss = |model: &Wrapped, factor: f32| {
        model
            .layer
            .forward(inputs.clone())
            .powi_scalar(2)
            .sum()
            .mul_scalar(factor)
    };
    let clipper = || clipper("global-norm:0.5", NonFinite::Skip);
    let mut optimizer = ClippedOptimizer::new(AdamConfig::new().init(), clipper());
    let (mut by_hand, mut adam, mut other) = (model.clone(), AdamConfig::new().init(), clipper());
    for factor in [1.0, f32::NAN, 3.0] {
        let gradients = loss(&by_hand, factor).backward();
        let (gradients, wanted) = other.clip_module(gradients, &by_hand).unwrap();
        by_hand = adam.step(1e-2, by_hand, gradients);
        let report = loss(&model, factor);
        let report = optimizer.backward_step(1e-2, &mut model, &report).unwrap();
        assert_eq!(report.action == ClipAction::Skip, factor.is_nan());
        assert_eq!(format!("{report:?}"), format!("{wanted:?}"));
        assert_eq!(
            bits(model.layer.weight.val()),
            bits(by_hand.layer.weight.val())
        );
    }
    // Accumulated gradients behave the same.
    let mut sum = Accumulated::new(collect(loss(&model, 1.0).backward(), &model));
    sum.add(collect(loss(&model, 2.0).backward(), &model));
    let mean = sum.in_one_process().without_loss_scale();
    let report = optimizer.step(1e-2, &mut model, mean).unwrap();
    assert_eq!((report.norm_after, optimizer.clipper().steps()), (0.5, 3));

    let own_clipping =
        AdamConfig::new().with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)));
    let mut optimizer = ClippedOptimizer::new(own_clipping.init(), clipper());
    let before = bits(model.layer.weight.val());
    let report = loss(&model, 1.0);
    let error = optimizer
        .backward_step(1e-2, &mut model, &report)
        .unwrap_err();
    assert_eq!(error, StepError::ClippedTwice);
    assert_eq!(bits(model.layer.weight.val()), before);
}

#[test]
fn an_oversized_gradient_moves_the_parameters_by_exactly_the_threshold() {
    let (learning_rate, threshold) = (0.5, 4.0);
    let model = Ranks::new(&device());
    let clipped = clip("global-norm:4", collect(model.backward_to(VECTOR), &model));
    let params = clipped.into_params(&model);
    let model = sgd().step(learning_rate, model, params);
    // Starting from zero, the parameter equals the update: -lr * C * g / ||g||, rounded once by
    // clipping.
    let update = |value: f32| {
        let gradient = (f64::from(value) * (threshold / GLOBAL_NORM)) as f32;
        0.0 - learning_rate as f32 * gradient
    };
    assert_eq!(values(model.vector.val()), [1.0, 2.0].map(update));
    assert_eq!(values(model.matrix.val()), [2.0, 0.0, 0.0, 4.0].map(update));
    assert_eq!(values(model.cube.val()), [0.0, 4.0, 8.0, 0.0].map(update));
}

/// From the backward pass through the clipper to the optimizer, the buffer is never copied.
#[test]
fn gradients_are_never_copied() {
    let (module, inputs) = drawn_layer(4);
    let gradients = module.layer.forward(inputs).powi_scalar(2).sum().backward();
    let address = |tensor: Tensor<2>| {
        let primitive = tensor.try_into_primitive::<Flex>().unwrap();
        primitive.storage::<f32>().as_ptr()
    };
    let weight = module.layer.weight.val();
    let written = address(weight.grad(&gradients).unwrap());
    let collected = collect(gradients, &module);
    let (_, values) = collected.iter().next().unwrap();
    assert_eq!(single_precision(values).as_ptr(), written);
    let mut clipper = clipper("global-norm:0.01", NonFinite::Error);
    let outcome = clipper.clip_deferred(Unscaled::single(collected), None);
    let Ok(Outcome::Apply(deferred)) = outcome else {
        panic!("the gradients are finite");
    };
    assert_eq!(deferred.report().action, ClipAction::Clip);
    let mut clipped = ClippedGradients::from(deferred);
    let taken: Tensor<2> = clipped.take(module.layer.weight.id).unwrap();
    assert_eq!(address(taken), written);
}

#[test]
fn the_raw_gradient_is_only_available_with_its_factor() {
    let module = Ranks::new(&device());
    let collected = collect(module.backward_to(VECTOR), &module);
    let mut clipper = clipper("global-norm:1", NonFinite::Error);
    let outcome = clipper.clip_deferred(Unscaled::single(collected), None);
    let Ok(Outcome::Apply(deferred)) = outcome else {
        panic!("the gradients are finite");
    };
    let mut clipped = ClippedGradients::from(deferred);
    let (raw, factor) = clipped.take_with_factor(module.vector.id).unwrap();
    assert_eq!(raw.as_slice::<f32>().unwrap(), VECTOR);
    assert_eq!(factor, 1.0 / GLOBAL_NORM);
    assert!(clipped.take_with_factor(module.vector.id).is_none());
    let matrix: Tensor<2> = clipped.take(module.matrix.id).unwrap();
    let scaled = MATRIX.concat();
    let scaled = scaled.iter().map(|g| (f64::from(*g) * factor) as f32);
    assert_eq!(values(matrix), scaled.collect::<Vec<f32>>());
}
