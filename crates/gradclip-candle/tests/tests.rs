//! The whole pipeline: backward, collect, clip, step.

#![allow(clippy::unwrap_used, reason = "helpers fail their tests")]

mod conformance;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Init, Optimizer, SGD, VarMap};
use gradclip_candle::gradclip::{
    Accumulated, ClipAction, ClipError, ClipPolicy, Clipper, NonFinite, Outcome, Unscaled, Values,
};
use gradclip_candle::{ClippedGradients, ClippedOptimizer, CollectError, VarGradients};

fn clipper(policy: &str, non_finite: NonFinite) -> Clipper {
    let policy: ClipPolicy = policy.parse().expect("the policy is valid");
    Clipper::new(policy, non_finite).expect("no rule inside Adam")
}

#[track_caller]
fn clip(policy: &str, gradients: VarGradients) -> ClippedGradients {
    match clipper(policy, NonFinite::Error).clip(Unscaled::single(gradients)) {
        Ok(Outcome::Apply(clipped)) => clipped.into(),
        other => panic!("the gradients are finite: {other:?}"),
    }
}

fn collect(gradients: GradStore, vars: &VarMap) -> VarGradients {
    VarGradients::collect(gradients, vars, &ClipPolicy::none())
        .expect("the gradients are in memory")
}

fn collect_named(
    gradients: GradStore,
    vars: &[(impl AsRef<str>, Var)],
) -> Result<VarGradients, CollectError> {
    VarGradients::collect_named(gradients, vars, &ClipPolicy::none())
}

fn elements(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.flatten_all().unwrap();
    flat.to_vec1().expect("the tensor is f32")
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    elements(tensor).into_iter().map(f32::to_bits).collect()
}

fn owned(gradients: &VarGradients) -> Vec<(String, Vec<f32>)> {
    let elements = |values| match values {
        Values::F32(values) => values.to_vec(),
        other => panic!("the gradients are f32: {other:?}"),
    };
    gradients
        .iter()
        .map(|(name, values)| (name.to_owned(), elements(values)))
        .collect()
}

/// Two variables of zeros, `b.weight` and `a.bias`.
struct Two {
    vars: VarMap,
    weight: Var,
    bias: Var,
}

impl Two {
    fn new() -> Two {
        let vars = VarMap::new();
        let zeros = Init::Const(0.0);
        vars.get((2, 1), "b.weight", zeros, DType::F32, &Device::Cpu)
            .unwrap();
        vars.get(2, "a.bias", zeros, DType::F32, &Device::Cpu)
            .unwrap();
        let var = |name: &str| vars.data().lock().unwrap()[name].clone();
        let (weight, bias) = (var("b.weight"), var("a.bias"));
        Two { vars, weight, bias }
    }

    /// The derivative of the inner product of a variable and a constant is the constant.
    fn backward_to(&self, weight: [f32; 2], bias: [f32; 2]) -> GradStore {
        let constant = |values: &[f32; 2], var: &Var| {
            let constant = Tensor::new(values, &Device::Cpu).unwrap();
            (constant.reshape(var.shape()).unwrap() * var.as_tensor())
                .unwrap()
                .sum_all()
                .unwrap()
        };
        let loss = constant(&weight, &self.weight) + constant(&bias, &self.bias);
        loss.unwrap().backward().unwrap()
    }

    fn bits(&self) -> [Vec<u32>; 2] {
        [bits(&self.weight), bits(&self.bias)]
    }
}

/// Counts its steps.
struct Counting {
    optimizer: AdamW,
    steps: usize,
}

impl Optimizer for Counting {
    type Config = f64;

    fn new(vars: Vec<Var>, learning_rate: f64) -> candle_core::Result<Self> {
        let optimizer = AdamW::new_lr(vars, learning_rate)?;
        Ok(Counting {
            optimizer,
            steps: 0,
        })
    }

    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<()> {
        self.steps += 1;
        self.optimizer.step(gradients)
    }

    fn learning_rate(&self) -> f64 {
        self.optimizer.learning_rate()
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.optimizer.set_learning_rate(learning_rate);
    }
}

