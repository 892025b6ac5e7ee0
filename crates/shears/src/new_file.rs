//! Writing a file or folder that appears under its name whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use shears_run::{DAMAGED, INPUT, LOG, PLAN, folder_of, sync_folder};
use tempfile::{NamedTempFile, TempDir};

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

/// The path without links of a file that need not exist yet; `None` without its folder.
pub(crate) fn resolved(path: &Path) -> Option<PathBuf> {
    let in_folder = |_| {
        let folder = folder_of(path).canonicalize()?;
        Ok::<_, std::io::Error>(folder.join(path.file_name().unwrap_or_default()))
    };
    path.canonicalize().or_else(in_folder).ok()
}

/// Whether a run needs this file: some names in a folder with a plan, and everything in a folder
/// with a manifest.
fn is_of_a_run(out: &Path) -> bool {
    // A file that does not exist yet may have a name that the run beside it will use.
    let Some(out) = resolved(out) else {
        return false;
    };
    let folder = folder_of(&out);
    let name = out.file_name().unwrap_or_default();
    let own = [PLAN, LOG, DAMAGED, "tokenizer.json", INPUT, ".lock"];
    folder.join("manifest.json").is_file()
        || folder.join(PLAN).is_file() && own.iter().any(|own| name == *own)
}

/// Writes a file whole or not at all; replaces an existing one only with `force`.
pub(crate) fn write(out: &Path, bytes: impl AsRef<[u8]>, force: bool) -> anyhow::Result<()> {
    write_with(out, force, |mut file| file.write_all(bytes.as_ref()))
}

/// Like [`write()`], for content that is not in memory as a whole.
pub(crate) fn write_with(
    out: &Path,
    force: bool,
    write: impl FnOnce(&File) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let file = NewFile::beside(out)?;
    write(file.writer()).with_context(|| cannot_write(out))?;
    file.put_in_place(out, force)
}

/// The beginning and end of a temporary name. It is short, because the final one may already have
/// the maximum length.
const TEMPORARY: (&str, &str) = (".shears-", ".tmp");
/// Temporary files and folders are locked a moment after they are created.
const OLD: Duration = Duration::from_secs(60);

/// [`sweep`], for each folder at the first file of this process.
fn sweep_once(folder: &Path) {
    static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    // A set is consistent after every call.
    let mut swept = SWEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if swept.insert(folder.to_path_buf()) {
        sweep(folder);
    }
}

/// Removes from a folder what killed processes have left there: what nobody has locked.
fn sweep(folder: &Path) {
    let (start, end) = TEMPORARY;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(start) && name.ends_with(end) && is_left_over(&entry.path()) {
            remove(&entry.path());
        }
    }
}

