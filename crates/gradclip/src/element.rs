//! The storage types of gradients.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::Debug;

#[cfg(feature = "half")]
use half::{bf16, f16};

/// The storage type of one gradient element.
pub(crate) trait Element: Copy + Debug + Default + Send + Sync + 'static {
    /// The type that magnitudes are compared in, which represents every element exactly.
    type Wide: Copy + PartialOrd + Default + Into<f64> + Send;
    /// Whether sums of squares of finite elements can overflow or underflow in `f64`.
    const SQUARES_FIT: bool;
    /// The largest finite element.
    const LARGEST: f64;

    /// The magnitude.
    fn magnitude(self) -> Self::Wide;
    /// Converts exactly.
    fn to_f64(self) -> f64;
    /// Rounds once, to nearest and ties to even.
    fn from_f64(value: f64) -> Self;
    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool;
}

/// `$widen` converts an element exactly to `$wide`; `$narrow` rounds an `f64` `$value`.
macro_rules! element {
    (
        $type:ty, $largest:expr, $wide:ty: $widen:expr, squares_fit: $squares_fit:literal,
        $value:ident => $narrow:expr
    ) => {
        impl Element for $type {
            type Wide = $wide;
            const SQUARES_FIT: bool = $squares_fit;
            const LARGEST: f64 = $largest;

            #[inline(always)]
            fn magnitude(self) -> $wide {
                $widen(self).abs()
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from($widen(self))
            }

            #[inline(always)]
            fn from_f64($value: f64) -> $type {
                $narrow
            }

            #[inline(always)]
            fn is_finite(self) -> bool {
                <$type>::is_finite(self)
            }
        }
    };
}

element! {
    f32, f32::MAX as f64, f32: f32::from, squares_fit: true, value => value as f32
}
element! {
    f64, f64::MAX, f64: f64::from, squares_fit: false, value => value
}
#[cfg(feature = "half")]
element! {
    f16, f16::MAX.to_f64_const(), f32: f16::to_f32, squares_fit: true,
    value => f16::from_f32(round_to_odd(value))
}
#[cfg(feature = "half")]
element! {
    bf16, bf16::MAX.to_f64_const(), f32: bf16::to_f32, squares_fit: true,
    value => bf16::from_f32(round_to_odd(value))
}

/// Rounds to `f32` such that rounding the result to half precision equals rounding once.
///
/// An inexact result gets an odd last bit, which keeps it off the ties of the narrower type
/// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008). Plain rounding in
/// two steps is wrong where the first step lands on a tie.
#[cfg(feature = "half")]
#[inline]
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    if back == value || !nearest.is_finite() || nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // `nearest` is even; the odd neighbour is on the other side of the value.
    let away_from_zero = (back < value) == (value > 0.0);
    let bits = nearest.to_bits();
    f32::from_bits(if away_from_zero { bits + 1 } else { bits - 1 })
}

/// The elements of a gradient, in its own storage type, mutable.
#[derive(Debug)]
#[non_exhaustive]
pub enum Elements<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// Double precision.
    F64(&'a mut [f64]),
    /// IEEE half precision.
    #[cfg(feature = "half")]
    F16(&'a mut [f16]),
    /// bfloat16.
    #[cfg(feature = "half")]
    Bf16(&'a mut [bf16]),
}

/// The elements of a parameter, read-only.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
    /// IEEE half precision.
    #[cfg(feature = "half")]
    F16(&'a [f16]),
    /// bfloat16.
    #[cfg(feature = "half")]
    Bf16(&'a [bf16]),
}

/// Owned elements of one storage type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Buffer {
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
    /// IEEE half precision.
    #[cfg(feature = "half")]
    F16(Vec<f16>),
    /// bfloat16.
    #[cfg(feature = "half")]
    Bf16(Vec<bf16>),
}

/// Runs the same code for each storage type.
macro_rules! for_each_type {
    ($kind:ident, $elements:expr, $slice:ident => $body:expr) => {
        match $elements {
            $crate::element::$kind::F32($slice) => $body,
            $crate::element::$kind::F64($slice) => $body,
            #[cfg(feature = "half")]
            $crate::element::$kind::F16($slice) => $body,
            #[cfg(feature = "half")]
            $crate::element::$kind::Bf16($slice) => $body,
        }
    };
}
pub(crate) use for_each_type;

impl Buffer {
    /// The elements, read-only.
    #[must_use]
    pub fn values(&self) -> Values<'_> {
        for_each_type!(Buffer, self, values => values.as_slice().into())
    }
}

impl AsElements for Buffer {
    fn as_elements(&mut self) -> Elements<'_> {
        for_each_type!(Buffer, self, values => values.as_mut_slice().into())
    }
}

impl From<Values<'_>> for Buffer {
    fn from(values: Values<'_>) -> Buffer {
        for_each_type!(Values, values, values => values.to_vec().into())
    }
}

macro_rules! lengths {
    ($($Kind:ident),*) => {
        $( impl $Kind<'_> {
            /// The number of elements.
            #[must_use]
            pub fn len(&self) -> usize {
                for_each_type!($Kind, self, slice => slice.len())
            }

            /// Whether there are no elements.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        } )*
    };
}

lengths!(Elements, Values);

/// Owned or borrowed storage that can be viewed as [`Elements`]: `Vec<f32>`, `&mut [f64]`, `[f16;
/// 4]` and so on.
pub trait AsElements {
    /// The elements, mutable.
    fn as_elements(&mut self) -> Elements<'_>;
}

impl<T: AsElements + ?Sized> AsElements for &mut T {
    fn as_elements(&mut self) -> Elements<'_> {
        (**self).as_elements()
    }
}

