//! Gated recurrent unit (Cho et al. 2014), in the variant of PyTorch and cuDNN, where the reset
//! gate acts after the product with the recurrent weights.
//!
//! ```text
//! r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)     z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
//! n = tanh(W_in x + b_in + r * (W_hn h + b_hn))  h = (1 - z) * n + z * h
//! ```

use burn::module::{Module, Param};
use burn::tensor::activation::{sigmoid, tanh};
use burn::tensor::{Tensor, s};

use crate::config::ModelConfig;
use crate::layers::{Initializer, product};
use crate::recurrent::{RecurrentLayer, RecurrentModel, RecurrentWeights};

/// A text generator made of [`GruLayer`]s.
pub type Gru = RecurrentModel<GruLayer>;

/// One layer; equations and gate order (r, z, n) are PyTorch's `torch.nn.GRU`.
#[derive(Module, Debug)]
pub struct GruLayer {
    /// `[3 hidden, inputs]`
    pub weight_ih: Param<Tensor<2>>,
    /// `[3 hidden, hidden]`
    pub weight_hh: Param<Tensor<2>>,
    /// `[3 hidden]`
    pub bias_ih: Param<Tensor<1>>,
    /// `[3 hidden]`
    pub bias_hh: Param<Tensor<1>>,
}

impl RecurrentLayer for GruLayer {
    const CARRIES: &'static [&'static str] = &["hidden"];

    fn new(inputs: usize, config: &ModelConfig, initializer: &mut Initializer) -> Self {
        let RecurrentWeights {
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
        } = RecurrentWeights::new(3, inputs, config.hidden, initializer);
        GruLayer {
            weight_ih,
            weight_hh,
            bias_ih,
            bias_hh,
        }
    }

    fn hidden(&self) -> usize {
        self.weight_hh.lazy_shape()[1]
    }

    fn forward(
        &self,
        steps: Vec<Tensor<2>>,
        carried: Vec<Tensor<2>>,
    ) -> (Vec<Tensor<2>>, Vec<Tensor<2>>) {
        let [mut hidden] = carried.try_into().expect("a GRU layer carries one tensor");
        let size = self.hidden();
        let gate =
            |gates: &Tensor<2>, n: usize| gates.clone().slice(s![.., n * size..(n + 1) * size]);
        // Turned once a window, so that their gradients are summed in one place.
        let weight_ih = self.weight_ih.val().transpose();
        let weight_hh = self.weight_hh.val().transpose();
        let mut outputs = Vec::with_capacity(steps.len());
        for input in steps {
            // Both [batch, 3 hidden].
            let x = product(input, &weight_ih, Some(self.bias_ih.val()));
            let h = product(hidden.clone(), &weight_hh, Some(self.bias_hh.val()));
            let r = sigmoid(gate(&x, 0) + gate(&h, 0)); // [batch, hidden]
            let z = sigmoid(gate(&x, 1) + gate(&h, 1)); // [batch, hidden]
            let n = tanh(gate(&x, 2) + r * gate(&h, 2)); // [batch, hidden]
            // (1 - z) n + z h, with one product less.
            hidden = n.clone() + z * (hidden - n); // [batch, hidden]
            outputs.push(hidden.clone());
        }
        (outputs, vec![hidden])
    }
}
