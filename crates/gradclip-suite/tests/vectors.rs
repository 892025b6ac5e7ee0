//! Runs the suite over named vectors, which need no tensor library.

use gradclip::{
    Accumulate, Accumulated, AsElements, ClipError, Clipper, Elements, Gradient, Gradients,
    Outcome, Unscaled,
};
use gradclip_suite::{Adapter, Clipping, NamedTensor, StorageType, check};

/// An adapter to a map of vectors, sorted by name, with deferred or immediate scaling.
struct Vectors {
    defer: bool,
}

/// Named tensors as in a trainer without a tensor library.
struct Tensors(std::collections::BTreeMap<String, NamedTensor>);

impl Gradients for Tensors {
    fn visit(&mut self, visitor: &mut dyn FnMut(Gradient<'_>)) {
        for tensor in self.0.values_mut() {
            visitor(tensor.as_gradient());
        }
    }
}

impl Accumulate for Tensors {
    fn visit_pairs(&mut self, other: Tensors, visitor: &mut dyn FnMut(Elements<'_>, Elements<'_>)) {
        for (sum, mut term) in self.0.values_mut().zip(other.0.into_values()) {
            visitor(sum.gradient.as_elements(), term.gradient.as_elements());
        }
    }
}

fn tensors(tensors: &[NamedTensor]) -> Tensors {
    let named = tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.clone()));
    Tensors(named.collect())
}

impl Adapter for Vectors {
    fn storage_types(&self) -> Vec<StorageType> {
        StorageType::ALL.into()
    }

    fn clip(
        &mut self,
        clipper: &mut Clipper,
        tensors: &[NamedTensor],
    ) -> Result<Clipping, ClipError> {
        let unscaled = Unscaled::single(self::tensors(tensors));
        let outcome = match self.defer {
            true => match clipper.clip_deferred(unscaled, None)? {
                Outcome::Apply(deferred) => Outcome::Apply(deferred.scale()),
                Outcome::Skip { gradients, report } => Outcome::Skip { gradients, report },
            },
            false => clipper.clip(unscaled)?,
        };
        let (gradients, report, may_step) = match outcome {
            Outcome::Apply(clipped) => {
                let (gradients, report) = clipped.into_parts();
                (gradients, report, true)
            }
            Outcome::Skip { gradients, report } => (gradients, report, false),
        };
        Ok(Clipping {
            tensors: gradients.0.into_values().collect(),
            report,
            may_step,
        })
    }

    fn mean(&mut self, micro_batches: &[Vec<NamedTensor>]) -> Vec<NamedTensor> {
        let mut micro_batches = micro_batches.iter().map(|each| tensors(each));
        let mut sum = Accumulated::new(micro_batches.next().expect("there is a first one"));
        micro_batches.for_each(|micro_batch| sum.add(micro_batch));
        let mean = sum.in_one_process().without_loss_scale();
        mean.gradients().0.values().cloned().collect()
    }
}

#[test]
fn named_vectors_conform() {
    check(&mut Vectors { defer: false });
}

#[test]
fn deferred_scaling_equals_scaling_in_place() {
    check(&mut Vectors { defer: true });
}
