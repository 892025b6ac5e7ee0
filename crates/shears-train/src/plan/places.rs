//! The location of a run's text.
//!
//! A plan stores paths as typed, for display, and the folder that they are relative to
//! (`paths-from`). A relative path is looked up there first, then in the current folder, so that a
//! run can be resumed from anywhere, even after moving it and its text to another machine. Which
//! file is read does not matter, because its hash must match the plan.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Plan;

/// The path that means standard input.
const STANDARD_INPUT: &str = "-";

impl Plan {
    /// Resolves a path of the plan from the current folder.
    pub fn located(&self, path: &Path) -> PathBuf {
        located(path, self.paths_from.as_deref())
    }

    /// Records that relative paths are relative to the current folder.
    pub fn note_where_typed(&mut self) {
        self.paths_from = match self
            .text
            .iter()
            .chain(&self.val)
            .chain(&self.init_from)
            .any(|path| is_relative(path))
        {
            // A plan cannot store a path that is not UTF-8.
            true => std::env::current_dir()
                .ok()
                .filter(|folder| folder.to_str().is_some()),
            false => None,
        };
    }

    /// Replaces paths by those of `typed`: the text if `text`, the validation text if `val`,
    /// relative to the current folder. Other paths still refer to the same files.
    pub fn relocate(&mut self, typed: &Plan, text: bool, val: bool) {
        let before = self.clone();
        let stay = |path: &PathBuf| match is_relative(path) {
            true => std::path::absolute(before.located(path)).unwrap_or_else(|_| path.clone()),
            false => path.clone(),
        };
        self.text = match text {
            true => typed.text.clone(),
            false => before.text.iter().map(stay).collect(),
        };
        self.val = match val {
            true => typed.val.clone(),
            false => before.val.as_ref().map(stay),
        };
        self.note_where_typed();
    }

    /// Makes the paths of a stored plan that is used as a config refer to the same files from the
    /// current folder.
    pub fn locate_stored(table: &mut Table) {
        let folder = match table.get(super::stored::PATHS_FROM) {
            Some(Value::String(folder)) => PathBuf::from(folder),
            _ => return,
        };
        let here = |value: &mut Value| {
            if let Value::String(path) = value
                && let Some(there) = located(Path::new(path), Some(&folder)).to_str()
            {
                *path = there.to_string();
            }
        };
        if let Some(Value::Array(paths)) = table.get_mut("text") {
            paths.iter_mut().for_each(here);
        }
        for name in ["val", "init-from"] {
            table.get_mut(name).map(here);
        }
    }
}

fn is_relative(path: &Path) -> bool {
    path.is_relative() && path.as_os_str() != STANDARD_INPUT
}

fn located(path: &Path, folder: Option<&Path>) -> PathBuf {
    let Some(folder) = folder.filter(|_| is_relative(path)) else {
        return path.to_path_buf();
    };
    let is_here = std::env::current_dir().is_ok_and(|here| here == folder);
    let there = folder.join(path);
    match !is_here && there.exists() {
        true => there,
        false => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Preset;

    #[test]
    fn paths_resolve_against_the_folder_where_they_were_typed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), "a").unwrap();
        let mut plan = Plan {
            text: vec!["a.txt".into(), "b.txt".into(), "/c.txt".into()],
            ..Preset::Lstm128.plan()
        };
        assert_eq!(plan.located(&plan.text[0]), Path::new("a.txt"));
        plan.paths_from = Some(folder.path().to_path_buf());
        let found: Vec<PathBuf> = plan.text.iter().map(|path| plan.located(path)).collect();
        let there = folder.path().join("a.txt");
        assert_eq!(found, [there.clone(), "b.txt".into(), "/c.txt".into()]);
        assert_eq!(plan.located(Path::new("-")), Path::new("-"));

        let mut table = Table::try_from(&plan).unwrap();
        Plan::locate_stored(&mut table);
        assert_eq!(table["text"][0].as_str(), there.to_str());
        assert_eq!(table["text"][1].as_str(), Some("b.txt"));

        // Relocates the validation text only.
        let val = Some(PathBuf::from("new.txt"));
        let typed = Plan {
            val,
            ..plan.clone()
        };
        plan.relocate(&typed, false, true);
        assert_eq!(plan.text[0], there);
        assert_eq!(plan.val, typed.val);
        assert_eq!(plan.paths_from, std::env::current_dir().ok());
        plan.text = vec!["-".into()];
        plan.val = None;
        plan.note_where_typed();
        assert_eq!(plan.paths_from, None);
    }
}
