//! Request bodies: a text as it is, or JSON in the form of Hugging Face's inference API.

use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::Error;
use crate::tasks::fill_mask::{Parameters, Request};

/// A JSON object. Serde alone would also accept a list of a struct's fields in order, and an empty list where all of them
/// are optional.
pub struct JsonObject<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = JsonObject<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<JsonObject<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(JsonObject)
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
    parameters: Option<JsonObject<BodyParameters>>,
    /// Options of the hub's API, such as `wait_for_model`, have no meaning here.
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

/// The format of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The body is the text.
    Text,
    /// `{"inputs": …, "parameters": …}`.
    Json,
}

impl Format {
    /// JSON content types announce JSON; with any other, or none, the body is the text.
    pub fn from_content_type(content_type: Option<&str>) -> Self {
        let essence = content_type
            .and_then(|value| value.split(';').next())
            .unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        match essence == "application/json" || essence.ends_with("+json") {
            true => Self::Json,
            false => Self::Text,
        }
    }

    /// Parses a body of this format.
    ///
    /// # Errors
    /// [`Error`] says what is wrong and where.
    pub fn parse(self, body: &[u8]) -> Result<Request, Error> {
        match self {
            Self::Json => parse_json(body),
            Self::Text => parse_text(body),
        }
    }
}

fn parse_text(body: &[u8]) -> Result<Request, Error> {
    let text = std::str::from_utf8(body).map_err(|e| {
        let at = e.valid_up_to();
        Error::bad_request(
            "not_utf8",
            format!("The text is not valid UTF-8 at byte {at}; send it in UTF-8."),
        )
    })?;
    Ok(Request {
        texts: vec![text.to_owned()],
        parameters: Parameters::default(),
    })
}

fn parse_json(body: &[u8]) -> Result<Request, Error> {
    let JsonObject(body): JsonObject<Body> = serde_json::from_slice(body).map_err(|error| {
        json_error(
            &error,
            "a fill-mask request",
            "Send {\"inputs\": \"a text with a mask\"}",
        )
    })?;
    if body.inputs.0.is_empty() {
        return Err(Error::bad_request(
            "empty",
            "inputs is an empty list; send at least one text.",
        ));
    }
    let parameters = body
        .parameters
        .map(|JsonObject(parameters)| parameters)
        .unwrap_or_default();
    Ok(Request {
        texts: body.inputs.0,
        parameters: Parameters {
            top_k: parameters.top_k.map(parse_top_k).transpose()?,
            targets: parameters.targets.map(|targets| targets.0),
        },
    })
}

/// The error of a body that is not JSON, or not of the type that `expected` names; `hint` is a sentence without its period.
pub fn json_error(error: &serde_json::Error, expected: &str, hint: &str) -> Error {
    let (error_type, problem) = match error.classify() {
        serde_json::error::Category::Data => ("bad_request", format!("The JSON is not {expected}")),
        _ => ("not_json", "The body is not valid JSON".to_owned()),
    };
    Error::bad_request(error_type, format!("{problem}: {error}. {hint}."))
}

/// `top_k` of a JSON body. The task checks it against the model.
pub fn parse_top_k(top_k: i64) -> Result<usize, Error> {
    usize::try_from(top_k)
        .map_err(|_| Error::bad_request("bad_top_k", format!("top_k is {top_k}; it must be 1 or more.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_as(content_type: Option<&str>, body: &str) -> Result<Request, String> {
        let format = Format::from_content_type(content_type);
        format.parse(body.as_bytes()).map_err(|e| e.to_string())
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
}
