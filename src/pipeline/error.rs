//! Reasons why a request has no answer.

use std::time::Duration;

use super::{MemoryError, limit_in_words};
use crate::engine::EngineError;
use crate::tasks::InputError;
use crate::text::DecodeError;
use crate::work::WorkError;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request itself is refused.
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("the queue is full")]
    Overloaded,
    /// The memory for bodies and answers does not suffice.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The engine takes no more requests.
    #[error("the engine has stopped")]
    Stopped,
    /// The deadline passed; `0` is the time limit.
    #[error("no answer was ready within {}", limit_in_words(*.0))]
    Timeout(Duration),
    /// The model, the tokenizer or a worker failed. The reason is for the log, not for the client.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The error of a request that had `timeout` to be answered.
    pub(super) fn from_engine(error: EngineError, timeout: Duration) -> Self {
        match error {
            EngineError::QueueFull => Self::Overloaded,
            EngineError::Stopped => Self::Stopped,
            EngineError::Deadline { .. } => Self::Timeout(timeout),
            EngineError::Model(_) => Self::Internal(error.to_string()),
        }
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<WorkError> for Error {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Stopped => Self::Stopped,
            WorkError::Panicked(_) => Self::Internal(error.to_string()),
        }
    }
}
