//! The integration tests of `gradclip-judge`, as one binary.

mod flow;
mod replay;
mod verdict;
