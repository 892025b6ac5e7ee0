//! The runs of a folder: finds and names them, and caches what was read of them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use shears_run::{
    Columns, Glance, LOG, LockWatch, Log, LogSample, PLAN, ReadProgress, RunError, Subject,
    line_at, read_plan,
};

use crate::digest::{Digest, DigestCache};
use crate::state::RunState;

/// How deep runs are searched below the folder.
const DEPTH: usize = 4;
/// Bytes of a log that are read before other threads get to look at it.
const CHUNK: u64 = 4 << 20;
/// The memory for the columns of all runs. The least recently used are dropped first, and read
/// again when somebody asks for them.
const MEMORY: usize = 1 << 30;
/// Its lock shows whether somebody trains the run.
const LOCK: &str = ".lock";
/// Logs of at least this length are sampled before they are read.
const SAMPLED_FROM: u64 = 16 << 20;
/// The number of positions in a sample.
const SAMPLES: u64 = 512;
/// The files of the report of a sweep or a comparison.
const REPORT: [&str; 2] = ["report.html", "report.json"];
/// The name of the folder itself, if it is a run.
pub(crate) const ITSELF: &str = ".";

/// The last glance at a run, kept until its log changes.
#[derive(Debug, Default)]
pub(crate) struct GlanceCache(Mutex<Option<Arc<Glance>>>);

impl GlanceCache {
    /// Reads the end of the log at `path`, if it has changed.
    fn look(&self, path: &Path) -> Arc<Glance> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(glance) = kept.as_ref().filter(|glance| glance.is_of(path)) {
            return glance.clone();
        }
        kept.insert(Arc::new(Glance::at(path))).clone()
    }
}

/// A run, and what was read of it.
#[derive(Debug)]
pub(crate) struct Run {
    /// The path below the folder, with `/` as separator.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    log: Mutex<Log>,
    /// A sample of the log, until the log has been read to its end.
    sample: Mutex<Option<Arc<Columns>>>,
    /// Only one thread at a time reads the log; it lets others look between two chunks.
    reading: Mutex<()>,
    lock: LockWatch,
    glance: GlanceCache,
    pub(crate) digest: DigestCache,
    /// When somebody last asked for the run, by the clock of `Runs`.
    used: AtomicU64,
}

impl Run {
    fn new(name: String, path: PathBuf) -> Run {
        Run {
            log: Mutex::new(Log::new(path.join(LOG))),
            name,
            path,
            sample: Mutex::default(),
            reading: Mutex::default(),
            lock: LockWatch::default(),
            glance: GlanceCache::default(),
            digest: DigestCache::default(),
            used: AtomicU64::new(0),
        }
    }

    /// The path of a file of the run. Unless it is absent, it must be a regular file below the
    /// run's folder: a pipe or a device may block or be endless, and a link out of the folder would
    /// show what nobody meant to show.
    pub(crate) fn file(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        let inside = match fs::canonicalize(&path) {
            Ok(inside) => inside,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        };
        let refused = |why| Err(io::Error::other(format!("{name} {why}")));
        if !inside.starts_with(fs::canonicalize(&self.path)?) {
            return refused("is a link out of the run's folder");
        }
        match fs::metadata(&inside)?.is_file() {
            true => Ok(path),
            false => refused("is not a regular file"),
        }
    }

    /// The end of the log.
    pub(crate) fn glance(&self) -> Arc<Glance> {
        let path = self.file(LOG);
        path.map_or_else(|_| Arc::default(), |path| self.glance.look(&path))
    }

    /// The plan, or why it cannot be read.
    pub(crate) fn plan(&self) -> Result<toml::Table, String> {
        self.file(PLAN).map_err(|error| error.to_string())?;
        read_plan(&self.path)
    }

    /// The input of the run's judgement besides its log.
    pub(crate) fn subject(&self) -> Subject {
        let plan = self.plan();
        plan.map_or_else(|_| Subject::default(), |_| Subject::of(&self.path))
    }

    /// The line of the log at this offset.
    pub(crate) fn line(&self, offset: u64) -> io::Result<Vec<u8>> {
        line_at(&self.file(LOG)?, offset)
    }