/// Clipping by hand without this crate: squares in f32, one read per tensor.
fn clip_by_hand(gradients: &mut GradStore, vars: &[Var], max_norm: f32) -> f32 {
    let mut squares = 0.0;
    for var in vars {
        let gradient = gradients.get(var).unwrap();
        let square = gradient.sqr().unwrap().sum_all().unwrap();
        squares += square.to_scalar::<f32>().unwrap();
    }
    let norm = squares.sqrt();
    if norm > max_norm {
        for var in vars {
            let scaled = (gradients.get(var).unwrap() * f64::from(max_norm / norm)).unwrap();
            gradients.insert(var, scaled);
        }
    }
    norm
}

#[test]
fn an_explosion_to_five_million_is_clipped_to_one() {
    let model = Two::new();
    let gradients = collect(model.backward_to([3e6, 0.0], [0.0, -4e6]), &model.vars);
    let mut optimizer = SGD::new(model.vars.all_vars(), 0.5).unwrap();
    let report = clip("global-norm:1", gradients)
        .step(&mut optimizer)
        .unwrap();
    assert_eq!((report.norm_before, report.norm_after), (5e6, 1.0));
    assert_eq!(report.action, ClipAction::Clip);
    assert_eq!(report.dominant().unwrap().0, "a.bias");
    assert_eq!(elements(&model.weight), [-0.3, 0.0]);
    assert_eq!(elements(&model.bias), [0.0, 0.4]);
}

#[test]
fn overflowing_squares_do_not_zero_gradients() {
    let model = Two::new();
    let vars = [model.weight.clone(), model.bias.clone()];
    let mut by_hand = model.backward_to([3e20, 0.0], [0.0, -4e20]);
    assert_eq!(clip_by_hand(&mut by_hand, &vars, 1.0), f32::INFINITY);
    assert_eq!(elements(by_hand.get(&model.weight).unwrap()), [0.0, 0.0]);

    let gradients = collect(model.backward_to([3e20, 0.0], [0.0, -4e20]), &model.vars);
    let store = clip("global-norm:1", gradients).into_grad_store().unwrap();
    assert_eq!(elements(store.get(&model.weight).unwrap()), [0.6, 0.0]);
    assert_eq!(elements(store.get(&model.bias).unwrap()), [0.0, -0.8]);
}

#[test]
fn clipping_by_hand_agrees_without_overflow() {
    let model = Two::new();
    let vars = [model.weight.clone(), model.bias.clone()];
    let mut by_hand = model.backward_to([3.3, 0.1], [0.7, -4.9]);
    let norm = clip_by_hand(&mut by_hand, &vars, 1.0);
    let gradients = collect(model.backward_to([3.3, 0.1], [0.7, -4.9]), &model.vars);
    let clipped = clip("global-norm:1", gradients);
    assert!((clipped.report().norm_before - f64::from(norm)).abs() < 1e-6);
    let store = clipped.into_grad_store().unwrap();
    for var in &vars {
        let pairs = elements(store.get(var).unwrap());
        for (ours, other) in pairs.iter().zip(elements(by_hand.get(var).unwrap())) {
            assert!((ours - other).abs() < 1e-6, "{ours} and {other}");
        }
    }
}

#[test]
fn names_follow_the_order_of_the_map() {
    let model = Two::new();
    let collected = collect(model.backward_to([1.0, 2.0], [3.0, 4.0]), &model.vars);
    let expected = [
        ("a.bias".to_owned(), vec![3.0, 4.0]),
        ("b.weight".to_owned(), vec![1.0, 2.0]),
    ];
    assert_eq!(owned(&collected), expected);
    assert_eq!((collected.len(), collected.is_empty()), (2, false));

    let named = [("w", model.weight.clone()), ("b", model.bias.clone())];
    let gradients = model.backward_to([1.0, 2.0], [3.0, 4.0]);
    let collected = collect_named(gradients, &named).unwrap();
    let expected = [
        ("w".to_owned(), vec![1.0, 2.0]),
        ("b".to_owned(), vec![3.0, 4.0]),
    ];
    assert_eq!(owned(&collected), expected);
}

