//! Guarantees of training: it learns, resumes bit for bit, accumulates, clips, skips and evaluates.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::tiny::{self, New, bits, device, events, plan, plans, trainer};
use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use gradclip::ClipAction;
use gradclip_burn::ModuleGradients;
use shears_data::{Batch, RandomWindows, Tokens};
use shears_model::{
    Architecture, DropoutKey, LanguageModel, Precision, Reading, RecurrentModel, State,
    Transformer, gru, lstm, rnn,
};
use shears_run::{EndReason, Event, StepEvent};
use shears_train::{
    Batches, CheckpointStore, ClipPolicy, Corpora, End, Evaluation, NonFinite, Observer,
    OptimizerKind, Plan, RunFolder, ScheduleKind, Streams, TrainError, Trainer, evaluate,
    load_parameters, module_tensors, train,
};

/// Calls a function with the constructor of a plan's model.
macro_rules! with_model {
    ($check:ident, $plan:expr $(, $argument:expr)*) => {
        match $plan.model {
            Architecture::Rnn => $check::<RecurrentModel>(rnn, $plan $(, $argument)*),
            Architecture::Lstm => $check::<RecurrentModel>(lstm, $plan $(, $argument)*),
            Architecture::Gru => $check::<RecurrentModel>(gru, $plan $(, $argument)*),
            Architecture::Transformer => {
                $check::<Transformer>(Transformer::new, $plan $(, $argument)*)
            }
        }
    };
}

fn steps<M: LanguageModel>(trainer: &mut Trainer<M>, steps: usize) -> Vec<f64> {
    let losses = (0..steps).map(|_| trainer.step().unwrap().loss);
    losses.collect()
}

/// The first gradient and loss in bf16 are close to those in f32, but not equal.
fn check_bf16<M: LanguageModel>(new: New<M>, plan: &Plan) {
    let bf16 = Plan {
        precision: Precision::Bf16,
        ..plan.clone()
    };
    let (mut rounded, mut exact) = (trainer(new, &bf16), trainer(new, plan));
    let (found, expected) = (rounded.step().unwrap(), exact.step().unwrap());
    let close = |name: &str, found: f64, expected: f64, bound: f64| {
        let error = (found - expected).abs() / expected;
        assert!(
            error < bound,
            "{} {name}: {found} for {expected}",
            plan.model
        );
    };
    close("loss", found.loss, expected.loss, 2e-3);
    let norms = (found.report.norm_before, expected.report.norm_before);
    close("norm", norms.0, norms.1, 2e-2);
    assert_ne!(
        found.loss, expected.loss,
        "{}: bf16 changed nothing",
        plan.model
    );
    let (found, expected) = (steps(&mut rounded, 59), steps(&mut exact, 59));
    let last = |losses: &[f64]| losses[49..].iter().sum::<f64>() / 10.0;
    close("loss after 60 steps", last(&found), last(&expected), 2e-2);
}

#[test]
fn training_in_bf16_follows_training_in_f32() {
    for plan in plans() {
        with_model!(check_bf16, &plan);
    }
}

fn check_learning<M: LanguageModel>(new: New<M>, plan: &Plan) {
    let losses = steps(&mut trainer(new, plan), 60);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..10]), mean(&losses[50..]));
    assert!(last < 0.9 * first, "{}: {first} to {last}", plan.model);
}

#[test]
fn the_loss_decreases() {
    for plan in plans() {
        for layers in [1, 2] {
            let plan = Plan {
                layers,
                ..plan.clone()
            };
            with_model!(check_learning, &plan);
        }
    }
}

const HALF: usize = 3;

