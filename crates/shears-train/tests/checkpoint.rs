//! Files on disk: checkpoints, events and the run folder, intact and damaged.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::tiny::{self, bits, events, step_event};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use shears_data::sha256_hex;
use shears_kernels::Elements;
use shears_model::{Architecture, Initializer, RecurrentModel, lstm};
use shears_run::{Evaluation, Event, EventLog, Header, Log};
use shears_train::{
    Checkpoint, CheckpointStore, NamedTensor, RestoreError, RunFolder, TrainError, load_parameters,
    module_tensors,
};
use tempfile::TempDir;

const FILES: [&str; 5] = [
    "model.safetensors",
    "optimizer.safetensors",
    "carried.safetensors",
    "state.json",
    "manifest.json",
];

/// A checkpoint of step `step` with parameters, moments and carried state.
fn checkpoint(step: u64) -> Checkpoint {
    let mut trainer = tiny::trainer::<RecurrentModel>(lstm, &tiny::plan(Architecture::Lstm));
    for _ in 0..2 {
        trainer.step().unwrap();
    }
    let mut checkpoint = trainer.checkpoint();
    assert!(!checkpoint.carried.is_empty() && !checkpoint.optimizer.is_empty());
    checkpoint.progress.step = step;
    checkpoint
}

struct Fixture {
    folder: TempDir,
    store: CheckpointStore,
}

impl Fixture {
    /// A store with checkpoints of these steps.
    fn with(steps: &[u64]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(folder.path());
        let mut checkpoint = checkpoint(0);
        for &step in steps {
            checkpoint.progress.step = step;
            store.save(&checkpoint).unwrap();
        }
        Fixture { folder, store }
    }

