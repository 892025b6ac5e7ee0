//! Clipping policies in training: rules inside Adam against float64, saved state, and skipped
//! steps.

use std::collections::BTreeMap;
use std::path::Path;

use crate::tiny::{self, New, bits, device, plan, trainer};
use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use gradclip::{AdamClipping, ClipAction, ClipPolicy, Clipper, NonFinite, Outcome, Unscaled};
use gradclip_burn::{ClippedGradients, ModuleGradients};
use serde::Deserialize;
use shears_model::{Architecture, LanguageModel, RecurrentModel, Transformer, lstm};
use shears_train::{Checkpoint, Optimizer, OptimizerKind, Plan, Trainer};

/// Golden values of `tools/golden/clipping.py`: gradients, and the parameters after each step.
#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    policy: String,
    optimizer: String,
    lr: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    parameters: BTreeMap<String, Parameter>,
    steps: Vec<BTreeMap<String, Vec<f64>>>,
    expected: Vec<BTreeMap<String, Vec<f64>>>,
}

#[derive(Deserialize)]
struct Parameter {
    values: Vec<f64>,
}

#[derive(Module, Debug)]
struct Two {
    w: Param<Tensor<2>>,
    b: Param<Tensor<1>>,
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

fn matrix(values: &[f64]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(single(values), [2, 3]), &device())
}

fn vector(values: &[f64]) -> Tensor<1> {
    Tensor::from_data(TensorData::new(single(values), [2]), &device())
}

fn update(
    model: Two,
    optimizer: &mut Optimizer,
    gradients: &BTreeMap<String, Vec<f64>>,
    lr: f64,
) -> Two {
    // The derivative of the inner product of a parameter and a constant is the constant.
    let loss = (model.w.val() * matrix(&gradients["w"])).sum()
        + (model.b.val() * vector(&gradients["b"])).sum();
    let mut clipper = Clipper::for_adam(ClipPolicy::none(), NonFinite::Error);
    let gradients = ModuleGradients::collect(loss.backward(), &model, clipper.policy()).unwrap();
    let Ok(Outcome::Apply(clipped)) = clipper.clip(Unscaled::single(gradients)) else {
        panic!("the gradients are finite");
    };
    optimizer.step(model, ClippedGradients::from(clipped), lr)
}

#[test]
fn rules_inside_adam_match_the_papers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adam_clipping.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(golden.cases.len() >= 6);
    for case in &golden.cases {
        let settings = Plan {
            optimizer: match case.optimizer.as_str() {
                "adam" => OptimizerKind::Adam,
                _ => OptimizerKind::AdamW,
            },
            beta1: case.beta1,
            beta2: case.beta2,
            epsilon: case.epsilon,
            weight_decay: 0.0,
            ..plan(Architecture::Lstm)
        };
        let policy: ClipPolicy = case.policy.parse().unwrap();
        let clipping = AdamClipping::of(&policy);
        assert!(clipping.is_some(), "{} works inside Adam", case.policy);
        let mut optimizer = Optimizer::new(settings.optimizer_settings(), clipping);
        let mut model = Two {
            w: Param::from_tensor(matrix(&case.parameters["w"].values)),
            b: Param::from_tensor(vector(&case.parameters["b"].values)),
        };
        for (step, (gradients, expected)) in case.steps.iter().zip(&case.expected).enumerate() {
            model = update(model, &mut optimizer, gradients, case.lr);
            let w: Vec<f32> = model.w.val().into_data().try_to_vec().unwrap();
            let b: Vec<f32> = model.b.val().into_data().try_to_vec().unwrap();
            for (name, got) in [("w", w), ("b", b)] {
                let largest = expected[name].iter().fold(0.0_f64, |l, v| l.max(v.abs()));
                for (got, expected) in got.iter().zip(&expected[name]) {
                    let error = (f64::from(*got) - expected).abs() / largest;
                    let place = format!("{}: step {step}, {name}", case.name);
                    assert!(error < 1e-5, "{place}: {got} for {expected}");
                }
            }
        }
    }
}

/// A recurrent plan with one clipping policy.
fn plan_with(policy: &str) -> Plan {
    Plan {
        clip: policy.parse().unwrap(),
        optimizer: OptimizerKind::AdamW,
        ..plan(Architecture::Lstm)
    }
}

const POLICIES: [&str; 13] = [
    "value:0.05",
    "group-norm:0.1",
    "block-rms:0.001",
    "normalize:0.5",
    "agc:0.01",
    "autoclip:30",
    "zclip:warmup=3,max=0.5",
    "adagc:abs=0.5,warmup=3",
    "median:0.8,window=12",
    "skip:0.5,window=6,limit=2+value:0.1",
    "global-norm:1..0.1@12+update-rms:0.5",
    "spam:theta=2,reset=23,warmup=4",
    "autoclip:50+agc:0.02+zclip:warmup=2",
];

