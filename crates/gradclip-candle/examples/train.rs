//! Trains a character-level recurrent network on a sonnet twice from the same parameters: without
//! clipping, and with the global norm clipped.
//!
//! ```text
//! cargo run --release -p gradclip-candle --example train
//! ```

use std::collections::BTreeSet;
use std::error::Error;

use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use candle_nn::rnn::{GRU, RNN};
use candle_nn::{Linear, Module, Optimizer, SGD, VarBuilder, VarMap};
use gradclip_candle::ClippedOptimizer;
use gradclip_candle::gradclip::{ClipPolicy, Clipper, NonFinite};
use gradclip_judge::{Run, StepRecord, judge};

const STEPS: usize = 300;
const PRINT_EVERY: usize = 20;
const HIDDEN: usize = 48;
const WINDOW: usize = 48;
const BATCH: usize = 8;
const LEARNING_RATE: f64 = 6.0;

/// William Shakespeare, Sonnet 18, 1609.
const TEXT: &str = "\
Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date:
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade
Nor lose possession of that fair thou owest;
Nor shall Death brag thou wander'st in his shade,
When in eternal lines to time thou growest:
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee.
";

struct CharacterModel {
    gru: GRU,
    output: Linear,
    vars: VarMap,
}

impl CharacterModel {
    fn new(vocabulary: usize) -> Result<CharacterModel, Box<dyn Error>> {
        let vars = VarMap::new();
        let builder = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        let gru = candle_nn::gru(vocabulary, HIDDEN, Default::default(), builder.pp("gru"))?;
        let output = candle_nn::linear(HIDDEN, vocabulary, builder.pp("output"))?;
        let model = CharacterModel { gru, output, vars };
        model.initialize()?;
        Ok(model)
    }

    /// Sets the same parameters in every run, because Candle's CPU generator cannot be seeded.
    fn initialize(&self) -> Result<(), Box<dyn Error>> {
        let map = self.vars.data().lock().expect("no thread has panicked");
        let mut vars: Vec<_> = map.iter().collect();
        vars.sort_by_key(|(name, _)| *name);
        let mut random = Random(18);
        let bound = 1.0 / (HIDDEN as f32).sqrt();
        for (_, var) in vars {
            let values: Vec<f32> = (0..var.elem_count())
                .map(|_| bound * random.next())
                .collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
        }
        Ok(())
    }

    /// The mean loss of predicting each next character. `inputs` is `[batch, time, vocabulary]`,
    /// `targets` is `[batch, time]`.
    fn loss(&self, inputs: &Tensor, targets: &Tensor) -> candle_core::Result<Tensor> {
        let states = self.gru.seq(inputs)?;
        let hidden: Vec<&Tensor> = states.iter().map(|state| state.h()).collect();
        let hidden = Tensor::stack(&hidden, 1)?.flatten_to(1)?; // [batch * time, hidden]
        cross_entropy(&self.output.forward(&hidden)?, &targets.flatten_all()?)
    }
}

/// One-hot characters, and the characters that follow them.
struct Batches {
    characters: Vec<u32>,
    vocabulary: usize,
}

impl Batches {
    fn new(text: &str) -> Batches {
        let known: Vec<char> = text
            .chars()
            .collect::<BTreeSet<char>>()
            .into_iter()
            .collect();
        let index = |character| known.binary_search(&character).unwrap_or_default() as u32;
        Batches {
            characters: text.chars().map(index).collect(),
            vocabulary: known.len(),
        }
    }

    /// Windows whose positions depend only on the step.
    fn at(&self, step: usize) -> candle_core::Result<(Tensor, Tensor)> {
        let mut inputs = vec![0.0_f32; BATCH * WINDOW * self.vocabulary];
        let mut targets = Vec::with_capacity(BATCH * WINDOW);
        let places = self.characters.len() - WINDOW - 1;
        for row in 0..BATCH {
            let start = (97 * (BATCH * step + row)) % places;
            for time in 0..WINDOW {
                let character = self.characters[start + time] as usize;
                inputs[(row * WINDOW + time) * self.vocabulary + character] = 1.0;
                targets.push(self.characters[start + time + 1]);
            }
        }
        let inputs = Tensor::from_vec(inputs, (BATCH, WINDOW, self.vocabulary), &Device::Cpu)?;
        Ok((
            inputs,
            Tensor::from_vec(targets, (BATCH, WINDOW), &Device::Cpu)?,
        ))
    }
}

/// SplitMix64, uniform in [-1, 1).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// The result of one step.
struct Step {
    loss: f32,
    record: StepRecord,
}

fn train(policy: ClipPolicy) -> Result<Vec<Step>, Box<dyn Error>> {
    let batches = Batches::new(TEXT);
    let model = CharacterModel::new(batches.vocabulary)?;
    let optimizer = SGD::new(model.vars.all_vars(), LEARNING_RATE)?;
    let clipper = Clipper::new(policy, NonFinite::Skip)?;
    let mut optimizer = ClippedOptimizer::new(optimizer, clipper, &model.vars);
    let mut steps = Vec::with_capacity(STEPS);
    for step in 0..STEPS {
        let (inputs, targets) = batches.at(step)?;
        let loss = model.loss(&inputs, &targets)?;
        let report = optimizer.backward_step(&loss)?;
        let loss: f32 = loss.to_scalar()?;
        steps.push(Step {
            loss,
            record: StepRecord::new(step as u64 + 1, &report, Some(f64::from(loss))),
        });
    }
    Ok(steps)
}

fn main() -> Result<(), Box<dyn Error>> {
    let unclipped = train(ClipPolicy::none())?;
    let policy: ClipPolicy = "global-norm:1".parse()?;
    let clipped = train(policy.clone())?;
    println!("        no clipping          global-norm:1");
    println!("step    loss      norm       loss      norm");
    for (index, (left, right)) in unclipped.iter().zip(&clipped).enumerate() {
        if index % PRINT_EVERY == 0 || index + 1 == STEPS {
            println!(
                "{index:4}  {:6.3}  {:8.3}     {:6.3}  {:8.3}",
                left.loss, left.record.norm_before, right.loss, right.record.norm_before,
            );
        }
    }
    let mean = |steps: &[Step]| {
        let last = &steps[STEPS - PRINT_EVERY..];
        last.iter().map(|step| step.loss).sum::<f32>() / PRINT_EVERY as f32
    };
    let (left, right) = (mean(&unclipped), mean(&clipped));
    println!("\nmean loss of the last {PRINT_EVERY} steps: {left:.3} without, {right:.3} with");
    let judged = judge(&Run::new(&policy, clipped.iter().map(|step| step.record)));
    println!("\n{}", judged.verdict);
    Ok(())
}
