//! Reads model folders: `config.json`, a tokenizer, and weights in files of safetensors or PyTorch.
//!
//! | file | responsibility |
//! |---|---|
//! | `files` | file access: a folder, or the demo model inside the binary |
//! | `tokenizer` | builds the tokenizer from the files that a folder has: `tokenizer.json`, vocabularies, SentencePiece models, settings |
//! | `weights` | reads weight files, tensor by tensor |
//! | `download` | the files of a hub model that are needed |
//! | `json` | JSON with Python's names for numbers that are not finite |
//! | `names` | names of files |
//! | `error` | errors |

mod download;
mod error;
mod files;
pub mod json;
mod names;
mod tokenizer;
mod weights;

use std::path::Path;

use crate::hub::{Hub, ModelName, Progress};
use crate::sys::excerpt;

pub use error::{CheckpointError, Part, TensorError};
use files::Files;
pub use files::HAS_DEMO_MODEL;
use names::{CONFIG, SPARSE_POOLING};
pub use tokenizer::{TokenizerFiles, TooFewTokens, decode};
pub use weights::{ElementType, Tensor, TensorSource, WeightFiles};

/// Refuses the text of a `config.json` that cannot be served.
pub type ConfigCheck<'a> = &'a dyn Fn(&[u8]) -> Result<(), CheckpointError>;

/// Location and name of a checkpoint.
pub struct Source {
    /// The folder's name, the name on the hub, or `demo`.
    pub name: String,
    files: Files,
}

impl Source {
    /// A folder in the layout of the Hugging Face hub.
    ///
    /// # Errors
    /// [`CheckpointError`] if the path is not a folder.
    pub fn folder(folder: &Path) -> Result<Self, CheckpointError> {
        let name = folder.canonicalize().ok();
        let name = name.as_deref().unwrap_or(folder).file_name();
        let name = name.map_or_else(
            || folder.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        Ok(Self {
            name,
            files: Files::folder(folder)?,
        })
    }

    /// The demo model inside the binary.
    pub fn embedded() -> Self {
        Self {
            name: "demo".to_owned(),
            files: Files::embedded(),
        }
    }

    /// A model of the hub. Files that the cache lacks are downloaded; `check` sees `config.json` before the weights
    /// are.
    ///
    /// # Errors
    /// [`CheckpointError::Hub`] if a download fails; the error of `check`.
    pub fn hub(
        hub: &Hub,
        name: &ModelName,
        progress: &mut dyn Progress,
        check: ConfigCheck<'_>,
    ) -> Result<Self, CheckpointError> {
        Ok(Self {
            name: name.id().to_owned(),
            files: Files::Folder(download::download(hub, name, progress, check)?),
        })
    }

    /// The bytes of `config.json`.
    ///
    /// # Errors
    /// A file that is missing or cannot be read.
    pub fn config(&self) -> Result<Vec<u8>, CheckpointError> {
        if !self.files.has(CONFIG) {
            return Err(CheckpointError::Missing {
                part: Part::Config,
                location: self.files.location(),
                other_weights: None,
            });
        }
        self.files.read(CONFIG)
    }

    /// The path of `config.json`.
    pub fn config_path(&self) -> String {
        self.files.path(CONFIG)
    }

    /// `architectures` of `config.json`, separated by commas; `None` if the field is absent or not a list of names.
    pub fn architectures(&self) -> Option<String> {
        let fields: serde_json::Value = json::parse(&self.files.read(CONFIG).ok()?).ok()?;
        let names = fields.get("architectures")?.as_array()?;
        let names: Vec<&str> = names.iter().filter_map(serde_json::Value::as_str).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// True if `1_SpladePooling/config.json` of sentence-transformers says that sparse vectors are sums, false if they
    /// are maxima.
    ///
    /// # Errors
    /// A file that cannot be read, or that states another strategy.
    pub fn sums_sparse_vectors(&self) -> Result<bool, CheckpointError> {
        if !self.files.has(SPARSE_POOLING) {
            return Ok(false);
        }
        let refused = |reason: String| CheckpointError::Io {
            path: self.files.path(SPARSE_POOLING),
            source: std::io::Error::other(reason),
        };
        let fields = self.files.read(SPARSE_POOLING)?;
        let fields: serde_json::Value = json::parse(&fields).map_err(|error| refused(error.to_string()))?;
        match fields.get("pooling_strategy").and_then(serde_json::Value::as_str) {
            None | Some("max") => Ok(false),
            Some("sum") => Ok(true),
            Some(other) => Err(refused(format!(
                "pooling_strategy is {:?}; it must be \"max\" or \"sum\"",
                excerpt::name(other)
            ))),
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// Files that are missing or not valid.
    pub fn tokenizer(&self) -> Result<TokenizerFiles, CheckpointError> {
        tokenizer::read(&self.files)
    }

    /// The weight files, with their headers read.
    ///
    /// # Errors
    /// Files that are missing or not valid.
    pub fn weights(&self) -> Result<WeightFiles, CheckpointError> {
        WeightFiles::open(&self.files)
    }
}
