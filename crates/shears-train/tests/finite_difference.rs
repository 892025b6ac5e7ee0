//! Compares gradients with central differences of the loss, in f64.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use shears_model::{
    Architecture, BlockConfig, Initializer, LanguageModel, Mlp, ModelConfig, Nonlinearity,
    ParameterMapper, ParameterVisitor, Precision, State, Transformer, map_parameters, parameters,
    visit_parameters,
};

/// Truncation error (step squared) and rounding error (1e-16 / step) are both about 1e-10 to 1e-11.
const STEP: f64 = 1e-5;

/// Relative to the gradient. A wrong sign, a missing term or a wrong factor exceeds this a
/// thousandfold.
const TOLERANCE: f64 = 1e-6;

/// The smallest magnitude for relative errors.
const FLOOR: f64 = 1e-3;

const VOCABULARY: usize = 7;
const BATCH: usize = 2;
const WINDOW: usize = 4;
const CHECKED: usize = 60;

type Values = BTreeMap<String, Vec<f64>>;

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// Uniform in [-0.5, 0.5): large enough that every gradient exceeds the noise.
    fn value(&mut self) -> f64 {
        self.below(1 << 20) as f64 / f64::from(1 << 20) - 0.5
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// Puts f64 values into a module.
struct Write<'a>(&'a Values);

impl ParameterMapper for Write<'_> {
    fn map<const D: usize>(&mut self, name: String, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let data = TensorData::new(self.0[&name].clone(), param.shape());
        param.map(|tensor| {
            Tensor::from_data(data, (&tensor.device(), DType::F64)).set_require_grad(true)
        })
    }
}

/// Reads the gradients of a module.
struct Read {
    gradients: Gradients,
    values: Values,
}

impl ParameterVisitor for Read {
    fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(&self.gradients).unwrap();
        assert_eq!(gradient.dtype(), DType::F64);
        let values = gradient.into_data().iter::<f64>().collect();
        self.values.insert(name, values);
    }
}

/// The loss of one window with a non-zero initial state.
fn loss<M: LanguageModel>(model: M, values: &Values, state: &Values) -> (Tensor<1>, M) {
    let model = map_parameters(model, &mut Write(values));
    let device = device();
    let ints = |factor: usize| -> Vec<i32> {
        let places = 0..BATCH * WINDOW;
        places
            .map(|place| ((place * factor + place / 3) % VOCABULARY) as i32)
            .collect()
    };
    let tokens = TensorData::new(ints(3), [BATCH, WINDOW]);
    let targets = TensorData::new(ints(5), [BATCH * WINDOW, 1]);
    let tensors = state.iter().map(|(name, values)| {
        let data = TensorData::new(values.clone(), [1, BATCH, values.len() / BATCH]);
        (name.clone(), Tensor::from_data(data, (&device, DType::F64)))
    });
    let state = State {
        tensors: tensors.collect(),
        ..State::default()
    };
    let (logits, _) = model.forward(Tensor::<2, Int>::from_data(tokens, &device), state);
    let logits = logits.reshape([BATCH * WINDOW, VOCABULARY]);
    let targets = Tensor::<2, Int>::from_data(targets, &device);
    let loss = log_softmax(logits, 1).gather(1, targets).mean().neg();
    (loss, model)
}

fn number(loss: Tensor<1>) -> f64 {
    assert_eq!(loss.dtype(), DType::F64);
    let data = loss.without_autodiff().into_data();
    data.iter::<f64>().next().unwrap()
}

fn check<M: LanguageModel>(
    name: &str,
    new: impl Fn(usize, &ModelConfig, &mut Initializer) -> M,
    carries: &[&str],
) {
    let config = ModelConfig {
        // Ignored by the constructors.
        architecture: Architecture::Lstm,
        layers: 2,
        hidden: 6,
        embedding: 5,
        heads: 2,
        block: BlockConfig::default(),
        context: WINDOW,
        dropout: 0.0,
        tied: false,
        forget_bias: false,
        nonlinearity: Nonlinearity::Tanh,
        precision: Precision::F32,
    };
    let mut random = Random(1);
    let model = new(VOCABULARY, &config, &mut Initializer::new(0, &device()));
    let infos = parameters(&model);
    let mut values: Values = infos
        .iter()
        .map(|info| {
            // Weights of layer norms are near 1.
            let middle = f64::from(info.name.contains("norm") && info.name.ends_with("weight"));
            let values = (0..info.elements()).map(|_| middle + random.value());
            (info.name.clone(), values.collect())
        })
        .collect();
    let state = (0..config.layers).flat_map(|layer| {
        let names = carries.iter();
        names.map(move |name| format!("layers.{layer}.{name}"))
    });
    let state: Values = state
        .map(|name| {
            let values = (0..BATCH * config.hidden).map(|_| random.value());
            (name, values.collect())
        })
        .collect();

    let (at_values, model) = loss(model, &values, &state);
    let mut read = Read {
        gradients: at_values.backward(),
        values: Values::new(),
    };
    visit_parameters(&model, &mut read);
    let mut worst = 0.0_f64;
    for index in 0..CHECKED {
        // Cycles through all tensors, with a random element of each.
        let info = &infos[index % infos.len()];
        let element = random.below(info.elements());
        let mut at = |value: f64| {
            let place = &mut values.get_mut(&info.name).unwrap()[element];
            let before = std::mem::replace(place, value);
            let (loss, _) = loss(model.clone(), &values, &state);
            values.get_mut(&info.name).unwrap()[element] = before;
            (number(loss), before)
        };
        let (_, middle) = at(0.0);
        let (above, below) = (at(middle + STEP).0, at(middle - STEP).0);
        let expected = (above - below) / (2.0 * STEP);
        let got = read.values[&info.name][element];
        let deviation = (got - expected).abs() / expected.abs().max(FLOOR);
        assert!(
            deviation < TOLERANCE,
            "{name}: gradient of {}[{element}] is {got}, the difference quotient {expected}",
            info.name
        );
        worst = worst.max(deviation);
    }
    println!("{name}: {CHECKED} gradients ok, max deviation {worst:.1e}");
}

#[test]
fn rnn() {
    check("rnn", shears_model::rnn, &["hidden"]);
}

#[test]
fn lstm() {
    check("lstm", shears_model::lstm, &["hidden", "cell"]);
}

#[test]
fn gru() {
    check("gru", shears_model::gru, &["hidden"]);
}

#[test]
fn transformer() {
    let gpt = BlockConfig::default();
    let tanh = BlockConfig {
        mlp: Mlp::GeluTanh,
        bias: false,
        ..gpt
    };
    let llama = BlockConfig {
        rope_theta: 10.0,
        inner: 5,
        ..BlockConfig::llama(1)
    };
    for block in [gpt, tanh, llama] {
        let new = |vocabulary, config: &ModelConfig, initializer: &mut Initializer| {
            // Heads of even width.
            let heads = if block == llama { 3 } else { config.heads };
            let config = ModelConfig {
                block,
                heads,
                ..config.clone()
            };
            Transformer::new(vocabulary, &config, initializer)
        };
        check(&format!("transformer, {}", block.mlp), new, &[]);
    }
}
