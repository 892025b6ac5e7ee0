//! The text itself: carried by the program, from files and folders, or from a stream.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::DataError;

/// Where a text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The text that the program carries.
    Embedded,
    /// Files, and folders of which every `*.txt`, `*.md` and `*.text` file counts.
    Files(Vec<PathBuf>),
    /// The standard input, to its end.
    Stdin,
}

impl Source {
    /// How many bytes it has, if that is known before it is read.
    ///
    /// # Errors
    ///
    /// If a file or folder is missing or cannot be looked at, or if a folder has no text.
    pub fn size(&self) -> Result<Option<u64>, DataError> {
        match self {
            Self::Embedded => Ok(Some(lipsum::LIBER_PRIMUS.len() as u64)),
            Self::Stdin => Ok(None),
            Self::Files(paths) => {
                let mut size = 0_u64;
                for path in paths {
                    for file in files_of(path)? {
                        let found = fs::metadata(&file).map_err(|e| unreadable(&file, e))?;
                        size = size.saturating_add(found.len());
                    }
                }
                Ok(Some(size))
            }
        }
    }
}

/// The files that a path stands for: itself, or those of the folder.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    match path.is_dir() {
        true => text_files_below(path),
        false => Ok(vec![path.to_owned()]),
    }
}

/// A text and the words to name it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// The text. Line ends and NUL are as they were; only byte order marks are gone.
    pub text: String,
    /// What to tell the user: file names, or the name of the stream.
    pub description: String,
}

impl Corpus {
    /// Reads a source to its end.
    ///
    /// Several files are joined in the order given, with a newline between two of them if the
    /// first does not end in one. The files of a folder are sorted by path.
    ///
    /// # Errors
    ///
    /// If something is missing, unreadable, not UTF-8, or if there is no character in all of it.
    pub fn load(source: &Source) -> Result<Self, DataError> {
        match source {
            Source::Embedded => Ok(Self {
                text: lipsum::LIBER_PRIMUS.to_owned(),
                description: "liber-primus (carried by the program)".to_owned(),
            }),
            Source::Files(paths) => Self::from_files(paths),
            Source::Stdin => Self::from_reader(io::stdin().lock(), "standard input"),
        }
    }

    /// Reads any stream to its end; `name` is what messages call it.
    ///
    /// # Errors
    ///
    /// If reading fails, if the bytes are not UTF-8, or if there are none.
    pub fn from_reader(mut reader: impl Read, name: &str) -> Result<Self, DataError> {
        let mut bytes = Vec::new();
        reader
            .read_to_end(&mut bytes)
            .map_err(|source| DataError::Unreadable {
                name: name.to_owned(),
                source,
            })?;
        let text = text_of(bytes, name)?;
        if text.is_empty() {
            return Err(DataError::Empty {
                name: name.to_owned(),
            });
        }
        Ok(Self {
            text,
            description: name.to_owned(),
        })
    }

    /// SHA-256 of the text in hexadecimal: two runs with the same one had the same data.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        sha256_hex(&self.text)
    }

    fn from_files(paths: &[PathBuf]) -> Result<Self, DataError> {
        if paths.is_empty() {
            return Err(DataError::NoFiles);
        }
        let mut text = String::new();
        let mut names = Vec::with_capacity(paths.len());
        for path in paths {
            let files = files_of(path)?;
            for file in &files {
                append(&mut text, file)?;
            }
            names.push(match (path.is_dir(), files.len()) {
                (false, _) => path.display().to_string(),
                (true, 1) => format!("{} (1 file)", path.display()),
                (true, count) => format!("{} ({count} files)", path.display()),
            });
        }
        let description = names.join(", ");
        if text.is_empty() {
            return Err(DataError::Empty { name: description });
        }
        Ok(Self { text, description })
    }
}

