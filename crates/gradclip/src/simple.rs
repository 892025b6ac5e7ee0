//! Global-norm clipping in one line.

use crate::{
    ClipError, ClipPolicy, ClipReport, ClipRule, Clipper, Gradients, NonFinite, NormOrder,
    Threshold, Unscaled,
};

/// Clips the global L2 norm of all gradients to `max_norm`, in place (Pascanu, Mikolov and Bengio,
/// [2013](https://arxiv.org/abs/1211.5063), algorithm 1): `g <- C g / ||g||` if `||g|| > C`.
///
/// Non-finite gradients return an error and are left unchanged. [`Clipper`] can skip such steps
/// instead, supports every other rule, and keeps the state that adaptive rules need.
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
/// [`ClipError::Policy`] if `max_norm` is zero, negative or NaN, and the errors of
/// [`Clipper::clip`]. On error no gradient is changed.
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
    let outcome = Clipper::for_adam(policy, NonFinite::Error).clip(Unscaled::single(gradients))?;
    Ok(outcome.report().clone())
}
