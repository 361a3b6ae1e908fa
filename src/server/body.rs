//! Reading a body: never more than the limit, and not past the request's deadline.

use std::ops::Deref;

use poem::Body;
use poem::error::ReadBodyError;
use poem::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::app::App;
use super::error::ApiError;
use crate::pipeline::Deadline;
use crate::sys::excerpt;

/// Refuses a body by its headers, before any of it is read.
///
/// # Errors
/// A compressed body (415), and one whose stated length exceeds the limit (413).
pub fn check(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    refuse_compressed(headers)?;
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length.is_some_and(|length| length > app.body_bytes_max as u64) {
        true => Err(too_large(app)),
        false => Ok(()),
    }
}

/// Reads the whole body.
///
/// # Errors
/// A body that is too large (413), that does not arrive in time (408), or that breaks off (400).
pub async fn read(
    app: &App,
    body: Body,
    deadline: Deadline,
) -> Result<impl Deref<Target = [u8]> + Send + use<>, ApiError> {
    match tokio::time::timeout_at(deadline.at, body.into_bytes_limit(app.body_bytes_max)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(ReadBodyError::PayloadTooLarge)) => Err(too_large(app)),
        Ok(Err(error)) => Err(ApiError::bad_request(
            "bad_body",
            format!("The body cannot be read: {error}."),
        )),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            format!("The body did not arrive within {} ms.", deadline.timeout.as_millis()),
        )),
    }
}

fn too_large(app: &App) -> ApiError {
    let max = app.body_bytes_max;
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("The body is larger than the {max} bytes that are allowed; send less text at once."),
    )
}

/// Bodies are not decompressed: a few kilobytes could exceed the memory of the machine.
fn refuse_compressed(headers: &HeaderMap) -> Result<(), ApiError> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(coding) = codings
        .into_iter()
        .find(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    else {
        return Ok(());
    };
    let coding = String::from_utf8_lossy(coding.as_bytes()).into_owned();
    let message = format!(
        "The body comes with the content encoding {:?}; send it uncompressed.",
        excerpt::name(&coding)
    );
    let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", message);
    Err(error.header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}
