//! Reasons why the engine does not answer.

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("the queue is full")]
    QueueFull,
    /// The deadline passed before the last sequence was answered. `in_part` is true if others of the request were.
    #[error("the deadline passed")]
    Deadline { in_part: bool },
    /// The engine takes no more requests.
    #[error("the engine has stopped")]
    Stopped,
    /// The model failed on a sequence of the request. The reason is for the log, not for the client.
    #[error("the model failed: {0}")]
    Model(String),
}

impl EngineError {
    /// The error of a request of which `in_part` says whether a sequence was answered.
    pub(super) fn of_part(self, in_part: impl FnOnce() -> bool) -> Self {
        match self {
            Self::Deadline { .. } => Self::Deadline { in_part: in_part() },
            error => error,
        }
    }
}
