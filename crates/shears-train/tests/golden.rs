//! Compares models, optimizers and clipping with PyTorch, computed in float64 by
//! `tools/golden/models.py`.
//!
//! `cargo test --release --workspace --test tests golden -- --nocapture` prints the largest
//! deviations.

use crate::golden_file::GoldenFile;
use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use gradclip::{
    ClipPolicy, ClipReport, ClipRule, Clipper, NonFinite, NormOrder, Outcome, Threshold, Unscaled,
};
use gradclip_burn::{ClippedGradients, ModuleGradients};
use serde_json::Value;
use shears_model::{
    Architecture, BlockConfig, Initializer, LanguageModel, ModelConfig, Nonlinearity, Precision,
    State, Transformer,
};
use shears_train::{
    NamedTensor, Optimizer, OptimizerKind, OptimizerSettings, load_parameters, module_tensors,
};

/// Largest deviation relative to the largest magnitude of the tensor.
///
/// An f32 has a relative precision of 6e-8, and the longest chains here (five steps through two
/// layers and back) lose a few tens of that. Elements near zero are sums of cancelling larger
/// terms, so the deviation is relative to the tensor, not the element.
const TOLERANCE: f64 = 1e-5;

/// For the norm of the whole gradient, in which element errors average out.
const NORM_TOLERANCE: f64 = 1e-6;

/// For gradients that are zero in exact arithmetic, next to others of magnitude 0.01 to 1.
const NOISE: f64 = 1e-7;

fn device() -> Device {
    Device::flex().autodiff()
}

/// Compares tensor by tensor and records the largest deviation.
struct Check {
    what: String,
    tensors: usize,
    worst: f64,
}

impl Check {
    fn new(what: &str) -> Self {
        let what = what.to_string();
        let (tensors, worst) = (0, 0.0);
        Check {
            what,
            tensors,
            worst,
        }
    }

    #[track_caller]
    fn tensor(&mut self, name: &str, got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len(), "{}: {name}", self.what);
        let scale = expected
            .iter()
            .fold(f32::MIN_POSITIVE, |scale, value| scale.max(value.abs()));
        for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
            let deviation = f64::from((got - expected).abs()) / f64::from(scale);
            assert!(
                deviation <= TOLERANCE,
                "{}: {name}[{index}] is {got}, PyTorch has {expected}: {deviation:.1e} of {scale}",
                self.what
            );
            self.worst = self.worst.max(deviation);
        }
        self.tensors += 1;
    }

    fn print(&self) {
        let Check {
            what,
            tensors,
            worst,
        } = self;
        println!("{what}: {tensors} tensors ok, max deviation {worst:.1e}");
    }
}

fn config(settings: &Value) -> ModelConfig {
    let number = |name: &str| settings[name].as_u64().unwrap_or(1) as usize;
    let is_recurrent = settings["family"] == "recurrent";
    let (layers, hidden) = match is_recurrent {
        true => (number("layers"), number("hidden")),
        false => (number("blocks"), number("width")),
    };
    ModelConfig {
        architecture: Architecture::Lstm,
        layers,
        hidden,
        embedding: number("embedding"),
        heads: number("heads"),
        block: match settings["block"] == "llama" {
            true => BlockConfig {
                rope_theta: settings["rope_theta"].as_f64().unwrap(),
                inner: number("inner"),
                ..BlockConfig::llama(number("kv_heads"))
            },
            false => BlockConfig {
                mlp: settings["mlp"].as_str().unwrap_or("gelu").parse().unwrap(),
                ..BlockConfig::default()
            },
        },
        context: number("context"),
        dropout: 0.0,
        tied: settings["tied"] == true,
        forget_bias: false,
        precision: Precision::F32,
        nonlinearity: match settings["cell"].as_str() {
            Some("rnn-relu") => Nonlinearity::Relu,
            _ => Nonlinearity::Tanh,
        },
    }
}

fn optimizer_settings(kind: OptimizerKind, options: &Value) -> OptimizerSettings {
    let number = |name: &str, default: f64| options[name].as_f64().unwrap_or(default);
    OptimizerSettings {
        kind,
        momentum: number("momentum", 0.0),
        nesterov: options["nesterov"] == true,
        alpha: number("alpha", f64::NAN),
        beta1: options["betas"][0].as_f64().unwrap_or(f64::NAN),
        beta2: options["betas"][1].as_f64().unwrap_or(f64::NAN),
        epsilon: number("eps", f64::NAN),
        weight_decay: number("weight_decay", 0.0),
    }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.without_autodiff().into_data();
    data.iter::<f32>().collect()
}

