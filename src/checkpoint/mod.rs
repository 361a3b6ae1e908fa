//! What a model folder holds: `config.json`, a tokenizer, and weights in safetensors files.
//!
//! | file | what it reads |
//! |---|---|
//! | `files` | bytes: from a folder, or from the demo model inside the binary |
//! | `config` | `config.json`, and what of it is not supported |
//! | `tokenizer` | `tokenizer.json`, or `vocab.txt` with `tokenizer_config.json` |
//! | `weights` | safetensors files, tensor by tensor, under old and new names |
//! | `hub` | models of the Hugging Face hub: the cache, the download |
//! | `load` | the weights onto a backend chosen at run time |

mod config;
mod error;
mod files;
pub mod hub;
mod load;
mod tokenizer;
mod weights;

use std::path::Path;

use crate::backend::{BertBackend, Precision};
use crate::bert::{Bert, BertConfig};

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

impl Checkpoint {
    /// Opens a folder in the layout of the Hugging Face hub.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and what is wrong with it.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let name = folder.canonicalize().ok();
        let name = name.as_deref().unwrap_or(folder).file_name();
        let name = name.map_or_else(
            || folder.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        Self::read(name, Files::folder(folder)?)
    }

    /// Opens the demo model that the binary carries.
    ///
    /// # Errors
    /// None unless the build embedded a broken model.
    pub fn embedded() -> Result<Self, CheckpointError> {
        Self::read("demo".to_owned(), Files::embedded())
    }

    fn read(name: String, files: Files) -> Result<Self, CheckpointError> {
        let config = config::read(&files)?;
        let tokenizer = tokenizer::read(&files)?;
        tokenizer.check_fits(&config)?;
        let weights = SafetensorsFiles::open(&files)?;
        Ok(Self {
            name,
            config,
            tokenizer,
            weights,
        })
    }

    /// Loads the weights onto a device, in f32.
    ///
    /// # Errors
    /// The first tensor that is missing, misshapen, of another type than f32, f16 or bf16, or unreadable.
    pub fn load<B: BertBackend>(&mut self, device: &B::Device) -> Result<Bert<B>, CheckpointError> {
        Bert::load(&self.config, &mut self.weights, device, Precision::F32).map_err(CheckpointError::Weights)
    }
}
