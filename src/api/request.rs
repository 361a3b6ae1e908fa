//! Request bodies: a text as it is, or JSON in the form of Hugging Face's inference API.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Error;
use super::json::{JsonObject, Name, OneOrMany, WholeNumber, json_error};
use super::mode::{Joint, Positions, TargetMethod, TargetMode, mode};
use super::score;
use super::sparse;
use super::truncation::{Direction, TokenizerKwargs, TruncationName, length_rule};
use crate::pipeline;
use crate::tasks::AnyRequest;
use crate::tasks::fill_mask::{Parameters, Request};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    inputs: OneOrMany,
    #[serde(default)]
    parameters: Option<JsonObject<BodyParameters>>,
    truncate: Option<bool>,
    truncation_direction: Option<Name<Direction>>,
    /// Options of the hub's API, such as `wait_for_model`, have no meaning here.
    #[serde(default, rename = "options")]
    _options: IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyParameters {
    top_k: Option<WholeNumber>,
    targets: Option<OneOrMany>,
    truncation: Option<Name<TruncationName>>,
    tokenizer_kwargs: Option<JsonObject<TokenizerKwargs>>,
    renormalize: Option<bool>,
    target_mode: Option<Name<TargetMode>>,
    target_method: Option<Name<TargetMethod>>,
    joint: Option<Joint>,
    positions: Option<Positions>,
}

/// The tasks that have a body of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    FillMask,
    Score,
    Sparse,
}

impl TaskKind {
    /// The error of a request for this task. Of a text over the limit it says which field of a body truncates it, if the
    /// task has one.
    pub fn error(self, error: pipeline::Error) -> Error {
        let field = match &error {
            pipeline::Error::Input(error) if error.is_over_limit() => self.truncation_field(),
            _ => None,
        };
        let error = Error::from(error);
        match field {
            Some(name) => Error {
                message: format!("{} Set {name} to cut it instead.", error.message).into(),
                ..error
            },
            None => error,
        }
    }

    fn truncation_field(self) -> Option<&'static str> {
        match self {
            Self::FillMask => Some("parameters.truncation"),
            Self::Score => None,
            Self::Sparse => Some("truncate"),
        }
    }
}

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
            true => parse_json(body),
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

fn parse_json(body: &[u8]) -> Result<Request, Error> {
    let JsonObject(body): JsonObject<Body> = serde_json::from_slice(body).map_err(|error| {
        json_error(
            &error,
            "a fill-mask request",
            "Send {\"inputs\": \"a text with a mask\"}",
        )
    })?;
    let parameters = body
        .parameters
        .map(|JsonObject(parameters)| parameters)
        .unwrap_or_default();
    Ok(Request {
        texts: body.inputs.texts()?,
        parameters: Parameters {
            top_k: parameters.top_k.map(parse_top_k).transpose()?,
            targets: parameters.targets.map(|targets| targets.strings),
            length: length_rule(
                parameters.truncation,
                parameters.tokenizer_kwargs,
                body.truncate,
                body.truncation_direction,
            )?,
            renormalize: parameters.renormalize.unwrap_or(false),
            mode: mode(
                parameters.target_mode,
                parameters.target_method,
                parameters.joint,
                parameters.positions,
            )?,
        },
    })
}

