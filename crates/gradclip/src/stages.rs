//! The order of a step as types: accumulated, reduced, unscaled, and only then clipped.

use alloc::vec::Vec;
use core::fmt;

use crate::element::{Element, Elements, for_each_type};
use crate::gradients::{Accumulate, Gradients};

/// The sum of the gradients of one process over its micro-batches, possibly times a loss scale.
///
/// A common mistake is to clip in the wrong place: each micro-batch, before the all-reduce, or
/// before unscaling. Here each stage is a type, and only the last one can be clipped:
///
/// ```
/// use gradclip::{Accumulated, Clipper, NonFinite};
///
/// let mut clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Skip)?;
/// let mut gradients = Accumulated::new(vec![("weight", vec![2.0_f32, 0.0])]);
/// gradients.add(vec![("weight", vec![0.0_f32, 2.0])]);
/// let mean = gradients.in_one_process().without_loss_scale();
/// let outcome = clipper.clip(mean)?;
/// assert_eq!(outcome.report().norm_before, 2.0_f64.sqrt());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Clipping before the all-reduce does not compile:
///
/// ```compile_fail,E0308
/// use gradclip::{Accumulated, ClipPolicy, Clipper, NonFinite};
///
/// let mut clipper = Clipper::new(ClipPolicy::none(), NonFinite::Skip).unwrap();
/// let gradients = Accumulated::new(vec![("weight", vec![2.0_f32, 0.0])]);
/// clipper.clip(gradients);
/// ```
///
/// nor does clipping before unscaling:
///
/// ```compile_fail,E0308
/// use gradclip::{Accumulated, ClipPolicy, Clipper, NonFinite};
///
/// let mut clipper = Clipper::new(ClipPolicy::none(), NonFinite::Skip).unwrap();
/// let gradients = Accumulated::new(vec![("weight", vec![2.0_f32, 0.0])]);
/// clipper.clip(gradients.in_one_process());
/// ```
///
/// nor does clipping each micro-batch, because clipped gradients cannot be added:
///
/// ```compile_fail,E0308
/// use gradclip::{Accumulated, ClipPolicy, Clipper, NonFinite, Outcome, Unscaled};
///
/// let mut clipper = Clipper::new(ClipPolicy::none(), NonFinite::Skip).unwrap();
/// let mut sum = Accumulated::new(vec![("weight", vec![2.0_f32, 0.0])]);
/// let micro_batch = Unscaled::single(vec![("weight", vec![0.0_f32, 2.0])]);
/// if let Outcome::Apply(clipped) = clipper.clip(micro_batch).unwrap() {
///     sum.add(clipped);
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "accumulated gradients are on their way to a clipper"]
pub struct Accumulated<G> {
    gradients: G,
    wide: WideSums,
    /// The divisor of the sum.
    terms: u64,
}

impl<G: Gradients> Accumulated<G> {
    /// Starts with the gradients of the first micro-batch's mean loss. All micro-batches must have
    /// the same number of tokens; otherwise use [`Accumulated::from_sum`].
    pub fn new(gradients: G) -> Accumulated<G> {
        Accumulated::from_sum(gradients, 1)
    }

    /// Starts with the gradients of a loss that is the sum over `terms` terms, not their mean. Use
    /// it if micro-batches or processes differ in their number of tokens: a mean of means would
    /// weight a token of a short batch more than one of a long batch.
    ///
    /// ```
    /// use gradclip::Accumulated;
    ///
    /// let mut gradients = Accumulated::from_sum(vec![("weight", vec![6.0_f32])], 3);
    /// gradients.merge(Accumulated::from_sum(vec![("weight", vec![10.0_f32])], 1));
    /// let mean = gradients.in_one_process().without_loss_scale();
    /// assert_eq!(mean.gradients()[0].1, [4.0]);
    /// ```
    pub fn from_sum(gradients: G, terms: u64) -> Accumulated<G> {
        Accumulated {
            gradients,
            wide: WideSums::default(),
            terms,
        }
    }

    /// The divisor of the sum: the number of micro-batches, or of terms.
    pub fn terms(&self) -> u64 {
        self.terms
    }

    /// Adds the gradients of another micro-batch of the same model: `f32` and `f64` in their own
    /// type, `f16` and `bf16` in a separate `f32` buffer. Only the mean is rounded to half
    /// precision.
    ///
    /// ```
    /// # #[cfg(feature = "half")] {
    /// use gradclip::Accumulated;
    /// use half::f16;
    ///
    /// let micro_batch = || vec![("weight", vec![f16::from_f32(40_000.0)])];
    /// let mut gradients = Accumulated::new(micro_batch());
    /// gradients.add(micro_batch());
    /// let mean = gradients.in_one_process().without_loss_scale();
    /// assert_eq!(mean.gradients(), &micro_batch());
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the two do not have the same tensors.
    pub fn add(&mut self, gradients: G)
    where
        G: Accumulate,
    {
        self.merge(Accumulated::new(gradients));
    }