/// Logits, loss and the state after the window.
fn forward<M: LanguageModel>(model: &M, golden: &GoldenFile) -> (Tensor<3>, Tensor<1>, State) {
    let device = device();
    let shape = golden.shape("tokens");
    let ints = |name: &str| -> TensorData {
        let values: Vec<i32> = golden.ints(name).into_iter().map(|t| t as i32).collect();
        TensorData::new(values, golden.shape(name))
    };
    let tokens = Tensor::<2, Int>::from_data(ints("tokens"), &device);
    let targets = Tensor::<2, Int>::from_data(ints("targets"), &device);
    let state_in = golden.names_below("state_in/").into_iter().map(|name| {
        let key = format!("state_in/{name}");
        let data = TensorData::new(golden.floats(&key), golden.shape(&key));
        let tensor = Tensor::<2>::from_data(data, &device);
        (name, tensor.unsqueeze_dim(0))
    });
    let state = State {
        tensors: state_in.collect(),
        ..State::default()
    };
    let (logits, state) = model.forward(tokens, state);
    let rows = shape.iter().product::<usize>();
    let [_, _, vocabulary] = logits.dims();
    let log_probabilities = log_softmax(logits.clone().reshape([rows, vocabulary]), 1);
    let losses = log_probabilities.gather(1, targets.reshape([rows, 1]));
    (logits, losses.mean().neg(), state)
}

fn gradients<M: LanguageModel>(model: &M, golden: &GoldenFile) -> ModuleGradients {
    let (_, loss, _) = forward(model, golden);
    ModuleGradients::collect(loss.backward(), model, &ClipPolicy::none()).unwrap()
}

fn single_precision(values: gradclip::Values<'_>) -> Vec<f32> {
    match values {
        gradclip::Values::F32(values) => values.to_vec(),
        other => panic!("the gradients are f32: {other:?}"),
    }
}

fn clip(gradients: ModuleGradients, policy: ClipPolicy) -> ClippedGradients {
    match Clipper::for_adam(policy, NonFinite::Error).clip(Unscaled::single(gradients)) {
        Ok(Outcome::Apply(clipped)) => clipped.into(),
        other => panic!("the gradients are finite: {other:?}"),
    }
}

fn global_norm(threshold: f64) -> ClipPolicy {
    let threshold = Threshold::new(threshold).unwrap();
    let order = NormOrder::TWO;
    ClipRule::GlobalNorm { threshold, order }.into()
}

fn check_model<M: LanguageModel>(
    name: &str,
    new: impl Fn(usize, &ModelConfig, &mut Initializer) -> M,
) {
    let golden = GoldenFile::read(name);
    let settings = &golden.settings;
    let vocabulary = settings["vocabulary"].as_u64().unwrap() as usize;
    let mut initializer = Initializer::new(0, &device());
    let model = new(vocabulary, &config(settings), &mut initializer);
    let values = golden.names_below("param/").into_iter().map(|name| {
        let key = format!("param/{name}");
        let data = TensorData::new(golden.floats(&key), golden.shape(&key));
        NamedTensor { name, data }
    });
    let model = load_parameters(model, values.collect()).unwrap();
    let mut check = Check::new(name);

    let (logits, loss, state) = forward(&model, &golden);
    assert_eq!(logits.dims().to_vec(), golden.shape("logits"));
    check.tensor("logits", &floats(logits), &golden.floats("logits"));
    check.tensor("loss", &floats(loss), &golden.floats("loss"));
    for name in golden.names_below("state_out/") {
        let expected = golden.floats(&format!("state_out/{name}"));
        let got = floats(state.tensors[&name].clone());
        check.tensor(&format!("state {name}"), &got, &expected);
    }

    let gradients_found = check_gradients(&mut check, &model, &golden);
    assert_eq!(gradients_found, golden.names_below("param/").len());
    for (kind, optimizer) in [("sgd", OptimizerKind::Sgd), ("adamw", OptimizerKind::AdamW)] {
        check_step(&mut check, kind, optimizer, model.clone(), &golden);
    }
    check.print();
}

/// The elements of a tensor whose gradient is not structurally zero.
fn informative(golden: &GoldenFile, name: &str, values: Vec<f32>) -> (Vec<f32>, Vec<f32>) {
    let range = &golden.settings["vanishing_gradients"][name];
    let bound = |index: usize| range[index].as_u64().unwrap_or(0) as usize;
    let (start, end) = (bound(0), bound(1));
    let mut rest = values;
    let vanishing = rest.drain(start..end).collect();
    (rest, vanishing)
}

