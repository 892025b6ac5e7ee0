//! A custom language model, trained by Shears.
//!
//! The model predicts the next token from the last one and a decaying average of all before it. A
//! Burn module that implements [`LanguageModel`] is all that training, evaluation, checkpoints and
//! clipping need.

use std::error::Error;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, activation};
use shears_model::{Embedding, Initializer, LanguageModel, Linear, Reading, State};
use shears_run::{StepEvent, Subject};
use shears_train::{
    Batches, Evaluation, Observer, Plan, Preset, RunFolder, Trainer, load_corpora, train,
};

/// The decay of the average per token.
const FADING: f64 = 0.8;

/// `hidden = tanh(W [x, m] + b)`, where `x` embeds the last token and `m` averages all of them.
#[derive(Module, Debug)]
struct FadingMemory {
    embedding: Embedding,
    hidden: Linear,
    output: Linear,
}

impl FadingMemory {
    fn new(vocabulary: usize, size: usize, initializer: &mut Initializer) -> Self {
        let mut linear = |inputs: usize, outputs: usize| {
            let bound = 1.0 / (inputs as f64).sqrt();
            Linear {
                weight: initializer.uniform([outputs, inputs], bound),
                bias: Some(initializer.constant([outputs], 0.0)),
            }
        };
        FadingMemory {
            hidden: linear(2 * size, size),
            output: linear(size, vocabulary),
            embedding: Embedding {
                weight: initializer.normal([vocabulary, size], 1.0),
            },
        }
    }
}

impl LanguageModel for FadingMemory {
    fn forward(&self, tokens: Tensor<2, Int>, mut state: State) -> (Tensor<3>, State) {
        let [batch, time] = tokens.dims();
        let embedded = self.embedding.forward(tokens); // [batch, time, size]
        let [_, _, size] = embedded.dims();
        let empty = || Tensor::zeros([1, batch, size], &embedded.device());
        // The state of the previous call, so that a text can be split into calls anywhere.
        let mut memory = state.tensors.remove("memory").unwrap_or_else(empty);
        let mut seen = Vec::with_capacity(time);
        for t in 0..time {
            let token = embedded.clone().slice([0..batch, t..t + 1, 0..size]);
            memory = memory * FADING + token.swap_dims(0, 1) * (1.0 - FADING); // [1, batch, size]
            seen.push(memory.clone().swap_dims(0, 1)); // [batch, 1, size]
        }
        let memories = Tensor::cat(seen, 1); // [batch, time, size]
        let both = Tensor::cat(vec![embedded, memories], 2); // [batch, time, 2 size]
        // `dropout(both, state.dropout(0.1), 0)` would apply dropout here, in training only.
        let hidden = activation::tanh(self.hidden.forward(both));
        state.tensors.insert("memory".to_string(), memory);
        state.position += time;
        (self.output.forward(hidden), state)
    }

    fn reading(&self) -> Reading {
        Reading::Streams
    }
}

/// Prints progress occasionally.
struct Printer;

impl Observer for Printer {
    fn step(&mut self, event: &StepEvent) {
        if event.step.is_multiple_of(20) {
            let loss = event.loss.unwrap_or(f64::NAN);
            let norm = event.clip.norm_before;
            println!("step {:3}  loss {loss:.4}  norm {norm:.3}", event.step);
        }
    }

    fn evaluation(&mut self, step: u64, evaluation: &Evaluation) {
        println!("step {step:3}  val loss {:.4}", evaluation.val_loss);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Without a file, the built-in text is used.
    let plan = Plan {
        steps: 100,
        batch: 16,
        window: 32,
        lr: 0.01,
        clip: "global-norm:0.4".parse()?,
        ..Preset::Lstm128.plan()
    };
    plan.validate()?;
    let corpora = load_corpora(&plan, None, None, &mut |_, _| Ok(()))?;
    let device = Device::flex().autodiff();
    let vocabulary = corpora.tokenizer.vocab_size();
    let model = FadingMemory::new(vocabulary, 48, &mut Initializer::new(plan.seed, &device));
    let batches = Batches::new(&plan, model.reading(), corpora.train.clone())?;

    let path = std::env::temp_dir().join(format!("shears-own-model-{}", std::process::id()));
    let run = RunFolder::create(&path, &plan, &corpora.tokenizer, None)?;
    let mut trainer = Trainer::new(plan, model, batches, 1, &device);
    train(&mut trainer, &run, &corpora, &device, &mut Printer)?;
    let judgement = run.log()?.columns.judge(&Subject::of(run.path()));
    for line in judgement.lines() {
        println!("{line}");
    }
    // A real run keeps its folder and is resumed by `RunFolder::open` and `Trainer::restore`.
    drop(run);
    std::fs::remove_dir_all(&path)?;
    Ok(())
}
