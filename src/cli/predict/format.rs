//! The format of lines: plain text or JSON. Lines of other formats would be answered as texts, so detection refuses
//! them.

use cloze::api::{Error, Format, TaskKind};
use cloze::tasks::AnyRequest;
use cloze::tasks::fill_mask::Request;
use serde::de::IgnoredAny;

/// The format of all lines of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Each line is a text, even if it looks like JSON.
    Text,
    /// Each line is a request.
    Json,
    /// Detected: each line is a text, unless it is a JSON list or a record of CSV.
    DetectedText,
    /// Detected: the input is a JSON list.
    JsonList,
    /// Detected: the first line is the header of a CSV file.
    Csv,
}

const JSON_LIST: &str = "is part of a JSON list; write one JSON object with inputs per line";
const CSV: &str = "looks like CSV; write one text per line, or one JSON object with inputs per line";

impl Lines {
    /// The format of an input with this first line.
    pub fn detect(line: &[u8], mask_token: &str) -> Self {
        let trimmed = line.trim_ascii();
        if trimmed.starts_with(b"{") {
            return Self::Json;
        }
        if trimmed.starts_with(b"[") {
            // A list may go on in the next lines.
            return match serde_json::from_slice::<IgnoredAny>(trimmed) {
                Ok(_) => Self::JsonList,
                Err(error) if error.is_eof() => Self::JsonList,
                Err(_) => Self::DetectedText,
            };
        }
        match std::str::from_utf8(trimmed) {
            Ok(line) if is_csv_header(line, mask_token) => Self::Csv,
            _ => Self::DetectedText,
        }
    }

    /// Parses a line for a task.
    ///
    /// # Errors
    /// A line that is not in this format, with the reason.
    pub fn parse(self, kind: TaskKind, line: &[u8]) -> Result<AnyRequest, Error> {
        self.format(line)?.parse_task(kind, line)
    }

    /// Parses a line for fill-mask.
    ///
    /// # Errors
    /// As of [`parse`](Self::parse).
    pub fn parse_fill_mask(self, line: &[u8]) -> Result<Request, Error> {
        self.format(line)?.parse(line)
    }

    /// The format of the body that a line is.
    fn format(self, line: &[u8]) -> Result<Format, Error> {
        match self {
            Self::Text => Ok(Format::Text),
            Self::Json => Ok(Format::Json),
            Self::JsonList => Err(refused(JSON_LIST)),
            Self::Csv => Err(refused(CSV)),
            Self::DetectedText => match foreign_format(line) {
                Some(reason) => Err(refused(reason)),
                None => Ok(Format::Text),
            },
        }
    }
}

fn refused(reason: &str) -> Error {
    let message = format!("The line {reason}; --format text reads it as a text.");
    Error::bad_request("bad_line", message)
}

/// The reason why a line is not a plain text.
fn foreign_format(line: &[u8]) -> Option<&'static str> {
    let line = line.trim_ascii();
    if line.starts_with(b"[") && serde_json::from_slice::<IgnoredAny>(line).is_ok() {
        return Some(JSON_LIST);
    }
    let line = std::str::from_utf8(line).ok()?;
    is_csv_record(line).then_some(CSV)
}

/// Delimiters of CSV, TSV, and CSV where the comma is the decimal separator.
const DELIMITERS: [char; 3] = [',', '\t', ';'];

/// Names of columns between delimiters without spaces, or the usual name of the only column.
fn is_csv_header(line: &str, mask_token: &str) -> bool {
    let is_name = |field: &str| {
        let field = unquoted(field).unwrap_or(field);
        let in_name = |character: char| character.is_alphanumeric() || "_-. ".contains(character);
        !field.is_empty() && !field.starts_with(' ') && field.len() <= 40 && field.chars().all(in_name)
    };
    let usual = ["text", "texts", "input", "inputs", "sentence", "sentences"];
    let one = unquoted(line).unwrap_or(line).to_ascii_lowercase();
    let many = |delimiter: char| line.contains(delimiter) && line.split(delimiter).all(is_name);
    !line.contains(mask_token) && (usual.contains(&one.as_str()) || DELIMITERS.into_iter().any(many))
}

