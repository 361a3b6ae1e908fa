//! The two forms of a body: a text as it is, or JSON in the form of Hugging Face's inference API.

use std::marker::PhantomData;
use std::time::Duration;

use poem::http::{HeaderMap, header};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::error::ApiError;
use crate::fill_mask::Parameters;

/// What a client wants filled in.
#[derive(Debug, PartialEq, Eq)]
pub struct FillMaskRequest {
    /// At least one.
    pub texts: Vec<String>,
    /// What it says beside them.
    pub parameters: Parameters,
    /// How long the client waits for the answer, where its protocol can say so.
    pub timeout: Option<Duration>,
}

/// A JSON object. Serde would also take a list of a struct's fields in their order, and an empty list for all
/// of them absent.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    inputs: OneOrMany,
    #[serde(default)]
    parameters: Option<Object<BodyParameters>>,
    /// The hub's API takes options (such as `wait_for_model`) that mean nothing here.
    #[serde(default, rename = "options")]
    _options: serde::de::IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyParameters {
    top_k: Option<i64>,
    targets: Option<OneOrMany>,
}

/// A string, or a list of strings.
struct OneOrMany(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMany(texts))
            }
        }
        deserializer.deserialize_any(Strings)
    }
}

/// Which of the two forms a body has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The text as it is.
    Text,
    /// `{"inputs": …, "parameters": …}`.
    Json,
}

impl Form {
    /// By the content type: JSON is a request, anything else is the text itself.
    pub fn of(headers: &HeaderMap) -> Self {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type
            .and_then(|value| value.split(';').next())
            .unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        match essence == "application/json" || essence.ends_with("+json") {
            true => Self::Json,
            false => Self::Text,
        }
    }

    /// Reads a body of this form.
    ///
    /// # Errors
    /// [`ApiError`] with what is wrong and where.
    pub fn parse(self, body: &[u8]) -> Result<FillMaskRequest, ApiError> {
        match self {
            Self::Json => parse_json(body),
            Self::Text => parse_text(body),
        }
    }
}

fn parse_text(body: &[u8]) -> Result<FillMaskRequest, ApiError> {
    let text = std::str::from_utf8(body).map_err(|e| {
        let at = e.valid_up_to();
        ApiError::bad_request(
            "not_utf8",
            format!("The text is not valid UTF-8 at byte {at}; send it in UTF-8."),
        )
    })?;
    Ok(FillMaskRequest {
        texts: vec![text.to_owned()],
        parameters: Parameters::default(),
        timeout: None,
    })
}

fn parse_json(body: &[u8]) -> Result<FillMaskRequest, ApiError> {
    let Object(body): Object<Body> = serde_json::from_slice(body).map_err(|error| {
        json_error(
            &error,
            "a fill-mask request",
            "Send {\"inputs\": \"a text with a blank\"}",
        )
    })?;
    if body.inputs.0.is_empty() {
        return Err(ApiError::bad_request(
            "empty",
            "inputs is an empty list; send at least one text.",
        ));
    }
    let parameters = body.parameters.map(|Object(given)| given).unwrap_or_default();
    Ok(FillMaskRequest {
        texts: body.inputs.0,
        parameters: Parameters {
            top_k: parameters.top_k.map(top_k).transpose()?,
            targets: parameters.targets.map(|targets| targets.0),
        },
        timeout: None,
    })
}

/// Why JSON is not `what` was expected, and what to send instead.
pub fn json_error(error: &serde_json::Error, what: &str, hint: &str) -> ApiError {
    let (error_type, what) = match error.classify() {
        serde_json::error::Category::Data => ("bad_request", format!("The JSON is not {what}")),
        _ => ("not_json", "The body is not valid JSON".to_owned()),
    };
    ApiError::bad_request(error_type, format!("{what}: {error}. {hint}."))
}

/// `top_k` as JSON has it; the model's own bound is checked later.
pub fn top_k(top_k: i64) -> Result<usize, ApiError> {
    usize::try_from(top_k)
        .map_err(|_| ApiError::bad_request("bad_top_k", format!("top_k is {top_k}; it must be 1 or more.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_as(content_type: Option<&str>, body: &str) -> Result<FillMaskRequest, String> {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        Form::of(&headers).parse(body.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn only_json_is_read_as_json() {
        let json = r#"{"inputs": "a [MASK]"}"#;
        for content_type in [None, Some("application/x-www-form-urlencoded"), Some("text/plain")] {
            assert_eq!(parse_as(content_type, json).unwrap().texts, [json], "{content_type:?}");
        }
        for content_type in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/ld+json",
        ] {
            assert_eq!(
                parse_as(Some(content_type), json).unwrap().texts,
                ["a [MASK]"],
                "{content_type}"
            );
        }
    }

    #[test]
    fn json_takes_one_or_many() {
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
    fn what_is_wrong_is_named() {
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
}
