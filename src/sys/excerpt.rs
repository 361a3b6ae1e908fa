//! Bounded parts of texts for messages. A text from a client or a file may be megabytes long, and a message repeats it.

use std::fmt::{self, Debug, Display, Formatter, Write};

/// Characters of a name or a value in a message.
const NAME_CHARS_MAX: usize = 100;
/// Characters of a sentence that another library wrote, which may repeat its input.
const SENTENCE_CHARS_MAX: usize = 300;
/// Characters of a sentence that may repeat input, and lists the model types or another set of names.
const LIST_CHARS_MAX: usize = 480;
/// Characters of a sentence that names files.
const LONG_CHARS_MAX: usize = 1000;

/// A text that is displayed in full, or without its middle if it is too long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Excerpt<'a> {
    head: &'a str,
    /// `None` if `head` is the whole text.
    tail: Option<&'a str>,
}

/// A name or a value for a message: 100 characters at most.
pub fn name(text: &str) -> Excerpt<'_> {
    Excerpt::new(text, NAME_CHARS_MAX)
}

/// A sentence that may repeat input: 300 characters at most.
pub fn sentence(text: &str) -> Excerpt<'_> {
    Excerpt::new(text, SENTENCE_CHARS_MAX)
}

/// A sentence that may repeat input before a list of names: 480 characters at most.
pub fn list(text: &str) -> Excerpt<'_> {
    Excerpt::new(text, LIST_CHARS_MAX)
}

/// A sentence that names files: 1,000 characters at most.
pub fn long(text: &str) -> Excerpt<'_> {
    Excerpt::new(text, LONG_CHARS_MAX)
}

impl<'a> Excerpt<'a> {
    /// Keeps two thirds at the beginning, and the end, where parsers write the position of an error.
    fn new(text: &'a str, chars_max: usize) -> Self {
        // No text of so many bytes has more characters.
        if text.len() <= chars_max || text.chars().nth(chars_max).is_none() {
            return Self { head: text, tail: None };
        }
        let head_chars = chars_max * 2 / 3;
        let tail_chars = chars_max - head_chars - 1;
        let (head_end, _) = text.char_indices().nth(head_chars).expect("the text is longer");
        let (tail_start, _) = text
            .char_indices()
            .nth_back(tail_chars - 1)
            .expect("the text is longer");
        Self {
            head: &text[..head_end],
            tail: Some(&text[tail_start..]),
        }
    }
}

impl Display for Excerpt<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.head)?;
        match self.tail {
            Some(tail) => write!(f, "…{tail}"),
            None => Ok(()),
        }
    }
}

/// In quotes and escaped.
impl Debug for Excerpt<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write!(f, "{}", self.head.escape_debug())?;
        if let Some(tail) = self.tail {
            write!(f, "…{}", tail.escape_debug())?;
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_whole_and_long_ones_keep_both_ends() {
        for text in ["", "a", "\"quoted\"\n", &"é".repeat(100)] {
            assert_eq!(name(text).to_string(), text);
            assert_eq!(format!("{:?}", name(text)), format!("{text:?}"));
        }
        let long = format!("begin{}end", "é".repeat(1 << 20));
        let shown = name(&long).to_string();
        assert_eq!(shown.chars().count(), 100);
        assert!(
            shown.starts_with("beginé") && shown.contains('…') && shown.ends_with("éend"),
            "{shown}"
        );
        assert_eq!(sentence(&long).to_string().chars().count(), 300);
        let escaped = format!("{:?}", name(&"\u{80}".repeat(500_000)));
        assert!(escaped.len() < 1000, "{escaped}");
    }
}
