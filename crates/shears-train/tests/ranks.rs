//! Training with several ranks equals training with one process: up to rounding for any number of
//! ranks, bit for bit if they divide `shards`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::tiny::{self, New, bits, device, plan, trainer};
use burn::tensor::TensorData;
use gradclip::ClipAction;
use shears_model::{Architecture, LanguageModel, RecurrentModel, Transformer, gru, lstm, rnn};
use shears_parallel::{Alone, Ranks, Threads};
use shears_run::{EndReason, Event, StepEvent};
use shears_train::{
    Checkpoint, CheckpointStore, Corpora, End, Observer, Plan, RunFolder, TrainError, Trainer,
    train,
};

/// Losses and final state of each rank.
type Found = Vec<(Vec<f64>, Checkpoint)>;

fn run_of<M: LanguageModel>(new: New<M>, plan: &Plan, ranks: usize, steps: usize) -> Found {
    Threads::run(ranks, |rank| {
        let mut trainer = trainer(new, plan).with_ranks(Arc::new(rank)).unwrap();
        let losses = (0..steps).map(|_| trainer.step().unwrap().loss).collect();
        (losses, trainer.checkpoint())
    })
}

fn of_plan(plan: &Plan, ranks: usize, steps: usize) -> Found {
    match plan.model {
        Architecture::Rnn => run_of::<RecurrentModel>(rnn, plan, ranks, steps),
        Architecture::Lstm => run_of::<RecurrentModel>(lstm, plan, ranks, steps),
        Architecture::Gru => run_of::<RecurrentModel>(gru, plan, ranks, steps),
        Architecture::Transformer => run_of::<Transformer>(Transformer::new, plan, ranks, steps),
    }
}

/// Asserts that all ranks have equal states, and returns the losses and state of the first.
fn agreed(found: Found) -> (Vec<f64>, Checkpoint) {
    let states: Vec<_> = found.iter().map(|(_, state)| bits(state)).collect();
    assert!(states.iter().all(|state| *state == states[0]));
    assert!(found.iter().all(|(losses, state)| {
        let bits = |losses: &[f64]| losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>();
        bits(losses) == bits(&found[0].0) && state.clipper == found[0].1.clipper
    }));
    found.into_iter().next().unwrap()
}

const STEPS: usize = 5;

/// Plans with rules of every kind, dropout, batches and micro-batches.
fn plans(shards: usize) -> Vec<Plan> {
    let clips = [
        "global-norm:0.5,p=1",
        "global-norm:0.5",
        "global-norm:0.05,p=inf",
        "value:0.01",
        "zclip",
        "autoclip:10",
        "adagc",
        "skip:2+global-norm:0.5",
        "agc:0.01",
        "none",
    ];
    let mut plans = Vec::new();
    for &architecture in Architecture::ALL {
        for (index, clip) in clips.into_iter().enumerate() {
            plans.push(Plan {
                clip: clip.parse().unwrap(),
                batch: [8, 16, 11][index % 3],
                accumulate: 1 + index % 2,
                dropout: [0.0, 0.3][(index / 2) % 2],
                shards,
                ..plan(architecture)
            });
        }
    }
    plans
}

#[test]
fn ranks_that_divide_the_shards_equal_one_process_bit_for_bit() {
    for plan in plans(8) {
        let (losses, one) = agreed(of_plan(&plan, 1, STEPS));
        for ranks in [2, 4, 8] {
            let (found, state) = agreed(of_plan(&plan, ranks, STEPS));
            let what = format!("{} {} with {ranks} ranks", plan.model, plan.clip);
            assert_eq!(found, losses, "{what}");
            assert!(bits(&state) == bits(&one), "{what}");
            assert_eq!(state.clipper, one.clipper, "{what}");
            assert_eq!(state.progress, one.progress, "{what}");
        }
    }
}

/// The largest difference of two states, relative to the largest element of a tensor.
fn distance(left: &Checkpoint, right: &Checkpoint) -> f64 {
    let mut largest = 0.0_f64;
    for (left, right) in left.model.iter().zip(&right.model) {
        let values = |data: &TensorData| data.iter::<f64>().collect::<Vec<f64>>();
        let (left, right) = (values(&left.data), values(&right.data));
        let size = left
            .iter()
            .fold(0.0, |size: f64, value| size.max(value.abs()));
        for (left, right) in left.iter().zip(&right) {
            largest = largest.max((left - right).abs() / size);
        }
    }
    largest
}

