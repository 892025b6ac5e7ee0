//! The relative size of an update.

use std::collections::BTreeMap;

use burn::module::Module;
use shears_run::six_digits;

use crate::tensors::module_tensors;

/// A copy of all weights of a model; a shared handle would prevent in-place updates.
#[derive(Debug)]
pub(crate) struct Weights(Vec<(String, Vec<f32>)>);

impl Weights {
    pub(crate) fn of<M: Module>(model: &M) -> Self {
        let tensors = module_tensors(model).into_iter();
        let copied = tensors.map(|tensor| (tensor.name, tensor.data.iter::<f32>().collect()));
        Weights(copied.collect())
    }

    /// `|after - before| / |before|` for each parameter, except those that were zero.
    pub(crate) fn update_ratios<M: Module>(&self, after: &M) -> BTreeMap<String, f64> {
        let mut ratios = BTreeMap::new();
        for ((name, before), after) in self.0.iter().zip(module_tensors(after)) {
            let (mut moved, mut size) = (0.0_f64, 0.0_f64);
            for (&before, after) in before.iter().zip(after.data.iter::<f32>()) {
                moved += (f64::from(after) - f64::from(before)).powi(2);
                size += f64::from(before).powi(2);
            }
            if size > 0.0 && moved.is_finite() && size.is_finite() {
                ratios.insert(name.clone(), six_digits((moved / size).sqrt()));
            }
        }
        ratios
    }
}