#[test]
fn unclipped_gradients_keep_their_bits() {
    let model = Two::new();
    let gradients = model.backward_to([0.1, -0.0], [1e-40, 7.0]);
    let expected = [&model.weight, &model.bias].map(|var| bits(gradients.get(var).unwrap()));
    let clipped = clip("global-norm:1e6", collect(gradients, &model.vars));
    assert_eq!(clipped.report().action, ClipAction::Keep);
    let store = clipped.into_grad_store().unwrap();
    let kept = [&model.weight, &model.bias].map(|var| bits(store.get(var).unwrap()));
    assert_eq!(kept, expected);
}

#[test]
fn a_variable_with_two_names_counts_once() {
    let model = Two::new();
    model
        .vars
        .data()
        .lock()
        .unwrap()
        .insert("z.tied".to_owned(), model.bias.clone());
    // Used twice, so its gradient is a sum.
    let twice = (model.bias.as_tensor() + model.bias.as_tensor()).unwrap();
    let constant = Tensor::new(&[3_f32, 4.0], &Device::Cpu).unwrap();
    let loss = (twice * constant).unwrap().sum_all().unwrap();
    let collected = collect(loss.backward().unwrap(), &model.vars);
    assert_eq!(owned(&collected), [("a.bias".to_owned(), vec![6.0, 8.0])]);
    let mut optimizer = SGD::new(vec![model.bias.clone()], 1.0).unwrap();
    let report = clip("global-norm:5", collected)
        .step(&mut optimizer)
        .unwrap();
    assert_eq!(report.norm_before, 10.0);
    assert_eq!(elements(&model.bias), [-3.0, -4.0]);
}

#[test]
fn a_variable_without_gradient_is_omitted_and_unchanged() {
    let model = Two::new();
    let loss = model.bias.sum_all().unwrap();
    let collected = collect(loss.backward().unwrap(), &model.vars);
    assert_eq!(owned(&collected), [("a.bias".to_owned(), vec![1.0, 1.0])]);
    let mut optimizer = SGD::new(model.vars.all_vars(), 0.25).unwrap();
    clip("none", collected).step(&mut optimizer).unwrap();
    assert_eq!(elements(&model.weight), [0.0, 0.0]);
    assert_eq!(elements(&model.bias), [-0.25, -0.25]);
}

#[test]
fn uncollected_gradients_do_not_reach_the_optimizer() {
    let model = Two::new();
    let gradients = model.backward_to([1e9, 1e9], [3.0, 4.0]);
    let collected = collect_named(gradients, &[("bias", model.bias.clone())]);
    let store = clip("global-norm:5", collected.unwrap())
        .into_grad_store()
        .unwrap();
    assert_eq!(store.get_ids().count(), 1);
    assert!(store.get(&model.weight).is_none());
}

#[test]
fn accumulated_micro_batches_equal_one_batch() {
    let model = Two::new();
    let inputs = Tensor::randn(0_f32, 1.0, (8, 2), &Device::Cpu).unwrap();
    let backward = |inputs: Tensor| {
        let outputs = inputs.matmul(&model.weight).unwrap();
        let outputs = outputs.broadcast_add(&model.bias).unwrap();
        let one = Tensor::ones_like(&outputs).unwrap();
        let loss = (outputs - one).unwrap().sqr().unwrap().mean_all().unwrap();
        collect(loss.backward().unwrap(), &model.vars)
    };
    let large = backward(inputs.clone());
    let mut accumulated = Accumulated::new(backward(inputs.narrow(0, 0, 4).unwrap()));
    accumulated.add(backward(inputs.narrow(0, 4, 4).unwrap()));
    let mean = accumulated.in_one_process().without_loss_scale();
    let pairs = owned(mean.gradients()).into_iter().zip(owned(&large));
    for ((name, mean), (expected_name, expected)) in pairs {
        assert_eq!(name, expected_name);
        for (mean, expected) in mean.iter().zip(expected) {
            assert!(
                (mean - expected).abs() < 1e-6,
                "{name}: {mean} and {expected}"
            );
        }
    }
    let Ok(Outcome::Apply(clipped)) = clipper("global-norm:0.1", NonFinite::Error).clip(mean)
    else {
        panic!("the gradients are finite");
    };
    assert_eq!(
        (clipped.report().action, clipped.report().norm_after),
        (ClipAction::Clip, 0.1)
    );
}

