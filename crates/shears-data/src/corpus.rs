//! Reads a text: the built-in one, from files and folders, or from a stream.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::content::Content;
use crate::encoding::{Decoded, Encoding, ReadAs};
use crate::error::DataError;
use crate::hash::sha256_hex;

/// Where a text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The built-in text.
    Embedded,
    /// Files, and folders with `*.txt`, `*.md` and `*.text` files at any depth.
    Files(Vec<PathBuf>),
    /// Standard input, to its end.
    Stdin,
}

impl Source {
    /// The size in bytes, if known before reading.
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

/// The files of a path: itself, or those in the folder.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    match path.is_dir() {
        true => text_files_below(path),
        false => Ok(vec![path.to_owned()]),
    }
}

/// A text and its description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// The text, or bytes.
    pub content: Content<'static>,
    /// File names, or the name of the stream, for the user.
    pub description: String,
}

/// Called before a text takes more memory, with its size in bytes by then; may refuse.
pub type Room<'a, E> = &'a mut dyn FnMut(u64) -> Result<(), E>;

impl Corpus {
    /// Reads UTF-8 text to its end, whatever its size.
    ///
    /// # Errors
    ///
    /// As [`Corpus::load_with`].
    pub fn load(source: &Source) -> Result<Self, DataError> {
        Self::load_with(source, ReadAs::default(), &mut |_| Ok(()))
    }

    /// Reads a source to its end.
    ///
    /// Several files are joined in the given order, with a newline in between if a file does not
    /// end in one. The files of a folder are sorted by path. The size of a stream is unknown, so
    /// `room` is called repeatedly.
    ///
    /// # Errors
    ///
    /// If something is missing, unreadable, or not in that encoding, if everything is empty, or if
    /// `room` refuses.
    pub fn load_with<E: From<DataError>>(
        source: &Source,
        reading: ReadAs,
        room: Room<'_, E>,
    ) -> Result<Self, E> {
        match source {
            Source::Embedded => Ok(Self {
                content: Content::Text(lipsum::LIBER_PRIMUS.into()),
                description: "liber-primus (built in)".to_owned(),
            }),
            Source::Files(paths) => Self::from_files(paths, reading, room),
            Source::Stdin => {
                let name = "standard input".to_owned();
                let content = content_of(io::stdin().lock(), 0, reading, &name, room)?;
                Ok(Self::named(content, name)?)
            }
        }
    }

    /// The SHA-256 of the content in hexadecimal, which identifies the data of a run.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        sha256_hex(self.content.bytes())
    }

    fn named(content: Content<'static>, description: String) -> Result<Self, DataError> {
        if content.bytes().is_empty() {
            return Err(DataError::Empty { name: description });
        }
        let description = match content {
            Content::Text(_) => description,
            Content::Bytes(_) => format!("{description} (not UTF-8: each byte is a character)"),
        };
        Ok(Self {
            content,
            description,
        })
    }

    fn from_files<E: From<DataError>>(
        paths: &[PathBuf],
        reading: ReadAs,
        room: Room<'_, E>,
    ) -> Result<Self, E> {
        if paths.is_empty() {
            return Err(DataError::NoFiles.into());
        }
        let mut content = Content::Text("".into());
        let mut names = Vec::with_capacity(paths.len());
        for path in paths {
            let files = files_of(path)?;
            for file in &files {
                let before = content.bytes().len() as u64;
                content.append(read(file, reading, &mut |bytes| room(before + bytes))?);
            }
            names.push(match (path.is_dir(), files.len()) {
                (false, _) => path.display().to_string(),
                (true, 1) => format!("{} (1 file)", path.display()),
                (true, count) => format!("{} ({count} files)", path.display()),
            });
        }
        Ok(Self::named(content, names.join(", "))?)
    }
}

