//! The body of `POST /v1/score`.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Error;
use super::json::{JsonObject, Name, OneOrMany, WholeNumber, indices, json_error};
use crate::tasks::score::{Method, Parameters, Request};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    inputs: OneOrMany,
    #[serde(default)]
    parameters: Option<JsonObject<BodyParameters>>,
    #[serde(default, rename = "options")]
    _options: IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyParameters {
    method: Option<Name<MethodName>>,
    per_token: Option<bool>,
    only: Option<Vec<WholeNumber>>,
}

#[derive(Clone, Copy, Deserialize)]
enum MethodName {
    #[serde(rename = "pll")]
    Pll,
    #[serde(rename = "pll_word_l2r")]
    PllWordL2r,
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
        .map_err(|error| json_error(&error, "a request for scores", "Send {\"inputs\": \"a text\"}"))?;
    let parameters = body.parameters.map(|JsonObject(parameters)| parameters);
    let BodyParameters {
        method,
        per_token,
        only,
    } = parameters.unwrap_or_default();
    if only.as_ref().is_some_and(Vec::is_empty) {
        return Err(Error::bad_request(
            "empty",
            "only is an empty list; name the index of at least one token, or leave it out.",
        ));
    }
    let only = only.map(|list| indices(list, "An index in only")).transpose()?;
    Ok(Request {
        is_list: body.inputs.is_list,
        texts: body.inputs.texts()?,
        parameters: Parameters {
            method: method.map(|Name(name)| match name {
                MethodName::Pll => Method::Pll,
                MethodName::PllWordL2r => Method::PllWordL2r,
            }),
            per_token,
            only,
        },
    })
}
