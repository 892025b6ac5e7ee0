//! The model card: facts about a model, in the README.md beside its weights.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value};

use crate::beside::write_text;
use crate::error::ExchangeError;

/// Facts about a run, in order.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// The title.
    pub name: String,
    /// Facts by name: the text and its hash, the settings, the loss, the clipping and its verdict.
    pub facts: Vec<(String, String)>,
}

impl Card {
    /// The facts as JSON, for a config that preserves unknown keys.
    pub(crate) fn json(&self) -> Value {
        let facts = self.facts.iter();
        let facts = facts.map(|(name, value)| (name.clone(), value.clone().into()));
        Value::Object(facts.collect::<Map<_, _>>())
    }

    /// Writes README.md: `head` is the metadata for the format's hub, and `usage` says how to use
    /// the files in the folder.
    pub(crate) fn write(
        &self,
        folder: &Path,
        head: &str,
        usage: &str,
    ) -> Result<(), ExchangeError> {
        let mut text = String::new();
        if !head.is_empty() {
            let _ = writeln!(text, "---\n{head}---\n");
        }
        let _ = writeln!(text, "# {}\n\n{}\n", self.name, usage.trim());
        let _ = writeln!(text, "## How it was trained\n\n| | |\n|---|---|");
        for (name, value) in &self.facts {
            // A line break or a bar would end the cell.
            let value = value.replace('\n', " ").replace('|', "\\|");
            let _ = writeln!(text, "| {name} | {value} |");
        }
        write_text(folder, "README.md", &text)
    }
}