/// `top_k` of a JSON body. The task checks it against the model.
pub fn parse_top_k(WholeNumber(top_k): WholeNumber) -> Result<usize, Error> {
    usize::try_from(top_k)
        .map_err(|_| Error::bad_request("bad_top_k", format!("top_k is {top_k}; it must be 1 or more.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::fill_mask::Mode;
    use crate::tasks::{InputError, joint, positions, words};
    use crate::text::{EncodeError, LengthRule, Truncation};

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

    #[test]
    fn top_k_is_a_whole_number_in_any_notation() {
        let top_k = |number: &str| {
            let body = format!(r#"{{"inputs": "a", "parameters": {{"top_k": {number}}}}}"#);
            parse_as(Some("application/json"), &body).map(|request| request.parameters.top_k)
        };
        for (number, value) in [("2", 2), ("2.0", 2), ("1e2", 100)] {
            assert_eq!(top_k(number), Ok(Some(value)), "{number}");
        }
        for number in ["2.5", "1e30", "18446744073709551615", "\"2\"", "true", "[2]"] {
            let error = top_k(number).unwrap_err();
            assert!(error.contains("expected a whole number"), "{number}: {error}");
        }
        assert!(top_k("-2.0").unwrap_err().contains("top_k is -2"));
    }

    #[test]
    fn json_inputs_are_a_string_or_a_list() {
        let request = parse_as(
            Some("application/json"),
            r#"{"inputs": ["a", "b"], "parameters": {"top_k": 3, "targets": "x"}, "options": {"use_cache": false}}"#,
        )
        .unwrap();
        assert_eq!(request.texts, ["a", "b"]);
        assert_eq!(request.parameters.top_k, Some(3));
        assert_eq!(request.parameters.targets, Some(vec!["x".to_owned()]));
        let request = parse_as(
            Some("application/json"),
            r#"{"inputs": "a", "parameters": {"top_k": null, "targets": ["x", "y"]}}"#,
        )
        .unwrap();
        assert_eq!(request.parameters.top_k, None);
        assert_eq!(request.parameters.targets.unwrap(), ["x", "y"]);
        assert_eq!(
            parse_as(Some("application/json"), r#"{"inputs": "a", "parameters": null}"#)
                .unwrap()
                .parameters,
            Parameters::default()
        );
    }

    #[test]
    fn truncation_has_three_forms_of_which_one_is_sent() {
        let length = |fields: &str| {
            let body = format!(r#"{{"inputs": "a", {fields}}}"#);
            parse_as(Some("application/json"), &body).map(|request| request.parameters.length)
        };
        let (right, none) = (LengthRule::truncate(Truncation::Right), LengthRule::default());
        let as_tokenizer = LengthRule::truncate(Truncation::AsTokenizer);
        let to_9 = LengthRule {
            max_length: Some(9),
            ..as_tokenizer
        };
        let kwargs = |kwargs: &str| length(&format!(r#""parameters": {{"tokenizer_kwargs": {{{kwargs}}}}}"#));
        for (given, expected) in [
            (length(r#""parameters": {"truncation": "right"}"#), right),
            (length(r#""parameters": {"truncation": "error"}"#), none),
            (
                length(r#""parameters": {"truncation": "around_mask"}"#),
                LengthRule::truncate(Truncation::AroundMask),
            ),
            (length(r#""truncate": true"#), right),
            (length(r#""truncate": false"#), none),
            (
                length(r#""truncate": true, "truncation_direction": "Left""#),
                LengthRule::truncate(Truncation::Left),
            ),
            (kwargs(r#""truncation": true"#), as_tokenizer),
            (kwargs(r#""truncation": true, "max_length": 9"#), to_9),
            (kwargs(r#""truncation": "only_first", "max_length": 9"#), to_9),
            (kwargs(r#""max_length": 9"#), to_9),
            (kwargs(r#""max_length": 9, "padding": "max_length""#), none),
            (kwargs(r#""max_length": 9, "truncation": "do_not_truncate""#), none),
            (kwargs(""), none),
        ] {
            assert_eq!(given, Ok(expected));
        }
        for (refused, named) in [
            (kwargs(r#""max_length": -1"#), "max_length is -1"),
            (kwargs(r#""truncation": "only_second""#), "truncation must be true"),
            (kwargs(r#""stride": 1"#), "unknown field `stride`"),
            (
                length(r#""parameters": {"truncation": "middle"}"#),
                "unknown variant `middle`",
            ),
            (
                length(r#""truncate": true, "parameters": {"truncation": "left"}"#),
                "more than one form",
            ),
        ] {
            let error = refused.unwrap_err();
            assert!(error.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn the_parameters_choose_the_task() {
        let mode = |parameters: &str| {
            let body = format!(r#"{{"inputs": "a", "parameters": {{{parameters}}}}}"#);
            parse_as(Some("application/json"), &body).map(|request| request.parameters.mode)
        };
        let joint = |beam, order| Mode::Joint(joint::Options { beam, order });
        for (parameters, expected) in [
            ("", Mode::Tokens),
            (
                r#""target_mode": "token", "joint": false, "positions": "masks""#,
                Mode::Tokens,
            ),
            (r#""target_mode": "word""#, Mode::Words(words::Method::LeftToRight)),
            (
                r#""target_mode": "word", "target_method": "pll""#,
                Mode::Words(words::Method::Pll),
            ),
            (r#""joint": true"#, joint(8, joint::Order::LeftToRight)),
            (
                r#""joint": {"order": "most_certain_first", "beam": 3}"#,
                joint(3, joint::Order::MostCertainFirst),
            ),
            (r#""positions": "all""#, Mode::Positions(positions::Which::All)),
            (
                r#""positions": [3, 1.0]"#,
                Mode::Positions(positions::Which::List(vec![3, 1])),
            ),
        ] {
            assert_eq!(mode(parameters), Ok(expected), "{parameters}");
        }
        for (parameters, named) in [
            (r#""target_mode": "word", "joint": true"#, "at most one of"),
            (r#""joint": true, "positions": "all""#, "at most one of"),
            (r#""target_method": "pll""#, "target_mode"),
            (r#""joint": {"width": 3}"#, "joint must be"),
            (r#""joint": []"#, "joint must be"),
            (r#""positions": "some""#, "positions must be"),
            (r#""positions": [-1]"#, "A position is -1"),
            (r#""joint": {"beam": -1}"#, "beam is -1"),
        ] {
            let error = mode(parameters).unwrap_err();
            assert!(error.contains(named), "{parameters}: {error}");
        }
        let many = format!(r#""positions": [{}0]"#, "0,".repeat(65_536));
        assert!(mode(&many).unwrap_err().contains("65537 token indexes"));
    }

    #[test]
    fn the_error_names_the_problem() {
        for (body, named) in [
            ("{", "not valid JSON"),
            ("[]", "expected an object"),
            (r#"["a"]"#, "expected an object"),
            (r#"{"inputs": "a", "parameters": []}"#, "expected an object"),
            ("{}", "missing field `inputs`"),
            (r#"{"inputs": 3}"#, "a string or a list of strings"),
            (r#"{"inputs": ["a", 3]}"#, "expected a string"),
            (r#"{"inputs": []}"#, "empty list"),
            (r#"{"inputs": "a", "topk": 3}"#, "unknown field `topk`"),
            (r#"{"inputs": "a", "parameters": {"topk": 3}}"#, "unknown field `topk`"),
            (r#"{"inputs": "a", "parameters": {"top_k": -1}}"#, "top_k is -1"),
            (
                r#"{"inputs": "a", "parameters": {"top_k": "3"}}"#,
                "invalid type: string",
            ),
            (
                r#"{"inputs": "a", "parameters": {"targets": 3}}"#,
                "a string or a list of strings",
            ),
        ] {
            let error = parse_as(Some("application/json"), body).unwrap_err();
            assert!(error.contains(named), "{body}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse_as(Some("application/json"), &deep).is_err());
    }

    #[test]
    fn a_text_over_the_limit_is_refused_with_the_parameter_that_truncates_it() {
        let long = || InputError::Encode(EncodeError::TooManyTokens { tokens: 70, max: 64 });
        for (kind, named) in [
            (TaskKind::FillMask, Some("parameters.truncation")),
            (TaskKind::Sparse, Some("truncate")),
            (TaskKind::Score, None),
        ] {
            for error in [
                long(),
                InputError::InList {
                    index: 3,
                    error: Box::new(long()),
                },
            ] {
                let error = kind.error(error.into());
                assert!(
                    error.is_loggable && error.message.contains("shorten it or split it."),
                    "{error}"
                );
                let named = named.map(|name| format!(" Set {name} to cut it instead."));
                assert!(
                    error.message.ends_with(named.as_deref().unwrap_or("split it.")),
                    "{error}"
                );
            }
        }
        let other = TaskKind::FillMask.error(InputError::NoTarget.into());
        assert!(!other.message.contains("Set "), "{other}");
    }
}
