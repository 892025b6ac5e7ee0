//! What parallel streams change in the evaluation of a recurrent model, and what they save.
//!
//! ```text
//! cargo run --release -p shears-train --example evaluation -- PRESET STEPS [TEXT]
//! ```
//!
//! It trains a recurrent preset for some steps on a text (without one, on that which Shears
//! carries) and reads the validation text as one stream, then in several numbers of parallel
//! streams. The table has the difference of the losses in nats a token, and seconds.

use std::error::Error;
use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Device;
use shears_model::{Architecture, Initializer, LanguageModel, gru, lstm, rnn};
use shears_train::{
    Batches, Corpora, Evaluation, Plan, Preset, Streams, Trainer, evaluate, load_corpora,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [preset, steps, text @ ..] = &arguments[..] else {
        return Err("usage: evaluation PRESET STEPS [TEXT]".into());
    };
    let preset: Preset = preset.parse()?;
    let plan = Plan {
        text: text.iter().map(Into::into).collect(),
        ..preset.plan()
    };
    let steps = steps.parse()?;
    let corpora = load_corpora(&plan, None, None, &mut |_, _| Ok(()))?;
    let device = Device::flex().autodiff();
    let mut initializer = Initializer::new(plan.seed, &device);
    let (vocabulary, config) = (corpora.tokenizer.vocab_size(), plan.model_config());
    match plan.model {
        Architecture::Rnn => {
            let model = rnn(vocabulary, &config, &mut initializer);
            compare(model, plan, steps, &corpora, &device)
        }
        Architecture::Lstm => {
            let model = lstm(vocabulary, &config, &mut initializer);
            compare(model, plan, steps, &corpora, &device)
        }
        Architecture::Gru => {
            let model = gru(vocabulary, &config, &mut initializer);
            compare(model, plan, steps, &corpora, &device)
        }
        Architecture::Transformer => Err("a Transformer reads no streams".into()),
    }
}

fn compare<M: LanguageModel>(
    model: M,
    plan: Plan,
    steps: u64,
    corpora: &Corpora,
    device: &Device,
) -> Result<(), Box<dyn Error>> {
    let batches = Batches::new(&plan, model.reading(), corpora.train.clone())?;
    let name = plan.preset;
    let mut trainer = Trainer::new(plan, model, batches, 1, device);
    for _ in 0..steps {
        trainer.step()?;
    }
    let (model, plain) = (trainer.model().valid(), device.clone().without_autodiff());
    let tokens = &corpora.validation;
    let timed = |streams: Streams| -> Result<(Evaluation, f64), Box<dyn Error>> {
        let started = Instant::now();
        let characters = corpora.validation_characters;
        let evaluation = evaluate(&model, tokens, characters, streams, &plain, &mut |_, _| {
            ControlFlow::Continue(())
        })?;
        let evaluation = evaluation.ok_or("nobody stops it")?;
        Ok((evaluation, started.elapsed().as_secs_f64()))
    };
    let (exact, seconds) = timed(Streams::ONE)?;
    let (loss, predicted) = (exact.val_loss, exact.tokens);
    println!("{name} after {steps} steps, {predicted} tokens: {loss:.7} nats, {seconds:.2} s");
    println!("streams    difference   seconds");
    for count in [8, 16, 32, 64, 128] {
        let (found, seconds) = timed(Streams(count))?;
        let difference = found.val_loss - loss;
        println!("{count:7} {difference:13.1e} {seconds:9.2}");
    }
    Ok(())
}
