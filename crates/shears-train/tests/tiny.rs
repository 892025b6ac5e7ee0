//! Tiny models, plans and texts for these tests.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use shears_data::{Tokenizer, TokenizerKind, Tokens};
use shears_model::{Architecture, Initializer, LanguageModel, ModelConfig};
use shears_run::{ClipEvent, Event, Log, StepEvent};
use shears_train::{Batches, Checkpoint, Plan, Preset, Trainer};

/// The events of a run's log.
pub(crate) fn events(path: &Path) -> Vec<Event> {
    let log = Log::read(path.to_path_buf()).unwrap();
    assert_eq!(log.damage, None);
    let mut events = log.events().unwrap().map(Result::unwrap);
    assert!(matches!(events.next(), Some(Event::Header(_))));
    events.collect()
}

/// A learnable text: every word determines the next.
pub(crate) fn text() -> String {
    "the cat sat on the mat and the dog lay by the log; ".repeat(40)
}

pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::build(&TokenizerKind::Char, &text()).unwrap()
}

pub(crate) fn tokens() -> Tokens {
    tokenizer().tokens(&text()).unwrap()
}

pub(crate) fn device() -> Device {
    Device::flex().autodiff()
}

/// A small plan, without a text.
pub(crate) fn plan(architecture: Architecture) -> Plan {
    let preset = Preset::of(architecture).plan();
    Plan {
        text: vec![PathBuf::from("tiny.txt")],
        layers: 2,
        hidden: 8,
        embedding: 8,
        // Only settings that belong to the model.
        heads: match architecture {
            Architecture::Transformer => 2,
            _ => preset.heads,
        },
        batch: 3,
        window: 6,
        lr: 0.01,
        warmup: 0,
        steps: 100,
        tied: false,
        ..preset
    }
}

/// A plan for each kind of model, and for Llama's block with shared key and value heads.
pub(crate) fn plans() -> impl Iterator<Item = Plan> {
    let llama = Preset::Llama128.plan();
    let llama = Plan {
        preset: llama.preset,
        norm: llama.norm,
        position: llama.position,
        mlp: llama.mlp,
        bias: llama.bias,
        kv_heads: 1,
        ..plan(Architecture::Transformer)
    };
    Architecture::ALL.iter().copied().map(plan).chain([llama])
}

/// The common signature of the models' constructors.
pub(crate) type New<M> = fn(usize, &ModelConfig, &mut Initializer) -> M;

pub(crate) fn trainer<M: LanguageModel>(new: New<M>, plan: &Plan) -> Trainer<M> {
    plan.validate().unwrap();
    let mut initializer = Initializer::new(plan.seed, &device());
    let vocabulary = tokenizer().vocab_size();
    let model = new(vocabulary, &plan.model_config(), &mut initializer);
    let batches = Batches::new(plan, model.reading(), tokens()).unwrap();
    Trainer::new(plan.clone(), model, batches, 1, &device())
}

/// All tensors of a checkpoint, by kind and name, as bits.
pub(crate) fn bits(checkpoint: &Checkpoint) -> Vec<(String, Vec<usize>, Vec<u32>)> {
    let kinds = [
        ("model", &checkpoint.model),
        ("optimizer", &checkpoint.optimizer),
        ("carried", &checkpoint.carried),
    ];
    let mut all: Vec<_> = kinds
        .into_iter()
        .flat_map(|(kind, tensors)| {
            tensors.iter().map(move |tensor| {
                let values = tensor.data.iter::<f32>().map(f32::to_bits).collect();
                let name = format!("{kind}: {}", tensor.name);
                (name, tensor.data.shape().to_vec(), values)
            })
        })
        .collect();
    all.sort();
    all
}

/// The event of a step.
pub(crate) fn step_event(step: u64) -> Event {
    Event::Step(StepEvent {
        step,
        loss: Some(1.0 / step as f64),
        lr: 0.1,
        tokens_per_second: 1000.0,
        clip: ClipEvent {
            action: gradclip::ClipAction::Clip,
            norm_before: 2.0,
            norm_after: 1.0,
            coefficient: 0.5,
            threshold: Some(1.0),
            skip_reason: None,
            non_finite: 0,
            first_non_finite: None,
            clipped_share: 0.0,
            rounded_to_zero: None,
            cosine: Some(1.0),
            tensors: [("output.bias".to_string(), 2.0)].into(),
        },
        update_ratios: [("output.bias".to_string(), 0.001)].into(),
        exchange: None,
    })
}
