//! Reading a body: never more of it than is allowed, and not for longer than its request may take.

use poem::Body;
use poem::error::ReadBodyError;
use poem::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::app::App;
use super::error::ApiError;
use super::predict::Deadline;

/// Reads the whole body.
///
/// # Errors
/// A compressed body (415), one that is too large (413, from its stated length where it has one), one that
/// comes too late (408), and one that breaks off (400).
pub async fn read(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    deadline: Deadline,
) -> Result<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + Send + use<>, ApiError> {
    refuse_compressed(headers)?;
    let max = app.body_bytes_max;
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("The body is larger than the {max} bytes that are allowed; send less text at once."),
        )
    };
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    if length
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length > max as u64)
    {
        return Err(too_large());
    }
    match tokio::time::timeout_at(deadline.at, body.into_bytes_limit(max)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(ReadBodyError::PayloadTooLarge)) => Err(too_large()),
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

/// Nothing is decompressed here: a few kilobytes could become more than the memory there is.
fn refuse_compressed(headers: &HeaderMap) -> Result<(), ApiError> {
    let coded = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(coding) = coded
        .into_iter()
        .find(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    else {
        return Ok(());
    };
    let coding = String::from_utf8_lossy(coding.as_bytes()).into_owned();
    let message = format!("The body comes with the content encoding {coding:?}; send it uncompressed.");
    let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", message);
    Err(error.header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}
