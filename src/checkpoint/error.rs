//! Why a checkpoint cannot be used.

use crate::bert::WeightError;
use crate::hub::HubError;

/// One sentence that names the file and what to do, by what kind of thing went wrong.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file or the folder cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that every checkpoint needs is not there.
    #[error("{0}")]
    Missing(String),
    /// `config.json` cannot be read, or asks for something that Cloze does not do.
    #[error("config.json: {0}")]
    Config(String),
    /// The tokenizer cannot be read, or does not fit the model.
    #[error("{file}: {reason}")]
    Tokenizer {
        /// The file at fault.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A weight file or a tensor in it.
    #[error("{0}")]
    Weights(WeightError),
    /// A model that is to come from the hub.
    #[error(transparent)]
    Hub(#[from] HubError),
}