#[test]
fn any_number_of_ranks_trains_the_run_of_one_process() {
    for plan in plans(1) {
        // Differences in the last digit must stay small.
        let plan = Plan {
            optimizer: shears_train::OptimizerKind::Sgd,
            weight_decay: 0.0,
            ..plan
        };
        let (losses, one) = agreed(of_plan(&plan, 1, 3));
        for ranks in 2..=8 {
            let (found, state) = agreed(of_plan(&plan, ranks, 3));
            let what = format!("{} {} with {ranks} ranks", plan.model, plan.clip);
            for (found, loss) in found.iter().zip(&losses) {
                assert!(
                    (found / loss - 1.0).abs() < 1e-6,
                    "{what}: {found} for {loss}"
                );
            }
            let distance = distance(&state, &one);
            assert!(distance < 1e-6, "{what}: {distance}");
        }
    }
}

/// Ranks that count their exchanges.
#[derive(Debug)]
struct Counted {
    ranks: Threads,
    gathers: Arc<AtomicUsize>,
    sums: Arc<AtomicUsize>,
}

impl Ranks for Counted {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn sum(&self, values: &mut [f32]) {
        self.sums.fetch_add(values.len(), Ordering::SeqCst);
        self.ranks.sum(values);
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.gathers.fetch_add(1, Ordering::SeqCst);
        self.ranks.gather(bytes)
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) {
        self.ranks.broadcast(bytes);
    }

    fn barrier(&self) {
        self.ranks.barrier();
    }

    fn abort(&self, code: u8) -> ! {
        self.ranks.abort(code)
    }
}

#[test]
fn a_step_is_one_exchange_for_any_micro_batches_and_shards() {
    for (accumulate, shards) in [(1, 1), (4, 1), (3, 4)] {
        let plan = Plan {
            accumulate,
            shards,
            batch: 4,
            ..plan(Architecture::Lstm)
        };
        let exchanged = Threads::run(2, |ranks| {
            let counts = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
            let ranks = Counted {
                ranks,
                gathers: Arc::clone(&counts[0]),
                sums: Arc::clone(&counts[1]),
            };
            let trainer = trainer::<RecurrentModel>(lstm, &plan);
            let parameters = shears_model::parameters(trainer.model());
            let elements: usize = parameters
                .iter()
                .map(|parameter| parameter.elements())
                .sum();
            let mut trainer = trainer.with_ranks(Arc::new(ranks)).unwrap();
            let outcome = trainer.step().unwrap();
            trainer.step().unwrap();
            assert_eq!(outcome.exchanged.unwrap().bytes, 4 * elements as u64);
            let [gathers, sums] = counts.map(|count| count.load(Ordering::SeqCst));
            (gathers, sums as f64 / elements as f64)
        });
        assert_eq!(
            exchanged,
            [(2, 2.0); 2],
            "accumulate {accumulate}, shards {shards}"
        );
    }
}

/// NaN on one rank only: in a row of its carried state.
#[test]
fn a_non_finite_gradient_on_one_rank_is_skipped_by_all() {
    let plan = Plan {
        batch: 4,
        ..plan(Architecture::Gru)
    };
    let mut sound = trainer::<RecurrentModel>(gru, &plan);
    sound.step().unwrap();
    let mut poisoned = sound.checkpoint();
    for tensor in &mut poisoned.carried {
        let mut values: Vec<f32> = tensor.data.iter::<f32>().collect();
        // The last row, which belongs to the last rank.
        *values.last_mut().unwrap() = f32::NAN;
        tensor.data = TensorData::new(values, tensor.data.shape().clone());
    }
    let actions = Threads::run(2, |ranks| {
        let trainer = trainer::<RecurrentModel>(gru, &plan);
        let trainer = trainer.with_ranks(Arc::new(ranks)).unwrap();
        let mut trainer = trainer.restore(poisoned.clone()).unwrap();
        let before = trainer.checkpoint();
        let report = trainer.step().unwrap().report;
        assert!(bits(&trainer.checkpoint()) == bits(&before));
        assert_eq!(trainer.progress().consecutive_skips, 1);
        (report.action, report.first_non_finite)
    });
    assert_eq!(actions[0].0, ClipAction::Skip);
    assert!(actions[0].1.is_some());
    assert_eq!(actions[0], actions[1]);
}

