//! Recognises files of other types by their first bytes.

/// What a file is, and what to do about it.
const KINDS: [(&[u8], &str); 14] = [
    (
        b"version https://git-lfs",
        "a pointer of Git LFS (`git lfs pull` fetches the file)",
    ),
    (b"<!doctype", "a web page, from a download that failed"),
    (b"<html", "a web page, from a download that failed"),
    (
        b"PK\x03\x04",
        "a zip archive (torch.save writes such; so are docx and epub)",
    ),
    (
        b"\x80\x02",
        "a pickle (save_file of safetensors.torch writes safetensors)",
    ),
    (
        b"\x80\x04",
        "a pickle (save_file of safetensors.torch writes safetensors)",
    ),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "an array of NumPy"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1F\x8B", "compressed by gzip (`gunzip` it first)"),
    (
        b"\x28\xB5\x2F\xFD",
        "compressed by zstd (`unzstd` it first)",
    ),
    (b"BZh", "compressed by bzip2 (`bunzip2` it first)"),
    (b"%PDF", "a PDF (`pdftotext` extracts its text)"),
    (b"PAR1", "a Parquet table"),
];

/// The most bytes that [`foreign_kind`] looks at.
pub const FOREIGN_BYTES: usize = 32;

/// What a file with this start is, to follow "this is"; `None` if it may be text, JSON or
/// safetensors.
#[must_use]
pub fn foreign_kind(bytes: &[u8]) -> Option<&'static str> {
    // A safetensors file starts with the length of its header, which may look like something else.
    if bytes.get(8) == Some(&b'{') {
        return None;
    }
    let start = bytes[..bytes.len().min(FOREIGN_BYTES)].to_ascii_lowercase();
    let mut kinds = KINDS.iter();
    let found = kinds.find(|(magic, _)| start.starts_with(&magic.to_ascii_lowercase()));
    found.map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recognised_by_their_first_bytes() {
        for (bytes, what) in [
            (
                &b"version https://git-lfs.github.com/spec/v1\n"[..],
                "Git LFS",
            ),
            (b"<!DOCTYPE html>", "web page"),
            (b"PK\x03\x04\xFF", "zip"),
            (b"\x80\x02}q\x00", "pickle"),
            (b"GGUF\x03\0\0\0", "GGUF"),
        ] {
            assert!(foreign_kind(bytes).unwrap().contains(what), "{what}");
        }
        // A header of 640 bytes.
        for bytes in [&b"\x80\x02\0\0\0\0\0\0{\"a\""[..], b"PKs", b""] {
            assert_eq!(foreign_kind(bytes), None);
        }
    }
}
