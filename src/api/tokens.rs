//! The bodies of `POST /v1/tokens`.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::Error;
use super::json::{JsonObject, json_error};

/// Ids of one request.
const IDS_MAX: usize = 1000;

/// A question about tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokensRequest {
    /// The tokens of a text.
    Text(String),
    /// The tokens with these ids.
    Ids(Vec<u32>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    inputs: Option<String>,
    ids: Option<Vec<u32>>,
    #[serde(default, rename = "options")]
    _options: IgnoredAny,
}

/// The answer to [`TokensRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokensAnswer {
    /// The tokens, special tokens included; those over the limit are left out.
    pub tokens: Vec<TokenJson>,
    /// The number of tokens, those over the limit included.
    pub count: usize,
    /// The limit on the tokens of a text.
    pub max_tokens: usize,
}

/// A token of the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenJson {
    pub token: u32,
    /// As the vocabulary writes it; null if the vocabulary has no such token.
    pub token_str: Option<String>,
}

impl TokensRequest {
    /// Reads a body in JSON.
    ///
    /// # Errors
    /// [`Error`] says what is wrong and where.
    pub fn parse_json(body: &[u8]) -> Result<Self, Error> {
        let hint = "Send {\"inputs\": \"a text\"} or {\"ids\": [1, 2]}";
        let JsonObject(body): JsonObject<Body> =
            serde_json::from_slice(body).map_err(|error| json_error(&error, "a request for tokens", hint))?;
        match (body.inputs, body.ids) {
            (Some(text), None) => Ok(Self::Text(text)),
            (None, Some(ids)) if ids.len() <= IDS_MAX => Ok(Self::Ids(ids)),
            (None, Some(ids)) => Err(Error::bad_request(
                "bad_request",
                format!("The request has {} ids and at most {IDS_MAX} are allowed.", ids.len()),
            )),
            _ => Err(Error::bad_request("bad_request", format!("{hint}, one of the two."))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_text_or_ids() {
        let parse = |body: &str| TokensRequest::parse_json(body.as_bytes());
        assert_eq!(parse(r#"{"inputs": "a"}"#), Ok(TokensRequest::Text("a".to_owned())));
        assert_eq!(parse(r#"{"ids": [3, 4]}"#), Ok(TokensRequest::Ids(vec![3, 4])));
        for (body, error_type) in [
            ("{}", "bad_request"),
            (r#"{"inputs": "a", "ids": [1]}"#, "bad_request"),
            (r#"{"ids": [-1]}"#, "bad_request"),
            (r#"{"text": "a"}"#, "bad_request"),
            ("{", "not_json"),
            (&format!(r#"{{"ids": [1{}]}}"#, ", 1".repeat(IDS_MAX)), "bad_request"),
        ] {
            assert_eq!(parse(body).unwrap_err().error_type, error_type, "{body}");
        }
    }
}