#[test]
fn a_rank_with_different_parameters_is_named() {
    let plan = Plan {
        batch: 4,
        ..plan(Architecture::Transformer)
    };
    let errors = Threads::run(3, |ranks| {
        // Another seed gives different weights.
        let seed = plan.seed + u64::from(ranks.rank() == 1);
        let own = Plan {
            seed,
            ..plan.clone()
        };
        let trainer = trainer::<Transformer>(Transformer::new, &own);
        let mut trainer = trainer.with_ranks(Arc::new(ranks)).unwrap();
        trainer.step().unwrap_err()
    });
    for error in errors {
        assert!(matches!(error, TrainError::Ranks { .. }) && error.is_shared());
        assert!(error.to_string().contains("rank 1"), "{error}");
    }
}

#[test]
fn more_ranks_than_rows_are_refused() {
    let errors = Threads::run(4, |ranks| {
        let trainer = trainer::<RecurrentModel>(lstm, &plan(Architecture::Lstm));
        trainer.with_ranks(Arc::new(ranks)).unwrap_err().to_string()
    });
    assert!(
        errors[0].starts_with("batch is 3; with 4 ranks"),
        "{}",
        errors[0]
    );
}

/// Four ranks, two, one, and four again, each resuming the previous checkpoint.
#[test]
fn a_run_is_resumed_with_any_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in [Architecture::Lstm, Architecture::Transformer] {
        let plan = Plan {
            batch: 8,
            shards: 4,
            dropout: 0.3,
            accumulate: 2,
            ..plan(architecture)
        };
        let check = |parts: &[usize], name: &str| -> Checkpoint {
            let store = CheckpointStore::new(folder.path().join(format!("{architecture}-{name}")));
            for &ranks in parts {
                let newest = store.newest().unwrap().0.map(|(_, checkpoint)| checkpoint);
                let left = match plan.model {
                    Architecture::Lstm => three_more::<RecurrentModel>(lstm, &plan, ranks, newest),
                    _ => three_more::<Transformer>(Transformer::new, &plan, ranks, newest),
                };
                store.save(&left).unwrap();
            }
            store.newest().unwrap().0.unwrap().1
        };
        let whole = check(&[1, 1, 1, 1], "one");
        let changing = check(&[4, 2, 1, 4], "changing");
        assert!(bits(&changing) == bits(&whole), "{architecture}");
        assert_eq!(changing.progress, whole.progress);
        assert_eq!(changing.clipper, whole.clipper);
    }
}

fn three_more<M: LanguageModel>(
    new: New<M>,
    plan: &Plan,
    ranks: usize,
    from: Option<Checkpoint>,
) -> Checkpoint {
    let ends = Threads::run(ranks, |ranks| {
        let mut trainer: Trainer<M> = trainer(new, plan).with_ranks(Arc::new(ranks)).unwrap();
        if let Some(checkpoint) = from.clone() {
            trainer = trainer.restore(checkpoint).unwrap();
        }
        (0..3).for_each(|_| drop(trainer.step().unwrap()));
        trainer.checkpoint()
    });
    ends.into_iter().next().unwrap()
}

/// Counts events, and requests a stop after a step or during an evaluation.
#[derive(Default)]
struct Watcher {
    stop_in_evaluation: bool,
    is_evaluating: bool,
    stop_after: Option<u64>,
    steps: u64,
    samples: usize,
}

impl Observer for Watcher {
    fn step(&mut self, event: &StepEvent) {
        self.steps = event.step;
    }

    fn evaluating(&mut self, _read: usize, _of: usize) {
        self.is_evaluating = true;
    }

    fn sample<M: LanguageModel>(&mut self, _step: u64, _model: &M) -> Option<String> {
        self.samples += 1;
        Some("text".to_string())
    }

    fn wants_to_stop(&self) -> bool {
        self.stop_after.is_some_and(|after| self.steps >= after)
            || (self.stop_in_evaluation && self.is_evaluating)
    }
}

/// Corpora with `characters` characters of validation text.
fn corpora(characters: usize) -> Corpora {
    let text: String = tiny::text().chars().cycle().take(characters).collect();
    let tokenizer = tiny::tokenizer();
    Corpora {
        description: "tiny".to_string(),
        train: tiny::tokens(),
        validation: tokenizer.tokens(&text).unwrap(),
        validation_characters: characters,
        tokenizer,
        standard_input: None,
        sha256: (String::new(), String::new()),
        altered: None,
        loading: 0,
        kept: 0,
    }
}

