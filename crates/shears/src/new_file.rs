//! Writing a file that appears under its name whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use shears_run::{DAMAGED, INPUT, LOG, PLAN, folder_of, sync_folder};
use tempfile::NamedTempFile;

use crate::exit::{Misuse, misuse};

/// Refuses a name that is taken, and files that even `force` must not replace.
pub(crate) fn check(out: &Path, force: bool) -> Result<(), Misuse> {
    let refuse = |problem: &str| Err(Misuse(format!("--out {}: {problem}", out.display())));
    if is_of_a_run(out) {
        return refuse("is a file of a run; choose another name");
    }
    match out.symlink_metadata() {
        Ok(found) if found.is_dir() => refuse("is a folder; give the name of a file"),
        Ok(found) if is_special(out, &found) => {
            refuse("is not a regular file; choose another name")
        }
        Ok(_) if !force => refuse("already exists; choose another name, or give --force"),
        _ => Ok(()),
    }
}

/// Refuses a folder to write to unless it is empty, does not exist, or has one of these files.
pub(crate) fn check_folder(out: &Path, marks: &[&str]) -> Result<(), Misuse> {
    let shown = out.display();
    if out.symlink_metadata().is_ok() && !out.is_dir() {
        misuse!("--out {shown}: is not a folder");
    }
    let empty = out.read_dir().is_ok_and(|mut all| all.next().is_none());
    let marked = marks.iter().any(|mark| out.join(mark).is_file());
    if out.exists() && !empty && !marked {
        misuse!("{shown} contains other files; choose another --out");
    }
    Ok(())
}

/// Whether what was found under a name is neither a regular file, nor a link to one or to nothing.
fn is_special(out: &Path, found: &fs::Metadata) -> bool {
    match found.is_symlink() {
        true => out.metadata().is_ok_and(|there| !there.is_file()),
        false => !found.is_file(),
    }
}

/// Whether a run needs this file: some names in a folder with a plan, and everything in a folder
/// with a manifest.
fn is_of_a_run(out: &Path) -> bool {
    let out = match (out.canonicalize(), folder_of(out).canonicalize()) {
        (Ok(there), _) => there,
        // A file that does not exist yet may have a name that the run beside it will use.
        (Err(_), Ok(folder)) => folder.join(out.file_name().unwrap_or_default()),
        (Err(_), Err(_)) => return false,
    };
    let folder = folder_of(&out);
    let name = out.file_name().unwrap_or_default();
    let own = [PLAN, LOG, DAMAGED, "tokenizer.json", INPUT, ".lock"];
    folder.join("manifest.json").is_file()
        || folder.join(PLAN).is_file() && own.iter().any(|own| name == *own)
}

/// Writes a file whole or not at all; replaces an existing one only with `force`.
pub(crate) fn write(out: &Path, bytes: impl AsRef<[u8]>, force: bool) -> anyhow::Result<()> {
    let file = NewFile::beside(out)?;
    let written = file.writer().write_all(bytes.as_ref());
    written.with_context(|| cannot_write(out))?;
    file.put_in_place(out, force)
}

/// A file under a temporary name, removed unless it is put in place.
pub(crate) struct NewFile(NamedTempFile);

impl NewFile {
    /// A new file in the folder of `out`.
    pub(crate) fn beside(out: &Path) -> anyhow::Result<NewFile> {
        let mut builder = tempfile::Builder::new();
        // A short name, because the name of `out` may already have the maximum length.
        builder.prefix(".shears-").suffix(".tmp");
        // Temporary files are 0600, which the file would keep; the umask applies to this mode.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder_of(out));
        Ok(NewFile(file.with_context(|| cannot_write(out))?))
    }

    pub(crate) fn writer(&self) -> &File {
        self.0.as_file()
    }

    /// Syncs the file and renames it, so that the name always has either the old or the whole new
    /// content. Without `force`, a file that has appeared there in the meantime is kept.
    pub(crate) fn put_in_place(self, out: &Path, force: bool) -> anyhow::Result<()> {
        let found = out.symlink_metadata();
        if found.is_ok_and(|found| is_special(out, &found)) {
            anyhow::bail!("{}: it exists and is not a regular file", cannot_write(out));
        }
        let synced = self.0.as_file().sync_all();
        let placed = synced.and_then(|()| match force {
            true => Ok(self.0.persist(out)?),
            false => Ok(self.0.persist_noclobber(out)?),
        });
        placed.with_context(|| cannot_write(out))?;
        let _ = sync_folder(folder_of(out));
        Ok(())
    }
}

fn cannot_write(out: &Path) -> String {
    format!("cannot write {}", out.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_a_killed_process_block_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("table.csv");
        let process = std::process::id();
        // Process numbers repeat, above all in containers.
        for stale in [
            format!("table.csv.{process}.tmp"),
            format!(".shears-{process}.tmp"),
        ] {
            fs::write(folder.path().join(stale), "half").unwrap();
        }
        write(&out, "whole", false).unwrap();
        assert_eq!(fs::read_to_string(&out).unwrap(), "whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn only_force_replaces_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("table.csv");
        write(&out, "first", false).unwrap();
        let error = write(&out, "second", false).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error:#}");
        assert_eq!(fs::read_to_string(&out).unwrap(), "first");
        write(&out, "second", true).unwrap();
        assert_eq!(fs::read_to_string(&out).unwrap(), "second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_file_of_a_run_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let checkpoint = path("checkpoints/step-00000001");
        fs::create_dir_all(&checkpoint).unwrap();
        for name in [
            "plan.toml",
            "events.jsonl",
            "checkpoints/step-00000001/manifest.json",
        ] {
            fs::write(path(name), "").unwrap();
        }
        for own in [
            path("plan.toml"),
            path("events.jsonl"),
            path("checkpoints/../tokenizer.json"),
            checkpoint.join("model.safetensors"),
        ] {
            let error = check(&own, true).unwrap_err().to_string();
            assert!(error.contains("is a file of a run"), "{error}");
        }
        check(&path("table.csv"), true).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn force_replaces_regular_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("table.csv");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for out in [Path::new("/dev/null"), &link] {
            let error = check(out, true).unwrap_err().to_string();
            assert!(error.contains("is not a regular file"), "{error}");
        }
        let error = write(&link, "table", true).unwrap_err().to_string();
        assert!(error.contains("is not a regular file"), "{error}");
        assert!(link.is_symlink());
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_has_the_default_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        let [ours, usual] = ["ours", "usual"].map(|name| folder.path().join(name));
        write(&ours, "", false).unwrap();
        fs::write(&usual, "").unwrap();
        assert_eq!(mode(&ours), mode(&usual));
    }
}
