//! Formats of request bodies: a text as it is, or JSON.

use std::collections::HashMap;

use serde::de::IgnoredAny;

use super::Error;
use super::fill_mask;
use super::score;
use super::sparse;
use super::task_kind::TaskKind;
use crate::tasks::AnyRequest;
use crate::tasks::fill_mask::{Parameters, Request};

/// The format of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The body is the text.
    Text,
    /// `{"inputs": …, "parameters": …}`.
    Json,
    /// JSON if the body is a JSON object with `inputs`, else the text. Many clients send JSON without declaring it.
    Undeclared,
    /// The same, declared as a form: `curl -d` does so by default. A form with the field `inputs` is refused.
    Form,
}

impl Format {
    /// The format that a content type announces.
    ///
    /// # Errors
    /// 415 for a multipart form.
    pub fn from_content_type(content_type: Option<&str>) -> Result<Self, Error> {
        let essence = content_type
            .and_then(|value| value.split(';').next())
            .unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        if essence.starts_with("multipart/") {
            return Err(Error::new(
                415,
                "content_type",
                "The body is a multipart form; send the text itself, or JSON as {\"inputs\": \"a text with a mask\"}.",
            ));
        }
        let is_json = ["application/json", "text/json"].contains(&essence.as_str()) || essence.ends_with("+json");
        Ok(match essence.as_str() {
            _ if is_json => Self::Json,
            "application/x-www-form-urlencoded" => Self::Form,
            _ => Self::Undeclared,
        })
    }

    /// Parses a body of this format for a task.
    ///
    /// # Errors
    /// As of [`parse`](Self::parse).
    pub fn parse_task(self, kind: TaskKind, body: &[u8]) -> Result<AnyRequest, Error> {
        self.check(body)?;
        match kind {
            TaskKind::FillMask => Ok(self.parse(body)?.into()),
            TaskKind::Score => Ok(AnyRequest::Score(match self.is_json(without_bom(body)) {
                true => score::parse_json(without_bom(body))?,
                false => score::of_text(text(without_bom(body))?),
            })),
            TaskKind::Sparse => Ok(AnyRequest::Sparse(match self.is_json(without_bom(body)) {
                true => sparse::parse_json(without_bom(body))?,
                false => sparse::of_text(text(without_bom(body))?),
            })),
        }
    }

    /// Parses a body of this format for fill-mask.
    ///
    /// # Errors
    /// [`Error`] says what is wrong and where.
    pub fn parse(self, body: &[u8]) -> Result<Request, Error> {
        self.check(body)?;
        let body = without_bom(body);
        match self.is_json(body) {
            true => fill_mask::parse_json(body),
            false => Ok(Request {
                texts: vec![text(body)?],
                parameters: Parameters::default(),
            }),
        }
    }

    /// Refuses a form, whose field would be a part of the text.
    fn check(self, body: &[u8]) -> Result<(), Error> {
        match self {
            Self::Form if body.starts_with(b"inputs=") => Err(Error::new(
                415,
                "content_type",
                "The body is a form with the field inputs; send the text itself, or JSON as {\"inputs\": \"a text with a mask\"}.",
            )),
            _ => Ok(()),
        }
    }

    fn is_json(self, body: &[u8]) -> bool {
        match self {
            Self::Text => false,
            Self::Json => true,
            Self::Undeclared | Self::Form => is_json_request(body),
        }
    }
}

/// The bytes without a byte order mark at their beginning, which some programs write before UTF-8.
pub fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

/// True for a JSON object with `inputs`, and for a text that begins as a request does and is not valid JSON: its errors
/// are those of JSON.
fn is_json_request(body: &[u8]) -> bool {
    let Some(fields) = body.trim_ascii_start().strip_prefix(b"{") else {
        return false;
    };
    match serde_json::from_slice::<HashMap<String, IgnoredAny>>(body) {
        Ok(fields) => fields.contains_key("inputs"),
        Err(_) => {
            let names = ["\"inputs\"", "\"parameters\"", "\"options\""];
            let fields = fields.trim_ascii_start();
            names.iter().any(|name| fields.starts_with(name.as_bytes()))
        }
    }
}

