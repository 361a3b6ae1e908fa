//! The body of `POST /embed_sparse`, in the form of text-embeddings-inference.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Error;
use super::json::{JsonObject, Name, OneOrMany, json_error};
use super::truncation::{Direction, truncate_rule};
use crate::tasks::sparse::Request;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    inputs: OneOrMany,
    truncate: Option<bool>,
    truncation_direction: Option<Name<Direction>>,
    /// Sent as null by some clients; models of sparse vectors have no prompts.
    #[serde(default)]
    prompt_name: Option<IgnoredAny>,
    #[serde(default, rename = "options")]
    _options: IgnoredAny,
}

/// A body that is a text.
pub fn of_text(text: String) -> Request {
    Request {
        texts: vec![text],
        ..Request::default()
    }
}

/// A body in JSON.
///
/// # Errors
/// [`Error`] says what is wrong and where.
pub fn parse_json(body: &[u8]) -> Result<Request, Error> {
    let JsonObject(body): JsonObject<Body> = serde_json::from_slice(body)
        .map_err(|error| json_error(&error, "a request for sparse vectors", "Send {\"inputs\": \"a text\"}"))?;
    if body.prompt_name.is_some() {
        return Err(Error::bad_request(
            "bad_parameters",
            "prompt_name is not supported; write the prompt into the text.",
        ));
    }
    Ok(Request {
        length: truncate_rule(body.truncate, body.truncation_direction),
        texts: body.inputs.texts()?,
    })
}