/// The bytes of a file or a pipe. A device such as `/dev/zero` may have no end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = fs::metadata(path)?.file_type();
        if (kind.is_char_device() && path != Path::new("/dev/stdin")) || kind.is_block_device() {
            return Err(io::Error::other("it is a device, not a text"));
        }
    }
    fs::read(path)
}

fn append(text: &mut String, path: &Path) -> Result<(), DataError> {
    let name = path.display().to_string();
    let bytes = read(path).map_err(|source| unreadable(path, source))?;
    let next = text_of(bytes, &name)?;
    if text.is_empty() {
        // A text of one file is not copied.
        *text = next;
        return Ok(());
    }
    if !text.ends_with('\n') && !next.is_empty() {
        text.push('\n');
    }
    text.push_str(&next);
    Ok(())
}

fn text_of(bytes: Vec<u8>, name: &str) -> Result<String, DataError> {
    let mut text = String::from_utf8(bytes).map_err(|error| DataError::NotUtf8 {
        name: name.to_owned(),
        offset: error.utf8_error().valid_up_to(),
        hint: encoding_hint(error.as_bytes()),
    })?;
    if text.starts_with('\u{FEFF}') {
        text.drain(..'\u{FEFF}'.len_utf8());
    }
    Ok(text)
}

fn encoding_hint(bytes: &[u8]) -> &'static str {
    const SIGNATURES: [(&[u8], &str); 7] = [
        (
            b"\xFF\xFE",
            "it looks like UTF-16: convert it with `iconv -f utf-16 -t utf-8`",
        ),
        (
            b"\xFE\xFF",
            "it looks like UTF-16: convert it with `iconv -f utf-16 -t utf-8`",
        ),
        (
            b"PK\x03\x04",
            "it looks like a zip archive (or docx, epub): extract the text first",
        ),
        (b"\x1F\x8B", "it looks like gzip: decompress it first"),
        (
            b"\x28\xB5\x2F\xFD",
            "it looks like zstd: decompress it first",
        ),
        (b"BZh", "it looks like bzip2: decompress it first"),
        (
            b"%PDF",
            "it looks like a PDF: extract the text first, for example with `pdftotext`",
        ),
    ];
    SIGNATURES
        .iter()
        .find(|(start, _)| bytes.starts_with(start))
        .map_or(
            "convert it, for example with `iconv -f latin1 -t utf-8`",
            |(_, hint)| hint,
        )
}

fn text_files_below(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    // Real places of the folders entered: a symbolic link back to one of them ends there.
    let mut entered = HashSet::new();
    let mut to_enter = vec![folder.to_owned()];
    while let Some(current) = to_enter.pop() {
        let real = fs::canonicalize(&current).map_err(|source| unreadable(&current, source))?;
        if !entered.insert(real) {
            continue;
        }
        let mut entries = paths_in(&current).map_err(|source| unreadable(&current, source))?;
        // A folder that is reachable on two paths is entered on the one that sorts first.
        entries.sort_by(|a, b| b.cmp(a));
        for entry in entries {
            if entry.is_dir() {
                to_enter.push(entry);
            } else if is_text_file(&entry) {
                files.push(entry);
            }
        }
    }
    if files.is_empty() {
        return Err(DataError::NoTextFiles {
            folder: folder.to_owned(),
        });
    }
    files.sort();
    Ok(files)
}

fn paths_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

fn is_text_file(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| {
            ["txt", "md", "text"]
                .iter()
                .any(|known| extension.eq_ignore_ascii_case(known))
        })
}

pub(crate) fn unreadable(path: &Path, source: io::Error) -> DataError {
    match source.kind() {
        io::ErrorKind::NotFound => DataError::Missing {
            path: path.to_owned(),
        },
        _ => DataError::Unreadable {
            name: path.display().to_string(),
            source,
        },
    }
}

pub(crate) fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::sha256_hex;

    #[test]
    fn the_fingerprint_is_sha256() {
        assert_eq!(
            sha256_hex("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