fn text(body: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(body).map_err(|e| {
        let at = e.valid_up_to();
        Error::bad_request(
            "not_utf8",
            format!("The text is not valid UTF-8 at byte {at}; send it in UTF-8."),
        )
        .loggable()
    })?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_as(content_type: Option<&str>, body: &str) -> Result<Request, String> {
        let format = Format::from_content_type(content_type).map_err(|e| e.to_string())?;
        format.parse(body.as_bytes()).map_err(|e| e.to_string())
    }

    /// Content types of clients that do not declare their JSON: curl, requests, fetch, and others.
    const UNDECLARED: [Option<&str>; 5] = [
        None,
        Some("application/x-www-form-urlencoded"),
        Some("text/plain;charset=UTF-8"),
        Some("application/octet-stream"),
        Some("application/x-ndjson"),
    ];

    #[test]
    fn a_json_object_with_inputs_is_a_request_under_any_content_type() {
        let declared = [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/ld+json",
            "text/json",
        ];
        for content_type in UNDECLARED.into_iter().chain(declared.map(Some)) {
            for json in [
                r#"{"inputs": "a [MASK]", "parameters": {"top_k": 2}}"#,
                " \n{ \"parameters\": {\"top_k\": 2}, \"inputs\": [\"a [MASK]\"]}",
                "\u{feff}{\"inputs\": \"a [MASK]\", \"parameters\": {\"top_k\": 2}}",
            ] {
                let request = parse_as(content_type, json).unwrap();
                assert_eq!(request.texts, ["a [MASK]"], "{content_type:?}: {json}");
                assert_eq!(request.parameters.top_k, Some(2), "{content_type:?}: {json}");
            }
            for (broken, named) in [
                (r#"{"inputs": "a [MASK]""#, "not valid JSON"),
                (r#"{"parameters": {}, "inputs": "a [MASK]" "b"}"#, "not valid JSON"),
                (
                    "{\"inputs\": \"a [MASK]\"}\n{\"inputs\": \"b [MASK]\"}",
                    "trailing characters",
                ),
                (r#"{"inputs": "a [MASK]", "topk": 3}"#, "unknown field `topk`"),
                (r#"{"inputs": null}"#, "a string or a list of strings"),
            ] {
                let error = parse_as(content_type, broken).unwrap_err();
                assert!(error.contains(named), "{content_type:?}: {broken}: {error}");
            }
        }
    }

    #[test]
    fn other_bodies_are_texts() {
        for content_type in UNDECLARED {
            for text in [
                "a [MASK]",
                "[MASK] is",
                r#"{"text": "a [MASK]"}"#,
                r#"["a [MASK]"]"#,
                "{a [MASK]}",
                "inputs",
            ] {
                assert_eq!(parse_as(content_type, text).unwrap().texts, [text], "{content_type:?}");
            }
        }
        assert_eq!(parse_as(None, "\u{feff}a [MASK]").unwrap().texts, ["a [MASK]"]);
        let json = r#"{"inputs": "a [MASK]"}"#;
        assert_eq!(Format::Text.parse(json.as_bytes()).unwrap().texts, [json]);
    }

    #[test]
    fn multipart_is_refused() {
        for content_type in ["multipart/form-data; boundary=b", "Multipart/Mixed"] {
            let error = Format::from_content_type(Some(content_type)).unwrap_err();
            assert_eq!((error.status, error.error_type), (415, "content_type"));
        }
    }

    #[test]
    fn a_form_with_the_field_inputs_is_refused() {
        let form = "Application/x-www-form-urlencoded; charset=utf-8";
        for body in ["inputs=a+%5BMASK%5D", "inputs=a [MASK]&parameters=1", "inputs="] {
            let format = Format::from_content_type(Some(form)).unwrap();
            for kind in [TaskKind::FillMask, TaskKind::Score, TaskKind::Sparse] {
                let error = format.parse_task(kind, body.as_bytes()).err().unwrap();
                assert_eq!((error.status, error.error_type), (415, "content_type"), "{body}");
            }
            assert_eq!(parse_as(Some("text/plain"), body).unwrap().texts, [body]);
        }
        assert_eq!(
            parse_as(Some(form), "a [MASK] inputs=").unwrap().texts,
            ["a [MASK] inputs="]
        );
    }
}