macro_rules! slices_of {
    ($type:ty, $variant:ident) => {
        impl<'a> From<&'a mut [$type]> for Elements<'a> {
            fn from(slice: &'a mut [$type]) -> Elements<'a> {
                Elements::$variant(slice)
            }
        }

        impl<'a> From<&'a [$type]> for Values<'a> {
            fn from(slice: &'a [$type]) -> Values<'a> {
                Values::$variant(slice)
            }
        }

        impl From<Vec<$type>> for Buffer {
            fn from(values: Vec<$type>) -> Buffer {
                Buffer::$variant(values)
            }
        }

        as_elements!($variant, [$type]);
        as_elements!($variant, Vec<$type>);
        as_elements!($variant, Box<[$type]>);
        as_elements!($variant, [$type; COUNT], const COUNT: usize);
    };
}

macro_rules! as_elements {
    ($variant:ident, $owner:ty $(, $($generic:tt)+)?) => {
        impl $(<$($generic)+>)? AsElements for $owner {
            fn as_elements(&mut self) -> Elements<'_> {
                Elements::$variant(self)
            }
        }
    };
}

slices_of!(f32, F32);
slices_of!(f64, F64);
#[cfg(feature = "half")]
slices_of!(f16, F16);
#[cfg(feature = "half")]
slices_of!(bf16, Bf16);

impl Elements<'_> {
    /// Sets non-finite elements to zero.
    pub(crate) fn zero_non_finite(&mut self) {
        for_each_type!(Elements, self, values => for value in values.iter_mut() {
            if !value.is_finite() {
                *value = Element::from_f64(0.0);
            }
        });
    }

    /// Divides each element, rounding once.
    pub(crate) fn divide(&mut self, divisor: f64) {
        for_each_type!(Elements, self, values => for value in values.iter_mut() {
            *value = Element::from_f64(value.to_f64() / divisor);
        });
    }

    /// Adds `other` element by element, rounding once.
    ///
    /// # Panics
    ///
    /// If the two differ in type or length.
    pub fn add(&mut self, other: &Elements<'_>) {
        fn add<E: Element>(sums: &mut [E], terms: &[E]) {
            assert_eq!(sums.len(), terms.len(), "tensors of different length");
            for (sum, term) in sums.iter_mut().zip(terms) {
                *sum = E::from_f64(sum.to_f64() + term.to_f64());
            }
        }
        match (self, other) {
            (Elements::F32(sums), Elements::F32(terms)) => add(sums, terms),
            (Elements::F64(sums), Elements::F64(terms)) => add(sums, terms),
            #[cfg(feature = "half")]
            (Elements::F16(sums), Elements::F16(terms)) => add(sums, terms),
            #[cfg(feature = "half")]
            (Elements::Bf16(sums), Elements::Bf16(terms)) => add(sums, terms),
            _ => panic!("tensors of different storage types"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AsElements;

    #[test]
    fn zeroing_changes_only_non_finite_elements() {
        let mut values = [
            f32::NAN,
            -0.0,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::from_bits(1),
        ];
        values.as_elements().zero_non_finite();
        let bits = values.map(f32::to_bits);
        let expected = [0.0_f32, -0.0, 0.0, f32::MAX, f32::from_bits(1)].map(f32::to_bits);
        assert_eq!(bits, expected);
    }

    #[test]
    fn adding_rounds_once() {
        let (mut sum, mut term) = ([1.0_f32, -0.5], [f32::EPSILON / 2.0, 0.5]);
        sum.as_elements().add(&term.as_elements());
        assert_eq!(sum, [1.0, 0.0]);
    }
}

#[cfg(all(test, feature = "half"))]
mod half_tests {
    use half::{bf16, f16};

    use super::Element;

    /// Every tie between two neighbours, and the doubles next to it, which rounding through `f32`
    /// gets wrong.
    #[test]
    fn half_precision_is_rounded_once() {
        for bits in 0..f16::INFINITY.to_bits() - 1 {
            let (low, high) = (f16::from_bits(bits), f16::from_bits(bits + 1));
            let tie = (low.to_f64() + high.to_f64()) / 2.0;
            let even = if bits % 2 == 0 { low } else { high };
            assert_eq!(<f16 as Element>::from_f64(tie), even, "{tie:e}");
            assert_eq!(<f16 as Element>::from_f64(tie.next_down()), low, "{tie:e}");
            assert_eq!(<f16 as Element>::from_f64(tie.next_up()), high, "{tie:e}");
            assert_eq!(<f16 as Element>::from_f64(-tie.next_up()), -high, "{tie:e}");
        }
    }

    #[test]
    fn bf16_is_rounded_once() {
        for bits in 0..bf16::INFINITY.to_bits() - 1 {
            let (low, high) = (bf16::from_bits(bits), bf16::from_bits(bits + 1));
            let tie = (low.to_f64() + high.to_f64()) / 2.0;
            let even = if bits % 2 == 0 { low } else { high };
            assert_eq!(<bf16 as Element>::from_f64(tie), even, "{tie:e}");
            assert_eq!(<bf16 as Element>::from_f64(tie.next_down()), low, "{tie:e}");
            assert_eq!(
                <bf16 as Element>::from_f64(-tie.next_up()),
                -high,
                "{tie:e}"
            );
        }
    }
}