/// `train(2n)` against `train(n)`, disk, another trainer, `train(n)`.
fn check_resumption<M: LanguageModel>(new: New<M>, plan: &Plan, folder: &Path, name: &str) {
    let mut uninterrupted = trainer(new, plan);
    steps(&mut uninterrupted, HALF);
    let store = CheckpointStore::new(folder.join(name));
    let path = store.save(&uninterrupted.checkpoint()).unwrap();
    let at_half = uninterrupted.checkpoint();
    let expected_losses = steps(&mut uninterrupted, HALF);
    let expected = uninterrupted.checkpoint();

    // Other initial weights: all must come from the checkpoint.
    let other = trainer(
        new,
        &Plan {
            seed: 99,
            ..plan.clone()
        },
    );
    let model = other.model().clone();
    let batches = Batches::new(plan, model.reading(), tiny::tokens()).unwrap();
    let fresh = Trainer::new(plan.clone(), model, batches, 2, &device());
    let mut resumed = fresh.restore(store.load(&path).unwrap()).unwrap();
    assert_eq!(bits(&resumed.checkpoint()), bits(&at_half), "{name}");
    let losses = steps(&mut resumed, HALF);
    let got = resumed.checkpoint();
    assert_eq!(losses, expected_losses, "{name}");
    assert_eq!(bits(&got), bits(&expected), "{name}");
    assert_eq!(got.progress, expected.progress, "{name}");
    // Control: the steps had an effect.
    assert_ne!(bits(&at_half), bits(&expected), "{name}");
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let optimizers = [
        OptimizerKind::Sgd,
        OptimizerKind::Momentum,
        OptimizerKind::RmsProp,
        OptimizerKind::Adam,
        OptimizerKind::AdamW,
    ];
    let clips = ["none", "value:0.01", "norm:0.1", "global-norm:0.5"];
    let mut combination = 0;
    for plan in plans() {
        for optimizer in optimizers {
            for clip in clips {
                combination += 1;
                let plan = Plan {
                    optimizer,
                    clip: clip.parse().unwrap(),
                    nesterov: optimizer == OptimizerKind::Momentum && combination % 2 == 0,
                    dropout: if combination % 3 == 0 { 0.1 } else { 0.0 },
                    accumulate: 1 + combination % 2,
                    weight_decay: 0.1,
                    warmup: 2,
                    tied: combination % 4 == 0,
                    precision: match combination % 5 {
                        0 => Precision::Bf16,
                        _ => Precision::F32,
                    },
                    ..plan.clone()
                };
                let clip = clip.replace(':', "-");
                let name = format!("{}-{optimizer}-{clip}", plan.preset);
                with_model!(check_resumption, &plan, folder.path(), &name);
            }
        }
    }
    assert_eq!(combination, 100);
}

/// A run resumed at the end of an epoch carries no state into the next one.
#[test]
fn resumption_holds_across_epochs() {
    let folder = tempfile::tempdir().unwrap();
    for format in [1, Plan::FORMAT] {
        let plan = Plan {
            format,
            // Two windows per epoch.
            batch: 16,
            window: 60,
            ..plan(Architecture::Lstm)
        };
        let Batches::Streams(streams) =
            Batches::new(&plan, shears_model::Reading::Streams, tiny::tokens()).unwrap()
        else {
            panic!("a recurrent model reads streams");
        };
        assert_eq!(streams.windows_per_epoch(), 2);
        // A run of format 1 keeps its reading order, and never reads the rest.
        let repeats = streams.batch_at(0) == streams.batch_at(2);
        assert_eq!(repeats, format == 1);
        assert_eq!(streams.epochs_of_all(), (format > 1).then_some(2));
        let name = format!("epochs-{format}");
        check_resumption::<RecurrentModel>(lstm, &plan, folder.path(), &name);
    }
}

