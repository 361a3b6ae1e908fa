//! Every error as JSON: `{"error": "a sentence", "error_type": "a_word"}`.

use std::time::Duration;

use poem::http::{HeaderName, HeaderValue, StatusCode, header};
use poem::web::Json;
use poem::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::unique_id::unique_id;
use crate::engine::EngineError;
use crate::fill_mask::InputError;

/// The body of every answer that is not 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was wrong and what to do, as a sentence.
    pub error: String,
    /// The kind of error, for programs.
    pub error_type: String,
}

/// Something that a client is told.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    error_type: &'static str,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error_type: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            error_type,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    pub(super) fn bad_request(error_type: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error_type, message)
    }

    pub(super) fn not_ready() -> Self {
        let message = "The model cannot answer at the moment; try again later.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message).retry_after(Duration::from_secs(1))
    }

    /// A request that holds more texts than `max`.
    pub(super) fn too_many_texts(texts: usize, max: usize) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "too_many_texts",
            format!("The request holds {texts} texts and at most {max} are allowed; send them in parts."),
        )
    }

    /// What is told, without its status.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: self.message.clone(),
            error_type: self.error_type.to_owned(),
        }
    }

    /// A failure of ours: the client gets an id, the log gets the id and the reason.
    pub(super) fn internal(reason: impl std::fmt::Display) -> Self {
        let id = unique_id();
        tracing::error!(%id, %reason, "a request failed");
        let message = format!("Something failed inside the server; its log says more under the id {id}.");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// This address is there, but not for this method; `allow` is what it takes, as in the header of that name.
    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("This address takes {allow} alone.");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
            .header(header::ALLOW, HeaderValue::from_static(allow))
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn retry_after(self, after: Duration) -> Self {
        self.header(header::RETRY_AFTER, after.as_secs())
    }

    /// What the engine said of a request that had `timeout` to be answered.
    pub(super) fn from_engine(error: EngineError, timeout: Duration) -> Self {
        match error {
            EngineError::QueueFull => {
                let message = "The server is busy: its queue is full. Try again in a second.";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).retry_after(Duration::from_secs(1))
            }
            EngineError::TooManyTexts { texts, queue_size } => Self::too_many_texts(texts, queue_size),
            EngineError::TooManyTokens { tokens, max } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "too_many_tokens",
                format!("The text is {tokens} tokens long and at most {max} are allowed; shorten it or split it."),
            ),
            EngineError::Deadline => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                format!(
                    "No answer was ready within {} ms; try again later.",
                    timeout.as_millis()
                ),
            ),
            EngineError::Stopped => {
                let message = "The server is shutting down; try again in a few seconds.";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message).retry_after(Duration::from_secs(5))
            }
            EngineError::Model(reason) => Self::internal(reason),
        }
    }
}

impl From<InputError> for ApiError {
    fn from(error: InputError) -> Self {
        let (status, error_type) = match error {
            InputError::TooLong { .. } | InputError::FarTooLong { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "too_many_tokens")
            }
            InputError::Empty { .. } => (StatusCode::BAD_REQUEST, "empty"),
            InputError::NoMask { .. } => (StatusCode::BAD_REQUEST, "no_mask"),
            InputError::TopK { .. } => (StatusCode::BAD_REQUEST, "bad_top_k"),
            InputError::TooManyPredictions { .. } | InputError::AnswerTooLong { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "answer_too_large")
            }
            InputError::NoTarget | InputError::TooManyTargets { .. } | InputError::LongTarget { .. } => {
                (StatusCode::BAD_REQUEST, "bad_targets")
            }
            InputError::Tokenizer(_) => (StatusCode::BAD_REQUEST, "bad_text"),
        };
        Self::new(status, error_type, error.to_string())
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl poem::error::ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn as_response(&self) -> Response {
        let mut response = Json(self.body()).with_status(self.status).into_response();
        response.headers_mut().extend(self.headers.iter().cloned());
        response
    }
}

/// The last stop of every error: ours as they are, poem's own in the same form.
pub async fn respond(error: poem::Error) -> Response {
    use poem::error::ResponseError;
    if let Some(ours) = error.downcast_ref::<ApiError>() {
        return ours.as_response();
    }
    match error.status() {
        StatusCode::NOT_FOUND => ApiError::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "There is nothing at this address; send texts with POST /, or look at /docs.",
        )
        .as_response(),
        status if status.is_client_error() => {
            ApiError::new(status, "bad_request", format!("The request cannot be read: {error}.")).as_response()
        }
        _ => ApiError::internal(error).as_response(),
    }
}
