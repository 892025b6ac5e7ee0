//! The integration tests of `gradclip`, as one binary.

mod bits;
mod exact;
mod extremes;
mod non_finite;
mod policy;
mod properties;
mod support;
mod verdict;
