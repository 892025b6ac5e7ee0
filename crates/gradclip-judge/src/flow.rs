//! Gradient flow: whether gradients vanish or explode on their way from the output to the input.

use std::fmt;

use gradclip::significant;

/// A layer below this fraction of the largest layer nearer the output counts as vanishing.
///
/// Widths, initialisation and kinds of layers differ, and move the RMS by one or two orders of
/// magnitude in networks that train well. Three orders are beyond that: with one learning rate for
/// all layers, such a layer hardly moves while the others do.
pub(crate) const VANISHING_BELOW: f64 = 1e-3;

/// The mirror image of [`VANISHING_BELOW`].
const EXPLODING_ABOVE: f64 = 1e3;

/// A layer whose gradient is out of proportion to the layers nearer the output.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowFinding {
    /// The layer.
    pub layer: String,
    /// Its RMS gradient divided by the largest among the layers nearer the output.
    pub ratio: f64,
}

/// How the gradient changes from the output of a network to its input.
///
/// Clipping bounds gradients that explode. It cannot enlarge those that vanish, and a user should
/// be told which of the two happens.
///
/// ```
/// use gradclip_judge::GradientFlow;
///
/// let layers = [("first", 1e-7), ("second", 1e-3), ("last", 0.1)];
/// let layers = layers.map(|(name, rms)| (name.to_owned(), rms));
/// let flow = GradientFlow::of(&layers);
/// assert_eq!(flow.vanishing.as_ref().map(|finding| finding.layer.as_str()), Some("first"));
/// assert!(flow.to_string().contains("clipping cannot cure"));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GradientFlow {
    /// The RMS gradient of the first layer divided by that of the last. `None` with fewer than
    /// two layers, or when the last layer's gradient is zero.
    pub first_to_last: Option<f64>,
    /// The layer with the smallest ratio, if that is below 1e-3.
    pub vanishing: Option<FlowFinding>,
    /// The layer with the largest ratio, if that is above 1e3.
    pub exploding: Option<FlowFinding>,
}

impl GradientFlow {
    /// Judges layers ordered from input to output, each with its typical gradient norm (mean or
    /// median over steps) divided by the square root of its number of elements. That RMS makes
    /// layers of different sizes comparable.
    ///
    /// Layers with a non-finite or negative RMS are ignored. A layer is compared with the largest
    /// among those nearer the output, because gradients travel from there to it.
    #[must_use]
    pub fn of(layers: &[(String, f64)]) -> GradientFlow {
        let layers: Vec<&(String, f64)> = layers
            .iter()
            .filter(|(_, rms)| rms.is_finite() && *rms >= 0.0)
            .collect();
        let mut flow = GradientFlow {
            first_to_last: None,
            vanishing: None,
            exploding: None,
        };
        if let [(_, first), .., (_, last)] = layers.as_slice()
            && *last > 0.0
        {
            flow.first_to_last = Some(first / last);
        }
        let mut largest_after = 0.0_f64;
        for (layer, rms) in layers.into_iter().rev() {
            let ratio = rms / largest_after;
            let finding = || {
                Some(FlowFinding {
                    layer: layer.clone(),
                    ratio,
                })
            };
            let worst = |found: &Option<FlowFinding>, limit| {
                found.as_ref().map_or(limit, |finding| finding.ratio)
            };
            if largest_after > 0.0 && ratio < worst(&flow.vanishing, VANISHING_BELOW) {
                flow.vanishing = finding();
            }
            if largest_after > 0.0 && ratio > worst(&flow.exploding, EXPLODING_ABOVE) {
                flow.exploding = finding();
            }
            largest_after = largest_after.max(*rms);
        }
        flow
    }
}

impl fmt::Display for GradientFlow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(FlowFinding { layer, ratio }) = &self.vanishing {
            let ratio = significant(*ratio);
            write!(
                formatter,
                "gradients vanish toward the input: `{layer}` receives {ratio} of the largest \
                 gradient nearer the output, and clipping cannot cure that (it only shortens \
                 gradients; change the architecture, the initialisation or the sequence length)"
            )?;
        }
        if let Some(FlowFinding { layer, ratio }) = &self.exploding {
            let separator = if self.vanishing.is_some() { "; " } else { "" };
            let ratio = significant(*ratio);
            write!(
                formatter,
                "{separator}gradients explode toward the input: `{layer}` receives {ratio} times \
                 the largest gradient nearer the output, which is what clipping is for"
            )?;
        }
        if self.vanishing.is_some() || self.exploding.is_some() {
            return Ok(());
        }
        match self.first_to_last {
            Some(ratio) => write!(
                formatter,
                "gradients reach every layer: the first layer's are {} times as large as the last \
                 layer's (below {VANISHING_BELOW} they would vanish)",
                significant(ratio)
            ),
            None => write!(
                formatter,
                "too few layers with a gradient to judge the flow"
            ),
        }
    }
}
