//! Errors as responses: every one is JSON with a sentence.

use std::borrow::Cow;
use std::time::Duration;

use poem::http::{HeaderName, HeaderValue, StatusCode, header};
use poem::web::Json;
use poem::{IntoResponse, Response};

use super::unique_id::unique_id;
use crate::api::TaskKind;
use crate::sys::excerpt;
use crate::{api, pipeline};

/// In the extensions of a response: its error, for log and metrics.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub error_type: &'static str,
    /// `None` if the sentence repeats a part of the request.
    pub sentence: Option<Cow<'static, str>>,
}

/// An error for a client, with headers beside it.
#[derive(Debug)]
pub struct ApiError {
    error: api::Error,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error_type: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        api::Error::new(status.as_u16(), error_type, message).into()
    }

    pub(super) fn bad_request(error_type: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        api::Error::bad_request(error_type, message).into()
    }

    /// As [`api::Error::loggable`].
    pub(super) fn loggable(mut self) -> Self {
        self.error.is_loggable = true;
        self
    }

    /// As [`TaskKind::error`].
    pub(super) fn of_task(kind: TaskKind, error: pipeline::Error) -> Self {
        match error {
            pipeline::Error::Internal(reason) => Self::internal(reason),
            error => kind.error(error).into(),
        }
    }

    pub(super) fn not_ready() -> Self {
        let message = "The model cannot answer at the moment; try again later.";
        api::Error::unavailable("not_ready", message, Duration::from_secs(1)).into()
    }

    /// A failure of the server: the client gets an id, the log gets the id and the reason.
    pub(super) fn internal(reason: impl std::fmt::Display) -> Self {
        let id = unique_id();
        tracing::error!(%id, %reason, "a request failed");
        let message = format!("Something failed inside the server; its log says more under the id {id}.");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message).loggable()
    }

    /// The path exists, but not for this method; `allow` lists its methods as the header of that name does.
    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let methods = match allow.rsplit_once(", ") {
            None => allow.to_owned(),
            Some((others, last)) => format!("{others} or {last}"),
        };
        let message = format!("This path does not support the method of the request; use {methods}.");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
            .loggable()
            .header(header::ALLOW, HeaderValue::from_static(allow))
    }

    /// The body of the response.
    pub(super) fn body(&self) -> api::ErrorBody {
        self.error.body()
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<api::Error> for ApiError {
    fn from(error: api::Error) -> Self {
        Self {
            error,
            headers: Vec::new(),
        }
    }
}

impl From<pipeline::Error> for ApiError {
    fn from(error: pipeline::Error) -> Self {
        match error {
            pipeline::Error::Internal(reason) => Self::internal(reason),
            error => api::Error::from(error).into(),
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for ApiError {}

impl poem::error::ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn as_response(&self) -> Response {
        let mut response = Json(self.body()).with_status(self.status()).into_response();
        response.extensions_mut().insert(Refusal {
            error_type: self.error.error_type,
            sentence: self.error.is_loggable.then(|| self.error.message.clone()),
        });
        let headers = response.headers_mut();
        if let Some(after) = self.error.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        headers.extend(self.headers.iter().cloned());
        response
    }
}

/// Turns every error into a response: [`ApiError`] as it is, poem's own in the same form.
pub async fn respond(error: poem::Error) -> Response {
    use poem::error::ResponseError;
    if let Some(error) = error.downcast_ref::<ApiError>() {
        return error.as_response();
    }
    match error.status() {
        StatusCode::NOT_FOUND => ApiError::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "There is nothing at this path; send texts with POST /, or read the documentation at /docs.",
        )
        .as_response(),
        status if status.is_client_error() => ApiError::new(
            status,
            "bad_request",
            format!("The request cannot be read: {}.", excerpt::sentence(&error.to_string())),
        )
        .as_response(),
        _ => ApiError::internal(error).as_response(),
    }
}