/// Continues a run until it ends or the last rank is asked to stop. Returns how it ended, and the
/// number of samples of each rank.
fn part_of_run(
    plan: &Plan,
    run: &RunFolder,
    ranks: usize,
    stop_after: Option<u64>,
) -> Vec<(End, usize)> {
    let newest = run.checkpoints().newest().unwrap().0;
    Threads::run(ranks, |ranks| {
        let rank = ranks.rank();
        let all: Arc<dyn Ranks> = match ranks.size() {
            1 => Arc::new(Alone),
            _ => Arc::new(ranks),
        };
        let last = all.size() - 1;
        let mut trainer = trainer::<RecurrentModel>(gru, plan)
            .with_ranks(all)
            .unwrap();
        if let Some((_, checkpoint)) = newest.clone() {
            trainer = trainer.restore(checkpoint).unwrap();
        }
        let mut watcher = Watcher {
            stop_after: stop_after.filter(|_| rank == last),
            ..Watcher::default()
        };
        let own = (rank == 0).then_some(run);
        let end = train(&mut trainer, own, &corpora(300), &device(), &mut watcher);
        (end.unwrap(), watcher.samples)
    })
}

/// A run in its folder, stopped through one rank and resumed by others.
#[test]
fn rank_0_writes_the_run_and_any_rank_can_stop_it() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        batch: 8,
        shards: 4,
        steps: 9,
        eval_every: 3,
        save_every: 2,
        sample_every: 4,
        dropout: 0.2,
        ..plan(Architecture::Gru)
    };
    let create = |name: &str| {
        let path = folder.path().join(name);
        RunFolder::create(&path, &plan, &tiny::tokenizer(), None).unwrap()
    };
    let whole = create("whole");
    assert_eq!(part_of_run(&plan, &whole, 1, None), [(End::Finished, 2)]);
    let changing = create("changing");
    let stopped = part_of_run(&plan, &changing, 4, Some(4));
    assert_eq!(
        stopped.iter().map(|(end, _)| *end).collect::<Vec<_>>(),
        [End::Stopped; 4]
    );
    // Only rank 0 samples.
    assert!(stopped[1..].iter().all(|(_, samples)| *samples == 0));
    assert!(
        part_of_run(&plan, &changing, 2, None)
            .iter()
            .all(|(end, _)| *end == End::Finished)
    );
    let events = |run: &RunFolder| -> Vec<Event> {
        let mut events = tiny::events(&run.events_path());
        // Except for the lines about stopping and resuming.
        events.retain(|event| {
            !matches!(
                event,
                Event::End {
                    how: EndReason::Stopped,
                    ..
                } | Event::Resume(_)
            )
        });
        for event in &mut events {
            if let Event::Step(step) = event {
                step.tokens_per_second = 0.0;
                step.exchange = None;
            }
        }
        events
    };
    let (found, expected) = (events(&changing), events(&whole));
    let steps = |events: &[Event]| -> Vec<Event> {
        let steps = events
            .iter()
            .filter(|event| matches!(event, Event::Step(_)));
        steps.cloned().collect()
    };
    assert_eq!(steps(&found), steps(&expected));
    assert_eq!(found.len(), expected.len());
    let last = |run: &RunFolder| run.checkpoints().newest().unwrap().0.unwrap().1;
    assert!(bits(&last(&changing)) == bits(&last(&whole)));
    assert_eq!(last(&changing).progress, last(&whole).progress);
}

/// A run of two steps in its folder, by several ranks, the last of which may be asked to stop
/// during the final evaluation of `characters` characters. Returns how it ended on each rank.
fn evaluated<M: LanguageModel>(
    new: New<M>,
    plan: &Plan,
    (run, characters): (&RunFolder, usize),
    ranks: usize,
    stopping: bool,
) -> Vec<End> {
    let newest = run.checkpoints().newest().unwrap().0;
    Threads::run(ranks, |ranks| {
        let (rank, size) = (ranks.rank(), ranks.size());
        let mut trainer = trainer(new, plan).with_ranks(Arc::new(ranks)).unwrap();
        if let Some((_, checkpoint)) = newest.clone() {
            trainer = trainer.restore(checkpoint).unwrap();
        }
        let mut watcher = Watcher {
            stop_in_evaluation: stopping && rank == size - 1,
            ..Watcher::default()
        };
        let own = (rank == 0).then_some(run);
        train(
            &mut trainer,
            own,
            &corpora(characters),
            &device(),
            &mut watcher,
        )
        .unwrap()
    })
}