    fn path(&self, step: u64) -> PathBuf {
        self.folder.path().join(format!("step-{step:08}"))
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// The step that would be resumed, and the errors of newer checkpoints.
    fn newest(&self) -> (Option<u64>, Vec<RestoreError>) {
        let (found, damaged) = self.store.newest().unwrap();
        (
            found.map(|(_, checkpoint)| checkpoint.progress.step),
            damaged,
        )
    }
}

fn change(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn checkpoints_round_trip_bit_for_bit() {
    let fixture = Fixture::with(&[]);
    let mut saved = checkpoint(7);
    saved.progress.updates = 5;
    saved.progress.consecutive_skips = 2;
    saved.progress.val_loss = Some(1.0 / 3.0);
    saved.progress.best_val_loss = Some(0.1);
    saved.progress.stale_evaluations = 4;
    // Values that text or arithmetic could change.
    let odd = [f32::NAN, -0.0, f32::MIN_POSITIVE / 4.0, f32::INFINITY, 0.1];
    saved.optimizer.push(NamedTensor {
        name: "odd.first".to_string(),
        data: TensorData::new(odd.to_vec(), [5]),
    });
    let path = fixture.store.save(&saved).unwrap();
    assert_eq!(path, fixture.path(7));
    let loaded = fixture.store.load(&path).unwrap();
    assert_eq!(bits(&loaded), bits(&saved));
    assert_eq!(loaded.progress, saved.progress);
    assert_eq!(loaded.plan, saved.plan);
    let files: BTreeSet<String> = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, FILES.map(String::from).into());
}

#[test]
fn lazy_tensors_give_the_same_files() {
    let mut trainer = tiny::trainer::<RecurrentModel>(lstm, &tiny::plan(Architecture::Lstm));
    for _ in 0..2 {
        trainer.step().unwrap();
    }
    let [whole, lazy] = [Fixture::with(&[]), Fixture::with(&[])];
    let path = whole.store.save(&trainer.checkpoint()).unwrap();
    let other = lazy.store.save(trainer.snapshot()).unwrap();
    for file in FILES {
        let read = |path: &Path| fs::read(path.join(file)).unwrap();
        assert!(read(&path) == read(&other), "{file}");
    }
}

/// The error must name the file; for a changed manifest it may name a mismatching file.
#[track_caller]
fn check_damage(fixture: &Fixture, file: &str, what: &str) {
    let error = fixture.store.load(&fixture.path(2)).unwrap_err();
    assert!(error.path.starts_with(fixture.path(2)), "{error}");
    if file != "manifest.json" {
        assert_eq!(error.path, fixture.path(2).join(file), "{what}");
        assert!(error.to_string().contains(file), "{error}");
    }
}

#[test]
fn a_flipped_bit_is_found_in_every_file() {
    for file in FILES {
        let fixture = Fixture::with(&[1, 2]);
        let path = fixture.path(2).join(file);
        let whole = fs::read(&path).unwrap();
        let stride = match file {
            "manifest.json" => 1,
            "state.json" => 7,
            _ => 211,
        };
        let ends = [0, whole.len() - 1];
        for place in (0..whole.len()).step_by(stride).chain(ends) {
            let bit = place % 8;
            change(&path, |bytes| bytes[place] ^= 1 << bit);
            check_damage(&fixture, file, &format!("bit {bit} of byte {place}"));
            fs::write(&path, &whole).unwrap();
        }
        change(&path, |bytes| bytes[whole.len() / 2] ^= 4);
        let (step, damaged) = fixture.newest();
        assert_eq!((step, damaged.len()), (Some(1), 1), "{file}");
        assert!(damaged[0].path.starts_with(fixture.path(2)), "{file}");
    }
}

/// Each file is read once: what is hashed is what is used.
#[cfg(unix)]
#[test]
fn a_file_that_changes_while_it_is_read_is_whole_or_damaged() {
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    let fixture = Fixture::with(&[1]);
    let path = fixture.path(1);
    let expected = bits(&fixture.store.load(&path).unwrap());
    let model = path.join("model.safetensors");
    let bytes = fs::read(&model).unwrap();
    let place = bytes.len() - 3;
    let over = AtomicBool::new(false);
    let (mut whole, mut damaged) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = fs::OpenOptions::new().write(true).open(&model).unwrap();
            let mut flip = 0;
            while !over.load(Ordering::Relaxed) {
                flip ^= 1;
                file.write_all_at(&[bytes[place] ^ flip], place as u64)
                    .unwrap();
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        for _ in 0..500 {
            match fixture.store.load(&path) {
                Ok(loaded) => {
                    assert!(bits(&loaded) == expected, "other values than were hashed");
                    whole += 1;
                }
                Err(error) => {
                    assert_eq!(error.path, model);
                    damaged += 1;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    println!("{whole} times whole, {damaged} times damaged");
}

#[test]
fn a_truncated_file_is_found() {
    for file in FILES {
        let fixture = Fixture::with(&[1, 2]);
        let path = fixture.path(2).join(file);
        let whole = fs::read(&path).unwrap();
        for length in [0, 1, 8, whole.len() / 2, whole.len() - 1] {
            change(&path, |bytes| bytes.truncate(length));
            check_damage(&fixture, file, &format!("{length} bytes"));
            let (step, damaged) = fixture.newest();
            assert_eq!((step, damaged.len()), (Some(1), 1), "{file}");
            fs::write(&path, &whole).unwrap();
        }
    }
}

#[test]
fn a_missing_file_is_found_and_a_folder_without_manifest_is_no_checkpoint() {
    for file in FILES {
        let fixture = Fixture::with(&[1, 2]);
        fs::remove_file(fixture.path(2).join(file)).unwrap();
        check_damage(&fixture, file, "missing");
        let (step, damaged) = fixture.newest();
        let expected = if file == "manifest.json" { 0 } else { 1 };
        assert_eq!((step, damaged.len()), (Some(1), expected), "{file}");
    }
    let nothing = Fixture::with(&[]);
    assert_eq!(nothing.newest(), (None, Vec::new()));
    let absent = CheckpointStore::new(nothing.folder.path().join("absent"));
    assert!(absent.list().unwrap().is_empty() && absent.best().unwrap().0.is_none());
    let file = nothing.folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = CheckpointStore::new(&file).newest().unwrap_err();
    assert!(error.to_string().contains("cannot read"), "{error}");
}

#[test]
fn an_interrupted_save_is_ignored_and_removed() {
    let fixture = Fixture::with(&[1]);
    let leftover = fixture.folder.path().join(".00000002.tmp");
    fs::create_dir(&leftover).unwrap();
    for file in FILES {
        fs::copy(fixture.path(1).join(file), leftover.join(file)).unwrap();
    }
    assert_eq!(fixture.newest(), (Some(1), Vec::new()));
    fixture.store.save(&checkpoint(3)).unwrap();
    let expected = ["step-00000001", "step-00000003"].map(String::from);
    assert_eq!(fixture.names(), expected.into());
}

fn save_with_loss(fixture: &Fixture, losses: &[(u64, Option<f64>)]) {
    let mut checkpoint = checkpoint(0);
    for &(step, val_loss) in losses {
        checkpoint.progress.step = step;
        checkpoint.progress.val_loss = val_loss;
        fixture.store.save(&checkpoint).unwrap();
    }
}

#[test]
fn the_newest_and_the_best_are_kept() {
    let fixture = Fixture::with(&[]);
    let losses = [
        (1, Some(2.0)),
        (2, Some(1.0)),
        (3, None),
        (4, Some(1.5)),
        (5, None),
    ];
    save_with_loss(&fixture, &losses);
    assert_eq!(fixture.store.best().unwrap().0, Some(fixture.path(2)));
    fixture.store.retain(2).unwrap();
    let expected = [2, 4, 5].map(|step| format!("step-{step:08}"));
    assert_eq!(fixture.names(), expected.into());
    fixture.store.retain(2).unwrap();
    assert_eq!(fixture.store.list().unwrap().len(), 3);

    let without_loss = Fixture::with(&[1, 2, 3]);
    without_loss.store.retain(2).unwrap();
    let expected = [2, 3].map(|step| format!("step-{step:08}"));
    assert_eq!(without_loss.names(), expected.into());
}

/// A run that fell back to step 1 saves at step 2; the newer checkpoints are damaged.
#[test]
fn damaged_checkpoints_do_not_displace_intact_ones() {
    let fixture = Fixture::with(&[1, 3, 4]);
    for step in [3, 4] {
        let path = fixture.path(step).join("model.safetensors");
        change(&path, |bytes| bytes.truncate(9));
    }
    assert_eq!(fixture.newest().0, Some(1));
    fixture.store.save(&checkpoint(2)).unwrap();
    fixture.store.retain(2).unwrap();
    assert_eq!(fixture.newest().0, Some(2));
}

/// Flips a bit of a file, and sets its modification time to `time`.
fn flip_unnoticed(path: &Path, time: SystemTime) {
    change(path, |bytes| bytes[9] ^= 1);
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

/// Reading all checkpoints at every save would take longer than the training in between.
#[test]
fn known_checkpoints_are_not_read_again_unless_changed() {
    let damaged = |seconds: u64| {
        let fixture = Fixture::with(&[1, 2, 3, 4]);
        let path = fixture.path(3).join("optimizer.safetensors");
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        flip_unnoticed(&path, written + Duration::from_secs(seconds));
        fixture
    };
    let names = |steps: &[u64]| -> BTreeSet<String> {
        let names = steps.iter().map(|step| format!("step-{step:08}"));
        names.collect()
    };
    let unnoticed = damaged(0);
    unnoticed.store.retain(2).unwrap();
    assert_eq!(unnoticed.names(), names(&[3, 4]));
    // But loading reads it.
    assert!(unnoticed.store.load(&unnoticed.path(3)).is_err());

    let changed = damaged(1);
    changed.store.retain(2).unwrap();
    assert_eq!(changed.names(), names(&[2, 3, 4]));

    // A resumed run reads existing checkpoints once.
    let resumed = damaged(0);
    let store = CheckpointStore::new(resumed.folder.path());
    assert_eq!(store.newest().unwrap().0.unwrap().0, resumed.path(4));
    store.retain(2).unwrap();
    assert_eq!(resumed.names(), names(&[2, 3, 4]));
    let path = resumed.path(2).join("model.safetensors");
    let written = fs::metadata(&path).unwrap().modified().unwrap();
    flip_unnoticed(&path, written);
    store.save(&checkpoint(5)).unwrap();
    store.retain(2).unwrap();
    assert_eq!(resumed.names(), names(&[3, 4, 5]));
}

/// Bytes that this thread has read, where the system tells.
fn bytes_read() -> Option<u64> {
    let counts = fs::read_to_string("/proc/thread-self/io").ok()?;
    let mut counts = counts.lines();
    counts.find_map(|line| line.strip_prefix("rchar: ")?.parse().ok())
}

/// Not even by the first save of a resumed run, which has read no other checkpoint yet.
#[test]
fn a_save_does_not_read_all_that_is_kept() {
    let steps: Vec<u64> = (1..=20).collect();
    let fixture = Fixture::with(&steps);
    let size = |file: &str| fs::metadata(fixture.path(20).join(file)).unwrap().len();
    let tensors = size("model.safetensors") + size("optimizer.safetensors");
    let store = CheckpointStore::new(fixture.folder.path());
    assert_eq!(store.newest().unwrap().0.unwrap().0, fixture.path(20));
    let Some(before) = bytes_read() else {
        println!("skipped: this system does not tell what is read");
        return;
    };
    store.save(&checkpoint(21)).unwrap();
    assert_eq!(store.retain(20).unwrap(), [""; 0]);
    assert_eq!(store.list().unwrap().len(), 20);
    let states = 21 * (size("state.json") + size("manifest.json"));
    // Of tensors only those of the deleted one.
    let read = bytes_read().unwrap() - before;
    assert!(read < states + 2 * tensors, "{read}, {states}, {tensors}");
}

#[test]
fn parameters_are_read_without_the_rest() {
    let fixture = Fixture::with(&[]);
    save_with_loss(&fixture, &[(1, Some(2.0)), (2, Some(1.0)), (3, Some(3.0))]);
    let whole = fixture.store.load(&fixture.path(2)).unwrap().model;
    for file in ["optimizer.safetensors", "carried.safetensors"] {
        fs::remove_file(fixture.path(2).join(file)).unwrap();
    }
    assert!(fixture.store.load(&fixture.path(2)).is_err());
    assert_eq!(fixture.store.best().unwrap().0, Some(fixture.path(2)));
    let (path, best) = fixture.store.load_best_model().unwrap().0.unwrap();
    assert_eq!(path, fixture.path(2));
    let values = |tensors: &[NamedTensor]| -> Vec<(String, Vec<f32>)> {
        let value = |t: &NamedTensor| (t.name.clone(), t.data.iter::<f32>().collect());
        let mut values: Vec<_> = tensors.iter().map(value).collect();
        values.sort_by(|left, right| left.0.cmp(&right.0));
        values
    };
    assert_eq!(values(&best), values(&whole));

    let file = fixture.path(2).join("model.safetensors");
    change(&file, |bytes| bytes[100] ^= 1);
    let error = fixture.store.load_model(&fixture.path(2)).unwrap_err();
    assert_eq!(error.path, file);
    assert_eq!(fixture.store.best().unwrap().0, Some(fixture.path(1)));
    let (found, damaged) = fixture.store.load_best_model().unwrap();
    assert_eq!(found.unwrap().0, fixture.path(1));
    assert_eq!(damaged, [error]);
    let (found, damaged) = fixture.store.load_newest_model().unwrap();
    assert_eq!(found.unwrap().0, fixture.path(3));
    assert_eq!(damaged, []);
}

#[test]
fn without_an_intact_evaluated_checkpoint_the_newest_other_is_taken() {
    let fixture = Fixture::with(&[]);
    save_with_loss(
        &fixture,
        &[(1, None), (2, Some(1.0)), (3, None), (4, Some(2.0))],
    );
    for step in [2, 4] {
        let file = fixture.path(step).join("model.safetensors");
        change(&file, |bytes| bytes[100] ^= 1);
    }
    let (found, damaged) = fixture.store.load_best_model().unwrap();
    assert_eq!(found.unwrap().0, fixture.path(3));
    let named: Vec<_> = damaged
        .iter()
        .map(|error| error.path.parent().unwrap())
        .collect();
    assert_eq!(named, [fixture.path(2), fixture.path(4)]);
}

#[test]
fn a_renamed_checkpoint_is_damaged() {
    let fixture = Fixture::with(&[1, 2]);
    fs::rename(fixture.path(1), fixture.path(5)).unwrap();
    let (found, damaged) = fixture.store.newest().unwrap();
    assert_eq!(found.unwrap().0, fixture.path(2));
    assert_eq!(damaged[0].problem, "is of step 1: the folder was renamed");
    let mut checkpoint = checkpoint(0);
    checkpoint.progress.step = 5;
    fixture.store.save(&checkpoint).unwrap();
    assert_eq!(
        fixture.store.load(&fixture.path(5)).unwrap().progress.step,
        5
    );
}

/// One parameter at two places, and another one.
#[derive(Module, Debug)]
struct Pair {
    left: Param<Tensor<2>>,
    right: Param<Tensor<2>>,
    other: Param<Tensor<1>>,
}

#[test]
fn loading_neither_initialises_nor_copies() {
    for device in [Device::flex(), tiny::device()] {
        let mut initializer = Initializer::new(1, &device);
        let tied = initializer.parameter([2, 3], |_, _| panic!("initial values were drawn"));
        let pair = Pair {
            left: tied.clone(),
            right: tied,
            other: initializer.parameter([4], |_, _| panic!("initial values were drawn")),
        };
        let data = [
            shears_kernels::filled([2, 3], |values| values.fill(1.5)),
            shears_kernels::filled([4], |values| values.fill(2.5)),
        ];
        let addresses = data
            .each_ref()
            .map(|data| data.as_slice::<f32>().unwrap().as_ptr());
        let tensors = ["left", "other"].into_iter().zip(data);
        let tensors = tensors.map(|(name, data)| NamedTensor {
            name: name.to_string(),
            data,
        });
        let pair = load_parameters(pair, tensors.collect()).unwrap();
        assert_eq!(pair.left.val().is_require_grad(), device.is_autodiff());
        assert_eq!(pair.left.id, pair.right.id);
        let address = |elements: Elements| elements.as_slice().as_ptr();
        let [left, right] = [&pair.left, &pair.right]
            .map(|param| address(Elements::of(param.val().without_autodiff()).unwrap()));
        let other = address(Elements::of(pair.other.val().without_autodiff()).unwrap());
        assert_eq!(
            [left, right, other],
            [addresses[0], addresses[0], addresses[1]]
        );
    }
}

/// Changes the format of a file of a checkpoint, and the manifest's hash of it.
fn set_format(fixture: &Fixture, step: u64, file: &str, format: u32) {
    let hash = |path: &Path| sha256_hex(&fs::read(path).unwrap());
    let path = fixture.path(step).join(file);
    let before = hash(&path);
    change(&path, |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.contains("\"format\": 3"));
        let format = format!("\"format\": {format}");
        *bytes = text.replace("\"format\": 3", &format).into_bytes();
    });
    let after = hash(&path);
    change(&fixture.path(step).join("manifest.json"), |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replace(&before, &after).into_bytes();
    });
}

#[test]
fn a_newer_format_is_refused_and_not_modified() {
    let fixture = Fixture::with(&[1, 2]);
    set_format(&fixture, 2, "state.json", 4);
    set_format(&fixture, 2, "manifest.json", 4);
    let manifest = fixture.path(2).join("manifest.json");
    let before = fs::read(&manifest).unwrap();
    let error = fixture.store.load(&fixture.path(2)).unwrap_err();
    assert!(
        error.newer && error.problem.starts_with("has format 4"),
        "{error}"
    );
    assert_eq!(error.path, manifest);
    // No fallback to an older one, and no overwriting.
    for error in [
        fixture.store.newest().map(drop).unwrap_err(),
        fixture.store.load_best_model().map(drop).unwrap_err(),
        fixture.store.save(&checkpoint(2)).map(drop).unwrap_err(),
    ] {
        assert!(error.to_string().contains("has format 4"), "{error}");
    }
    assert_eq!(fs::read(&manifest).unwrap(), before);
}

#[test]
fn formats_that_disagree_are_damage() {
    let fixture = Fixture::with(&[1, 2]);
    set_format(&fixture, 2, "manifest.json", 4);
    let error = fixture.store.load(&fixture.path(2)).unwrap_err();
    assert!(
        !error.newer && error.problem.starts_with("has format 4"),
        "{error}"
    );
    assert_eq!(error.path, fixture.path(2).join("manifest.json"));
    assert_eq!(fixture.newest().0, Some(1));

    let fixture = Fixture::with(&[1, 2]);
    set_format(&fixture, 2, "manifest.json", 2);
    let error = fixture.store.load(&fixture.path(2)).unwrap_err();
    assert!(error.problem.starts_with("has format 3"), "{error}");
    assert_eq!(error.path, fixture.path(2).join("state.json"));

    // Format 2 had no pending evaluations.
    set_format(&fixture, 2, "state.json", 2);
    fixture.store.load(&fixture.path(2)).unwrap();
}

#[test]
fn an_evaluation_after_a_checkpoint_changes_only_its_state() {
    let fixture = Fixture::with(&[]);
    let mut checkpoint = checkpoint(1);
    checkpoint.progress.pending = true;
    fixture.store.save(&checkpoint).unwrap();
    let before = fixture.store.load(&fixture.path(1)).unwrap();
    assert!(before.progress.pending);
    let model = fs::metadata(fixture.path(1).join("model.safetensors")).unwrap();
    let manifest = fixture.path(1).join("manifest.json");
    let (old, mut opened) = (
        fs::read(&manifest).unwrap(),
        fs::File::open(&manifest).unwrap(),
    );
    checkpoint.progress.pending = false;
    checkpoint.progress.val_loss = Some(0.5);
    fixture.store.save(&checkpoint).unwrap();
    // Whoever has opened the manifest reads the old one.
    let mut read = Vec::new();
    opened.read_to_end(&mut read).unwrap();
    assert!(read == old && fs::read(&manifest).unwrap() != old);
    let after = fixture.store.load(&fixture.path(1)).unwrap();
    assert_eq!(after.progress, checkpoint.progress);
    assert_eq!(bits(&after), bits(&before));
    let still = fs::metadata(fixture.path(1).join("model.safetensors")).unwrap();
    assert_eq!(model.modified().unwrap(), still.modified().unwrap());
    assert_eq!(fixture.store.best().unwrap().0, Some(fixture.path(1)));
    // Another process reads the same, and detects damage in the new file.
    let store = CheckpointStore::new(fixture.folder.path());
    assert_eq!(store.damage(&fixture.path(1)), None);
    change(&fixture.path(1).join("evaluated.json"), |bytes| {
        bytes[30] ^= 1
    });
    let store = CheckpointStore::new(fixture.folder.path());
    let error = store.damage(&fixture.path(1)).unwrap();
    assert!(error.path.ends_with("evaluated.json"), "{error}");
}

/// As after a crash between writing the two files.
#[test]
fn a_state_that_is_not_yet_in_the_manifest_is_ignored() {
    let fixture = Fixture::with(&[1]);
    fs::write(fixture.path(1).join("evaluated.json"), "half").unwrap();
    fs::write(fixture.path(1).join("manifest.json.tmp"), "{").unwrap();
    assert_eq!(fixture.newest(), (Some(1), Vec::new()));
}

#[test]
fn at_least_two_checkpoints_are_kept() {
    for keep in [0, 1] {
        let fixture = Fixture::with(&[1, 2, 3]);
        assert_eq!(fixture.store.retain(keep).unwrap(), [""; 0]);
        assert_eq!(fixture.store.list().unwrap().len(), 2);
    }
}

#[cfg(unix)]
#[test]
fn a_failed_deletion_is_reported_and_does_not_end_the_run() {
    use std::os::unix::fs::PermissionsExt;

    let fixture = Fixture::with(&[1, 2, 3, 4]);
    // A read-only folder keeps its files, except for root.
    let stuck = fixture.path(1);
    let mode = |mode| fs::set_permissions(&stuck, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    if fs::write(stuck.join("probe"), "").is_ok() {
        println!("skipped: this user (root) may write to read-only folders");
        return;
    }
    let warnings = fixture.store.retain(2).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("step-00000001"), "{warnings:?}");
    assert_eq!(fixture.store.list().unwrap().len(), 2);
}

#[test]
fn an_interrupted_deletion_is_finished_by_the_next_save() {
    let fixture = Fixture::with(&[1, 2]);
    let doomed = fixture.folder.path().join(".step-00000001.tmp");
    fs::rename(fixture.path(1), &doomed).unwrap();
    assert_eq!(fixture.newest(), (Some(2), Vec::new()));
    fixture.store.save(&checkpoint(3)).unwrap();
    let expected = ["step-00000002", "step-00000003"].map(String::from);
    assert_eq!(fixture.names(), expected.into());
}

/// Reading a FIFO would block forever.
#[cfg(target_os = "linux")]
#[test]
fn irregular_files_are_damage() {
    for file in FILES {
        let fixture = Fixture::with(&[1, 2]);
        let path = fixture.path(2).join(file);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let (step, damaged) = fixture.newest();
        assert_eq!(step, Some(1), "{file}");
        assert!(damaged.len() <= 1, "{damaged:?}");
    }
}

/// Tries to restore a modified checkpoint.
fn restored(change: impl FnOnce(&mut Checkpoint)) -> Result<(), TrainError> {
    let mut checkpoint = checkpoint(2);
    checkpoint.progress.updates = 2;
    change(&mut checkpoint);
    let trainer = tiny::trainer::<RecurrentModel>(lstm, &tiny::plan(Architecture::Lstm));
    trainer.restore(checkpoint).map(drop)
}

#[test]
fn moments_and_states_of_another_model_are_refused() {
    restored(|_| {}).unwrap();
    let problem = |change: fn(&mut Checkpoint)| restored(change).unwrap_err().to_string();
    let missing = problem(|checkpoint| drop(checkpoint.optimizer.pop()));
    assert!(missing.contains("optimizer.safetensors") && missing.contains("is missing"));
    let none = problem(|checkpoint| checkpoint.optimizer.clear());
    assert!(none.contains("is missing"), "{none}");
    let third = problem(|checkpoint| checkpoint.optimizer[0].name = "output.bias.third".into());
    assert!(
        third.contains("`output.bias.third` does not match"),
        "{third}"
    );
    let long = problem(|checkpoint| checkpoint.optimizer[0].name = "x".repeat(1 << 20));
    assert!(long.len() < 300, "{} bytes", long.len());
    for shape in [vec![24], vec![1, 4, 8], vec![3, 1, 8]] {
        let error = restored(|checkpoint| {
            let elements = shape.iter().product();
            checkpoint.carried[0].data = TensorData::new(vec![0.0_f32; elements], shape.clone());
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("carried.safetensors"), "{error}");
    }
    let lost = problem(|checkpoint| drop(checkpoint.carried.pop()));
    assert!(lost.contains("a layer's state is missing"), "{lost}");
}

#[test]
fn many_tensors_and_long_names_give_short_errors() {
    let error = restored(|checkpoint| {
        let tensor = checkpoint.model[0].clone();
        let names = (0..100_001).map(|number| format!("{number}"));
        let names = names.chain(["n".repeat(1 << 20)]);
        checkpoint.model.extend(names.map(|name| NamedTensor {
            name,
            data: tensor.data.clone(),
        }));
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("and 99982 more"), "{error}");
    assert!(error.len() < 3000, "{} bytes", error.len());
}

#[test]
fn saving_a_step_again_changes_nothing_unless_it_is_damaged() {
    let fixture = Fixture::with(&[]);
    save_with_loss(&fixture, &[(1, Some(1.0)), (1, Some(2.0))]);
    let val_loss = || {
        let loaded = fixture.store.load(&fixture.path(1));
        loaded.unwrap().progress.val_loss
    };
    assert_eq!(val_loss(), Some(1.0));
    let path = fixture.path(1).join("optimizer.safetensors");
    change(&path, |bytes| bytes.truncate(20));
    save_with_loss(&fixture, &[(1, Some(2.0))]);
    assert_eq!(val_loss(), Some(2.0));
}

#[test]
fn a_path_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let below = file.join("checkpoints");
    let error = CheckpointStore::new(&below).save(&checkpoint(1));
    let error = error.unwrap_err().to_string();
    assert!(error.contains(&below.display().to_string()), "{error}");
}

#[test]
fn a_vanished_run_folder_is_not_recreated() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let error = CheckpointStore::new(run.join("checkpoints")).save(&checkpoint(1));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("cannot create") && error.contains("checkpoints"),
        "{error}"
    );
    assert!(!run.exists());
}

#[cfg(unix)]
#[test]
fn a_read_only_folder_is_named() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let read_only = folder.path().join("read-only");
    fs::create_dir(&read_only).unwrap();
    let mode = |mode| fs::set_permissions(&read_only, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    if fs::write(read_only.join("probe"), "").is_ok() {
        println!("skipped: this user (root) may write to read-only folders");
        return;
    }
    let error = CheckpointStore::new(&read_only).save(&checkpoint(1));
    mode(0o755);
    let error = error.unwrap_err().to_string();
    assert!(error.contains(&read_only.display().to_string()), "{error}");
}

#[test]
fn all_mismatching_tensors_are_listed() {
    let plan = tiny::plan(Architecture::Lstm);
    let trainer = tiny::trainer::<RecurrentModel>(lstm, &plan);
    let mut tensors = module_tensors(trainer.model());
    tensors.retain(|t| t.name != "layers.0.bias_ih" && t.name != "layers.1.bias_hh");
    for tensor in &mut tensors {
        if tensor.name == "layers.1.weight_hh" {
            tensor.data = TensorData::new(vec![0.0_f32; 6], [2, 3]);
        }
    }
    tensors.push(NamedTensor {
        name: "layers.2.weight_hh".to_string(),
        data: TensorData::new(vec![0.0_f32], [1]),
    });
    let error = load_parameters(trainer.model().clone(), tensors).unwrap_err();
    let expected = "`layers.0.bias_ih` is missing; \
                    `layers.1.weight_hh` has shape [2, 3] in place of [32, 8]; \
                    `layers.1.bias_hh` is missing; \
                    `layers.2.weight_hh` is not in the model";
    assert_eq!(error, expected);
}

fn header() -> Header {
    shears_train::header(&tiny::plan(Architecture::Gru), &[])
}

fn write_events(path: &Path, events: &[Event]) {
    let mut log = EventLog::open(path, 0, &header()).unwrap();
    for event in events {
        log.append(event).unwrap();
    }
}

#[test]
fn an_event_log_continues_at_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let evaluation = |step| {
        Event::Evaluation(Evaluation {
            step,
            val_loss: 2.5,
            bits_per_char: 3.6,
            perplexity: 12.2,
        })
    };
    let all = [
        step_event(1),
        step_event(2),
        evaluation(2),
        step_event(3),
        evaluation(3),
    ];
    write_events(&path, &all);
    assert_eq!(events(&path), all);

    let half = "{\"event\":\"step\",\"step\":4,\"lo";
    change(&path, |bytes| bytes.extend(half.as_bytes()));
    assert_eq!(events(&path), all);
    let mut log = EventLog::open(&path, 2, &header()).unwrap();
    assert_eq!(events(&path), all[..3]);
    log.append(&step_event(3)).unwrap();
    drop(log);
    assert_eq!(events(&path), all[..4]);
    let files = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 1, "the rewritten log leaves nothing beside it");
}

