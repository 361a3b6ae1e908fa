//! The hash of a file. Its expected value is the etag: SHA-256 of a large file, the git blob id of a small one.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Compares the hash of a file, given in pieces, with its etag.
pub struct Verifier {
    expected: String,
    hash: Hash,
    bytes: u64,
}

enum Hash {
    Sha256(Sha256),
    /// SHA-1 of git's blob header and the content.
    GitBlob(Sha1),
    /// Another form of etag, as mirrors use; only the size is compared.
    Unknown,
}

impl Verifier {
    /// For a file of `size` bytes.
    pub fn new(etag: &str, size: u64) -> Self {
        let is_hex = etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        let hash = match etag.len() {
            64 if is_hex => Hash::Sha256(Sha256::new()),
            40 if is_hex => Hash::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
            _ => Hash::Unknown,
        };
        Self {
            expected: etag.to_ascii_lowercase(),
            hash,
            bytes: 0,
        }
    }

    /// Adds the next piece of the file.
    pub fn update(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        match &mut self.hash {
            Hash::Sha256(hash) => hash.update(piece),
            Hash::GitBlob(hash) => hash.update(piece),
            Hash::Unknown => {}
        }
    }

    /// False if the etag is no hash, so that only the size is compared.
    pub fn is_hash(&self) -> bool {
        !matches!(self.hash, Hash::Unknown)
    }

    /// Number of bytes added so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True if the hash is the expected one.
    pub fn verify(self) -> bool {
        let hex = |hash: &[u8]| -> String { hash.iter().map(|byte| format!("{byte:02x}")).collect() };
        match self.hash {
            Hash::Sha256(hash) => hex(&hash.finalize()) == self.expected,
            Hash::GitBlob(hash) => hex(&hash.finalize()) == self.expected,
            Hash::Unknown => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_hash_are_verified() {
        // As sha256sum and git hash-object print them.
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        for etag in [sha256, git] {
            for (content, right) in [("hello\n", true), ("hullo\n", false)] {
                let mut verifier = Verifier::new(etag, 6);
                verifier.update(&content.as_bytes()[..2]);
                verifier.update(&content.as_bytes()[2..]);
                assert_eq!(verifier.bytes(), 6);
                assert_eq!(verifier.verify(), right, "{etag} {content:?}");
            }
        }
    }
}
