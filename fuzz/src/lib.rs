//! Runs the fuzz targets of the tests under libFuzzer.

#![allow(clippy::unwrap_used, reason = "a fuzzer fails by panicking")]

use std::cell::RefCell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use fuzzing::Target;

// What the targets use.
#[path = "../../crates/gradclip/tests/fuzzing.rs"]
mod fuzzing;
#[path = "../../crates/shears-dash/tests/run_folder.rs"]
#[allow(dead_code, reason = "the targets use a part")]
mod run_folder;
#[path = "../../crates/shears-train/tests/tiny.rs"]
#[allow(dead_code, reason = "the targets use a part")]
mod tiny;

// The targets.
#[path = "../../crates/shears-dash/tests/fuzz.rs"]
mod of_dash;
#[path = "../../crates/shears-data/tests/fuzz.rs"]
mod of_data;
#[path = "../../crates/shears-exchange/tests/tests/fuzz.rs"]
mod of_exchange;
#[path = "../../crates/gradclip/tests/fuzz.rs"]
mod of_gradclip;
#[path = "../../crates/shears/src/fuzz.rs"]
mod of_shears;
#[path = "../../crates/shears-train/tests/fuzz.rs"]
mod of_train;

// The command line is no library: these are its files that the targets need.
#[path = "../../crates/shears/src/exit.rs"]
#[allow(dead_code, reason = "the targets use a part")]
mod exit;
#[path = "../../crates/shears/src/gradient_files.rs"]
#[allow(dead_code, reason = "the targets use a part")]
mod gradient_files;
#[path = "../../crates/shears/src/input.rs"]
#[allow(dead_code, reason = "the targets use a part")]
mod input;
#[path = "../../crates/shears/src/leave.rs"]
mod leave;
#[path = "../../crates/shears/src/new_file.rs"]
#[allow(dead_code, reason = "the targets use a part")]
mod new_file;
#[path = "../../crates/shears/src/output.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the targets use a part"
)]
mod output;
#[path = "../../crates/shears/src/settings.rs"]
#[allow(dead_code, reason = "the targets use a part")]
mod settings;

/// There is no screen.
mod screen {
    pub(crate) fn leave() {}
}

fn target(name: &str) -> Target {
    match name {
        "policy_text" => of_gradclip::policy_text(),
        "clipper_state" => of_gradclip::clipper_state(),
        "tokenizer_json" => of_data::tokenizer_json(),
        "text" => of_data::text(),
        "log" => of_train::log(),
        "plan" => of_train::plan(),
        "checkpoint_manifest" => of_train::checkpoint_manifest(),
        "checkpoint_state" => of_train::checkpoint_state(),
        "checkpoint_tensors" => of_train::checkpoint_tensors(),
        "page" => of_dash::page(),
        "request" => of_dash::request(),
        "gradients" => of_shears::gradients(),
        "config" => of_shears::config(),
        "gpt2_config" => of_exchange::gpt2_config(),
        "llama_config" => of_exchange::llama_config(),
        "llama_weights" => of_exchange::llama_weights(),
        "torch_archive" => of_exchange::torch_archive(),
        "torch_pickle" => of_exchange::torch_pickle(),
        _ => panic!("no such target: {name}"),
    }
}

thread_local! {
    /// The target of this program. The fuzzer has one thread.
    static TARGET: RefCell<Option<Target>> = const { RefCell::new(None) };
}

/// What the last panic of any thread said, and where.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Sets the target up, and writes its seeds into the folder that `cargo fuzz` takes its corpus
/// from, before the fuzzer reads it.
pub fn set_up(name: &str) {
    // The fuzzer's own hook ends the process at panics that the code catches, too.
    std::panic::set_hook(Box::new(|panic| *PANIC.lock().unwrap() = panic.to_string()));
    let target = target(name);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    fs::create_dir_all(&corpus).unwrap();
    for (index, seed) in target.seeds.iter().enumerate() {
        fs::write(corpus.join(format!("seed-{index}")), seed).unwrap();
    }
    TARGET.set(Some(target));
}

/// Runs the target on an input.
pub fn check(input: &[u8]) {
    TARGET.with_borrow_mut(|target| {
        let body = &mut target.as_mut().unwrap().body;
        if catch_unwind(AssertUnwindSafe(|| body(input))).is_err() {
            eprintln!("{}", PANIC.lock().unwrap());
            std::process::abort();
        }
    });
}

/// The program of a target.
#[macro_export]
macro_rules! run {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(init: $crate::set_up($name), |input: &[u8]| $crate::check(input));
    };
}
