//! Which model, and where it runs.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cloze::bert::{MaskedLm, PackedBatch, Selection};
use cloze::checkpoint::{BackendKind, Checkpoint, CheckpointError, LoadError, LoadedModel};

/// Flags of every command that opens a model.
#[derive(Debug, Args)]
pub struct ModelArguments {
    /// Folder with config.json, tokenizer.json (or vocab.txt) and model.safetensors [default: the embedded
    /// demo model]
    #[arg(long, env = "CLOZE_MODEL", value_name = "DIR")]
    pub model: Option<PathBuf>,

    /// Where the model runs
    #[arg(long, env = "CLOZE_BACKEND", value_enum, default_value = "cpu")]
    pub backend: Backend,

    /// Threads that compute on the CPU [default: one for each core]
    #[arg(long, env = "CLOZE_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The CPU, through ndarray
    Cpu,
    /// A GPU, through wgpu: Vulkan, Metal or DX12
    Gpu,
}

impl From<Backend> for BackendKind {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Cpu => Self::Cpu,
            Backend::Gpu => Self::Gpu,
        }
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl ModelArguments {
    /// Opens the checkpoint: its configuration and tokenizer are read, its weights are not.
    pub fn open(&self) -> Result<Checkpoint, CheckpointError> {
        match &self.model {
            Some(folder) => Checkpoint::open(folder),
            None => Checkpoint::embedded(),
        }
    }

    /// Puts the weights onto the device that the flags name.
    pub fn load(&self, checkpoint: &mut Checkpoint) -> Result<LoadedModel, LoadError> {
        let loaded = checkpoint.load_on(self.backend.into(), self.threads.map_or_else(cores, usize::from))?;
        if let Some(warning) = &loaded.warning {
            tracing::warn!("{warning}");
        }
        Ok(loaded)
    }
}

/// One forward pass before the first text: a broken model is known now, and nobody waits for a kernel's
/// compilation.
pub fn warm_up(model: &mut dyn MaskedLm, vocab_size: usize) -> Result<(), String> {
    let mut batch = PackedBatch::default();
    let ids: Vec<u32> = (0..16).map(|id| id % vocab_size as u32).collect();
    batch.push(&ids, &[1], &Selection::TopK(1));
    model
        .predict(&batch)
        .map(drop)
        .map_err(|e| format!("the model does not work: {e}"))
}