/// Trainers in one process share the device, whose random generator must not matter.
#[test]
fn dropout_depends_only_on_seed_and_position() {
    fn check<M: LanguageModel>(new: New<M>, plan: &Plan) {
        const STEPS: usize = 3;
        let seeded = |seed| Plan {
            seed,
            ..plan.clone()
        };
        let plans = [seeded(1), seeded(2)];
        let alone = plans.each_ref().map(|plan| {
            let mut trainer = trainer(new, plan);
            steps(&mut trainer, STEPS);
            bits(&trainer.checkpoint())
        });
        let mut trainers = plans.each_ref().map(|plan| trainer(new, plan));
        for _ in 0..STEPS {
            device().seed(12345);
            for trainer in &mut trainers {
                trainer.step().unwrap();
            }
        }
        let interleaved = trainers.map(|trainer| bits(&trainer.checkpoint()));
        assert_eq!(interleaved, alone, "{}", plan.model);
        let at_once = std::thread::scope(|scope| {
            let run = |plan: &Plan| {
                let mut trainer = trainer(new, plan);
                steps(&mut trainer, STEPS);
                bits(&trainer.checkpoint())
            };
            let threads = plans.each_ref().map(|plan| scope.spawn(move || run(plan)));
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(at_once, alone, "{}", plan.model);
        let dry = Plan {
            dropout: 0.0,
            ..seeded(1)
        };
        let mut dry = trainer(new, &dry);
        steps(&mut dry, STEPS);
        assert_ne!(bits(&dry.checkpoint()), alone[0], "{}", plan.model);
    }
    for architecture in [Architecture::Gru, Architecture::Transformer] {
        let plan = Plan {
            dropout: 0.5,
            accumulate: 2,
            ..plan(architecture)
        };
        with_model!(check, &plan);
    }
}

/// Every micro-batch, and every call on one text, has its own masks; without a key there are none.
#[test]
fn masks_are_new_for_each_call_and_only_in_training() {
    let plan = Plan {
        dropout: 0.5,
        ..plan(Architecture::Gru)
    };
    let trainer = trainer::<RecurrentModel>(gru, &plan);
    let reading = trainer.model().reading();
    let batches = Batches::new(&plan, reading, tiny::tokens()).unwrap();
    let (inputs, _) = to_tensors(&batches.at(0));
    let logits = |dropout: Option<DropoutKey>, position: usize| -> Vec<f32> {
        let state = State {
            position,
            dropout,
            ..State::default()
        };
        let (logits, after) = trainer.model().forward(inputs.clone(), state);
        assert_eq!(after.dropout, dropout);
        logits.into_data().iter::<f32>().collect()
    };
    let key = DropoutKey::of([5, 6]);
    let masked = logits(Some(key), 0);
    assert_eq!(logits(Some(key), 0), masked);
    for other in [
        logits(None, 0),
        logits(Some(key), 6),
        logits(Some(key.part(0)), 0),
    ] {
        assert_ne!(other, masked);
    }
    assert_eq!(logits(None, 0), logits(None, 6));
}

fn to_tensors(batch: &Batch) -> (Tensor<2, Int>, Tensor<2, Int>) {
    let ints = |tokens: &[u32]| -> Vec<i32> { tokens.iter().map(|&t| t as i32).collect() };
    let inputs = TensorData::new(ints(&batch.inputs), [batch.batch, batch.window]);
    let targets = TensorData::new(ints(&batch.targets), [batch.batch * batch.window, 1]);
    (
        Tensor::from_data(inputs, &device()),
        Tensor::from_data(targets, &device()),
    )
}

fn losses(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<2> {
    let [batch, time, vocabulary] = logits.dims();
    let log_probabilities = log_softmax(logits.reshape([batch * time, vocabulary]), 1);
    log_probabilities.gather(1, targets).neg()
}

fn values<M: Module>(module: &M) -> Vec<f32> {
    let tensors = module_tensors(module).into_iter();
    let values = tensors.flat_map(|tensor| tensor.data.iter::<f32>().collect::<Vec<_>>());
    values.collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn micro_batches_are_averaged_and_clipped_once() {
    let threshold = 0.1;
    let plan = Plan {
        accumulate: 2,
        optimizer: OptimizerKind::Sgd,
        schedule: shears_train::ScheduleKind::Constant,
        clip: format!("global-norm:{threshold}").parse().unwrap(),
        weight_decay: 0.0,
        lr: 1.0,
        ..plan(Architecture::Transformer)
    };
    let mut trainer = trainer::<Transformer>(Transformer::new, &plan);
    let model = trainer.model().clone();
    let windows = RandomWindows::new(tiny::tokens(), plan.batch, plan.window, plan.seed).unwrap();
    let gradients: Vec<Vec<f64>> = (0..2)
        .map(|micro| {
            let (inputs, targets) = to_tensors(&windows.batch_at(micro));
            let (logits, _) = model.forward(inputs, State::default());
            let loss = losses(logits, targets).mean();
            let gradients =
                ModuleGradients::collect(loss.backward(), &model, &ClipPolicy::none()).unwrap();
            let values = gradients.iter().flat_map(|(_, values)| match values {
                gradclip::Values::F32(values) => values.to_vec(),
                other => panic!("the gradients are f32: {other:?}"),
            });
            values.map(f64::from).collect()
        })
        .collect();
    let pairs = gradients[0].iter().zip(&gradients[1]);
    let average: Vec<f64> = pairs.map(|(a, b)| (a + b) / 2.0).collect();
    let expected = norm(average.iter().copied());
    assert!(expected > 2.0 * threshold, "clipping must act: {expected}");

    let report = trainer.step().unwrap().report;
    assert_eq!(report.action, ClipAction::Clip);
    assert!(
        (report.norm_before / expected - 1.0).abs() < 1e-5,
        "{report:?}"
    );
    assert_eq!(report.norm_after, threshold);
    let before = values(&model);
    let after = values(trainer.model());
    for ((before, after), gradient) in before.iter().zip(&after).zip(&average) {
        let update = f64::from(before - after);
        let expected = gradient * threshold / expected;
        assert!((update - expected).abs() < 1e-6, "{update} for {expected}");
    }
    assert_eq!(trainer.progress().step, 1);
}

#[test]
fn a_clipped_update_has_the_length_of_the_threshold() {
    for plan in plans() {
        let plan = Plan {
            optimizer: OptimizerKind::Sgd,
            schedule: shears_train::ScheduleKind::Constant,
            clip: "global-norm:0.001".parse().unwrap(),
            weight_decay: 0.0,
            // Large enough that rounding of the weights is negligible.
            lr: 1000.0,
            ..plan.clone()
        };
        with_model!(check_update, &plan);
    }
}

fn check_update<M: LanguageModel>(new: New<M>, plan: &Plan) {
    let mut trainer = trainer(new, plan);
    let before = values(trainer.model());
    let outcome = trainer.step().unwrap();
    assert_eq!(outcome.report.action, ClipAction::Clip);
    let after = values(trainer.model());
    let pairs = before.iter().zip(&after);
    let length = norm(pairs.map(|(before, after)| f64::from(after - before)));
    let expected = plan.lr * 0.001;
    assert!((length / expected - 1.0).abs() < 1e-5, "{length}");
}

/// A trainer after some steps, with one parameter set to NaN.
fn broken<M: LanguageModel>(new: New<M>, plan: &Plan) -> Trainer<M> {
    let mut sound = trainer(new, plan);
    steps(&mut sound, 3);
    let mut checkpoint = sound.checkpoint();
    let tensor = checkpoint.model.last_mut().unwrap();
    let mut values: Vec<f32> = tensor.data.iter::<f32>().collect();
    values[0] = f32::NAN;
    tensor.data = TensorData::new(values, tensor.data.shape().clone());
    trainer(new, plan).restore(checkpoint).unwrap()
}

fn check_skip<M: LanguageModel>(new: New<M>, plan: &Plan) {
    let mut trainer = broken(new, plan);
    let before = trainer.checkpoint();
    for skips in 1..=2 {
        let outcome = trainer.step().unwrap();
        assert_eq!(outcome.report.action, ClipAction::Skip);
        assert!(outcome.report.non_finite > 0);
        let after = trainer.checkpoint();
        assert_eq!(bits(&after), bits(&before), "{}", plan.model);
        let mut expected = before.progress.clone();
        expected.step += skips;
        expected.consecutive_skips = skips;
        assert_eq!(after.progress, expected);
    }
}

#[test]
fn a_skipped_step_changes_only_the_step_count() {
    for plan in plans() {
        let plan = Plan {
            non_finite: NonFinite::Skip,
            ..plan.clone()
        };
        with_model!(check_skip, &plan);
    }
}

#[test]
fn an_absurd_learning_rate_ends_in_skips() {
    let plan = Plan {
        optimizer: OptimizerKind::Sgd,
        clip: "none".parse().unwrap(),
        lr: 1e38,
        nonlinearity: shears_model::Nonlinearity::Relu,
        ..plan(Architecture::Rnn)
    };
    let mut trainer = trainer::<RecurrentModel>(rnn, &plan);
    assert_eq!(trainer.step().unwrap().report.action, ClipAction::Keep);
    let before = bits(&trainer.checkpoint());
    let outcome = trainer.step().unwrap();
    assert_eq!(outcome.report.action, ClipAction::Skip);
    assert_eq!(bits(&trainer.checkpoint()), before);
    assert_eq!(
        (trainer.progress().step, trainer.progress().updates),
        (2, 1)
    );
}

#[test]
fn a_non_finite_gradient_is_an_error_if_requested() {
    let plan = Plan {
        non_finite: NonFinite::Error,
        ..plan(Architecture::Lstm)
    };
    let mut trainer = broken::<RecurrentModel>(lstm, &plan);
    let before = trainer.checkpoint();
    let error = trainer.step().unwrap_err();
    assert!(
        matches!(error, TrainError::NonFinite { step: 4, .. }),
        "{error}"
    );
    assert_eq!(bits(&trainer.checkpoint()), bits(&before));
    assert_eq!(trainer.checkpoint().progress, before.progress);
}

/// Stops after a given step.
#[derive(Default)]
pub(crate) struct Stop {
    after: Option<u64>,
    steps: Vec<u64>,
    evaluations: Vec<u64>,
    saved: Vec<u64>,
    samples: Vec<u64>,
}

impl Observer for Stop {
    fn step(&mut self, event: &StepEvent) {
        self.steps.push(event.step);
    }

    fn evaluation(&mut self, step: u64, _evaluation: &Evaluation) {
        self.evaluations.push(step);
    }

    fn saved(&mut self, step: u64, path: &Path) {
        assert!(path.ends_with(format!("step-{step:08}")));
        self.saved.push(step);
    }

    fn sample<M: LanguageModel>(&mut self, step: u64, _model: &M) -> Option<String> {
        self.samples.push(step);
        Some(format!("after {step} steps"))
    }

    fn wants_to_stop(&self) -> bool {
        self.after
            .is_some_and(|after| self.steps.last() == Some(&after))
    }
}

pub(crate) fn corpora() -> Corpora {
    let text: String = tiny::text().chars().take(200).collect();
    let tokenizer = tiny::tokenizer();
    Corpora {
        description: "tiny".to_string(),
        train: tiny::tokens(),
        validation: tokenizer.tokens(&text).unwrap(),
        validation_characters: 200,
        tokenizer,
        standard_input: None,
        altered: None,
        sha256: (String::new(), String::new()),
        loading: 0,
        kept: 0,
    }
}

#[test]
fn too_many_skips_stop_the_run_and_name_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        max_skips: 3,
        save_every: 1,
        ..plan(Architecture::Gru)
    };
    let path = folder.path().join("run");
    let run = RunFolder::create(&path, &plan, &tiny::tokenizer(), None).unwrap();
    let mut sound = trainer::<RecurrentModel>(gru, &plan);
    steps(&mut sound, 2);
    let good = run.checkpoints().save(&sound.checkpoint()).unwrap();

    let mut trainer = broken::<RecurrentModel>(gru, &plan);
    let mut observer = Stop::default();
    let end = train(&mut trainer, &run, &corpora(), &device(), &mut observer);
    let error = end.unwrap_err();
    let named = good.display().to_string();
    assert!(error.to_string().contains(&named), "{error}");
    let TrainError::TooManySkips {
        step,
        skips,
        checkpoint,
        tensor,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((step, skips, checkpoint), (6, 3, Some(good)));
    assert!(!tensor.is_empty());
    assert_eq!(observer.saved, [0_u64; 0], "a skipped step is not saved");
    let events = events(&run.events_path());
    let [
        Event::Resume(_),
        _,
        _,
        _,
        Event::End {
            step: 6,
            how: EndReason::Diverged,
            message: Some(message),
        },
    ] = &events[..]
    else {
        panic!("every step and the end are in the log: {events:#?}");
    };
    assert!(message.contains("3 steps in a row"), "{message}");
}

/// A run in its folder, stopped after each of `stops` and resumed.
pub(crate) fn whole_run(
    folder: &Path,
    name: &str,
    plan: &Plan,
    stops: &[u64],
) -> (RunFolder, Vec<Event>) {
    let path = folder.join(name);
    let run = RunFolder::create(&path, plan, &tiny::tokenizer(), None).unwrap();
    let ends = stops.iter().map(|&stop| Some(stop)).chain([None]);
    for after in ends {
        let mut trainer = trainer::<RecurrentModel>(lstm, plan);
        let (newest, damaged) = run.checkpoints().newest().unwrap();
        assert_eq!(damaged, []);
        if let Some((_, checkpoint)) = newest {
            trainer = trainer.restore(checkpoint).unwrap();
        }
        let mut observer = Stop {
            after,
            ..Stop::default()
        };
        let end = train(&mut trainer, &run, &corpora(), &device(), &mut observer).unwrap();
        let expected = match after {
            Some(_) => End::Stopped,
            None => End::Finished,
        };
        assert_eq!(end, expected);
    }
    let mut events = events(&run.events_path());
    for event in &mut events {
        if let Event::Step(step) = event {
            step.tokens_per_second = 0.0;
        }
    }
    (run, events)
}

/// The step of a resume event.
fn resumed_at(event: &Event) -> Option<u64> {
    let Event::Resume(resume) = event else {
        return None;
    };
    assert_eq!(resume.version, env!("CARGO_PKG_VERSION"));
    assert!(resume.time > 1_700_000_000, "{resume:?}");
    let from = format!("step-{:08}", resume.step);
    assert_eq!(resume.checkpoint, Some(from));
    Some(resume.step)
}

fn check_whole_runs(plan: &Plan, stops: &[u64]) {
    let folder = tempfile::tempdir().unwrap();
    let (whole, expected) = whole_run(folder.path(), "whole", plan, &[]);
    let (parts, mut got) = whole_run(folder.path(), "parts", plan, stops);
    let resumes: Vec<u64> = got.iter().filter_map(resumed_at).collect();
    assert_eq!(resumes, stops, "each resume is in the log");
    got.retain(|event| resumed_at(event).is_none());
    let last = |run: &RunFolder| {
        let (newest, _) = run.checkpoints().newest().unwrap();
        newest.unwrap().1
    };
    let (whole, parts) = (last(&whole), last(&parts));
    let outline = |events: &[Event]| -> Vec<String> {
        let lines = events.iter().map(|event| match event {
            Event::Header(_) => "header".to_string(),
            Event::Step(event) => format!("step {}", event.step),
            Event::Evaluation(event) => format!("evaluation at {}", event.step),
            Event::Sample(event) => format!("sample at {}", event.step),
            Event::StateGradients { step, .. } => format!("gradients through time at {step}"),
            Event::Resume(resume) => format!("resume at {}", resume.step),
            Event::Change(change) => change.to_string(),
            Event::Ranks(ranks) => ranks.words(),
            Event::End { step, how, .. } => format!("{how:?} at {step}"),
        });
        lines.collect()
    };
    assert_eq!(outline(&got), outline(&expected));
    let headers = outline(&got).into_iter().filter(|line| line == "header");
    assert_eq!(headers.count(), 0, "there is one, and it is the first line");
    assert_eq!(bits(&parts), bits(&whole));
    assert_eq!(parts.progress, whole.progress);
    assert_eq!(parts.progress.step, plan.steps);
    assert_eq!(got, expected);
}

#[test]
fn a_stopped_and_resumed_run_leaves_the_same_files() {
    let plan = Plan {
        steps: 10,
        eval_every: 4,
        save_every: 3,
        sample_every: 5,
        dropout: 0.1,
        ..plan(Architecture::Lstm)
    };
    check_whole_runs(&plan, &[2, 3, 5, 7]);
}

/// Abandons each step at one of the questions whether to stop, and takes it in another trainer.
fn check_abandoned<M: LanguageModel>(new: New<M>, plan: &Plan) {
    let (mut whole, mut parts) = (trainer(new, plan), trainer(new, plan));
    let asked = Cell::new(0);
    let count = || {
        asked.set(asked.get() + 1);
        false
    };
    trainer(new, plan).step_unless(&count).unwrap().unwrap();
    let all = asked.get();
    // At least the passes of two layers, of the output layer and of the embedding.
    assert!(all >= 8 * plan.accumulate, "{all} questions");
    for at in (0..all).step_by(3).chain([all - 1]) {
        let before = parts.checkpoint();
        asked.set(0);
        let outcome = parts.step_unless(&|| asked.replace(asked.get() + 1) == at);
        assert!(outcome.unwrap().is_none());
        let after = parts.checkpoint();
        assert_eq!(bits(&after), bits(&before), "{}", plan.model);
        assert_eq!(after.progress, before.progress);
        assert_eq!(after.clipper, before.clipper);
        parts = trainer(new, plan).restore(after).unwrap();
        let (found, expected) = (parts.step().unwrap(), whole.step().unwrap());
        assert_eq!(found.loss.to_bits(), expected.loss.to_bits());
        assert_eq!(found.report, expected.report);
    }
    let (found, expected) = (parts.checkpoint(), whole.checkpoint());
    assert_eq!(bits(&found), bits(&expected), "{}", plan.model);
    assert_eq!(found.progress, expected.progress);
    assert_eq!(found.clipper, expected.clipper);
}

#[test]
fn a_step_that_is_abandoned_changes_nothing() {
    for plan in plans() {
        let plan = Plan {
            accumulate: 4,
            dropout: 0.2,
            clip: "zclip+global-norm:0.5".parse().unwrap(),
            ..plan
        };
        with_model!(check_abandoned, &plan);
    }
}

/// Plain gradient descent moves each parameter by the learning rate times its gradient.
#[test]
fn every_tenth_update_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        steps: 12,
        optimizer: OptimizerKind::Sgd,
        clip: ClipPolicy::none(),
        schedule: ScheduleKind::Constant,
        warmup: 0,
        lr: 0.5,
        ..plan(Architecture::Lstm)
    };
    let sizes: BTreeMap<String, f64> =
        module_tensors(trainer::<RecurrentModel>(lstm, &plan).model())
            .into_iter()
            .map(|tensor| (tensor.name, norm(tensor.data.iter::<f64>())))
            .collect();
    let (_, events) = whole_run(folder.path(), "run", &plan, &[]);
    for event in &events {
        let Event::Step(event) = event else { continue };
        match event.step {
            1 => {
                assert!(event.update_ratios.len() > 4);
                for (name, ratio) in &event.update_ratios {
                    let expected = plan.lr * event.clip.tensors[name] / sizes[name];
                    assert!(
                        (ratio / expected - 1.0).abs() < 1e-3,
                        "{name}: {ratio}, {expected}"
                    );
                }
            }
            11 => assert!(event.update_ratios.len() > 4),
            _ => assert!(event.update_ratios.is_empty(), "step {}", event.step),
        }
    }
}

/// A pending evaluation is not lost when a run is stopped.
#[test]
fn a_run_stopped_at_an_evaluation_leaves_the_same_files() {
    let plan = Plan {
        steps: 6,
        eval_every: 2,
        ..plan(Architecture::Lstm)
    };
    check_whole_runs(&plan, &[4]);
}

#[test]
fn patience_ends_a_run_that_does_not_improve() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        steps: 50,
        eval_every: 1,
        patience: 2,
        optimizer: OptimizerKind::Sgd,
        // Too small to change a weight: no evaluation improves on the first.
        lr: 1e-30,
        ..plan(Architecture::Rnn)
    };
    let path = folder.path().join("run");
    let run = RunFolder::create(&path, &plan, &tiny::tokenizer(), None).unwrap();
    let mut trainer = trainer::<RecurrentModel>(rnn, &plan);
    let mut observer = Stop::default();
    let end = train(&mut trainer, &run, &corpora(), &device(), &mut observer).unwrap();
    assert_eq!(end, End::OutOfPatience);
    assert_eq!(observer.evaluations, [1, 2, 3]);
    assert_eq!(observer.saved, [1, 3], "the best one and the last one");
}

