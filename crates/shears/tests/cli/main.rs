//! The program as a user meets it: each test runs the binary in a folder of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod clip;
mod clip_refused;
mod commands;
mod compare;
mod config;
mod experiment;
mod export_events;
mod program;
mod replay;
mod resume;
mod resume_refused;
mod tensorboard;
mod text;
mod tui;
