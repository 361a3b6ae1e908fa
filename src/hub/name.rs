//! Name and revision of a model on the hub.

use std::fmt;

/// Default revision.
const MAIN: &str = "main";
/// The hub's limit on the length of an owner's or a model's name.
const PART_BYTES_MAX: usize = 96;

/// `OWNER/MODEL` (or `MODEL` alone, for the oldest models) and a revision: branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    id: String,
    revision: String,
}

impl ModelName {
    /// Parses `OWNER/MODEL` or `MODEL`. `None` if either is not valid on the hub.
    pub fn parse(id: &str, revision: Option<&str>) -> Option<Self> {
        let revision = revision.unwrap_or(MAIN);
        let mut parts = id.split('/');
        let id_is_valid = matches!((parts.next(), parts.next(), parts.next()), (Some(first), second, None)
            if is_part(first) && second.is_none_or(is_part));
        let revision_is_valid = !revision.is_empty() && revision.split('/').all(is_part);
        (id_is_valid && revision_is_valid).then(|| Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
        })
    }

    /// The same model at another revision, which must be valid.
    pub(super) fn at(&self, revision: &str) -> Self {
        Self {
            id: self.id.clone(),
            revision: revision.to_owned(),
        }
    }

    /// `OWNER/MODEL` or `MODEL`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// True if the revision is a full commit id, whose files never change.
    pub(super) fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// True if `part` is made of letters, digits, `-`, `_` and `.`, and is safe as a folder name.
pub(super) fn is_part(part: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=PART_BYTES_MAX).contains(&part.len())
        && part.bytes().all(is_allowed)
        && !part.starts_with(['.', '-'])
        && !part.contains("..")
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision == MAIN {
            true => f.write_str(&self.id),
            false => write!(f, "{} at {}", self.id, self.revision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_validated() {
        for id in ["google-bert/bert-base-uncased", "bert-base-uncased", "a/b_c.d-1"] {
            assert_eq!(ModelName::parse(id, None).unwrap().to_string(), id);
        }
        for id in [
            "", "/", "a/", "/a", "./a", "../a", "a/..", "a/b/c", "a b", "a\\b", "ä/b", "~/a", "-a/b",
        ] {
            assert_eq!(ModelName::parse(id, None), None, "{id}");
        }
        assert_eq!(ModelName::parse(&"a".repeat(97), None), None);
        for (revision, valid) in [
            ("refs/pr/3", true),
            ("v1.0", true),
            ("", false),
            ("../x", false),
            ("a//b", false),
        ] {
            assert_eq!(ModelName::parse("a/b", Some(revision)).is_some(), valid, "{revision}");
        }
        assert!(ModelName::parse("a/b", Some(&"0f".repeat(20))).unwrap().is_commit());
    }
}
