//! Errors on the wire: `{"error": "a sentence", "error_type": "a_word"}`.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pipeline::{self, MemoryError, limit_in_words};
use crate::tasks::InputError;
use crate::text::{EncodeError, TruncationError};

/// The body of every answer that is not 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A sentence: what was wrong, and what to do.
    pub error: String,
    /// The kind of error, for programs.
    pub error_type: String,
}

/// An error for a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The status of HTTP.
    pub status: u16,
    pub error_type: &'static str,
    /// A sentence.
    pub message: Cow<'static, str>,
    /// True if the sentence repeats nothing of the request, so that it may be in a log.
    pub is_loggable: bool,
    /// When another try may succeed.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// A constant sentence may be in a log; one that is made of parts may not.
    pub fn new(status: u16, error_type: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self {
            status,
            error_type,
            is_loggable: matches!(message, Cow::Borrowed(_)),
            message,
            retry_after: None,
        }
    }

    pub fn bad_request(error_type: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, error_type, message)
    }

    /// For a sentence of parts that repeats nothing of the request but numbers.
    pub fn loggable(self) -> Self {
        Self {
            is_loggable: true,
            ..self
        }
    }

    /// 503 with the time of another try.
    pub fn unavailable(error_type: &'static str, message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(503, error_type, message)
        }
    }

    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: self.message.clone().into_owned(),
            error_type: self.error_type.to_owned(),
        }
    }
}

impl From<pipeline::Error> for Error {
    /// The reason of [`pipeline::Error::Internal`] is left out: it is for the log.
    fn from(error: pipeline::Error) -> Self {
        match error {
            pipeline::Error::Input(error) => error.into(),
            pipeline::Error::Overloaded => Self::unavailable(
                "overloaded",
                "The server is busy: its queue is full. Try again in a second.",
                Duration::from_secs(1),
            ),
            pipeline::Error::Memory(error @ MemoryError::TooLarge { .. }) => {
                Self::new(422, "answer_too_large", error.to_string()).loggable()
            }
            pipeline::Error::Memory(MemoryError::Full) => Self::unavailable(
                "memory_full",
                "The server is busy: the memory for requests and answers is used up. Try again in a second.",
                Duration::from_secs(1),
            ),
            pipeline::Error::Stopped => Self::unavailable(
                "shutting_down",
                "The server is shutting down; try again in a few seconds.",
                Duration::from_secs(5),
            ),
            pipeline::Error::Timeout(timeout) => Self::new(
                504,
                "timeout",
                format!(
                    "No answer was ready within {}; try again later.",
                    limit_in_words(timeout)
                ),
            )
            .loggable(),
            pipeline::Error::Internal(_) => Self::new(500, "internal", "The request failed inside the server."),
        }
    }
}

impl From<InputError> for Error {
    fn from(error: InputError) -> Self {
        let (status, error_type) = status(&error);
        let is_loggable = !error.repeats_text();
        Self {
            is_loggable,
            ..Self::new(status, error_type, error.to_string())
        }
    }
}

fn status(error: &InputError) -> (u16, &'static str) {
    match error {
        InputError::InList { error, .. } => status(error),
        InputError::TooManyTexts { .. } => (422, "too_many_texts"),
        InputError::Encode(EncodeError::TooManyTokens { .. } | EncodeError::TooManyBytes { .. }) => {
            (422, "too_many_tokens")
        }
        InputError::WordBeyondLimit { .. } => (422, "too_many_tokens"),
        InputError::Encode(EncodeError::TooMuchWork { .. } | EncodeError::LongWord { .. }) => (422, "too_much_work"),
        InputError::Encode(EncodeError::Failed(_)) => (400, "bad_text"),
        InputError::Empty { .. } | InputError::EmptyText | InputError::NoTokens => (400, "empty"),
        InputError::NoMask { .. } | InputError::Encode(EncodeError::Truncation(TruncationError::NoMaskToKeep)) => {
            (400, "no_mask")
        }
        InputError::Encode(EncodeError::Truncation(_)) => (422, "mask_cut_off"),
        InputError::Parameters(_) => (400, "bad_parameters"),
        InputError::TopK { .. } | InputError::Fillings { .. } => (400, "bad_top_k"),
        InputError::Beam { .. } => (400, "bad_joint"),
        InputError::NoSuchToken { .. } => (400, "bad_positions"),
        InputError::TooMuchComputation { .. } => (422, "too_much_work"),
        InputError::TooManyPredictions { .. } | InputError::AnswerTooLong { .. } => (422, "answer_too_large"),
        InputError::NoTarget
        | InputError::TooManyTargets { .. }
        | InputError::LongTarget { .. }
        | InputError::LongWord { .. }
        | InputError::TooManyWordTokens { .. } => (400, "bad_targets"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_has_a_status_and_a_sentence() {
        let timeout = pipeline::Error::Timeout(Duration::from_millis(20));
        for (error, status, error_type, retry_after) in [
            (pipeline::Error::Overloaded, 503, "overloaded", Some(1)),
            (pipeline::Error::Memory(MemoryError::Full), 503, "memory_full", Some(1)),
            (
                pipeline::Error::Memory(MemoryError::TooLarge { max: 100 }),
                422,
                "answer_too_large",
                None,
            ),
            (pipeline::Error::Stopped, 503, "shutting_down", Some(5)),
            (timeout, 504, "timeout", None),
            (pipeline::Error::Internal("a secret".to_owned()), 500, "internal", None),
            (InputError::NoTarget.into(), 400, "bad_targets", None),
            (
                InputError::TooManyTexts { texts: 9, max: 8 }.into(),
                422,
                "too_many_texts",
                None,
            ),
        ] {
            let error = Error::from(error);
            assert_eq!((error.status, error.error_type), (status, error_type));
            assert_eq!(error.retry_after.map(|after| after.as_secs()), retry_after);
            assert!(
                error.message.ends_with('.') && !error.message.contains("secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_sentence_with_a_part_of_the_request_is_not_for_the_log() {
        assert!(Error::bad_request("empty", "inputs is an empty list.").is_loggable);
        assert!(Error::from(InputError::NoTarget).is_loggable);
        assert!(!Error::bad_request("bad_request", format!("unknown field `{}`", "a text")).is_loggable);
        let failed = InputError::Encode(EncodeError::Failed("of a text".to_owned()));
        for error in [
            failed.clone(),
            InputError::InList {
                index: 0,
                error: Box::new(failed),
            },
        ] {
            assert!(!Error::from(error).is_loggable);
        }
    }
}