fn losses(run: &RunFolder) -> Vec<f64> {
    let events = tiny::events(&run.events_path()).into_iter();
    let losses = events.filter_map(|event| match event {
        Event::Evaluation(evaluation) => Some(evaluation.val_loss),
        _ => None,
    });
    losses.collect()
}

#[test]
fn a_distributed_evaluation_equals_one_process_and_stops_on_all_ranks() {
    /// `characters` is the length of a text that a recurrent model reads in one stream or in parts.
    fn check<M: LanguageModel>(new: New<M>, plan: &Plan, characters: usize) {
        let folder = tempfile::tempdir().unwrap();
        let create = |name: &str| {
            let path = folder.path().join(name);
            RunFolder::create(&path, plan, &tiny::tokenizer(), None).unwrap()
        };
        let (one, two) = (create("one"), create("two"));
        let [whole, stopped] = [(&one, characters), (&two, characters)];
        assert_eq!(evaluated(new, plan, whole, 1, false), [End::Finished]);
        assert_eq!(evaluated(new, plan, stopped, 2, true), [End::Stopped; 2]);
        assert_eq!(losses(&two), [0.0; 0]);
        assert_eq!(evaluated(new, plan, stopped, 2, false), [End::Finished; 2]);
        assert_eq!(losses(&one).len(), 1);
        assert_eq!(losses(&two), losses(&one), "{}", plan.model);
    }
    let small = |architecture| Plan {
        batch: 4,
        shards: 2,
        steps: 2,
        ..plan(architecture)
    };
    for characters in [300, 4000] {
        check::<RecurrentModel>(rnn, &small(Architecture::Rnn), characters);
        let transformer = small(Architecture::Transformer);
        check::<Transformer>(Transformer::new, &transformer, characters);
    }
}

/// Seven parts, so that one of eight groups is empty.
#[test]
fn ranks_divide_the_parts_of_a_recurrent_evaluation() {
    let loss_of = |shards, ranks| {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan {
            batch: 8,
            steps: 2,
            shards,
            ..plan(Architecture::Gru)
        };
        let path = folder.path().join("run");
        let run = RunFolder::create(&path, &plan, &tiny::tokenizer(), None).unwrap();
        let ended = evaluated::<RecurrentModel>(gru, &plan, (&run, 4000), ranks, false);
        assert!(ended.iter().all(|end| *end == End::Finished));
        losses(&run)[0]
    };
    let one = loss_of(1, 1);
    for ranks in [2, 3, 5] {
        let loss = loss_of(1, ranks);
        assert!(
            (loss / one - 1.0).abs() < 1e-6,
            "{ranks} ranks: {loss} for {one}"
        );
    }
    let shards = loss_of(8, 1);
    assert!((shards / one - 1.0).abs() < 1e-6, "{shards} for {one}");
    for ranks in [2, 4, 8] {
        assert_eq!(
            loss_of(8, ranks).to_bits(),
            shards.to_bits(),
            "{ranks} ranks"
        );
    }
}

/// Adaptive rules have the same state on all ranks, for any number of ranks.
#[test]
fn the_clipper_state_does_not_depend_on_the_number_of_ranks() {
    for clip in [
        "zclip",
        "autoclip:10",
        "adagc",
        "skip:2+global-norm:0.5",
        "agc:0.01",
    ] {
        let plan = Plan {
            clip: clip.parse().unwrap(),
            batch: 8,
            shards: 4,
            ..plan(Architecture::Rnn)
        };
        let (losses, one) = agreed(of_plan(&plan, 1, 40));
        for ranks in [2, 4] {
            let (found, state) = agreed(of_plan(&plan, ranks, 40));
            assert_eq!(found, losses, "{clip} with {ranks} ranks");
            assert_eq!(state.clipper, one.clipper, "{clip} with {ranks} ranks");
            assert!(bits(&state) == bits(&one), "{clip} with {ranks} ranks");
        }
    }
}
