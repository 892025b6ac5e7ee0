//! The mean over micro-batches, which half precision can represent even where their sum overflows.

use gradclip::Accumulated;

use super::cases::Make;
use super::{Adapter, NamedTensor, Plain, StorageType, compare};

/// The micro-batches of one step, and their mean if computed independently.
struct Step {
    name: &'static str,
    micro_batches: Vec<Vec<NamedTensor>>,
    known: Option<NamedTensor>,
}

pub(super) fn find_difference(
    adapter: &mut dyn Adapter,
    storage: StorageType,
) -> Result<(), String> {
    for step in steps(storage) {
        let problem = |problem: String| format!("{}: {problem}", step.name);
        let given = adapter.mean(&step.micro_batches);
        compare::tensors(&given, &plain(&step.micro_batches)).map_err(problem)?;
        if let Some(known) = &step.known {
            compare::tensors(&given, std::slice::from_ref(known)).map_err(problem)?;
        }
    }
    Ok(())
}

fn steps(storage: StorageType) -> Vec<Step> {
    let make = Make { storage };
    let vector = |name, values: &[f64], mean| Step {
        name,
        micro_batches: values
            .iter()
            .map(|value| vec![make.vector("w", &[*value, -*value])])
            .collect(),
        known: Some(make.vector("w", &[mean, -mean])),
    };
    let drawn = |count| Step {
        name: "a model",
        micro_batches: (0..count)
            .map(|index| make.model(1.0, 10 * index))
            .collect(),
        known: None,
    };
    vec![
        vector("one micro-batch", &[0.75], 0.75),
        vector("512 ones", &[1.0; 512], 1.0),
        vector("a sum above the largest f16", &[40_000.0; 2], 40_000.0),
        // 256 + 1 in bf16, and 2048 + 1 in f16, round to the first term.
        vector(
            "a small term after a large one",
            &[2048.0, 1.0, 1.0, 2.0],
            513.0,
        ),
        drawn(2),
        drawn(3),
    ]
}

pub(super) fn plain(micro_batches: &[Vec<NamedTensor>]) -> Vec<NamedTensor> {
    let mut micro_batches = micro_batches.iter().cloned().map(Plain);
    let first = micro_batches.next();
    let mut sum = Accumulated::new(first.expect("every step of the suite has a micro-batch"));
    micro_batches.for_each(|micro_batch| sum.add(micro_batch));
    let mean = sum.in_one_process().without_loss_scale();
    mean.gradients().0.clone()
}