/// A record with a quoted field, or with a number as its first field. Prose has a space behind a comma, and no
/// quotation that fills all between two commas.
fn is_csv_record(line: &str) -> bool {
    DELIMITERS.into_iter().any(|delimiter| {
        let Some(fields) = fields(line, delimiter) else {
            return false;
        };
        let is_number = |field: &str| !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit());
        match fields.as_slice() {
            [] | [_] => false,
            // 1,000 is one number.
            [first, second, ..] if is_number(first) => !second.starts_with(|c: char| c == ' ' || c.is_ascii_digit()),
            fields => fields.iter().any(|field| unquoted(field).is_some()),
        }
    })
}

/// The fields of a record, with their quotes; `None` if a quoted field does not end.
fn fields(line: &str, delimiter: char) -> Option<Vec<&str>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let end = match rest.strip_prefix('"') {
            Some(quoted) => 1 + end_of_quoted(quoted)?,
            None => rest.find(delimiter).unwrap_or(rest.len()),
        };
        let (field, behind) = rest.split_at(end);
        fields.push(field);
        match behind.strip_prefix(delimiter) {
            Some(next) => rest = next,
            None if behind.is_empty() => return Some(fields),
            // Text behind a quotation.
            None => return None,
        }
    }
}

/// Bytes of a quoted field behind its first quote, with its last one. Two quotes in a row are one character of it.
fn end_of_quoted(quoted: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let quote = from + quoted[from..].find('"')?;
        match quoted[quote + 1..].starts_with('"') {
            true => from = quote + 2,
            false => return Some(quote + 1),
        }
    }
}

/// The content of a field in quotes.
fn unquoted(field: &str) -> Option<&str> {
    field.strip_prefix('"')?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_decides() {
        for (line, expected) in [
            (" {\"inputs\": \"a [MASK]\"}", Lines::Json),
            ("[\"a [MASK]\"]", Lines::JsonList),
            ("[", Lines::JsonList),
            ("[\"a [MASK]\",", Lines::JsonList),
            ("[{\"inputs\": \"a [MASK]\"},", Lines::JsonList),
            ("[MASK] is a [MASK].", Lines::DetectedText),
            ("[CLS] a [MASK]", Lines::DetectedText),
            ("id,text", Lines::Csv),
            ("\"id\";\"text\"", Lines::Csv),
            ("label\ttext", Lines::Csv),
            ("Text", Lines::Csv),
            ("Hello, world", Lines::DetectedText),
            ("a,[MASK]", Lines::DetectedText),
            ("Text without a mask", Lines::DetectedText),
            ("She said: \"[MASK]\"", Lines::DetectedText),
        ] {
            assert_eq!(Lines::detect(line.as_bytes(), "[MASK]"), expected, "{line}");
        }
    }

    #[test]
    fn json_lists_and_csv_are_no_texts_unless_the_format_is_given() {
        for line in [
            r#"["a [MASK]"]"#,
            r#"["a [MASK]", "b"]"#,
            r#"1,"She [MASK] born in London, in 1950.""#,
            r#""She [MASK] born in ""London"".",0"#,
            "7,She [MASK] born in London.",
            "7\tShe [MASK] born in London.",
            r#"a;"She [MASK] born";b"#,
        ] {
            let error = Lines::DetectedText.parse_fill_mask(line.as_bytes()).unwrap_err();
            assert_eq!(error.error_type, "bad_line", "{line}");
            assert_eq!(Lines::Text.parse_fill_mask(line.as_bytes()).unwrap().texts, [line]);
        }
        for line in [
            "The Cat, on a [MASK].",
            "\"I [MASK] you,\" he said.",
            "\"I [MASK] you\"",
            "1,000 people [MASK] there.",
            "7, 8 and [MASK]",
            "[MASK] and [MASK]",
            "[1] The [MASK] is cited, too.",
            "{a, [MASK]}",
            r#"{"inputs": "a [MASK]"}"#,
            "\tif x: [MASK]",
            "He said, \"no\", and [MASK].",
        ] {
            assert_eq!(
                Lines::DetectedText.parse_fill_mask(line.as_bytes()).unwrap().texts,
                [line]
            );
        }
        for lines in [Lines::Csv, Lines::JsonList] {
            assert!(lines.parse_fill_mask(b"a [MASK]").is_err());
        }
    }
}