/// The whole content of a checkpoint, comparable.
fn whole(checkpoint: &Checkpoint) -> impl PartialEq + std::fmt::Debug + use<> {
    let progress = checkpoint.progress.clone();
    (bits(checkpoint), checkpoint.clipper.clone(), progress)
}

#[test]
fn a_resumed_run_clips_as_an_uninterrupted_one() {
    for policy in POLICIES {
        let plan = plan_with(policy);
        let mut straight = trainer::<RecurrentModel>(lstm, &plan);
        let straight_reports: Vec<_> = (0..30).map(|_| straight.step().unwrap().report).collect();
        let acted = |report: &gradclip::ClipReport| report.action != ClipAction::Keep;
        let inside_adam = policy.starts_with("spam");
        assert!(
            inside_adam || straight_reports.iter().any(acted),
            "{policy} never acted"
        );

        let mut before = trainer::<RecurrentModel>(lstm, &plan);
        let mut reports: Vec<_> = (0..17).map(|_| before.step().unwrap().report).collect();
        let folder = tempfile::tempdir().unwrap();
        let store = shears_train::CheckpointStore::new(folder.path());
        let saved = store.save(&before.checkpoint()).unwrap();
        let mut after = trainer::<RecurrentModel>(lstm, &plan)
            .restore(store.load(&saved).unwrap())
            .unwrap();
        reports.extend((17..30).map(|_| after.step().unwrap().report));
        assert_eq!(reports, straight_reports, "{policy}");
        assert_eq!(
            whole(&after.checkpoint()),
            whole(&straight.checkpoint()),
            "{policy}"
        );
    }
}

#[test]
fn a_skipped_outlier_changes_only_two_counts() {
    let plan = plan_with("autoclip:50+skip:1e-3,window=4,limit=3");
    let mut trainer = trainer::<RecurrentModel>(lstm, &plan);
    let mut left_out = 0;
    for _ in 0..60 {
        let before = trainer.checkpoint();
        let report = trainer.step().unwrap().report;
        let mut after = trainer.checkpoint();
        if report.action != ClipAction::Skip {
            continue;
        }
        left_out += 1;
        assert!(report.skip_reason.is_some() && report.norm_before.is_finite());
        assert_eq!(bits(&after), bits(&before));
        assert_eq!(after.progress.step, before.progress.step + 1);
        assert_eq!(after.progress.updates, before.progress.updates);
        // Only non-finite gradients count towards the end of a run.
        assert_eq!(after.progress.consecutive_skips, 0);
        let skipped = after.clipper.get_mut("1.skip.skipped").unwrap();
        skipped[0] -= 1.0;
        assert_eq!(after.clipper, before.clipper);
    }
    assert!((5..60).contains(&left_out), "{left_out} of 60 steps");
}

fn untouched_by_agc<M: LanguageModel>(new: New<M>, plan: &Plan) -> Vec<String> {
    let mut trainer: Trainer<M> = trainer(new, plan);
    let report = trainer.step().unwrap().report;
    let untouched = report
        .tensors
        .iter()
        .filter(|tensor| tensor.coefficient == 1.0);
    untouched.map(|tensor| tensor.name.clone()).collect()
}

#[test]
fn adaptive_gradient_clipping_excludes_the_output_layer() {
    let plan = plan_with("agc:1e-9");
    let expected = ["output.weight", "output.bias"];
    assert_eq!(untouched_by_agc::<RecurrentModel>(lstm, &plan), expected);
    // Tied weights are in the embedding.
    let tied = Plan {
        tied: true,
        clip: plan.clip,
        ..tiny::plan(Architecture::Transformer)
    };
    let untouched = untouched_by_agc::<Transformer>(Transformer::new, &tied);
    assert!(
        untouched.contains(&"token_embedding.weight".to_string()),
        "{untouched:?}"
    );
    assert!(
        untouched.iter().all(|name| !name.starts_with("blocks")),
        "{untouched:?}"
    );
}

#[test]
fn rules_inside_adam_need_adam() {
    let plan = Plan {
        optimizer: OptimizerKind::Sgd,
        ..plan_with("global-norm:1+update-rms:1")
    };
    let message = plan.validate().unwrap_err().to_string();
    assert!(
        message.contains("`update-rms` works inside Adam"),
        "{message}"
    );
}
