//! What the hub says that a file's hash is: its etag.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The hash that a file must have, and that of what has come so far.
pub struct Check {
    expected: String,
    hash: Hash,
    bytes: u64,
}

enum Hash {
    /// Large files: SHA-256 of the content.
    Sha256(Sha256),
    /// Small files: git's own name of a blob, SHA-1 of a header and the content.
    GitBlob(Sha1),
    /// An etag of another form, as a mirror may have it, says nothing; the size must do.
    Unknown,
}

impl Check {
    /// For a file of `size` bytes whose etag is `etag`.
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

    /// Takes the next piece of the file.
    pub fn update(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        match &mut self.hash {
            Hash::Sha256(hash) => hash.update(piece),
            Hash::GitBlob(hash) => hash.update(piece),
            Hash::Unknown => {}
        }
    }

    /// How much has come so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is the file that was announced.
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
    fn both_kinds_of_hash_are_checked() {
        // `printf 'hello\n' | sha256sum` and `printf 'hello\n' | git hash-object --stdin`.
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        for etag in [sha256, git] {
            for (content, right) in [("hello\n", true), ("hullo\n", false)] {
                let mut check = Check::new(etag, 6);
                check.update(&content.as_bytes()[..2]);
                check.update(&content.as_bytes()[2..]);
                assert_eq!(check.bytes(), 6);
                assert_eq!(check.verify(), right, "{etag} {content:?}");
            }
        }
    }
}
