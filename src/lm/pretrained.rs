//! An opened checkpoint: its family, tokenizer and weight files are known, its weights are not loaded yet.

use std::path::Path;

use super::{LoadError, LoadedModel, ModelInfo, Placement, load_model};
use crate::backend::{BertBackend, Precision};
use crate::checkpoint::{CheckpointError, SafetensorsFiles, Source, TokenizerFiles};
use crate::encoder::Architecture;
use crate::lm::EncoderModel;

/// A model as a checkpoint holds it.
pub struct PretrainedModel {
    /// The folder's name, the name on the hub, or `demo`.
    pub name: String,
    pub info: ModelInfo,
    pub architecture: Architecture,
    pub tokenizer: TokenizerFiles,
    weights: SafetensorsFiles,
}

impl PretrainedModel {
    /// Reads configuration, tokenizer and the headers of the weight files.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and the reason.
    pub fn read(source: Source) -> Result<Self, CheckpointError> {
        let architecture = architecture(&source)?;
        let tokenizer = source.tokenizer()?;
        tokenizer.check_fits(architecture.spec.vocab_size)?;
        Ok(Self {
            weights: source.weights()?,
            name: source.name,
            info: ModelInfo::of(&architecture),
            architecture,
            tokenizer,
        })
    }

    /// Opens a folder in the layout of the Hugging Face hub.
    ///
    /// # Errors
    /// As of [`read`](Self::read), or if it is not a folder.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        Self::read(Source::folder(folder)?)
    }

    /// Opens the demo model inside the binary.
    ///
    /// # Errors
    /// None, unless the build embedded a broken model.
    pub fn embedded() -> Result<Self, CheckpointError> {
        Self::read(Source::embedded())
    }

    /// Loads the weights onto the device that `placement` names.
    ///
    /// # Errors
    /// [`LoadError`] says if the checkpoint or the device failed.
    pub fn load(&mut self, placement: &Placement) -> Result<LoadedModel, LoadError> {
        load_model(&self.architecture, &mut self.weights, placement)
    }

    /// Loads the weights onto a device of any backend.
    ///
    /// # Errors
    /// The first tensor that is missing, has another shape, or cannot be read.
    pub fn load_on<B: BertBackend>(
        &mut self,
        device: &B::Device,
        precision: Precision,
    ) -> Result<EncoderModel<B>, CheckpointError> {
        let model = EncoderModel::load(&self.architecture, &mut self.weights, device, precision);
        model.map_err(CheckpointError::Weights)
    }
}

/// Refuses the text of a `config.json` that no family supports.
///
/// # Errors
/// [`CheckpointError::Config`] with the reason.
pub fn check_config(config: &[u8]) -> Result<(), CheckpointError> {
    parse(config).map(drop)
}

/// The architecture that the checkpoint's `config.json` describes.
pub(super) fn architecture(source: &Source) -> Result<Architecture, CheckpointError> {
    parse(&source.config()?)
}

fn parse(config: &[u8]) -> Result<Architecture, CheckpointError> {
    Architecture::parse(config).map_err(|error| CheckpointError::Config(error.to_string()))
}

impl ModelInfo {
    fn of(architecture: &Architecture) -> Self {
        Self {
            family: architecture.family.model_type,
            architecture: architecture.family.class,
            vocab_size: architecture.spec.vocab_size,
            max_tokens: architecture.spec.max_tokens(),
        }
    }
}
