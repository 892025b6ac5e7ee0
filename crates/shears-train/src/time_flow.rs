//! Measures how far gradients reach back in time.

use std::collections::BTreeMap;

use burn::tensor::{Int, Tensor};
use shears_model::{LanguageModel, State, layer_of};
use shears_parallel::Ranks;
use shears_run::six_digits;

/// The most tokens to follow a gradient back, each with its own call of the model.
pub(crate) const MAX_DISTANCE: usize = 256;

/// The norms of the gradient of the loss at the last token of a window with respect to the earlier
/// states of each layer: first the state one token before the last prediction, then two tokens
/// before, and so on (the products of Jacobians in Pascanu et al. 2013, equation 5).
///
/// `tokens` and `targets` are `[batch, window]`, `state` is the state before the window, and the
/// loss is the mean over the batch. Non-finite norms are `None`. The result is empty for models
/// without a differentiable state, and `None` if `stops` before one of the tokens.
pub(crate) fn state_gradients<M: LanguageModel>(
    model: &M,
    tokens: &Tensor<2, Int>,
    targets: &Tensor<2, Int>,
    state: State,
    stops: &dyn Fn() -> bool,
) -> Option<BTreeMap<String, Vec<Option<f64>>>> {
    let [_, window] = tokens.dims();
    let first = window.saturating_sub(MAX_DISTANCE);
    let at = |of: &Tensor<2, Int>, time: usize| of.clone().narrow(1, time, 1);
    let mut state = state.detach();
    if first > 0 {
        state = model.predict(tokens.clone().narrow(1, 0, first), state).1;
        state = state.detach();
    }
    // Each token has a graph of its own, cut at a copy of the state before it, so that a stop is
    // heard between two backward passes. Each pair is a state as computed, and the copy that the
    // next token starts from.
    let mut calls: Vec<(State, State)> = Vec::new();
    for time in first..window - 1 {
        if stops() {
            return None;
        }
        let left = model.predict(at(tokens, time), state).1;
        state = copy_with_gradients(left.clone());
        calls.push((left, state.clone()));
    }
    let last = (at(tokens, window - 1), at(targets, window - 1));
    let mut loss = model.loss(last.0, last.1, state).0;
    let mut layers: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    let mut distance = 0;
    while let Some((left, copy)) = calls.pop() {
        if stops() {
            return None;
        }
        let gradients = loss.backward();
        // The inner product of a state and its gradient has that gradient: differentiating it
        // continues the backward pass in the graph of the token before.
        let mut parts = Vec::new();
        let mut squares: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, copy) in &copy.tensors {
            let square = squares.entry(layer_of(name)).or_default();
            if let Some(gradient) = copy.grad(&gradients) {
                let elements = gradient.clone().into_data();
                *square += elements
                    .iter::<f32>()
                    .map(|g| f64::from(g).powi(2))
                    .sum::<f64>();
                let gradient = Tensor::from_inner(gradient);
                parts.push((left.tensors[name].clone() * gradient).sum());
            }
        }
        for (layer, square) in squares {
            let norms = layers.entry(layer.to_string()).or_default();
            norms.resize(distance, None);
            norms.push(Some(six_digits(square.sqrt())).filter(|norm| norm.is_finite()));
        }
        distance += 1;
        match parts.into_iter().reduce(|sum, part| sum + part) {
            Some(sum) => loss = sum,
            // The loss does not depend on earlier states.
            None => break,
        }
    }
    Some(layers)
}

/// A detached copy that requires gradients.
fn copy_with_gradients(state: State) -> State {
    let mut copy = state.detach();
    for tensor in copy.tensors.values_mut() {
        *tensor = tensor.clone().require_grad();
    }
    copy
}

