//! What a run's events say about the flow of gradients.

use std::collections::BTreeMap;

use gradclip_judge::GradientFlow;
use shears_events::Event;
use shears_model::ParameterInfo;

/// The flow of gradients through the layers: for each, the median over the steps of the root
/// mean square of its gradient, from input to output.
pub fn gradient_flow(events: &[Event], parameters: &[ParameterInfo]) -> GradientFlow {
    let mut layers: Vec<&str> = Vec::new();
    let mut elements: BTreeMap<&str, usize> = BTreeMap::new();
    for parameter in parameters {
        if !layers.contains(&parameter.layer()) {
            layers.push(parameter.layer());
        }
        *elements.entry(parameter.layer()).or_default() += parameter.elements();
    }
    let mut squares: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for event in events {
        let Event::Step(step) = event else { continue };
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for parameter in parameters {
            let norm = step
                .clip
                .tensors
                .get(&parameter.name)
                .copied()
                .unwrap_or(0.0);
            *sums.entry(parameter.layer()).or_default() += norm * norm;
        }
        if step.clip.action != "skip" {
            for (layer, sum) in sums {
                squares.entry(layer).or_default().push(sum);
            }
        }
    }
    let median = |layer: &str| {
        let values = squares
            .get_mut(layer)
            .map(std::mem::take)
            .unwrap_or_default();
        (
            layer.to_string(),
            (median_of(values) / elements[layer] as f64).sqrt(),
        )
    };
    GradientFlow::of(&layers.into_iter().map(median).collect::<Vec<_>>())
}

fn median_of(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