/// Reads UTF-8 text of at most `most` bytes, such as a prompt, without its byte order mark.
///
/// # Errors
///
/// If it cannot be read, is larger, or is not UTF-8; messages call it `name`.
pub fn read_text(reader: impl Read, name: &str, most: u64) -> Result<String, DataError> {
    let mut bytes = Vec::new();
    let read = reader.take(most.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|source| DataError::Unreadable {
        name: name.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > most {
        return Err(DataError::TooLarge {
            name: name.to_owned(),
            most,
        });
    }
    match ReadAs::default().decode(bytes, name)? {
        Content::Text(text) => Ok(text.into_owned()),
        Content::Bytes(_) => Ok(String::new()),
    }
}

/// Reads a file or a pipe. Devices are refused, because some, such as `/dev/zero`, never end.
fn read<E: From<DataError>>(
    path: &Path,
    reading: ReadAs,
    room: Room<'_, E>,
) -> Result<Content<'static>, E> {
    let open = || -> io::Result<(File, u64)> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::FileTypeExt;
            let kind = fs::metadata(path)?.file_type();
            if (kind.is_char_device() && path != Path::new("/dev/stdin")) || kind.is_block_device()
            {
                return Err(io::Error::other("it is a device, not a text"));
            }
        }
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok((file, size))
    };
    let (file, size) = open().map_err(|source| unreadable(path, source))?;
    content_of(file, size, reading, &path.display().to_string(), room)
}

/// Reads and decodes a stream of about `size` bytes. Text in another encoding than UTF-8 is decoded
/// while it is read, so that only one of the two is in memory.
fn content_of<E: From<DataError>>(
    reader: impl Read,
    size: u64,
    reading: ReadAs,
    name: &str,
    room: Room<'_, E>,
) -> Result<Content<'static>, E> {
    if reading.encoding == Encoding::UTF_8 {
        let bytes = read_to_end(reader, size, name, room)?;
        return Ok(reading.decode(bytes, name)?);
    }
    let decoded = Decoded::new(reader, reading.encoding, name);
    let bytes = read_to_end(decoded, reading.encoding.decoded(size), name, room)?;
    let text = String::from_utf8(bytes).expect("decoded text is UTF-8");
    Ok(Content::Text(text.into()))
}

/// The least bytes that a text of unknown length grows by, and between two calls of `room`.
const CHUNK: u64 = 1 << 20;

/// Reads a stream of about `size` bytes to its end.
fn read_to_end<E: From<DataError>>(
    mut reader: impl Read,
    size: u64,
    name: &str,
    room: Room<'_, E>,
) -> Result<Vec<u8>, E> {
    let failed = |source: io::Error| match source.downcast() {
        Ok(error) => error,
        Err(source) => DataError::Unreadable {
            name: name.to_owned(),
            source,
        },
    };
    let mut bytes = Vec::new();
    loop {
        // One byte shows whether there is more, before memory is taken for it.
        let mut first = Vec::new();
        let one = reader.by_ref().take(1).read_to_end(&mut first);
        if one.map_err(failed)? == 0 {
            return Ok(bytes);
        }
        let read = bytes.len() as u64;
        let (more, moved) = match size.checked_sub(read) {
            Some(rest @ 1..) => (rest, 0),
            // A stream that outgrows its buffer may take both for a moment.
            _ => (CHUNK.max(read / 8), read),
        };
        room(read.saturating_add(more).saturating_add(moved))?;
        let reserved = bytes.try_reserve_exact(usize::try_from(more).unwrap_or(usize::MAX));
        reserved.map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        bytes.append(&mut first);
        let rest = reader.by_ref().take(more - 1).read_to_end(&mut bytes);
        rest.map_err(failed)?;
    }
}

fn text_files_below(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    // Canonical paths of the folders entered, which end cycles of symbolic links.
    let mut entered = HashSet::new();
    let mut to_enter = vec![folder.to_owned()];
    while let Some(current) = to_enter.pop() {
        let real = fs::canonicalize(&current).map_err(|source| unreadable(&current, source))?;
        if !entered.insert(real) {
            continue;
        }
        let mut entries = paths_in(&current).map_err(|source| unreadable(&current, source))?;
        // A folder reachable by two paths is entered by the one that sorts first.
        entries.sort_by(|a, b| b.cmp(a));
        for entry in entries {
            if entry.is_dir() {
                to_enter.push(entry);
            } else if is_text_file(&entry) {
                // Reading a stray FIFO could wait for ever.
                if entry.exists() && !entry.is_file() {
                    return Err(unreadable(&entry, io::Error::other("it is not a file")));
                }
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
