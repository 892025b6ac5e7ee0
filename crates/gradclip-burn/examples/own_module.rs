//! A custom model, trained by Burn's Adam with global-norm clipping.
//!
//! Three linear layers learn to separate two intertwined spirals. While the arms separate, the
//! gradients grow tenfold, and clipping sets in.

use std::error::Error;
use std::f32::consts::PI;

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use gradclip_burn::ClippedOptimizer;
use gradclip_burn::gradclip::{ClipAction, ClipPolicy, Clipper, NonFinite};
use gradclip_judge::{Run, StepRecord, judge};

const STEPS: usize = 400;
const PRINT_EVERY: usize = 20;
const POINTS: usize = 400;

#[derive(Module, Debug)]
struct SpiralModel {
    first: Linear,
    second: Linear,
    output: Linear,
}

impl SpiralModel {
    fn new(device: &Device) -> Self {
        SpiralModel {
            first: LinearConfig::new(2, 32).init(device),
            second: LinearConfig::new(32, 32).init(device),
            output: LinearConfig::new(32, 2).init(device),
        }
    }

    fn forward(&self, points: Tensor<2>) -> Tensor<2> {
        let hidden = activation::relu(self.first.forward(points));
        let hidden = activation::relu(self.second.forward(hidden));
        self.output.forward(hidden)
    }
}

/// Points on two spiral arms of two and a half turns, and the arm of each point.
fn spirals(device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let (mut points, mut arms) = (Vec::new(), Vec::new());
    for index in 0..POINTS {
        let arm = index % 2;
        let radius = 0.2 + 2.0 * index as f32 / POINTS as f32;
        let angle = 2.5 * PI * radius + PI * arm as f32;
        points.extend([radius * angle.cos(), radius * angle.sin()]);
        arms.push(arm as i32);
    }
    let points = Tensor::from_data(TensorData::new(points, [POINTS, 2]), device);
    (
        points,
        Tensor::from_data(TensorData::new(arms, [POINTS]), device),
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    device.seed(7);
    let (points, arms) = spirals(&device);
    let cross_entropy = CrossEntropyLossConfig::new().init(&device);
    let mut model = SpiralModel::new(&device);
    let policy: ClipPolicy = "global-norm:0.5".parse()?;
    let clipper = Clipper::new(policy.clone(), NonFinite::Skip)?;
    let mut optimizer = ClippedOptimizer::new(AdamConfig::new().init(), clipper);
    let mut records = Vec::new();
    println!("step    loss  norm before  norm after  clipped");
    for step in 0..STEPS {
        let loss = cross_entropy.forward(model.forward(points.clone()), arms.clone());
        let report = optimizer.backward_step(0.02, &mut model, &loss)?;
        let loss = f64::from(loss.into_scalar::<f32>());
        records.push(StepRecord::new(step as u64 + 1, &report, Some(loss)));
        if step % PRINT_EVERY == 0 {
            let clipped = if report.action == ClipAction::Clip {
                "yes"
            } else {
                "no"
            };
            let (before, after) = (report.norm_before, report.norm_after);
            println!("{step:4}  {loss:6.4}  {before:11.4}  {after:10.4}  {clipped}");
        }
    }
    let judged = judge(&Run::new(&policy, records));
    println!("\n{}", judged.verdict);
    Ok(())
}
