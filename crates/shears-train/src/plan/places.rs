//! Where the text of a run is.
//!
//! A plan has the paths as they were typed, which is what is shown, and beside them the folder that
//! they were typed in (`paths-from`). A relative path is looked for there first, and then where the
//! program runs: a run is gone on with from anywhere, also when it was moved with its text to
//! another machine. It makes no difference which of them is read, because the text must have the
//! hash of the plan.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Plan;

/// What stands for the standard input.
const STANDARD_INPUT: &str = "-";

impl Plan {
    /// Where a path of the plan leads to from where the program runs.
    pub fn located(&self, path: &Path) -> PathBuf {
        located(path, self.paths_from.as_deref())
    }

    /// Notes that relative paths were typed where the program runs.
    pub fn note_where_typed(&mut self) {
        self.paths_from = match self
            .text
            .iter()
            .chain(&self.val)
            .chain(&self.init_from)
            .any(|path| is_relative(path))
        {
            // A path that is no text cannot stand in a plan.
            true => std::env::current_dir()
                .ok()
                .filter(|folder| folder.to_str().is_some()),
            false => None,
        };
    }

    /// Puts the paths of another plan of the run in place of those of this one: `text` and `val`
    /// are those that were typed where the program runs, and the others lead to where they did.
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

    /// Makes the paths of a stored plan, which serves as a config, lead to the same texts from
    /// where the program runs.
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
    fn a_path_leads_to_where_it_was_typed_and_else_to_here() {
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

        // The validation text is moved, and the text stays where it is.
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
