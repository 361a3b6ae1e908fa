//! The deadline of a request: the server's limit, which the client may shorten with a header.

use std::time::Duration;

use poem::http::{HeaderMap, HeaderName};

use super::app::App;
use super::error::ApiError;
use crate::pipeline::Deadline;

/// Milliseconds.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// The deadline of a request that begins now.
///
/// # Errors
/// A header that is not a time.
pub fn deadline(app: &App, headers: &HeaderMap) -> Result<Deadline, ApiError> {
    let deadline = Deadline::after(app.request_timeout);
    let Some(value) = headers.get(REQUEST_TIMEOUT) else {
        return Ok(deadline);
    };
    match value.to_str().ok().and_then(|value| value.parse::<u64>().ok()) {
        Some(milliseconds @ 1..) => Ok(deadline.within(Duration::from_millis(milliseconds))),
        _ => Err(ApiError::bad_request(
            "bad_timeout",
            format!("The header {REQUEST_TIMEOUT} is not a whole number of milliseconds above 0."),
        )
        .loggable()),
    }
}
