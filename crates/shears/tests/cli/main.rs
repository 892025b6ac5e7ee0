//! The program as a user meets it: each test runs the binary in a folder of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
#[path = "../../../shears-dash/tests/chromium.rs"]
#[allow(dead_code, reason = "the tests of the page's crate do more with it")]
mod chromium;
mod clip;
mod clip_refused;
mod clip_steps;
mod commands;
mod compare;
mod config;
mod dash;
mod demo;
mod export;
mod export_model;
mod hostile;
mod init_from;
mod injected;
mod logs;
mod memory;
mod messages;
mod newest;
mod program;
mod ranks;
mod ranks_faults;
mod replay;
mod resume;
mod resume_changed;
mod resume_refused;
mod settings;
mod signals;
mod soak;
mod sweep;
mod tensorboard;
mod text;
mod tui;
mod verdicts;