fn plain_losses<M: LanguageModel>(model: &M, window: &[u32], state: State) -> (Vec<f64>, State) {
    let batch = Batch {
        inputs: window[..window.len() - 1].to_vec(),
        targets: window[1..].to_vec(),
        batch: 1,
        window: window.len() - 1,
        starts_stream: false,
    };
    let (inputs, targets) = to_tensors(&batch);
    let (logits, state) = model.forward(inputs.without_autodiff(), state);
    let data = losses(logits, targets.without_autodiff()).into_data();
    (data.iter::<f32>().map(f64::from).collect(), state)
}

fn whole_evaluation<M: LanguageModel>(model: &M, tokens: &Tokens, streams: Streams) -> Evaluation {
    let plain = device().without_autodiff();
    let mut latest = 0;
    let evaluation = evaluate(
        model,
        tokens,
        tokens.len(),
        streams,
        &plain,
        &mut |read, of| {
            assert!(latest <= read && read <= of && of == tokens.len());
            latest = read;
            ControlFlow::Continue(())
        },
    );
    assert!(latest + 1 >= tokens.len(), "{latest}");
    evaluation.unwrap().unwrap()
}

fn evaluation_of<M: LanguageModel>(
    trainer: &Trainer<M>,
    tokens: &[u32],
    streams: Streams,
) -> Evaluation {
    let model = trainer.model().valid();
    whole_evaluation(&model, &tokens.into(), streams)
}