    /// Adds another sum of gradients of the same model. The order of merges affects only rounding.
    ///
    /// # Panics
    ///
    /// If the two do not have the same tensors.
    pub fn merge(&mut self, other: Accumulated<G>)
    where
        G: Accumulate,
    {
        self.wide
            .add(&mut self.gradients, other.gradients, other.wide);
        self.terms += other.terms;
    }

    /// Skips the all-reduce, for a single process.
    pub fn in_one_process(self) -> Reduced<G> {
        Reduced(self)
    }

    /// Sums gradients over all processes. `sum` is an all-reduce in place: it is called with the
    /// elements of each tensor, summed over the micro-batches of this process and still times the
    /// loss scale, and replaces them with their sums over all processes. It gets half precision as
    /// `f32`, and small tensors combined into one call to save latency. `terms` is the divisor of
    /// these sums: the [`Accumulated::terms`] of all processes added up. Nothing is divided before
    /// the all-reduce, so the mean is rounded once for any number of processes.
    ///
    /// A sharded model uses this too, so that each process clips by the norm of the whole model.
    ///
    /// ```
    /// use gradclip::{Accumulated, Clipper, Elements, NonFinite};
    ///
    /// let mine = Accumulated::new(vec![("weight", vec![10.0_f32])]);
    /// let reduced = mine.reduce(2, |elements| match elements {
    ///     Elements::F32(values) => {
    ///         values[0] += 0.0; // what the other process has
    ///         Ok(())
    ///     }
    ///     _ => Err("all tensors are f32"),
    /// })?;
    /// let mut clipper = Clipper::new("global-norm:1".parse()?, NonFinite::Skip)?;
    /// let outcome = clipper.clip(reduced.without_loss_scale())?;
    /// // Clipped before the exchange, it would be 0.5.
    /// assert_eq!(outcome.report().norm_after, 1.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first error of `sum`, after which it is not called again.
    pub fn reduce<E>(
        mut self,
        terms: u64,
        mut sum: impl FnMut(&mut Elements<'_>) -> Result<(), E>,
    ) -> Result<Reduced<G>, E> {
        let mut small = Vec::new();
        let mut summed = Ok(());
        self.visit_sums(&mut |sums| {
            let Ok(()) = summed else { return };
            match sums {
                Sums::Single(values) if values.len() < SMALL => small.extend_from_slice(values),
                Sums::Single(values) => summed = sum(&mut Elements::F32(values)),
                Sums::Double(elements) => summed = sum(elements),
            }
        });
        summed?;
        if !small.is_empty() {
            sum(&mut Elements::F32(&mut small))?;
            let mut rest = &small[..];
            self.visit_sums(&mut |sums| {
                if let Sums::Single(values) = sums
                    && values.len() < SMALL
                {
                    let (own, others) = rest.split_at(values.len());
                    values.copy_from_slice(own);
                    rest = others;
                }
            });
        }
        self.terms = terms;
        Ok(Reduced(self))
    }
}

/// Tensors with fewer elements are combined into one all-reduce.
const SMALL: usize = 1 << 14;

/// The sums of one tensor, in the type of the all-reduce.
enum Sums<'a, 'b> {
    /// `f32`, or half precision in its `f32` buffer.
    Single(&'a mut [f32]),
    /// `f64`.
    Double(&'a mut Elements<'b>),
}

impl<G: Gradients> Accumulated<G> {
    fn visit_sums(&mut self, visitor: &mut dyn FnMut(Sums<'_, '_>)) {
        let wide = &mut self.wide;
        let mut index = 0;
        self.gradients.visit(&mut |mut gradient| {
            let elements = &mut gradient.elements;
            visitor(match elements {
                elements if is_half(elements) => Sums::Single(wide.of(index, elements)),
                Elements::F32(values) => Sums::Single(values),
                elements => Sums::Double(elements),
            });
            index += 1;
        });
    }
}

/// Gradients summed over all processes, possibly times a loss scale. See [`Accumulated`].
#[derive(Clone, Debug, PartialEq)]
#[must_use = "reduced gradients are on their way to a clipper"]
pub struct Reduced<G>(Accumulated<G>);

impl<G: Gradients> Reduced<G> {
    /// For a loss that was not scaled. Divides by the number of micro-batches, or of terms.
    pub fn without_loss_scale(self) -> Unscaled<G> {
        self.divided_by(1.0)
    }

