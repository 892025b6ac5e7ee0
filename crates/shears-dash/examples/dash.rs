//! The live page alone, without the trainer:
//! `cargo run --release -p shears-dash --example dash -- FOLDER [--port PORT]`. The text of a batch
//! and the presets are known to `shears dash` only.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::ops::ControlFlow;
use std::sync::Arc;

use shears_dash::{Options, serve};

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options {
        folder: "runs".into(),
        host: Ipv4Addr::LOCALHOST.into(),
        port: 7878,
        presets: BTreeMap::new(),
        batch_text: Arc::new(|_, _| Err("this program has no tokenizer; `shears dash` has".into())),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--port" => options.port = arguments.next().ok_or("--port needs a number")?.parse()?,
            folder => options.folder = folder.into(),
        }
    }
    serve(options, |address| {
        println!("{address}");
        ControlFlow::Continue(())
    })?;
    Ok(())
}
