//! Reads model folders: `config.json`, a tokenizer, and weights in safetensors files.
//!
//! | file | responsibility |
//! |---|---|
//! | `files` | file access: a folder, or the demo model inside the binary |
//! | `config` | reads and validates `config.json` |
//! | `tokenizer` | builds the tokenizer from `tokenizer.json`, or from `vocab.txt` |
//! | `weights` | reads safetensors files, tensor by tensor, under old and new names |
//! | `download` | the files of a hub model that are needed |
//! | `inspect` | contents of a checkpoint, with every error in it |
//! | `load` | loads the weights onto a backend chosen at run time |
//! | `error` | errors |

mod config;
mod download;
mod error;
mod files;
pub mod inspect;
mod load;
mod tokenizer;
mod weights;

use std::path::Path;

use crate::backend::{BertBackend, Precision};
use crate::bert::{Bert, BertConfig};
use crate::hub::{Hub, ModelName, Progress};

pub use error::{CheckpointError, Part};
use files::Files;
pub use load::{BackendKind, LoadError, LoadedModel, Placement, load_model};
pub use tokenizer::TokenizerFiles;
use weights::SafetensorsFiles;

/// An open checkpoint. The weights are read when the model is loaded.
pub struct Checkpoint {
    /// The folder's name, the name on the hub, or `demo`.
    pub name: String,
    pub config: BertConfig,
    pub tokenizer: TokenizerFiles,
    weights: SafetensorsFiles,
}

/// Location and name of a checkpoint.
pub struct Source {
    name: String,
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

    /// A model of the hub. Files that the cache lacks are downloaded.
    ///
    /// # Errors
    /// [`CheckpointError::Hub`] if a download fails; an error in `config.json`, which is read before the weights are
    /// downloaded.
    pub fn hub(hub: &Hub, name: &ModelName, progress: &mut dyn Progress) -> Result<Self, CheckpointError> {
        Ok(Self {
            name: name.id().to_owned(),
            files: Files::Folder(download::download(hub, name, progress)?),
        })
    }
}

impl Checkpoint {
    /// Reads the configuration, the tokenizer and the headers of the weight files.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file.
    pub fn read(source: Source) -> Result<Self, CheckpointError> {
        let files = source.files;
        let config = config::read(&files)?;
        let tokenizer = tokenizer::read(&files)?;
        tokenizer.check_fits(&config)?;
        let weights = SafetensorsFiles::open(&files)?;
        Ok(Self {
            name: source.name,
            config,
            tokenizer,
            weights,
        })
    }

    /// Opens a folder in the layout of the Hugging Face hub.
    ///
    /// # Errors
    /// As [`Checkpoint::read`]; also if the path is not a folder.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        Self::read(Source::folder(folder)?)
    }

    /// Opens the demo model inside the binary.
    ///
    /// # Errors
    /// None for an intact binary.
    pub fn embedded() -> Result<Self, CheckpointError> {
        Self::read(Source::embedded())
    }

    /// Loads the weights onto a device, in f32.
    ///
    /// # Errors
    /// The first tensor that is missing, misshapen, of another type than f32, f16 or bf16, or unreadable.
    pub fn load<B: BertBackend>(&mut self, device: &B::Device) -> Result<Bert<B>, CheckpointError> {
        Bert::load(&self.config, &mut self.weights, device, Precision::F32).map_err(CheckpointError::Weights)
    }
}
