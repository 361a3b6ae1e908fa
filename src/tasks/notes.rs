//! Facts about an answer beside it, which HTTP sends as headers.

/// Facts about an answer that a client must know to read it right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Tokens that truncation removed from all texts; `None` for a request without truncation.
    pub truncated_tokens: Option<usize>,
    pub replaced_targets: ReplacedTargets,
}

/// Bytes of the targets and tokens that are listed.
const LISTED_BYTES_MAX: usize = 2048;

/// Targets that are scored as another token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplacedTargets {
    /// Targets with the token in their place, `None` for one that is left out. The list is bounded in bytes.
    pub listed: Vec<(String, Option<String>)>,
    /// Targets beyond the list.
    pub unlisted: usize,
    bytes: usize,
}

impl ReplacedTargets {
    /// Notes that `target` is scored as `token`, or left out.
    pub fn add(&mut self, target: &str, token: Option<String>) {
        let bytes = target.len() + token.as_ref().map_or(0, String::len);
        match self.bytes + bytes <= LISTED_BYTES_MAX {
            true => {
                self.bytes += bytes;
                self.listed.push((target.to_owned(), token));
            }
            false => self.unlisted += 1,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.unlisted == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_counts_the_rest() {
        let mut replaced = ReplacedTargets::default();
        assert!(replaced.is_empty());
        for index in 0..100 {
            replaced.add(&format!("{index:0100}"), None);
        }
        assert_eq!((replaced.listed.len(), replaced.unlisted), (20, 80));
        let mut replaced = ReplacedTargets::default();
        replaced.add(&"x".repeat(LISTED_BYTES_MAX + 1), None);
        assert!(!replaced.is_empty() && replaced.listed.is_empty());
    }
}