/// Combines the norms of all ranks into norms over the whole batch. Each rank's loss is the mean
/// over its `share` of the batch. Collective.
pub(crate) fn combine_norms(
    ranks: &dyn Ranks,
    mut own: BTreeMap<String, Vec<Option<f64>>>,
    share: f64,
) -> BTreeMap<String, Vec<Option<f64>>> {
    if ranks.size() == 1 {
        return own;
    }
    let values = own.values().flatten();
    let squares = values.map(|norm| (norm.unwrap_or(f64::NAN) * share).powi(2));
    let bytes: Vec<u8> = squares.flat_map(f64::to_le_bytes).collect();
    let all = ranks.gather(&bytes);
    for (index, norm) in own.values_mut().flatten().enumerate() {
        let square = |bytes: &Vec<u8>| {
            let (words, _) = bytes.as_chunks();
            words
                .get(index)
                .map_or(f64::NAN, |word| f64::from_le_bytes(*word))
        };
        let norm_of_all = all.iter().map(square).sum::<f64>().sqrt();
        *norm = Some(six_digits(norm_of_all)).filter(|norm| norm.is_finite());
    }
    own
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use shears_model::{Initializer, ModelConfig, gru, lstm, rnn};

    use super::*;
    use crate::Preset;

    const VOCABULARY: usize = 7;
    const WINDOW: usize = 6;

    fn small(preset: &str) -> ModelConfig {
        let preset: Preset = preset.parse().unwrap();
        ModelConfig {
            hidden: 8,
            embedding: 8,
            layers: 2,
            ..preset.plan().model_config()
        }
    }

    fn text(device: &Device, add: i32) -> Tensor<2, Int> {
        let tokens = (0..2 * WINDOW as i32).map(|i| (i * 5 + add) % VOCABULARY as i32);
        let tokens: Vec<i32> = tokens.collect();
        Tensor::from_data(TensorData::new(tokens, [2, WINDOW]), device)
    }

    /// The loss at the last token if `change` is added to one element of a carried tensor after
    /// `after` tokens.
    fn loss_with<M: LanguageModel>(
        model: &M,
        device: &Device,
        (name, index, after): (&str, usize, usize),
        change: f32,
    ) -> f64 {
        let (tokens, targets) = (text(device, 0), text(device, 1));
        let (_, mut state) = model.forward(tokens.clone().narrow(1, 0, after), State::default());
        let tensor = state.tensors[name].clone();
        let shape = tensor.dims();
        let mut values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
        values[index] += change;
        let changed = Tensor::from_data(TensorData::new(values, shape), device);
        state.tensors.insert(name.to_string(), changed);
        for time in after..WINDOW - 1 {
            state = model.forward(tokens.clone().narrow(1, time, 1), state).1;
        }
        let last = |of: Tensor<2, Int>| of.narrow(1, WINDOW - 1, 1);
        let (loss, _) = model.loss(last(tokens), last(targets), state);
        f64::from(loss.into_data().iter::<f32>().next().unwrap())
    }

    /// Norms by central differences: layer, then distance.
    fn by_differences<M: LanguageModel>(model: &M, device: &Device) -> BTreeMap<String, Vec<f64>> {
        const CHANGE: f32 = 1e-2;
        let (_, state) = model.forward(text(device, 0).narrow(1, 0, 1), State::default());
        let mut layers: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, tensor) in &state.tensors {
            let squares = layers.entry(layer_of(name).to_string()).or_default();
            squares.resize(WINDOW - 1, 0.0);
            for distance in 1..WINDOW {
                for index in 0..tensor.dims().iter().product() {
                    let place = (name.as_str(), index, WINDOW - distance);
                    let difference = loss_with(model, device, place, CHANGE)
                        - loss_with(model, device, place, -CHANGE);
                    squares[distance - 1] += (difference / (2.0 * f64::from(CHANGE))).powi(2);
                }
            }
        }
        for squares in layers.values_mut() {
            squares
                .iter_mut()
                .for_each(|square| *square = square.sqrt());
        }
        layers
    }

    fn check<M: LanguageModel>(model: &M, device: &Device) {
        let (tokens, targets) = (text(device, 0), text(device, 1));
        let found = state_gradients(model, &tokens, &targets, State::default(), &|| false);
        let found = found.unwrap();
        let expected = by_differences(model, device);
        assert_eq!(found.len(), 2, "{found:?}");
        for (layer, norms) in &found {
            assert_eq!(norms.len(), WINDOW - 1);
            for (norm, expected) in norms.iter().zip(&expected[layer]) {
                let norm = norm.unwrap();
                assert!(
                    (norm - expected).abs() <= 2e-3 * expected + 1e-5,
                    "{layer}: {norm} {expected}"
                );
            }
        }
    }

    #[test]
    fn norms_match_finite_differences() {
        let device = Device::flex().autodiff();
        let mut initializer = Initializer::new(3, &device);
        check(
            &rnn(VOCABULARY, &small("rnn-128"), &mut initializer),
            &device,
        );
        check(
            &lstm(VOCABULARY, &small("lstm-128"), &mut initializer),
            &device,
        );
        check(
            &gru(VOCABULARY, &small("gru-128"), &mut initializer),
            &device,
        );
    }

    /// The forward pass checks for a stop `WINDOW - 1` times; later checks are in the backward pass.
    #[test]
    fn a_stop_is_heard_in_the_backward_pass() {
        let device = Device::flex().autodiff();
        let mut initializer = Initializer::new(3, &device);
        let model = lstm(VOCABULARY, &small("lstm-128"), &mut initializer);
        let (tokens, targets) = (text(&device, 0), text(&device, 1));
        for most in [WINDOW + 1, usize::MAX] {
            let asked = std::cell::Cell::new(0);
            let stops = || {
                asked.set(asked.get() + 1);
                asked.get() > most
            };
            let found = state_gradients(&model, &tokens, &targets, State::default(), &stops);
            assert_eq!(found.is_none(), most == WINDOW + 1);
        }
    }
}
