//! Fused CPU operations.

mod buffer;
mod cpu;