    /// Divides by the factor that the loss was multiplied by, and by the number of micro-batches,
    /// or of terms, rounding once.
    ///
    /// # Errors
    ///
    /// [`LossScaleError`] if the factor is not a finite number greater than zero.
    pub fn unscale(self, loss_scale: f64) -> Result<Unscaled<G>, LossScaleError> {
        if loss_scale > 0.0 && loss_scale.is_finite() {
            Ok(self.divided_by(loss_scale))
        } else {
            Err(LossScaleError { loss_scale })
        }
    }

    fn divided_by(self, loss_scale: f64) -> Unscaled<G> {
        let Accumulated {
            mut gradients,
            wide,
            terms,
        } = self.0;
        wide.divide_into(&mut gradients, loss_scale * terms as f64);
        Unscaled { gradients }
    }
}

/// Gradients at their true scale, ready to be clipped. See [`Accumulated`].
#[derive(Clone, Debug, PartialEq)]
#[must_use = "unscaled gradients are on their way to a clipper"]
pub struct Unscaled<G> {
    gradients: G,
}

impl<G: Gradients> Unscaled<G> {
    /// The gradients of a single batch, in a single process, without loss scaling.
    pub fn single(gradients: G) -> Unscaled<G> {
        Accumulated::new(gradients)
            .in_one_process()
            .without_loss_scale()
    }

    pub(crate) fn into_inner(self) -> G {
        self.gradients
    }
}

impl<G> Unscaled<G> {
    /// The gradients.
    pub fn gradients(&self) -> &G {
        &self.gradients
    }
}

/// A loss scale that is zero, negative or not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaleError {
    /// The given loss scale.
    pub loss_scale: f64,
}

impl fmt::Display for LossScaleError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loss_scale = self.loss_scale;
        write!(
            formatter,
            "loss scale must be finite and greater than 0, got {loss_scale}"
        )
    }
}

impl core::error::Error for LossScaleError {}

/// The sums of half-precision tensors, by their position in a visit.
///
/// Half precision cannot hold sums of many terms: in `bf16`, 256 + 1 is 256, and in `f16` 2 x
/// 40,000 is infinite. Such tensors are summed here in `f32`, and their mean is rounded to storage
/// once.
#[derive(Clone, Debug, Default, PartialEq)]
struct WideSums {
    tensors: Vec<Option<Vec<f32>>>,
}

impl WideSums {
    /// Adds other sums to `sums`, or for half precision to the buffers here.
    fn add<G: Accumulate>(&mut self, sums: &mut G, others: G, wide: WideSums) {
        let mut index = 0;
        let mut wide = wide.tensors.into_iter();
        sums.visit_pairs(others, &mut |mut sum, term| {
            let types = [&sum, &term].map(core::mem::discriminant);
            assert_eq!(types[0], types[1], "tensors of different storage types");
            let wide = wide.next().flatten();
            match is_half(&sum) {
                true => add_wide(self.of(index, &sum), &term, wide),
                false => sum.add(&term),
            }
            index += 1;
        });
    }

    /// The `f32` sum of a half-precision tensor, initialised from the tensor on first use.
    fn of(&mut self, index: usize, tensor: &Elements<'_>) -> &mut Vec<f32> {
        if self.tensors.len() <= index {
            self.tensors.resize(index + 1, None);
        }
        self.tensors[index].get_or_insert_with(|| widen(tensor))
    }

    /// Writes all sums, divided, to `gradients`, rounding each element to storage once.
    fn divide_into<G: Gradients>(self, gradients: &mut G, divisor: f64) {
        if divisor == 1.0 && self.tensors.iter().all(Option::is_none) {
            return;
        }
        let mut tensors = self.tensors.into_iter();
        gradients.visit(&mut |mut gradient| {
            let elements = &mut gradient.elements;
            match tensors.next().flatten() {
                Some(wide) => for_each_type!(Elements, elements, values => {
                    for (value, sum) in values.iter_mut().zip(&wide) {
                        *value = Element::from_f64(f64::from(*sum) / divisor);
                    }
                }),
                None => elements.divide(divisor),
            }
        });
    }
}

/// Whether the type is narrower than `f32`.
fn is_half(elements: &Elements<'_>) -> bool {
    fn is_half<E: Element>(_: &[E]) -> bool {
        E::LARGEST < f64::from(f32::MAX)
    }
    for_each_type!(Elements, elements, values => is_half(values))
}

fn widen(elements: &Elements<'_>) -> Vec<f32> {
    for_each_type!(Elements, elements, values => {
        values.iter().map(|value| value.to_f64() as f32).collect()
    })
}

/// Adds a term to a sum, using the term's wide sum if it has one.
fn add_wide(sum: &mut [f32], term: &Elements<'_>, wide: Option<Vec<f32>>) {
    assert_eq!(sum.len(), term.len(), "tensors of different length");
    let term = wide.unwrap_or_else(|| widen(term));
    for (sum, term) in sum.iter_mut().zip(term) {
        *sum += term;
    }
}