fn is_left_over(path: &Path) -> bool {
    let Ok(found) = path.symlink_metadata() else {
        return false;
    };
    let age = found.modified().ok().and_then(|time| time.elapsed().ok());
    let is_old = age.is_some_and(|age| age > OLD);
    // Opening anything else could block.
    let is_plain = found.is_file() || found.is_dir();
    is_old && is_plain && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// Removes a temporary file or folder. If that fails, a later call does it.
pub(crate) fn remove(path: &Path) {
    let _ = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}

/// Keeps others from removing what is being written. Not every file system has locks, but on those
/// without, nothing is removed.
fn locked(file: &File) {
    let _ = file.try_lock();
}

/// A folder under a temporary name, removed unless it is put in place.
pub(crate) struct NewFolder {
    folder: TempDir,
    /// Locked while it is open; not every system opens folders.
    _lock: Option<File>,
}

impl NewFolder {
    /// A new folder beside `out`.
    pub(crate) fn beside(out: &Path) -> anyhow::Result<NewFolder> {
        sweep_once(folder_of(out));
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1);
        let folder = builder.tempdir_in(folder_of(out));
        let folder = folder.with_context(|| cannot_write(out))?;
        let lock = File::open(folder.path()).ok();
        lock.iter().for_each(locked);
        Ok(NewFolder {
            folder,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Syncs the files in it, and renames it.
    pub(crate) fn put_in_place(self, out: &Path) -> anyhow::Result<()> {
        let place = || -> std::io::Result<()> {
            open_to_all(self.path())?;
            for entry in fs::read_dir(self.path())? {
                File::open(entry?.path())?.sync_all()?;
            }
            sync_folder(self.path())?;
            fs::rename(self.path(), out)
        };
        place().with_context(|| cannot_write(out))?;
        // It has been renamed, so it must not be removed.
        let _ = self.folder.keep();
        let _ = sync_folder(folder_of(out));
        Ok(())
    }
}

/// Temporary folders are private; gives this one the permissions of any new folder.
fn open_to_all(folder: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let beside = folder.join(".mode");
        fs::create_dir(&beside)?;
        let mode = fs::metadata(&beside)?.permissions().mode();
        fs::remove_dir(&beside)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(mode))?;
    }
    let _ = folder;
    Ok(())
}

/// A file under a temporary name, removed unless it is put in place.
pub(crate) struct NewFile(NamedTempFile);

impl NewFile {
    /// A new file in the folder of `out`.
    pub(crate) fn beside(out: &Path) -> anyhow::Result<NewFile> {
        sweep_once(folder_of(out));
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1);
        // Temporary files are 0600, which the file would keep; the umask applies to this mode.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder_of(out));
        let file = file.with_context(|| cannot_write(out))?;
        locked(file.as_file());
        Ok(NewFile(file))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
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
        for leftover in [
            format!("table.csv.{process}.tmp"),
            format!(".shears-{process}.tmp"),
        ] {
            fs::write(folder.path().join(leftover), "half").unwrap();
        }
        write(&out, "whole", false).unwrap();
        assert_eq!(fs::read_to_string(&out).unwrap(), "whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    /// Ctrl-C and `kill -9` leave temporary files and folders; a process that writes has locked its
    /// own.
    #[cfg(unix)]
    #[test]
    fn leftovers_are_removed_by_the_next_call_unless_somebody_writes_them() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let out = path("table.csv");
        let (file, folder) = (NewFile::beside(&out).unwrap(), NewFolder::beside(&out));
        let folder = folder.unwrap();
        fs::create_dir(path(".shears-left.tmp")).unwrap();
        for name in [
            ".shears-left.tmp/half",
            ".shears-half.tmp",
            ".shears-new.tmp",
            ".other.tmp",
        ] {
            fs::write(path(name), "half").unwrap();
        }
        let earlier = std::time::SystemTime::now() - 2 * OLD;
        for old in [
            file.path(),
            folder.path(),
            &path(".shears-left.tmp"),
            &path(".shears-half.tmp"),
            &path(".other.tmp"),
        ] {
            File::open(old).unwrap().set_modified(earlier).unwrap();
        }
        sweep(scratch.path());
        let is_there = |name: &str| path(name).exists();
        assert!(!is_there(".shears-left.tmp") && !is_there(".shears-half.tmp"));
        assert!(is_there(".shears-new.tmp") && is_there(".other.tmp"));
        fs::write(folder.path().join("part"), "whole").unwrap();
        folder.put_in_place(&path("folder")).unwrap();
        assert_eq!(fs::read_to_string(path("folder/part")).unwrap(), "whole");
        file.put_in_place(&out, false).unwrap();
        assert!(out.exists());
    }

    #[test]
    fn only_force_replaces_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("table.csv");
        write(&out, "first", false).unwrap();
        let error = write(&out, "second", false).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error:#}");
        assert_eq!(fs::read_to_string(&out).unwrap(), "first");
        let opened = File::open(&out).unwrap();
        write(&out, "second", true).unwrap();
        assert_eq!(fs::read_to_string(&out).unwrap(), "second");
        // Whoever has opened the file reads the old one.
        assert_eq!(std::io::read_to_string(opened).unwrap(), "first");
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