    /// Looks at the log, as far as it has been read.
    pub(crate) fn with_log<T>(&self, look: impl FnOnce(&mut Log) -> T) -> T {
        look(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads what is new in the log, for at most `patience`.
    pub(crate) fn read(&self, patience: Duration) -> Result<ReadProgress, RunError> {
        let started = Instant::now();
        let failed = RunError::io("read", &self.path.join(LOG));
        self.file(LOG).map_err(failed)?;
        let _reading = match self.reading.try_lock() {
            Err(TryLockError::WouldBlock) => {
                // Another thread is reading it.
                std::thread::sleep(patience.min(Duration::from_millis(50)));
                return Ok(self.reach());
            }
            Err(TryLockError::Poisoned(reading)) => reading.into_inner(),
            Ok(reading) => reading,
        };
        loop {
            let reach = self.with_log(|log| log.advance(CHUNK))?;
            if reach.complete || started.elapsed() >= patience {
                return Ok(reach);
            }
            // A mutex is not fair: give waiting threads a chance.
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Looks at the columns of the whole log, or of a sample of it if the log is long and has never
    /// been read to its end.
    pub(crate) fn with_columns<T>(
        &self,
        reach: ReadProgress,
        look: impl FnOnce(&Columns) -> T,
    ) -> T {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        if reach.complete || reach.length < SAMPLED_FROM {
            *sample = None;
            drop(sample);
            return self.with_log(|log| look(&log.columns));
        }
        if sample.is_none() {
            let path = self.file(LOG).ok();
            let found = path.and_then(|path| LogSample::of(&path, SAMPLES).ok());
            *sample = found.map(|found| Arc::new(found.columns));
        }
        let kept = sample.clone();
        drop(sample);
        match kept {
            Some(columns) => look(&columns),
            None => self.with_log(|log| look(&log.columns)),
        }
    }

    /// How far the log has been read.
    fn reach(&self) -> ReadProgress {
        let read = self.with_log(|log| log.position());
        let length = fs::metadata(self.path.join(LOG)).map_or(0, |metadata| metadata.len());
        ReadProgress {
            read,
            length: length.max(read),
            complete: read >= length,
        }
    }

    /// The state of the run, from the end of its log and from its lock.
    pub(crate) fn state(&self, glance: &Glance) -> RunState {
        let end = glance.end.as_ref().map(|end| end.how);
        let lives = || self.file(LOCK).is_ok() && self.lock.is_training(&self.path);
        RunState::of(end, end.is_none() && lives())
    }

    /// The last digest, if there is one.
    pub(crate) fn digest(&self) -> Option<Arc<Digest>> {
        self.digest.get()
    }
}

/// All runs below a folder.
#[derive(Debug)]
pub(crate) struct Runs {
    folder: PathBuf,
    known: RwLock<BTreeMap<String, Arc<Run>>>,
    started: Instant,
    /// See [`MEMORY`].
    memory: usize,
}

impl Runs {
    pub(crate) fn new(folder: PathBuf) -> Runs {
        Runs {
            folder,
            memory: MEMORY,
            known: RwLock::default(),
            started: Instant::now(),
        }
    }

    /// The folder whose runs these are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The names of the folders with a report of a sweep or a comparison.
    pub(crate) fn reports(&self) -> Vec<String> {
        let mut found = Found::default();
        walk(&self.folder, "", DEPTH, &mut found);
        let here = is_report(&self.folder).then(|| ITSELF.to_string());
        here.into_iter().chain(found.reports).collect()
    }

    /// The file of a report; `None` if there is none, or if the path leads out of the folder.
    pub(crate) fn report(&self, name: &str) -> Option<PathBuf> {
        let folder = self.reports().into_iter().find(|known| known == name)?;
        let file = self.folder.join(folder).join(REPORT[0]);
        let inside = fs::canonicalize(&file).ok()?;
        let below = inside.starts_with(fs::canonicalize(&self.folder).ok()?);
        (below && inside.is_file()).then_some(inside)
    }

    /// Searches for runs again, and returns all.
    pub(crate) fn all(&self) -> Vec<Arc<Run>> {
        let mut found = Found::default();
        if self.folder.join(PLAN).is_file() {
            found.runs.insert(ITSELF.to_string(), self.folder.clone());
        } else {
            walk(&self.folder, "", DEPTH, &mut found);
        }
        let found = found.runs;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| found.contains_key(name));
        for (name, path) in found {
            let run = || Arc::new(Run::new(name.clone(), path));
            known.entry(name.clone()).or_insert_with(run);
        }
        known.values().cloned().collect()
    }

    /// The run with a name, which is a path below the folder; `None` if there is no such run, or if
    /// the path leads out of the folder.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Run>> {
        let path = self.path_of(name)?;
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let run = known.get(name).cloned();
        drop(known);
        let run = run.unwrap_or_else(|| {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            let run = || Arc::new(Run::new(name.to_string(), path));
            known.entry(name.to_string()).or_insert_with(run).clone()
        });
        let now = self.started.elapsed().as_millis() as u64;
        run.used.store(now, Ordering::Relaxed);
        Some(run)
    }

    fn path_of(&self, name: &str) -> Option<PathBuf> {
        let is_run = |path: &Path| path.join(PLAN).is_file();
        if name == ITSELF {
            return is_run(&self.folder).then(|| self.folder.clone());
        }
        let parts = Path::new(name).components();
        let plain = parts.clone().all(|part| {
            matches!(part, Component::Normal(part) if !part.to_string_lossy().starts_with('.'))
        });
        let again: Vec<_> = parts
            .map(|part| part.as_os_str().to_string_lossy())
            .collect();
        // One name for each run: no `a//b`, no `a/./b`, no `\`.
        if !plain || name.is_empty() || name.contains(['\\', '\0']) || again.join("/") != name {
            return None;
        }
        let path = self.folder.join(name);
        let inside = fs::canonicalize(&path).ok()?;
        let folder = fs::canonicalize(&self.folder).ok()?;
        (inside.starts_with(folder) && is_run(&path)).then_some(path)
    }

    /// Keeps the memory for columns within its limit.
    pub(crate) fn forget_unused(&self) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut runs: Vec<(u64, usize, Arc<Run>)> = known
            .values()
            .map(|run| {
                let bytes = run.with_log(|log| log.columns.bytes());
                (run.used.load(Ordering::Relaxed), bytes, run.clone())
            })
            .filter(|(_, bytes, _)| *bytes > 0)
            .collect();
        drop(known);
        runs.sort_by_key(|(used, ..)| *used);
        let mut total: usize = runs.iter().map(|(_, bytes, _)| bytes).sum();
        // The last one stays, however large: it is the one somebody looks at.
        let newest = runs.len().saturating_sub(1);
        for (_, bytes, run) in runs.into_iter().take(newest) {
            if total <= self.memory {
                return;
            }
            run.with_log(Log::reset);
            total -= bytes;
        }
    }
}

/// What was found below a folder.
#[derive(Default)]
struct Found {
    runs: BTreeMap<String, PathBuf>,
    reports: Vec<String>,
}

fn is_report(folder: &Path) -> bool {
    REPORT.iter().all(|name| folder.join(name).is_file())
}

fn walk(folder: &Path, name: &str, depth: usize, found: &mut Found) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        // Links are not followed: their targets are not below the folder.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let part = entry.file_name();
        let Some(part) = part
            .to_str()
            .filter(|part| is_folder && !part.starts_with('.'))
            // No name of a run on the page has these.
            .filter(|part| !part.contains(['\\', '\n']))
        else {
            continue;
        };
        let name = if name.is_empty() {
            part.to_string()
        } else {
            format!("{name}/{part}")
        };
        let path = entry.path();
        if path.join(PLAN).is_file() {
            found.runs.insert(name, path);
            continue;
        }
        if is_report(&path) {
            found.reports.push(name.clone());
        }
        if depth > 1 {
            walk(&path, &name, depth - 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_runs(names: &[&str]) -> (tempfile::TempDir, Runs) {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join("runs").join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("plan.toml"), "").unwrap();
        }
        let runs = Runs::new(folder.path().join("runs"));
        (folder, runs)
    }

