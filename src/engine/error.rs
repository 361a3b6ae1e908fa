//! Why the engine does not answer.

/// What happened to a request after its text was accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// As much waits as may wait.
    #[error("the queue is full")]
    QueueFull,
    /// One request holds more texts than may ever wait at once.
    #[error("a request of {texts} texts can never fit a queue of {queue_size}")]
    TooManyTexts {
        /// Texts of the request.
        texts: usize,
        /// Texts that may wait.
        queue_size: usize,
    },
    /// One text has more tokens than a batch may hold.
    #[error("a text of {tokens} tokens can never fit a batch of {max}")]
    TooManyTokens {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a batch.
        max: usize,
    },
    /// The deadline passed before the answer was there.
    #[error("the deadline passed")]
    Deadline,
    /// The server is shutting down.
    #[error("the engine has stopped")]
    Stopped,
    /// The model failed on this text; the reason is for the log, not for the client.
    #[error("the model failed: {0}")]
    Model(String),
}