fn check_gradients<M: LanguageModel>(check: &mut Check, model: &M, golden: &GoldenFile) -> usize {
    let gradients = gradients(model, golden);
    for (name, values) in gradients.iter() {
        let expected = golden.floats(&format!("grad/{name}"));
        let (expected, _) = informative(golden, name, expected);
        let (got, noise) = informative(golden, name, single_precision(values));
        check.tensor(&format!("gradient of {name}"), &got, &expected);
        for value in noise {
            assert!(f64::from(value.abs()) <= NOISE, "{name}: {value} is not 0");
        }
    }
    let found = gradients.len();
    let threshold = golden.settings["clip_threshold"].as_f64().unwrap();
    let clipped = clip(gradients, global_norm(threshold));
    let expected = golden.settings["gradient_norm"].as_f64().unwrap();
    let ClipReport {
        norm_before,
        norm_after,
        ..
    } = clipped.report();
    assert!(
        (norm_before / expected - 1.0).abs() <= NORM_TOLERANCE,
        "norm {norm_before}, PyTorch has {expected}"
    );
    assert_eq!(*norm_after, threshold);
    found
}

/// One clipped update.
fn check_step<M: LanguageModel>(
    check: &mut Check,
    name: &str,
    kind: OptimizerKind,
    model: M,
    golden: &GoldenFile,
) {
    let options = &golden.settings["optimizers"][name];
    let threshold = golden.settings["clip_threshold"].as_f64().unwrap();
    let clipped = clip(gradients(&model, golden), global_norm(threshold));
    let mut optimizer = Optimizer::new(optimizer_settings(kind, options), None);
    let model = optimizer.step(model, clipped, options["lr"].as_f64().unwrap());
    for tensor in module_tensors(&model) {
        let key = format!("step/{name}/{}", tensor.name);
        let (got, noise) = informative(golden, &tensor.name, tensor.data.iter::<f32>().collect());
        let (expected, still) = informative(golden, &tensor.name, golden.floats(&key));
        check.tensor(&key, &got, &expected);
        if kind == OptimizerKind::Sgd {
            // Adam turns noise into full-size steps; SGD does not.
            check.tensor(&key, &noise, &still);
        }
    }
}

#[test]
fn rnn() {
    check_model("rnn", shears_model::rnn);
}

#[test]
fn rnn_relu() {
    check_model("rnn-relu", shears_model::rnn);
}

#[test]
fn lstm() {
    check_model("lstm", shears_model::lstm);
}

#[test]
fn lstm_tied() {
    check_model("lstm-tied", shears_model::lstm);
}

#[test]
fn gru() {
    check_model("gru", shears_model::gru);
}

#[test]
fn gpt() {
    check_model("gpt", Transformer::new);
}

#[test]
fn gpt_tanh() {
    check_model("gpt-tanh", Transformer::new);
}

#[test]
fn llama() {
    check_model("llama", Transformer::new);
}

#[test]
fn llama_tied() {
    check_model("llama-tied", Transformer::new);
}

#[test]
fn gpt_tied() {
    check_model("gpt-tied", Transformer::new);
}

/// One parameter with an arbitrary gradient.
#[derive(Module, Debug)]
struct Single<const D: usize> {
    weight: Param<Tensor<D>>,
}

impl<const D: usize> Single<D> {
    fn new(values: &[f32], shape: [usize; D]) -> Self {
        let data = TensorData::new(values.to_vec(), shape);
        Single {
            weight: Param::from_tensor(Tensor::from_data(data, &device())),
        }
    }

    /// The derivative of the inner product of a parameter and a constant is the constant.
    fn step(self, optimizer: &mut Optimizer, gradient: &[f32], lr: f64) -> Self {
        let data = TensorData::new(gradient.to_vec(), self.weight.shape());
        let loss = (self.weight.val() * Tensor::from_data(data, &device())).sum();
        let gradients =
            ModuleGradients::collect(loss.backward(), &self, &ClipPolicy::none()).unwrap();
        optimizer.step(self, clip(gradients, ClipPolicy::none()), lr)
    }

    fn values(&self) -> Vec<f32> {
        floats(self.weight.val())
    }
}

