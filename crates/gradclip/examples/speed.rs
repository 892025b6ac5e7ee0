//! Times each policy: `cargo run --release -p gradclip --example speed [MILLIONS] [THREADS]`.
//!
//! Prints milliseconds per step and gigabytes of gradient per second, the best of many steps, for a
//! model with the given number of parameters in tensors of 1024 x 1024.

use std::time::Instant;

use gradclip::{Clipper, Elements, Gradient, Gradients, NonFinite, Unscaled};

const SIDE: usize = 1024;
const STEPS: usize = 15;

/// Gradients with parameters, which `agc` needs.
struct Model<T> {
    tensors: Vec<(String, Vec<T>)>,
    parameter: Vec<f32>,
}

impl<T> Gradients for Model<T>
where
    for<'a> Elements<'a>: From<&'a mut [T]>,
{
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for (name, values) in &mut self.tensors {
            let gradient = Gradient::new(name, values.as_mut_slice());
            visitor(
                gradient
                    .with_shape(&[SIDE, SIDE])
                    .with_parameter(self.parameter.as_slice()),
            );
        }
    }
}

fn model<T: Copy>(tensors: usize, convert: impl Fn(f32) -> T) -> Model<T>
where
    for<'a> Elements<'a>: From<&'a mut [T]>,
{
    // Values between -1 and 1 without a pattern.
    let number = |index: usize| {
        let mixed = (index as u32).wrapping_mul(2_654_435_761);
        mixed as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    let values: Vec<T> = (0..SIDE * SIDE)
        .map(|index| convert(number(index)))
        .collect();
    Model {
        tensors: (0..tensors)
            .map(|index| (format!("layers.{index}.weight"), values.clone()))
            .collect(),
        parameter: vec![1.0; SIDE * SIDE],
    }
}

/// Prints the fastest step.
fn print<T>(model: &mut Model<T>, policy: &str, name: &str, threads: usize)
where
    for<'a> Elements<'a>: From<&'a mut [T]>,
{
    let parsed = policy.parse();
    let parsed = parsed.expect("the policies of this program are valid");
    let clipper = Clipper::new(parsed, NonFinite::Error).expect("no rule inside Adam");
    let mut clipper = clipper.with_threads(threads);
    let mut shortest = f64::INFINITY;
    for _ in 0..STEPS {
        let started = Instant::now();
        let outcome = clipper.clip(Unscaled::single(&mut *model));
        shortest = shortest.min(started.elapsed().as_secs_f64());
        drop(outcome.expect("the gradients are finite"));
    }
    let bytes = model.tensors.len() * SIDE * SIDE * size_of::<T>();
    let (ms, speed) = (shortest * 1e3, bytes as f64 / shortest / 1e9);
    println!("{policy:<28} {name:>6} {ms:>10.2} {speed:>8.2}");
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| {
        let number = argument.parse::<usize>();
        number.expect("arguments are millions of parameters and threads")
    });
    let tensors = arguments.next().unwrap_or(20);
    let threads = arguments.next().unwrap_or(1);
    let elements = tensors * SIDE * SIDE;
    println!("{elements} parameters, {threads} thread(s), best of {STEPS} steps");
    println!("{:<28} {:>6} {:>10} {:>8}", "policy", "type", "ms", "GB/s");
    let mut single = model(tensors, |value| value);
    for policy in [
        "none",
        "global-norm:1e30",
        // Scales at every step.
        "normalize:1000",
        "value:1e30",
        // Falls from step to step, so that each of them clamps.
        "value:0.3..0.1@15",
        "norm:1e30",
        "group-norm:1e30",
        "block-rms:1e30",
        "agc:1e30",
        "agc:1e30,unit=first",
        "autoclip:100",
        "zclip:max=inf",
        "adagc:abs=1e30,rel=1e30",
        "median:1e30",
        "skip:1e30",
        "global-norm:1e30,p=inf",
        "global-norm:1e30,p=3",
        "value:1e30+global-norm:1e30",
    ] {
        print(&mut single, policy, "f32", threads);
    }
    drop(single);
    let plain = "global-norm:1e30";
    print(&mut model(tensors, f64::from), plain, "f64", threads);
    #[cfg(feature = "half")]
    {
        use half::{bf16, f16};
        print(&mut model(tensors, f16::from_f32), plain, "f16", threads);
        print(&mut model(tensors, bf16::from_f32), plain, "bf16", threads);
    }
}
