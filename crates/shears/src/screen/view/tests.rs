use std::collections::BTreeMap;

use gradclip::ClipAction;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use shears_run::{ClipEvent, Event, FORMAT, Header, Parameter, StepEvent, Subject};

use super::super::state::State;
use super::*;

/// Before its first step.
fn new_state() -> State {
    let parameter = |layer: &str| Parameter {
        name: format!("{layer}.weight"),
        layer: layer.to_string(),
        shape: vec![2, 3],
    };
    let layers = ["embedding", "layers.0", "layers.1", "output"];
    let header = Header {
        format: FORMAT,
        parameters: layers.map(parameter).to_vec(),
        device: "cpu".into(),
        precision: "f32".into(),
    };
    State::new(setup().subject, header)
}

fn setup() -> Setup {
    Setup {
        run: "runs/test".into(),
        title: "lstm-128".into(),
        steps: 1200,
        subject: Subject {
            policy: "global-norm:0.5".parse().unwrap(),
            ..Subject::default()
        },
    }
}

/// A step whose gradient is clipped at every fifth one.
fn step(step: u64) -> Event {
    let norm_before = if step.is_multiple_of(5) { 1.0 } else { 0.25 };
    let coefficient = f64::min(1.0, 0.5 / norm_before);
    let tensors = [
        ("embedding", 0.4),
        ("layers.0", 0.2),
        ("layers.1", 0.1),
        ("output", 0.05),
    ];
    let tensors = tensors.map(|(layer, norm)| (format!("{layer}.weight"), norm));
    Event::Step(StepEvent {
        step,
        loss: Some(4.0 - 0.005 * step as f64),
        lr: 0.002,
        tokens_per_second: 12_345.0,
        clip: ClipEvent {
            action: match coefficient < 1.0 {
                true => ClipAction::Clip,
                false => ClipAction::Keep,
            },
            norm_before,
            norm_after: norm_before * coefficient,
            coefficient,
            threshold: Some(0.5),
            skip_reason: None,
            non_finite: 0,
            first_non_finite: None,
            clipped_share: 0.0,
            rounded_to_zero: None,
            cosine: Some(1.0),
            tensors: tensors.into(),
        },
        update_ratios: BTreeMap::new(),
        exchange: None,
    })
}

fn state() -> State {
    let mut state = new_state();
    for number in 1..=300 {
        state.take(step(number));
    }
    state.take(Event::Evaluation(shears_run::Evaluation {
        step: 300,
        val_loss: 2.75,
        bits_per_char: 3.97,
        perplexity: 15.6,
    }));
    let text = "Quousque \u{1b}[2Jtandem\nabutere".to_string();
    let sample = shears_run::Sample { step: 300, text };
    state.take(Event::Sample(sample));
    state.judge();
    state
}

#[test]
fn tensor_norms_are_kept_only_for_the_newest_step() {
    let state = state();
    assert!(state.columns.rows() > 1);
    assert!(state.columns.tensors.names.is_empty());
    assert!(state.picture().layers.iter().all(|(_, norm)| *norm > 0.0));
}

fn view() -> View {
    View::new(setup(), Instant::now(), Arc::new(AtomicBool::new(false)))
}