fn optimizer_of(options: &Value) -> (Optimizer, f64) {
    let kind = match options["kind"].as_str() {
        Some("sgd") if options["momentum"].is_number() => OptimizerKind::Momentum,
        Some(kind) => kind.parse().unwrap(),
        None => panic!("{options} has no kind"),
    };
    let settings = optimizer_settings(kind, options);
    (
        Optimizer::new(settings, None),
        options["lr"].as_f64().unwrap(),
    )
}

#[test]
fn optimizers_follow_pytorch_over_five_steps() {
    let golden = GoldenFile::read("optimizers");
    for (name, options) in golden.settings.as_object().unwrap() {
        let mut check = Check::new(name);
        let (mut optimizer, lr) = optimizer_of(options);
        let start = golden.floats(&format!("{name}/param"));
        // A matrix, because adamw decays only matrices.
        let mut module = Single::new(&start, [start.len(), 1]);
        let gradients = golden.floats(&format!("{name}/grads"));
        let expected = golden.floats(&format!("{name}/steps"));
        let rows = gradients.chunks(start.len());
        for (step, (gradient, expected)) in rows.zip(expected.chunks(start.len())).enumerate() {
            module = module.step(&mut optimizer, gradient, lr);
            check.tensor(&format!("step {}", step + 1), &module.values(), expected);
        }
        assert_eq!(optimizer.updates(), 5);
        check.print();
    }
}

#[test]
fn adamw_decays_matrices_only() {
    let options = serde_json::json!({
        "kind": "adamw", "lr": 0.1, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.5,
    });
    let (mut optimizer, lr) = optimizer_of(&options);
    let vector = Single::new(&[1.0, -2.0], [2]).step(&mut optimizer, &[0.0, 0.0], lr);
    assert_eq!(vector.values(), [1.0, -2.0]);
    let (mut optimizer, lr) = optimizer_of(&options);
    let matrix = Single::new(&[1.0, -2.0], [2, 1]).step(&mut optimizer, &[0.0, 0.0], lr);
    assert_eq!(matrix.values(), [0.95, -1.9]);
}

#[test]
fn saved_moments_give_the_same_next_step() {
    let golden = GoldenFile::read("optimizers");
    for (name, options) in golden.settings.as_object().unwrap() {
        let start = golden.floats(&format!("{name}/param"));
        let gradients = golden.floats(&format!("{name}/grads"));
        let row = |step: usize| &gradients[step * start.len()..(step + 1) * start.len()];
        let (mut optimizer, lr) = optimizer_of(options);
        let mut module = Single::new(&start, [start.len(), 1]);
        for step in 0..3 {
            module = module.step(&mut optimizer, row(step), lr);
        }
        let (mut restored, _) = optimizer_of(options);
        let plain = device().without_autodiff();
        restored.restore(optimizer.tensors(), optimizer.updates(), &plain);
        let (mut fresh, _) = optimizer_of(options);

        let uninterrupted = module.clone().step(&mut optimizer, row(3), lr).values();
        let resumed = module.clone().step(&mut restored, row(3), lr).values();
        let forgetful = module.step(&mut fresh, row(3), lr).values();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&resumed), bits(&uninterrupted), "{name}");
        let has_moments = !optimizer.tensors().is_empty();
        assert_eq!(
            bits(&forgetful) != bits(&uninterrupted),
            has_moments,
            "{name}"
        );
    }
}

#[test]
fn clipping_matches_the_reference_bit_for_bit() {
    let golden = GoldenFile::read("clipping");
    for (name, case) in golden.settings.as_object().unwrap() {
        let tensor = |when: &str, key: &str| golden.floats(&format!("{name}/{when}/{key}"));
        let gradients = vec![("a", tensor("before", "a")), ("b", tensor("before", "b"))];
        let threshold = case["clip_threshold"].as_f64().unwrap();
        let mut clipper = Clipper::for_adam(global_norm(threshold), NonFinite::Error);
        let Ok(Outcome::Apply(clipped)) = clipper.clip(Unscaled::single(gradients)) else {
            panic!("{name}: the gradients are finite");
        };
        let expected = case["gradient_norm"].as_f64().unwrap();
        let norm = clipped.report().norm_before;
        assert!(
            (norm - expected).abs() <= 1e-12 * expected,
            "{name}: {norm}"
        );
        for (key, values) in clipped.gradients() {
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(values), bits(&tensor("after", key)), "{name}: {key}");
        }
        println!("clipping {name}: 2 tensors ok, bit for bit");
    }
}
