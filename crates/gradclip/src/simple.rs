//! The short way: the global norm in one line.

use crate::{
    ClipError, ClipPolicy, ClipReport, ClipRule, Clipper, Gradients, NonFinite, NormOrder,
    Threshold, Unscaled,
};

/// Clips the norm of all gradients together to `max_norm`, in place (Pascanu, Mikolov and Bengio,
/// [2013](https://arxiv.org/abs/1211.5063)): `g <- C g / ||g||` if `||g|| > C`.
///
/// There is no step to skip: gradients that are not finite are an error, and stay as they are.
/// [`Clipper`] can leave such steps out, knows every other rule, and remembers what it learns.
///
/// ```
/// let mut gradients = vec![("weight", vec![3.0_f32, 4.0]), ("bias", vec![0.0])];
/// let report = gradclip::clip_global_norm(&mut gradients, 1.0)?;
/// assert_eq!(report.norm_before, 5.0);
/// assert_eq!(gradients[0].1, [0.6, 0.8]);
/// # Ok::<(), gradclip::ClipError>(())
/// ```
///
/// # Errors
///
/// [`ClipError::Policy`] for a `max_norm` that is zero, negative or NaN, and those of
/// [`Clipper::clip`], with every gradient as it was.
///
/// # Panics
///
/// As [`Clipper::clip`].
pub fn clip_global_norm<G: Gradients + ?Sized>(
    gradients: &mut G,
    max_norm: f64,
) -> Result<ClipReport, ClipError> {
    let threshold = Threshold::new(max_norm).map_err(ClipError::Policy)?;
    let order = NormOrder::TWO;
    let policy = ClipPolicy::from(ClipRule::GlobalNorm { threshold, order });
    let outcome =
        Clipper::beside_adam(policy, NonFinite::Error).clip(Unscaled::single(gradients))?;
    Ok(outcome.report().clone())
}