#[track_caller]
fn check_mean(evaluation: Evaluation, losses: &[f64]) {
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    let Evaluation {
        val_loss,
        bits_per_char,
        perplexity,
        tokens,
    } = evaluation;
    assert_eq!(tokens, losses.len());
    assert!(
        (val_loss / mean - 1.0).abs() < 1e-6,
        "{val_loss} for {mean}"
    );
    assert!((perplexity / val_loss.exp() - 1.0).abs() < 1e-12);
    // One character per token.
    let bits = val_loss / std::f64::consts::LN_2;
    assert!(
        (bits_per_char / bits - 1.0).abs() < 1e-12,
        "{bits_per_char}"
    );
}

#[test]
fn one_stream_predicts_each_token_from_all_before_it() {
    let mut trainer = trainer::<RecurrentModel>(lstm, &plan(Architecture::Lstm));
    steps(&mut trainer, 20);
    // More than two of the evaluation's windows.
    let tokens = &tiny::tokens().slice(0..700)[..];
    let model = trainer.model().valid();
    let mut state = State::default();
    let mut all = Vec::new();
    for pair in tokens.windows(2) {
        let (losses, after) = plain_losses(&model, pair, state);
        all.extend(losses);
        state = after;
    }
    check_mean(evaluation_of(&trainer, tokens, Streams::ONE), &all);
}