    #[test]
    fn runs_are_found_at_any_depth_but_not_within_runs() {
        let (_folder, runs) = with_runs(&["a", "b/c", "a/checkpoints/d", ".hidden"]);
        let names: Vec<String> = runs.all().iter().map(|run| run.name.clone()).collect();
        assert_eq!(names, ["a", "b/c"]);
        fs::remove_dir_all(runs.folder().join("a")).unwrap();
        assert_eq!(runs.all().len(), 1);
    }

    #[test]
    fn no_name_escapes_the_folder() {
        let (folder, runs) = with_runs(&["a", "b/c"]);
        fs::write(folder.path().join("plan.toml"), "").unwrap();
        for name in ["a", "b/c"] {
            assert!(runs.get(name).is_some(), "{name}");
        }
        let absolute = runs.folder().join("a").to_string_lossy().to_string();
        let outside = [
            "", ".", "..", "../", "a/..", "a/../a", "./a", "a/", "b//c", "b/./c", "/etc", "b", "x",
            "a\\..", "a\0", "%2e%2e", &absolute,
        ];
        for name in outside {
            assert!(runs.get(name).is_none(), "{name:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_that_leave_the_folder_are_not_runs() {
        let (folder, runs) = with_runs(&["a"]);
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir_all(&elsewhere).unwrap();
        fs::write(elsewhere.join("plan.toml"), "").unwrap();
        std::os::unix::fs::symlink(&elsewhere, runs.folder().join("link")).unwrap();
        assert!(runs.get("link").is_none());
        assert_eq!(runs.all().len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_below_the_run_are_read() {
        use std::os::unix::fs::symlink;
        use std::process::Command;

        let (folder, runs) = with_runs(&["a"]);
        let run = runs.get("a").unwrap();
        assert!(run.read(Duration::ZERO).unwrap().complete, "no log yet");
        let log = run.path.join(LOG);
        let refused = || run.read(Duration::ZERO).is_err() && run.glance().step.is_none();

        symlink("/dev/zero", &log).unwrap();
        assert!(refused() && run.line(0).is_err());
        fs::remove_file(&log).unwrap();
        if Command::new("mkfifo")
            .arg(&log)
            .status()
            .is_ok_and(|status| status.success())
        {
            assert!(refused(), "it would wait for a writer");
            fs::remove_file(&log).unwrap();
        }
        let secret = folder.path().join("secret");
        fs::write(&secret, "{}").unwrap();
        symlink(&secret, &log).unwrap();
        assert!(refused());
        fs::remove_file(&log).unwrap();
        fs::write(run.path.join("other.jsonl"), "").unwrap();
        symlink("other.jsonl", &log).unwrap();
        assert!(run.read(Duration::ZERO).is_ok(), "a link within the folder");

        fs::remove_file(run.path.join(PLAN)).unwrap();
        symlink(&secret, run.path.join(PLAN)).unwrap();
        assert!(run.plan().unwrap_err().contains("link out of"));
        fs::remove_file(run.path.join(PLAN)).unwrap();
        fs::write(run.path.join(PLAN), vec![b' '; (1 << 20) + 1]).unwrap();
        assert!(run.plan().unwrap_err().contains("over"));
    }

    #[test]
    fn memory_is_bounded_with_finished_runs_too() {
        let (_folder, mut runs) = with_runs(&["a", "b", "c"]);
        let line = |step| format!("{{\"event\":\"sample\",\"step\":{step},\"text\":\"x\"}}\n");
        let log: String = (1..=100).map(line).collect();
        for run in runs.all() {
            fs::write(run.path.join(LOG), &log).unwrap();
            assert!(run.read(Duration::from_secs(9)).unwrap().complete);
        }
        let held = |runs: &Runs| -> Vec<usize> {
            let all = runs.all();
            all.iter()
                .map(|run| run.with_log(|log| log.columns.samples.len()))
                .collect()
        };
        runs.forget_unused();
        assert_eq!(held(&runs), [100, 100, 100]);
        runs.memory = 5000;
        std::thread::sleep(Duration::from_millis(5));
        runs.get("b").unwrap();
        runs.forget_unused();
        assert_eq!(held(&runs), [0, 100, 0], "the one last asked for stays");
    }

    #[test]
    fn a_folder_that_is_a_run_shows_itself() {
        let (_folder, runs) = with_runs(&["a"]);
        let alone = Runs::new(runs.folder().join("a"));
        assert_eq!(alone.all()[0].name, ".");
        assert!(alone.get(".").is_some());
    }
}
