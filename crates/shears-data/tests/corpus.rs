//! Where texts come from and how it fails.

use std::fs;
use std::path::PathBuf;

use shears_data::{Corpus, DataError, Source, split};

fn files(paths: &[PathBuf]) -> Result<Corpus, DataError> {
    Corpus::load(&Source::Files(paths.to_vec()))
}

#[test]
fn the_embedded_text_is_there() {
    let corpus = Corpus::load(&Source::Embedded).unwrap();
    assert!(corpus.text.len() > 10_000);
    assert_eq!(corpus.description, "liber-primus (carried by the program)");
    assert_eq!(corpus.fingerprint().len(), 64);
    let (train, validation) = split(&corpus.text);
    assert_eq!(train.len() + validation.len(), corpus.text.len());
}

#[test]
fn a_folder_is_read_in_order_of_paths() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("b")).unwrap();
    fs::write(at("b/2.md"), "two\r\n\0").unwrap();
    fs::write(at("a.txt"), "\u{FEFF}one").unwrap();
    fs::write(at("c.TEXT"), "three\n").unwrap();
    fs::write(at("d.bin"), [0xFF]).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path(), at("b/loop")).unwrap();
    let corpus = files(&[folder.path().to_owned()]).unwrap();
    assert_eq!(corpus.text, "one\ntwo\r\n\0\nthree\n");
    assert!(corpus.description.ends_with("(3 files)"));
    let corpus = files(&[at("c.TEXT"), at("a.txt")]).unwrap();
    assert_eq!(corpus.text, "three\none");
    assert!(corpus.description.contains("a.txt"));
}

#[test]
fn missing_and_empty_sources_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    assert!(matches!(
        files(std::slice::from_ref(&empty)),
        Err(DataError::Missing { .. })
    ));
    fs::write(&empty, "\u{FEFF}").unwrap();
    assert!(matches!(files(&[empty]), Err(DataError::Empty { .. })));
    let none = files(&[folder.path().to_owned()]).unwrap_err();
    assert!(none.to_string().starts_with("no text file in "), "{none}");
    assert!(matches!(files(&[]), Err(DataError::NoFiles)));
    let stdin = Corpus::from_reader(&b""[..], "standard input").unwrap_err();
    assert!(stdin.to_string().starts_with("standard input is empty"));
}

#[test]
fn other_formats_are_recognised() {
    for (bytes, offset, hint) in [
        (&b"\xFF\xFEa\0"[..], 0, "UTF-16"),
        (b"PK\x03\x04\xFF", 4, "zip"),
        (b"\x1F\x8B", 1, "gzip"),
        (b"%PDF-1.4\n%\xE2\xE3", 10, "PDF"),
        (b"caf\xE9", 3, "iconv"),
    ] {
        let error = Corpus::from_reader(bytes, "x.txt").unwrap_err();
        assert!(
            matches!(error, DataError::NotUtf8 { offset: o, .. } if o == offset),
            "{error}"
        );
        assert!(error.to_string().contains(hint), "{error}");
    }
}