fn check_streams<M: LanguageModel>(new: New<M>, plan: &Plan) {
    let mut trainer = trainer(new, plan);
    steps(&mut trainer, 60);
    let tokens = tiny::tokens();
    let tokens = tokens.slice(0..tokens.len()).repeat(4);
    let exact = evaluation_of(&trainer, &tokens, Streams::ONE);
    let found = evaluation_of(&trainer, &tokens, Streams::default());
    assert_eq!(found.tokens, exact.tokens);
    let difference = (found.val_loss - exact.val_loss).abs();
    assert!(difference < 1e-5, "{}: {found:?} {exact:?}", plan.model);
    assert_ne!(found, exact, "it was one stream");
    for short in [2, 3, 50, 2000] {
        let short = &tokens[..short];
        let exact = evaluation_of(&trainer, short, Streams::ONE);
        assert_eq!(evaluation_of(&trainer, short, Streams::default()), exact);
    }
}

#[test]
fn parallel_streams_find_the_loss_of_one_stream() {
    for architecture in [Architecture::Rnn, Architecture::Lstm, Architecture::Gru] {
        with_model!(check_streams, &plan(architecture));
    }
}

/// Predicts from a decaying sum of all tokens, and counts the tokens read.
#[derive(Module, Debug)]
struct Fading {
    #[module(skip)]
    remains: f32,
    #[module(skip)]
    reads: Arc<AtomicUsize>,
}

