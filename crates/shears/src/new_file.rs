//! A file that appears under its name whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::exit::Misuse;

/// Refuses a name that is taken.
pub(crate) fn check(out: &Path, force: bool) -> Result<(), Misuse> {
    let refuse = |problem: &str| Err(Misuse(format!("--out {}: {problem}", out.display())));
    match out.symlink_metadata() {
        Ok(found) if found.is_dir() => refuse("is a folder; give the name of a file"),
        Ok(_) if !force => refuse("is there already; choose another name, or give --force"),
        _ => Ok(()),
    }
}

/// Writes a file whole or not at all, over one that may be there.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = NewFile::beside(path)?;
    let written = file.writer().write_all(text.as_bytes());
    written.with_context(|| format!("cannot write {}", path.display()))?;
    file.put_in_place(path, true)
}

/// A file under a name for the time being, which is removed unless it is put in place.
pub(crate) struct NewFile {
    path: PathBuf,
    file: File,
}

impl NewFile {
    /// A new file in the folder of `out`.
    pub(crate) fn beside(out: &Path) -> anyhow::Result<NewFile> {
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.tmp", std::process::id()));
        let path = out.with_file_name(name);
        let file =
            File::create_new(&path).with_context(|| format!("cannot write {}", out.display()))?;
        Ok(NewFile { path, file })
    }

    pub(crate) fn writer(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, which may have been taken while it was written.
    pub(crate) fn put_in_place(self, out: &Path, force: bool) -> anyhow::Result<()> {
        check(out, force)?;
        let moved = self
            .file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, out));
        moved.with_context(|| format!("cannot write {}", out.display()))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After it was put in place there is nothing under this name.
        let _ = fs::remove_file(&self.path);
    }
}