fn drawn(view: &View, state: &State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let picture = state.picture();
    terminal.draw(|frame| view.draw(frame, &picture)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect();
    (0..height).map(line).collect()
}

#[track_caller]
fn has(lines: &[String], parts: &[&str]) {
    let text = lines.join("\n");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

fn is_braille(character: char) -> bool {
    ('\u{2801}'..='\u{28ff}').contains(&character)
}

#[test]
fn a_terminal_of_usual_size_has_everything() {
    let lines = drawn(&view(), &state(), 80, 24);
    has(
        &lines,
        &[
            "shears lstm-128  runs/test",
            "12,345 tokens/s",
            "300 of 1,200 steps, 25 %, 0:00 left",
            "loss train 2.518",
            "validation 2.750",
            "gradient norm 1 threshold 0.5 log",
            "clipping global-norm:0.5",
            "clipped   20 %, last 100 20 %",
            "median    0.25",
            "largest   1",
            "verdict   near ordinary",
            "gradient norm by layer",
            "layers.0",
            "0.2",
            "sample step 300",
            r"Quousque \u{1b}[2Jtandem",
            "q save and stop",
        ],
    );
    let dots = lines.iter().flat_map(|line| line.chars());
    assert!(
        dots.filter(|dot| is_braille(*dot)).count() > 50,
        "{lines:#?}"
    );
}

#[test]
fn bars_are_as_long_as_norms_are_large() {
    let lines = drawn(&view(), &state(), 120, 40);
    let eighths = |layer: &str| {
        let line = lines
            .iter()
            .find(|line| line.contains(&format!("{layer} ")))
            .unwrap();
        let full = line.matches('█').count() * 8;
        full + line
            .chars()
            .filter_map(|c| "▏▎▍▌▋▊▉".chars().position(|e| e == c))
            .sum::<usize>()
    };
    let longest = eighths("embedding");
    assert!(longest > 40, "{lines:#?}");
    assert!(eighths("layers.0").abs_diff(longest / 2) <= 1, "{lines:#?}");
    assert!(eighths("layers.1").abs_diff(longest / 4) <= 1, "{lines:#?}");
}

#[test]
fn a_tiny_terminal_has_the_figures() {
    let lines = drawn(&view(), &state(), 20, 5);
    has(
        &lines,
        &[
            "step 300 of 1,200",
            "loss 2.518",
            "norm 1",
            "clipped 20 %",
            "0:00 left",
        ],
    );
    for (width, height) in [(1, 1), (3, 2), (60, 16), (61, 17), (80, 15), (500, 200)] {
        drawn(&view(), &state(), width, height);
    }
}

#[test]
fn a_run_without_steps_can_be_drawn() {
    let lines = drawn(&view(), &new_state(), 80, 24);
    has(
        &lines,
        &["0 of 1,200 steps, 0 %", "verdict   -", "median    -"],
    );
    has(&drawn(&view(), &new_state(), 20, 5), &["loss -"]);
}

#[test]
fn keys_change_what_is_shown() {
    let mut view = view();
    let state = state();
    view.scale = view.scale.next();
    has(
        &drawn(&view, &state, 120, 40),
        &["validation 2.750", "2.750 log", "0.5 log"],
    );
    view.scale = view.scale.next();
    let linear = drawn(&view, &state, 120, 40).join("\n");
    assert!(!linear.contains(" log ─"), "{linear}");
    assert_eq!(view.scale.next(), Scale::Norms);
    view.paused = true;
    has(
        &drawn(&view, &state, 120, 40),
        &["p resume", "the display is paused"],
    );
    view.stop.store(true, Ordering::SeqCst);
    has(&drawn(&view, &state, 120, 40), &["saving and stopping"]);
}

#[test]
fn a_gradient_that_is_not_finite_is_not_in_the_chart() {
    let mut state = state();
    let Event::Step(mut event) = step(301) else {
        unreachable!()
    };
    event.loss = None;
    event.clip.action = ClipAction::Skip;
    event.clip.norm_before = f64::NAN;
    state.take(Event::Step(event));
    state.judge();
    has(
        &drawn(&view(), &state, 120, 40),
        &["gradient norm not finite", "skipped   1", "largest   1"],
    );
}

/// The numbers at the vertical axes.
fn labels(lines: &[String]) -> Vec<f64> {
    let before_axis = lines.iter().filter_map(|line| {
        let (label, _) = line.strip_prefix('│')?.split_once(['│', '┤'])?;
        label.trim().parse().ok()
    });
    before_axis.collect()
}

#[test]
fn a_spike_is_marked_at_the_edge_and_does_not_stretch_the_axes() {
    for (width, height) in [(80, 24), (120, 40)] {
        for scale in [Scale::Norms, Scale::Both, Scale::Neither] {
            let mut state = new_state();
            for number in 1..=300 {
                let Event::Step(mut event) = step(number) else {
                    unreachable!()
                };
                if number == 4 {
                    event.loss = Some(47_000.0);
                    event.clip.norm_before = 3e6;
                }
                state.take(Event::Step(event));
            }
            let mut view = view();
            view.scale = scale;
            let lines = drawn(&view, &state, width, height);
            has(&lines, &["• above, up to 47000", "• above, up to 3e6"]);
            let labels = labels(&lines);
            assert!(labels.len() >= 4, "{lines:#?}");
            assert!(
                labels.iter().all(|label| (0.0..20.0).contains(label)),
                "{lines:#?}"
            );
            assert!(
                lines
                    .iter()
                    .any(|line| line.contains('•') && !line.contains("above"))
            );
        }
    }
}

#[test]
fn a_run_that_explodes_has_an_axis_from_zero() {
    let mut state = new_state();
    for number in 1..=14 {
        let Event::Step(mut event) = step(number) else {
            unreachable!()
        };
        if number > 3 {
            event.loss = (number == 4).then_some(87_338.0);
            event.clip.action = ClipAction::Skip;
            event.clip.norm_before = f64::NAN;
        }
        state.take(Event::Step(event));
    }
    let lines = drawn(&view(), &state, 80, 24);
    has(
        &lines,
        &[
            "train not finite",
            "• above, up to 87300, or not finite",
            "• not finite",
        ],
    );
    assert!(
        labels(&lines)
            .iter()
            .all(|label| (0.0..20.0).contains(label)),
        "{lines:#?}"
    );
}

#[test]
fn formatted_values_have_few_digits() {
    assert_eq!([0.25, f64::NAN].map(short), ["0.25", "not finite"]);
    assert_eq!(
        [2.66, 87_338.0, f64::NAN].map(loss),
        ["2.660", "87300", "not finite"]
    );
    assert_eq!(
        [0.0, 0.001, 0.204, 1.0].map(percent),
        ["0 %", "0.1 %", "20 %", "100 %"]
    );
    let times = [7, 754, 45_296].map(|seconds| clock(Duration::from_secs(seconds)));
    assert_eq!(times, ["0:07", "12:34", "12:34:56"]);
}

/// The words of `inspect` and of the page, beside a sample and alone.
#[test]
fn a_recurrent_model_shows_its_gradients_through_time() {
    let layers = [0.0, 1.0, 2.0, 4.0].map(|power| Some(10_f64.powf(-power)));
    let event = Event::StateGradients {
        step: 300,
        layers: [("layers.0".to_string(), layers.to_vec())].into(),
    };
    let mut state = state();
    assert!(
        !drawn(&view(), &state, 80, 24)
            .join("")
            .contains("through time")
    );
    state.take(event);
    let words = [
        "gradients through time",
        "step 300",
        "█▅▃ ",
        "vanish: beyond 3 of 4 tokens back",
    ];
    for (width, height) in [(80, 24), (120, 40)] {
        let lines = drawn(&view(), &state, width, height);
        has(&lines, &words);
        has(&lines, &["sample", "nearest is left"]);
    }
    state.columns.samples.clear();
    let alone = drawn(&view(), &state, 80, 24);
    has(&alone, &words);
    // Its frame has no empty line, which the charts can use.
    let bottom = alone
        .iter()
        .rposition(|line| line.starts_with('╰'))
        .unwrap();
    assert!(alone[bottom - 1].contains("nearest is left"), "{alone:#?}");
}

/// Only the steps under the newest policy count.
#[test]
fn a_policy_that_was_changed_is_judged_from_there_on() {
    let mut state = state();
    assert_eq!(state.picture().verdict.unwrap().class, Class::NearOrdinary);
    let change = shears_run::Change {
        step: 300,
        name: "clip".into(),
        before: "global-norm:0.5".into(),
        after: "global-norm:5".into(),
    };
    state.take(Event::Change(change));
    for number in 301..=310 {
        state.take(step(number));
    }
    state.judge();
    assert_eq!(state.picture().verdict.unwrap().class, Class::TooShort);
}

#[test]
fn a_run_beyond_what_is_kept_keeps_its_counts() {
    let mut state = state();
    state.judge();
    assert!(state.picture().verdict.is_some());
    state.keep(300);
    assert_eq!(state.columns.rows(), 300);
    state.keep(200);
    state.judge();
    let picture = state.picture();
    assert_eq!(state.columns.rows(), 200);
    assert_eq!((picture.step, picture.losses[0].0), (300, 101.0));
    assert_eq!(picture.clipped.0, 0.2);
    assert!(picture.verdict.is_none());
}