#[test]
fn a_log_with_a_damaged_line_continues_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    write_events(&path, &[step_event(1), step_event(2), step_event(3)]);
    change(&path, |bytes| {
        let second = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        bytes[second] = b'?';
    });
    let log = Log::read(path.clone()).unwrap();
    assert_eq!(log.columns.step, [2, 3]);
    assert_eq!(log.damage.unwrap().line, Some(2));
    let log = EventLog::open(&path, 3, &header()).unwrap();
    let warning = log.warning().unwrap();
    assert!(warning.contains("line 2 was damaged"), "{warning}");
    drop(log);
    assert_eq!(events(&path), [step_event(2), step_event(3)]);
    let aside = fs::read_to_string(folder.path().join(shears_run::DAMAGED)).unwrap();
    assert!(
        aside.starts_with('?') && aside.contains("\"step\":1,"),
        "{aside}"
    );
}

/// A diverged model can have a loss of 1000 nats, and `exp(1000)` is infinite.
#[test]
fn a_non_finite_evaluation_round_trips() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let diverged = Event::Evaluation(Evaluation {
        step: 1,
        val_loss: 1000.0,
        bits_per_char: 1442.7,
        perplexity: f64::INFINITY,
    });
    write_events(&path, &[step_event(1), diverged, step_event(2)]);
    assert_eq!(events(&path).len(), 3);
}

