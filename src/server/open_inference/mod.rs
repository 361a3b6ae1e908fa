//! The Open Inference Protocol, version 2, over REST: what the clients of Triton and KServe speak.
//!
//! One input, `text`, of type BYTES and shape `[texts]`. The outputs have one row for each blank, in the order
//! of the texts and of the blanks in them, so they are never ragged: where every text has one blank, row `i` is
//! text `i`; otherwise `text_index` and `mask_index` say whose a row is.
//!
//! | file | what it is |
//! |---|---|
//! | `metadata` | what the server and the model say of themselves, health |
//! | `infer` | `POST /v2/models/{name}/infer` |
//! | `request` | its body, with tensors in JSON or behind it in binary |
//! | `response` | answers as tensors, in either form |
//! | `tensor` | the outputs by name |
//!
//! The protocol: <https://github.com/kserve/open-inference-protocol>; the binary extension:
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>.

mod infer;
mod metadata;
mod request;
mod response;
mod tensor;
#[cfg(test)]
mod tests;

use poem::endpoint::BoxEndpoint;
use poem::http::{HeaderName, StatusCode};
use poem::{Request, Response};

use super::routes::methods::{get, post};
use super::{ApiError, App, FillMaskRequest};

/// The only version of the model that there is.
const VERSION: &str = "1";

/// The JSON's length in a body that has binary tensors behind it.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The protocol's addresses.
pub fn table() -> Vec<(String, BoxEndpoint<'static, Response>)> {
    let mut table = vec![
        ("/v2".to_owned(), get(metadata::server)),
        ("/v2/health/live".to_owned(), get(metadata::live)),
        ("/v2/health/ready".to_owned(), get(metadata::ready)),
    ];
    for model in ["/v2/models/:name", "/v2/models/:name/versions/:version"] {
        table.push((model.to_owned(), get(metadata::model)));
        table.push((format!("{model}/ready"), get(metadata::model_ready)));
        table.push((format!("{model}/infer"), post(infer::infer)));
    }
    table
}

/// Reads the body of an inference request, whose first `json_length` bytes are JSON, or all of it; for whoever has
/// bodies and no server.
///
/// # Errors
/// [`ApiError`] with what is wrong.
pub fn parse_infer(body: &[u8], json_length: Option<usize>) -> Result<FillMaskRequest, ApiError> {
    request::InferRequest::parse(body, json_length).map(|(request, _)| request)
}

/// Refuses any model but ours, and any version of it but the one.
fn check_model(request: &Request, app: &App) -> Result<(), ApiError> {
    let ours = &app.about.model_name;
    // Absent also where it is not UTF-8; only an address without a version may have none.
    let name = request.raw_path_param("name").unwrap_or_default();
    let version = match request.uri().path().contains("/versions/") {
        true => request.raw_path_param("version").unwrap_or_default(),
        false => VERSION,
    };
    let message = match (name == ours, version == VERSION) {
        (true, true) => return Ok(()),
        (false, _) => format!("There is no model {name:?} here; this server has {ours:?}."),
        (_, false) => format!("The model {ours:?} has no version {version:?}; its only version is {VERSION:?}."),
    };
    Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message))
}
