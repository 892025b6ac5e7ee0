//! The model of a well-known tutorial on gradient clipping, with clipping actually applied: 128
//! relu units, one tanh unit, mean squared error, Adam with learning rate 0.01, threshold 1.
//!
//! Clipping replaces g by g' = c g / ||g|| if ||g|| > c, over all weights as one vector, and Adam
//! steps with g'. The same loop with value clipping ("truncation") shows the difference: clamping
//! each element turns the direction of g.

use std::error::Error;

use burn::module::Module;
use burn::nn::loss::{MseLoss, Reduction};
use burn::nn::{Linear, LinearConfig};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Distribution, Tensor, activation};
use gradclip_burn::ClipModule;
use gradclip_burn::gradclip::{Clipper, NonFinite};

const STEPS: usize = 200;
const PRINTED_STEPS: usize = 8;
const SAMPLES: usize = 256;
const INPUTS: usize = 4;

#[derive(Module, Debug)]
struct ArticleModel {
    hidden: Linear,
    output: Linear,
}

impl ArticleModel {
    fn new(device: &Device) -> Self {
        ArticleModel {
            hidden: LinearConfig::new(INPUTS, 128).init(device),
            output: LinearConfig::new(128, 1).init(device),
        }
    }

    fn forward(&self, inputs: Tensor<2>) -> Tensor<2> {
        let hidden = activation::relu(self.hidden.forward(inputs));
        self.output.forward(hidden).tanh()
    }
}

fn train(policy: &str) -> Result<(), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    // Both runs start from the same weights and see the same data.
    device.seed(1);
    // The inputs are not normalised, which makes the first gradients too large.
    let inputs = Tensor::<2>::random([SAMPLES, INPUTS], Distribution::Normal(0.0, 4.0), &device);
    // One target in (-1, 1) per sample.
    let targets = inputs.clone().mul_scalar(0.25).sum_dim(1).tanh();

    let mut model = ArticleModel::new(&device);
    let mut optimizer = AdamConfig::new().init();
    let mut clipper = Clipper::new(policy.parse()?, NonFinite::Error)?;
    println!("{policy}");
    println!("step    loss  norm before  norm after  coefficient  cosine");
    for step in 0..STEPS {
        let predictions = model.forward(inputs.clone());
        let loss = MseLoss::new().forward(predictions, targets.clone(), Reduction::Mean);
        let (gradients, report) = clipper.clip_module(loss.backward(), &model)?;
        if step < PRINTED_STEPS || step + 1 == STEPS {
            println!(
                "{step:4}  {:6.4}  {:11.4}  {:10.4}  {:11.4}  {:6.4}",
                loss.into_scalar::<f32>(),
                report.norm_before,
                report.norm_after,
                report.coefficient,
                report.cosine.unwrap_or(f64::NAN),
            );
        }
        model = optimizer.step(0.01, model, gradients);
    }
    println!();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    train("global-norm:1")?;
    // A bound of 1 per element would not clip these gradients, so it is tighter.
    train("value:0.1")?;
    println!(
        "Global-norm clipping keeps the direction (cosine 1) and bounds the length. Value\n\
         clipping turns the direction (cosine below 1), and the length it leaves depends on\n\
         how many elements there are."
    );
    Ok(())
}
