//! Reasons why the engine does not answer.

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("the queue is full")]
    QueueFull,
    /// The deadline passed before the last sequence was answered.
    #[error("the deadline passed")]
    Deadline,
    /// The engine takes no more requests.
    #[error("the engine has stopped")]
    Stopped,
    /// The model failed on a sequence of the request. The reason is for the log, not for the client.
    #[error("the model failed: {0}")]
    Model(String),
}
