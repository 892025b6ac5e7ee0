//! `shears train --tui`, where it is refused. What it draws is tested beside the code that draws.

use crate::program::{Scratch, TINY, has};

#[test]
fn it_needs_a_terminal_of_its_own() {
    let scratch = Scratch::new();
    for (flags, part) in [
        ("--tui", "standard output is not one"),
        ("--tui --json", "--tui and --json exclude each other"),
        ("--tui --quiet", "--tui and --quiet exclude each other"),
    ] {
        let message = scratch
            .run(&format!("train {TINY} {flags} --out run"))
            .failed(2);
        has(&message, part);
        assert!(scratch.listing().is_empty());
    }
}
