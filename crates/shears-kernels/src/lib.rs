//! Fused CPU operations.

mod buffer;
mod cpu;
mod math;
mod matmul;
