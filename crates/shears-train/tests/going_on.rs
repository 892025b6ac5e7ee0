//! Resumed runs: with more steps, with changed settings, and unchanged.

use std::collections::BTreeMap;

use gradclip::ClipAction;
use shears_model::{Architecture, RecurrentModel, lstm};
use shears_run::{Event, Log};
use shears_train::{Checkpoint, End, Plan, RunFolder, ScheduleKind, train};

use crate::tiny::{bits, device, events, plan, trainer};
use crate::trainer::{Stop, corpora, whole_run};

/// Resumes a run with a possibly changed plan, to its end.
fn go_on(run: &RunFolder, plan: &Plan) -> (Checkpoint, Vec<Event>) {
    let (newest, _) = run.checkpoints().newest().unwrap();
    let (_, checkpoint) = newest.unwrap();
    assert_eq!(plan.edited_since(&checkpoint.plan), []);
    run.replace_plan(plan).unwrap();
    let mut trainer = trainer::<RecurrentModel>(lstm, plan)
        .restore(checkpoint)
        .unwrap();
    let mut observer = Stop::default();
    let end = train(&mut trainer, run, &corpora(), &device(), &mut observer).unwrap();
    assert_eq!(end, End::Finished);
    (trainer.checkpoint(), events(&run.events_path()))
}

#[test]
fn an_extended_run_equals_one_planned_longer() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        steps: 8,
        schedule: ScheduleKind::Constant,
        dropout: 0.1,
        eval_every: 3,
        // The policy learns, and continues unchanged.
        clip: "autoclip:10".parse().unwrap(),
        ..plan(Architecture::Lstm)
    };
    let (whole, expected) = whole_run(folder.path(), "whole", &plan, &[]);
    let (short, _) = whole_run(
        folder.path(),
        "short",
        &Plan {
            steps: 5,
            ..plan.clone()
        },
        &[],
    );
    let longer = short.plan().unwrap();
    let longer = longer
        .changed(&"steps = 8\nkeep = 2".parse().unwrap(), 5)
        .unwrap();
    let (got, log) = go_on(&short, &longer);
    let (expected_end, _) = whole.checkpoints().newest().unwrap();
    let expected_end = expected_end.unwrap().1;
    assert_eq!(bits(&got), bits(&expected_end));
    assert_eq!(got.clipper, expected_end.clipper);
    let steps = |events: &[Event]| -> Vec<Event> {
        let steps = events
            .iter()
            .filter(|event| matches!(event, Event::Step(_)));
        let mut steps: Vec<Event> = steps.cloned().collect();
        for event in &mut steps {
            let Event::Step(step) = event else { continue };
            step.tokens_per_second = 0.0;
        }
        steps
    };
    assert_eq!(steps(&log), steps(&expected));
    let changes = log.iter().filter_map(|event| match event {
        Event::Change(change) => Some((change.step, change.to_string())),
        _ => None,
    });
    let noted = [
        (5, "keep: 3 -> 2".to_string()),
        (5, "steps: 5 -> 8".to_string()),
    ];
    assert_eq!(changes.collect::<Vec<_>>(), noted);
    assert_eq!(short.plan().unwrap(), got.plan);
    assert!(
        Log::read(short.events_path())
            .unwrap()
            .columns
            .changes
            .len()
            == 2
    );
}

#[test]
fn a_changed_policy_starts_without_the_old_state() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        steps: 5,
        schedule: ScheduleKind::Constant,
        clip: "autoclip:10".parse().unwrap(),
        ..plan(Architecture::Lstm)
    };
    let (run, _) = whole_run(folder.path(), "run", &plan, &[]);
    let other = run.plan().unwrap();
    let other = other
        .changed(&"steps = 7\nclip = 'zclip'".parse().unwrap(), 5)
        .unwrap();
    let (got, _) = go_on(&run, &other);
    assert_eq!(got.clipper["0.zclip.norms"].len(), 2, "{:?}", got.clipper);
    assert_eq!(got.clipper["steps"], [2.0]);
    let newest = run.checkpoints().newest().unwrap().0.unwrap().1;
    assert_eq!(newest.plan.clip.to_string(), other.clip.to_string());
}

/// A skipped step defers its measurement of the update to the next step, even across a resume.
#[test]
fn a_deferred_update_measurement_survives_a_resume() {
    let plan = Plan {
        steps: 13,
        // The eleventh step, whose update should be measured, is an outlier; so is each at first.
        clip: "skip:1.000001,window=2".parse().unwrap(),
        ..plan(Architecture::Lstm)
    };
    let folder = tempfile::tempdir().unwrap();
    let (_, whole) = whole_run(folder.path(), "whole", &plan, &[]);
    let weighed = |events: &[Event]| -> Vec<(u64, BTreeMap<String, f64>)> {
        let steps = events.iter().filter_map(|event| match event {
            Event::Step(step) => Some((step.step, step.update_ratios.clone())),
            _ => None,
        });
        steps.filter(|(_, ratios)| !ratios.is_empty()).collect()
    };
    let skipped = whole.iter().filter_map(|event| match event {
        Event::Step(step) if step.clip.action == ClipAction::Skip => Some(step.step),
        _ => None,
    });
    let skipped: Vec<u64> = skipped.collect();
    assert!(skipped.contains(&11), "{skipped:?}");
    let (_, parts) = whole_run(folder.path(), "parts", &plan, &[11]);
    assert_eq!(weighed(&parts), weighed(&whole));
    assert!(weighed(&whole).iter().any(|(step, _)| *step > 11));
}