#[test]
fn only_one_process_writes_to_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let missing = RunFolder::open(&path).unwrap_err().to_string();
    assert!(missing.contains("there is no such run"), "{missing}");
    let plan = tiny::plan(Architecture::Gru);
    let tokenizer = tiny::tokenizer();
    let run = RunFolder::create(&path, &plan, &tokenizer, Some(tiny::text().as_bytes())).unwrap();
    assert_eq!(run.plan().unwrap(), plan);
    let text = fs::read_to_string(run.input_path()).unwrap();
    assert_eq!(text, tiny::text());

    let refused = RunFolder::open(&path).unwrap_err();
    assert!(matches!(refused, TrainError::Folder { .. }), "{refused}");
    let refused = refused.to_string();
    assert!(refused.contains("another shears is training"), "{refused}");
    let reader = RunFolder::open_to_read(&path).unwrap();
    assert_eq!(reader.plan().unwrap(), plan);
    assert_eq!(
        reader.tokenizer().unwrap().vocab_size(),
        tokenizer.vocab_size()
    );

    drop(run);
    let reopened = RunFolder::open(&path).unwrap();
    assert!(RunFolder::open(&path).is_err());
    drop(reopened);
    let again = RunFolder::create(&path, &plan, &tokenizer, None).unwrap_err();
    assert!(again.to_string().contains("holds a run already"), "{again}");
}
