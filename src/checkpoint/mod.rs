//! What a model folder holds: `config.json`, a tokenizer, and weights in safetensors files.
//!
//! | file | what it reads |
//! |---|---|
//! | `files` | bytes: from a folder, or from the demo model inside the binary |
//! | `config` | `config.json`, and what of it is not supported |
//! | `tokenizer` | `tokenizer.json`, or `vocab.txt` with `tokenizer_config.json` |
//! | `weights` | safetensors files, tensor by tensor, under old and new names |
//! | `inspect` | what is in a checkpoint, and what of it would be refused |
//! | `load` | the weights onto a backend chosen at run time |

pub(crate) mod config;
mod error;
pub(crate) mod files;
pub mod inspect;
mod load;
mod tokenizer;
pub(crate) mod weights;

use std::path::Path;

use crate::backend::{BertBackend, Precision};
use crate::bert::{Bert, BertConfig};
use crate::hub::{Hub, ModelName, Progress};

pub use error::CheckpointError;
use files::Files;
pub use load::{BackendKind, LoadError, LoadedModel, Placement, load_model};
pub use tokenizer::TokenizerFiles;
use weights::SafetensorsFiles;

/// An opened checkpoint: its configuration and tokenizer read, its weights ready to be.
pub struct Checkpoint {
    /// What to call the model: the folder's name, or `demo`.
    pub name: String,
    /// The architecture.
    pub config: BertConfig,
    /// The tokenizer and its settings.
    pub tokenizer: TokenizerFiles,
    weights: SafetensorsFiles,
}

/// Where a checkpoint is, and what it is called.
pub struct Source {
    name: String,
    files: Files,
}

impl Source {
    /// A folder in the layout of the Hugging Face hub.
    ///
    /// # Errors
    /// When it is not a folder.
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

    /// The demo model that the binary carries.
    pub fn embedded() -> Self {
        Self {
            name: "demo".to_owned(),
            files: Files::embedded(),
        }
    }

    /// A model of the hub, downloaded unless the cache has it.
    ///
    /// # Errors
    /// Whatever a download meets; see [`Hub::fetch`].
    pub fn hub(hub: &Hub, name: &ModelName, progress: &mut dyn Progress) -> Result<Self, CheckpointError> {
        Ok(Self {
            name: name.id().to_owned(),
            files: Files::Folder(hub.fetch(name, progress)?),
        })
    }
}

impl Checkpoint {
    /// Reads the configuration, the tokenizer, and what the weight files say of themselves.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and what is wrong with it.
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
    /// As [`Checkpoint::read`], or when it is not a folder.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        Self::read(Source::folder(folder)?)
    }

    /// Opens the demo model that the binary carries.
    ///
    /// # Errors
    /// None unless the build embedded a broken model.
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