impl LanguageModel for Fading {
    fn forward(&self, tokens: Tensor<2, Int>, mut state: State) -> (Tensor<3>, State) {
        let [batch, time] = tokens.dims();
        self.reads.fetch_add(batch * time, Ordering::Relaxed);
        let device = tokens.device();
        let carried = state.tensors.remove("sum");
        let mut sums: Vec<f32> = match carried {
            Some(sum) => sum.into_data().iter::<f32>().collect(),
            None => vec![0.0; batch],
        };
        let tokens: Vec<f32> = tokens.into_data().iter::<f32>().collect();
        let mut logits = Vec::new();
        for (sum, row) in sums.iter_mut().zip(tokens.chunks(time)) {
            for token in row {
                *sum = self.remains * *sum + (1.0 - self.remains) * token;
                logits.extend([*sum, 0.0]);
            }
        }
        let sums = Tensor::from_data(TensorData::new(sums, [1, batch, 1]), &device);
        state.tensors.insert("sum".to_string(), sums);
        let logits = TensorData::new(logits, [batch, time, 2]);
        (Tensor::from_data(logits, &device), state)
    }

    fn reading(&self) -> Reading {
        Reading::Streams
    }
}

#[test]
fn parallel_streams_are_reread_as_far_as_a_model_remembers() {
    let tokens: Vec<u32> = (0..40_000_u32)
        .map(|place| u32::from(place % 7 < 6))
        .collect();
    let tokens = Tokens::from(&tokens[..]);
    // Parts are 624 tokens long; the sum decays to a thousandth after 66 and after 1,723 tokens.
    for (remains, rereads) in [(0.9, 0.1..0.7), (0.996, 2.0..7.0)] {
        let reads = Arc::new(AtomicUsize::new(0));
        let model = Fading {
            remains,
            reads: reads.clone(),
        };
        let loss = |streams| {
            let found = whole_evaluation(&model, &tokens, streams);
            (found.val_loss, reads.swap(0, Ordering::Relaxed) as f64)
        };
        let (exact, once) = loss(Streams::ONE);
        let (found, all) = loss(Streams(64));
        assert!((found - exact).abs() < 1e-4, "{remains}: {found} {exact}");
        assert!(
            rereads.contains(&(all / once - 1.0)),
            "{remains}: {all} of {once}"
        );
    }
}

