//! The integration tests of `gradclip-judge`, as one binary.

mod replay;
mod verdict;