#[test]
#[should_panic(expected = "gradients of other variables")]
fn gradients_of_other_variables_cannot_be_added() {
    let (model, other) = (Two::new(), Two::new());
    let gradients = |model: &Two| collect(model.backward_to([1.0, 2.0], [3.0, 4.0]), &model.vars);
    let mut sum = Accumulated::new(gradients(&model));
    sum.add(gradients(&other));
}

#[test]
fn a_transposed_gradient_is_read_in_the_order_of_its_variable() {
    let var = Var::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let columns = Tensor::new(&[[1_f32, 4.0], [2.0, 5.0], [3.0, 6.0]], &Device::Cpu).unwrap();
    let transposed = columns.t().unwrap();
    assert!(!transposed.is_contiguous());
    let mut gradients = GradStore::default();
    gradients.insert(&var, transposed);
    let collected = collect_named(gradients, &[("w", var.clone())]).unwrap();
    assert_eq!(owned(&collected)[0].1, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let store = clip("value:4", collected).into_grad_store().unwrap();
    let rows = store.get(&var).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(rows, [[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]);
}

#[test]
fn each_type_is_kept() {
    for dtype in [DType::F64, DType::F16, DType::BF16] {
        let var = Var::zeros(2, dtype, &Device::Cpu).unwrap();
        let constant = Tensor::new(&[384_f32, 512.0], &Device::Cpu).unwrap();
        let constant = constant.to_dtype(dtype).unwrap();
        let gradients = (var.as_tensor() * constant)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward();
        let named = [("w", var.clone())];
        let collected = collect_named(gradients.unwrap(), &named).unwrap();
        let clipped = clip("global-norm:5", collected);
        // The square of 640 overflows f16, so the norm must not be computed in f16.
        assert_eq!(clipped.report().norm_before, 640.0);
        let mut optimizer = SGD::new(vec![var.clone()], 1.0).unwrap();
        clipped.step(&mut optimizer).unwrap();
        assert_eq!(var.dtype(), dtype);
        assert_eq!(elements(&var.to_dtype(DType::F32).unwrap()), [-3.0, -4.0]);
    }
}

#[test]
fn variables_of_several_types_are_not_mixed() {
    let types = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::F32,
        DType::BF16,
        DType::F64,
    ];
    let mut gradients = GradStore::default();
    let mut named = Vec::new();
    for (index, dtype) in types.into_iter().enumerate() {
        let var = Var::zeros(2, dtype, &Device::Cpu).unwrap();
        let gradient = Tensor::new(&[index as f32, -1.0], &Device::Cpu).unwrap();
        gradients.insert(&var, gradient.to_dtype(dtype).unwrap());
        named.push((format!("{index}"), var));
    }
    let collected = collect_named(gradients, &named).unwrap();
    let store = clip("global-norm:100", collected)
        .into_grad_store()
        .unwrap();
    for (index, (dtype, (_, var))) in types.into_iter().zip(&named).enumerate() {
        let gradient = store.get(var).unwrap();
        assert_eq!(gradient.dtype(), dtype);
        let gradient = elements(&gradient.to_dtype(DType::F32).unwrap());
        assert_eq!(gradient, [index as f32, -1.0]);
    }
}

#[test]
fn a_skipped_step_leaves_every_variable_bit_identical() {
    let model = Two::new();
    let counting = Counting::new(model.vars.all_vars(), 0.1).unwrap();
    let clipper = clipper("global-norm:1", NonFinite::Skip);
    let mut optimizer = ClippedOptimizer::new(counting, clipper, &model.vars);
    let mut before = model.bits();
    let mut reports = Vec::new();
    for bias in [[1.0, 2.0], [f32::NAN, f32::INFINITY]] {
        before = model.bits();
        let gradients = collect(model.backward_to([3.0, 4.0], bias), &model.vars);
        reports.push(optimizer.step(Unscaled::single(gradients)).unwrap());
    }
    let actions = [ClipAction::Clip, ClipAction::Skip];
    assert_eq!([reports[0].action, reports[1].action], actions);
    assert_eq!(reports[1].non_finite, 2);
    assert_eq!(reports[1].first_non_finite.as_deref(), Some("a.bias"));
    assert_eq!(optimizer.optimizer().steps, 1);
    assert_eq!(model.bits(), before);
}

#[test]
fn one_line_runs_backward_clips_and_steps() {
    let model = Two::new();
    let constant = Tensor::new(&[3e6_f32, -4e6], &Device::Cpu).unwrap();
    let loss = |constant: &Tensor| {
        (model.bias.as_tensor() * constant)
            .unwrap()
            .sum_all()
            .unwrap()
    };
    let counting = Counting::new(model.vars.all_vars(), 0.5).unwrap();
    let clipper = clipper("global-norm:1", NonFinite::Skip);
    let mut optimizer = ClippedOptimizer::new(counting, clipper, &model.vars);
    let report = optimizer.backward_step(&loss(&constant)).unwrap();
    assert_eq!((report.norm_before, report.norm_after), (5e6, 1.0));
    assert_eq!(elements(&model.bias), [-0.5, 0.5]);

    let before = model.bits();
    let nan = Tensor::new(&[3_f32, f32::NAN], &Device::Cpu).unwrap();
    let report = optimizer.backward_step(&loss(&nan)).unwrap();
    assert_eq!(report.action, ClipAction::Skip);
    assert_eq!((model.bits(), optimizer.optimizer().steps), (before, 1));
    assert_eq!(optimizer.clipper().steps(), 1);

    let named = vec![("b".to_owned(), model.bias.clone())];
    let clipper = Clipper::new("global-norm:1".parse().unwrap(), NonFinite::Error).unwrap();
    let sgd = SGD::new(model.vars.all_vars(), 0.5).unwrap();
    let mut optimizer = ClippedOptimizer::with_named(sgd, clipper, named);
    let error = optimizer.backward_step(&loss(&nan)).unwrap_err();
    let text = "gradient of `b` has 1 non-finite value (NaN or infinity); no gradient was changed";
    assert_eq!(error.to_string(), text);
}

#[test]
fn the_rule_skip_gets_the_loss() {
    let model = Two::new();
    let clipper = clipper("skip:2,window=4", NonFinite::Error);
    let sgd = SGD::new(model.vars.all_vars(), 0.0).unwrap();
    let mut optimizer = ClippedOptimizer::new(sgd, clipper, &model.vars);
    let mut actions = Vec::new();
    for size in [1.0, 1.1, 0.9, 1.0, 1.05, 50.0] {
        // The gradient is constant; the loss is not.
        let loss = (model.bias.sum_all().unwrap() + size).unwrap();
        actions.push(optimizer.backward_step(&loss).unwrap().action);
    }
    assert_eq!(actions[..5], [ClipAction::Keep; 5]);
    assert_eq!(actions[5], ClipAction::Skip);
}

#[test]
fn groups_follow_names_or_are_set() {
    let model = Two::new();
    let collected = || collect(model.backward_to([3.0, 0.0], [0.0, 4.0]), &model.vars);
    // Norms of 3 and 4 in separate groups, and of 5 in one group.
    assert_eq!(
        clip("group-norm:4.5", collected()).report().action,
        ClipAction::Keep
    );
    let one_group = clip("group-norm:4.5", collected().with_groups(|_| "all"));
    assert_eq!(one_group.report().norm_after, 4.5);
}

#[test]
fn output_units_default_to_the_first_axis() {
    // Two output channels with kernels of two input channels times two; parameters of ones.
    let weight = Var::ones((2, 2, 2), DType::F32, &Device::Cpu).unwrap();
    let gradient = Tensor::new(
        &[[[6_f32, 0.0], [0.0, 8.0]], [[0.0, 0.0], [0.0, 1.0]]],
        &Device::Cpu,
    );
    let collected = || {
        let mut gradients = GradStore::default();
        gradients.insert(&weight, gradient.as_ref().unwrap().clone());
        let policy = "agc:0.5".parse().unwrap();
        VarGradients::collect_named(gradients, &[("conv.weight", weight.clone())], &policy).unwrap()
    };
    let values = |clipped: ClippedGradients| {
        elements(clipped.into_grad_store().unwrap().get(&weight).unwrap())
    };
    // The bound is half the norm of a unit's weights, 1: the first unit has 10, the second 1.
    let by_channel = [0.6, 0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 1.0];
    assert_eq!(values(clip("agc:0.5", collected())), by_channel);
    // As a transposed convolution, `[in, out, kernel]`: norms of 6 and of the root of 65.
    let transposed = collected().with_units(|_, shape| (shape.len() > 2).then_some(1..2));
    let report = clip("agc:0.5", transposed).report().clone();
    assert!(
        (report.norm_after - 2_f64.sqrt()).abs() < 1e-6,
        "{report:?}"
    );
}

#[test]
fn the_error_names_the_tensor_and_changes_nothing() {
    let model = Two::new();
    let gradients = model.backward_to([3.0, f32::NAN], [30.0, 40.0]);
    let mut gradients = collect(gradients, &model.vars);
    let error = clipper("global-norm:1", NonFinite::Error)
        .clip(Unscaled::single(&mut gradients))
        .unwrap_err();
    let tensors = vec![("b.weight".to_owned(), 1)];
    assert_eq!(error, ClipError::NonFinite { tensors });
    assert_eq!(owned(&gradients)[0].1, [30.0, 40.0]);
}

#[test]
fn adaptive_clipping_compares_with_the_parameters() {
    let model = Two::new();
    model
        .bias
        .set(&Tensor::new(&[3_f32, 4.0], &Device::Cpu).unwrap())
        .unwrap();
    model
        .weight
        .set(&Tensor::new(&[[1_f32], [1.0]], &Device::Cpu).unwrap())
        .unwrap();
    let backward = || model.backward_to([0.0, 0.0], [7.0, 24.0]);
    let mut clipper = clipper("agc:0.5", NonFinite::Error);
    let error = clipper
        .clip(Unscaled::single(collect(backward(), &model.vars)))
        .unwrap_err();
    assert!(matches!(error, ClipError::Parameter { .. }), "{error}");
    let collected = VarGradients::collect(backward(), &model.vars, clipper.policy()).unwrap();
    let Ok(Outcome::Apply(clipped)) = clipper.clip(Unscaled::single(collected)) else {
        panic!("the gradients are finite");
    };
    let store = ClippedGradients::from(clipped).into_grad_store().unwrap();
    // Half the parameter's norm of 5 is 2.5, a tenth of the gradient's 25.
    assert_eq!(elements(store.get(&model.bias).unwrap()), [0.7, 2.4]);
}

#[test]
fn unsupported_types_are_refused_by_name() {
    let var = Var::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let mut gradients = GradStore::default();
    gradients.insert(&var, Tensor::new(&[1_u32, 2], &Device::Cpu).unwrap());
    let error = collect_named(gradients, &[("w", var.clone())]).unwrap_err();
    assert!(matches!(&error, CollectError::Type { tensor, dtype: DType::U32 } if tensor == "w"));
    let text = "gradient of `w` has type U32; f32, f64, f16 and bf16 can be clipped";
    assert_eq!(error.to_string(), text);

    let model = Two::new();
    let named = [("w", model.weight.clone()), ("w", model.bias.clone())];
    let gradients = model.backward_to([1.0, 2.0], [3.0, 4.0]);
    let collected = collect_named(gradients, &named).unwrap();
    let mut clipper = Clipper::new(ClipPolicy::none(), NonFinite::Skip).unwrap();
    let error = clipper.clip(Unscaled::single(collected)).unwrap_err();
    let tensors = vec!["w".to_owned()];
    assert_eq!(error, ClipError::EqualNames { tensors });
}

#[test]
fn adam_behaves_as_if_gradients_were_always_small() {
    let (clipped, small) = (Two::new(), Two::new());
    let mut optimizer = AdamW::new_lr(clipped.vars.all_vars(), 0.1).unwrap();
    let mut reference = AdamW::new_lr(small.vars.all_vars(), 0.1).unwrap();
    for factor in [1.0, 4.0, 1024.0] {
        let gradients = clipped.backward_to([3.0 * factor, 0.0], [0.0, 4.0 * factor]);
        let gradients = collect(gradients, &clipped.vars);
        clip("global-norm:5", gradients)
            .step(&mut optimizer)
            .unwrap();
        reference
            .step(&small.backward_to([3.0, 0.0], [0.0, 4.0]))
            .unwrap();
    }
    assert_eq!(clipped.bits(), small.bits());
}
