//! The flow of gradients through the layers, from a log.

use std::ops::Range;

use gradclip::ClipAction;
use gradclip_judge::statistics::median;
use gradclip_judge::{GradientFlow, UpdatePace};

use crate::columns::Columns;
use crate::header::Parameter;

impl Columns {
    /// The flow of gradients through the layers: for each, the median over the steps of the root
    /// mean square of its gradient, from input to output. `None` without a header, which defines
    /// the layers.
    pub fn gradient_flow(&self) -> Option<GradientFlow> {
        let header = self.header.as_ref()?;
        let layers = header.layers().into_iter().map(|(layer, parameters)| {
            let elements: usize = parameters.iter().map(|p| p.elements()).sum();
            let squares = self.squares(&parameters, 0..self.rows());
            let squares = squares.into_iter().zip(&self.action);
            let applied = squares
                .filter(|(square, action)| square.is_finite() && **action != ClipAction::Skip);
            let square = median(applied.map(|(square, _)| square)).unwrap_or(0.0);
            (layer.to_string(), (square / elements as f64).sqrt())
        });
        Some(GradientFlow::of(&layers.collect::<Vec<_>>()))
    }

    /// How fast the weights change: for each matrix, the median over the steps of its update's norm
    /// relative to its own. `None` without a header, or before the first such measurement.
    pub fn update_pace(&self) -> Option<UpdatePace> {
        let header = self.header.as_ref()?;
        let matrices = header.parameters.iter().filter(|p| p.is_matrix());
        let shares = matrices.filter_map(|parameter| {
            let mut names = self.ratios.names.iter();
            let column = names.position(|name| *name == parameter.name)?;
            let values = self.ratios.values[column].iter().copied().map(f64::from);
            let share = median(values.filter(|share| !share.is_nan()))?;
            Some((parameter.name.clone(), share))
        });
        UpdatePace::of(&shares.collect::<Vec<_>>())
    }

    /// The norm of each layer's gradient at these rows, in the order of the forward pass; NaN where
    /// no tensor of the layer has one. `None` without a header.
    pub fn layer_norms(&self, rows: Range<usize>) -> Option<Vec<(String, Vec<f64>)>> {
        let header = self.header.as_ref()?;
        let layers = header.layers().into_iter().map(|(layer, parameters)| {
            let mut norms = self.squares(&parameters, rows.clone());
            norms.iter_mut().for_each(|square| *square = square.sqrt());
            (layer.to_string(), norms)
        });
        Some(layers.collect())
    }

    /// The sum of squares of the gradients of these parameters at each of these rows.
    fn squares(&self, parameters: &[&Parameter], rows: Range<usize>) -> Vec<f64> {
        let mut sums = vec![f64::NAN; rows.len()];
        for parameter in parameters {
            let mut names = self.tensors.names.iter();
            let Some(column) = names.position(|name| *name == parameter.name) else {
                continue;
            };
            for (sum, norm) in sums
                .iter_mut()
                .zip(&self.tensors.values[column][rows.clone()])
            {
                let square = f64::from(*norm).powi(2);
                *sum = match (sum.is_nan(), square.is_nan()) {
                    (_, true) => *sum,
                    (true, false) => square,
                    (false, false) => *sum + square,
                };
            }
        }
        sums
    }
}
