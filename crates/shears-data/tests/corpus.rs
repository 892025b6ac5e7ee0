//! Sources of texts, and their errors.

use std::fs;
use std::path::PathBuf;

use shears_data::{Content, Corpus, DataError, Encoding, ReadAs, Source, read_text, split};

fn files(paths: &[PathBuf]) -> Result<Corpus, DataError> {
    Corpus::load(&Source::Files(paths.to_vec()))
}

#[test]
fn the_embedded_text_is_there() {
    let corpus = Corpus::load(&Source::Embedded).unwrap();
    let text = corpus.content.text().unwrap();
    assert!(text.len() > 10_000);
    assert_eq!(corpus.description, "liber-primus (built in)");
    assert_eq!(corpus.fingerprint().len(), 64);
    let (train, validation) = split(text);
    assert_eq!(train.len() + validation.len(), text.len());
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
    assert_eq!(corpus.content.text().unwrap(), "one\ntwo\r\n\0\nthree\n");
    assert!(corpus.description.ends_with("(3 files)"));
    let corpus = files(&[at("c.TEXT"), at("a.txt")]).unwrap();
    assert_eq!(corpus.content.text().unwrap(), "three\none");
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
}

#[test]
fn other_formats_are_recognised() {
    for (bytes, offset, hint) in [
        (&b"\xFF\xFEa\0"[..], 0, "--encoding utf-16"),
        (b"PK\x03\x04\xFF", 4, "zip"),
        (b"\x1F\x8B", 1, "gzip"),
        (b"%PDF-1.4\n%\xE2\xE3", 10, "PDF"),
        (b"caf\xE9", 3, "--encoding latin1"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            0,
            "git lfs pull",
        ),
    ] {
        let error = read_text(bytes, "x.txt", 100).unwrap_err();
        assert!(
            matches!(error, DataError::NotUtf8 { offset: o, .. } if o == offset),
            "{error}"
        );
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn files_in_other_encodings_and_of_bytes_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let source = Source::Files(vec![at("a", b"caf\xE9"), at("b", b"\xE0 la")]);
    let load = |encoding, any_bytes| {
        let read_as = ReadAs {
            encoding,
            any_bytes,
        };
        Corpus::load_with::<DataError>(&source, read_as, &mut |_| Ok(()))
    };
    let latin: Encoding = "latin1".parse().unwrap();
    let corpus = load(latin, true).unwrap();
    assert_eq!(corpus.content.text(), Some("caf\u{e9}\n\u{e0} la"));
    let corpus = load(Encoding::UTF_8, true).unwrap();
    assert_eq!(corpus.content.bytes(), b"caf\xE9\n\xE0 la");
    assert!(corpus.description.contains("each byte is a character"));
    let (train, validation) = corpus.content.split();
    assert_eq!(train.bytes().len(), 8);
    assert!(matches!(validation, Content::Bytes(_)));
    assert!(load(Encoding::UTF_8, false).is_err());
}

#[test]
fn room_is_called_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    fs::write(&path, vec![b'a'; 1 << 20]).unwrap();
    let mut asked = Vec::new();
    let read_as = ReadAs::default();
    let source = Source::Files(vec![path]);
    Corpus::load_with::<DataError>(&source, read_as, &mut |bytes| {
        asked.push(bytes);
        Ok(())
    })
    .unwrap();
    assert_eq!(asked, [1 << 20]);
    let refused = Corpus::load_with(&source, read_as, &mut |_| {
        Err(DataError::Empty {
            name: "refused".to_owned(),
        })
    });
    assert!(refused.is_err());
}

#[test]
fn short_texts_are_bounded_and_lose_their_byte_order_mark() {
    assert_eq!(
        read_text(&b"\xEF\xBB\xBFa\r\n"[..], "x", 100).unwrap(),
        "a\r\n"
    );
    assert_eq!(read_text(&b""[..], "x", 100).unwrap(), "");
    let error = read_text(std::io::repeat(b'a'), "x", 2_000_000).unwrap_err();
    assert_eq!(error.to_string(), "x has over 2 MB: give less");
}