#[test]
fn an_evaluation_can_be_stopped() {
    let trainer = trainer::<RecurrentModel>(lstm, &plan(Architecture::Lstm));
    let (model, tokens) = (trainer.model().valid(), tiny::tokens());
    for calls in [1, 3, 6] {
        let mut left = calls;
        let plain = device().without_autodiff();
        let stopped = evaluate(&model, &tokens, 9, Streams(4), &plain, &mut |_, _| {
            left -= 1;
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        assert_eq!((stopped.unwrap(), left), (None, 0));
    }
}

/// Evaluations during a run read the first tokens, and the last one all.
#[test]
fn evaluations_are_bounded_except_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        steps: 4,
        eval_every: 2,
        eval_tokens: 50,
        save_every: 2,
        ..plan(Architecture::Gru)
    };
    let corpora = corpora();
    let path = folder.path().join("run");
    let run = RunFolder::create(&path, &plan, &corpora.tokenizer, None).unwrap();
    let mut trainer = trainer::<RecurrentModel>(gru, &plan);
    let mut recorder = Stop::default();
    train(&mut trainer, &run, &corpora, &device(), &mut recorder).unwrap();
    let found: Vec<f64> = events(&path.join("events.jsonl"))
        .into_iter()
        .filter_map(|event| match event {
            Event::Evaluation(evaluation) => Some(evaluation.val_loss),
            _ => None,
        })
        .collect();
    let model = trainer.model().valid();
    let loss = |tokens: &Tokens| whole_evaluation(&model, tokens, Streams::default()).val_loss;
    assert_eq!(found.len(), 2);
    assert_eq!(found[1], loss(&corpora.validation));
    // Comparisons use the tokens that all evaluations read.
    let compared = loss(&corpora.validation.first(50));
    assert_ne!(compared, found[1]);
    assert_eq!(
        trainer.progress().best_val_loss,
        Some(compared.min(found[0]))
    );
}

#[test]
fn a_transformer_is_evaluated_on_consecutive_windows() {
    let plan = plan(Architecture::Transformer);
    let mut trainer = trainer::<Transformer>(Transformer::new, &plan);
    steps(&mut trainer, 20);
    let tokens = &tiny::tokens().slice(0..700)[..];
    let model = trainer.model().valid();
    let mut all = Vec::new();
    let mut start = 0;
    while start + 1 < tokens.len() {
        let end = (start + plan.window).min(tokens.len() - 1);
        let (losses, _) = plain_losses(&model, &tokens[start..=end], State::default());
        all.extend(losses);
        start = end;
    }
    check_mean(evaluation_of(&trainer, tokens, Streams::default()), &all);
}

fn check_uniform<M: LanguageModel>(new: New<M>, plan: &Plan) {
    let model = trainer(new, plan).model().clone();
    let mut tensors = module_tensors(&model);
    for tensor in &mut tensors {
        let zeros = vec![0.0_f32; tensor.data.num_elements()];
        tensor.data = TensorData::new(zeros, tensor.data.shape().clone());
    }
    let model = load_parameters(model, tensors).unwrap();
    let tokens = tiny::tokens();
    let (model, streams) = (model.valid(), Streams::default());
    let evaluation = whole_evaluation(&model, &tokens, streams);
    let expected = (tiny::tokenizer().vocab_size() as f64).ln();
    assert!(
        (evaluation.val_loss - expected).abs() < 1e-6,
        "{evaluation:?}"
    );
}

#[test]
fn a_uniform_model_has_a_loss_of_ln_v() {
    for plan in plans() {
        with_model!(check_uniform, &plan);
    }
}

fn check_seeds<M: LanguageModel>(new: New<M>, plan: &Plan) {
    let run = |seed: u64| {
        let plan = Plan {
            seed,
            ..plan.clone()
        };
        let mut trainer = trainer(new, &plan);
        let losses = steps(&mut trainer, 4);
        (losses, bits(&trainer.checkpoint()))
    };
    let first = run(1);
    assert_eq!(first, run(1), "{}", plan.model);
    assert_ne!(first, run(2), "{}", plan.model);
}

#[test]
fn a_run_depends_only_on_its_seed() {
    for plan in plans() {
        let plan = Plan {
            dropout: 0.2,
            ..plan.clone()
        };
        with_model!(check_seeds, &plan);
    }
}
