//! SHA-256, which identifies a text, a tokenizer and the files of a run.

use std::io::{self, BufReader, Read, Write};

use sha2::{Digest, Sha256};

/// Hashes everything written to it.
#[derive(Clone, Debug, Default)]
pub struct Sha256Writer(Sha256);

impl Sha256Writer {
    /// The hash of everything written, in lower-case hexadecimal.
    pub fn hex(self) -> String {
        let digest = self.0.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Write for Sha256Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The SHA-256 of bytes, in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256Writer(Sha256::new_with_prefix(bytes)).hex()
}

/// The SHA-256 of a file, which may be larger than the memory.
///
/// # Errors
///
/// If it cannot be read.
pub fn sha256_of(reader: impl Read) -> io::Result<String> {
    let mut hash = Sha256Writer::default();
    // By default it would make a system call for every 8 kB.
    io::copy(&mut BufReader::with_capacity(1 << 17, reader), &mut hash)?;
    Ok(hash.hex())
}

#[cfg(test)]
mod tests {
    use super::{sha256_hex, sha256_of};

    #[test]
    fn the_fingerprint_is_sha256() {
        assert_eq!(
            sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_long_stream_has_the_hash_of_its_bytes() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(sha256_of(&bytes[..]).unwrap(), sha256_hex(&bytes));
    }
}
