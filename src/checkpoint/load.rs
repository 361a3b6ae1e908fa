//! Weights onto a backend, chosen at run time.

use super::{Checkpoint, CheckpointError};
use crate::backend::{self, Precision};
use crate::bert::{Bert, BertConfig, MaskedLm, WeightSource};

/// Where the model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// ndarray.
    Cpu,
    /// wgpu.
    Gpu,
}

/// A model with its weights on a device.
pub struct LoadedModel {
    /// The model.
    pub model: Box<dyn MaskedLm>,
    /// Backend and device in words, for the start-up block.
    pub device: String,
    /// Something that the user should know, such as that the GPU is a software one.
    pub warning: Option<String>,
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The GPU.
    #[cfg(feature = "gpu")]
    #[error(transparent)]
    Gpu(#[from] backend::gpu::GpuError),
    /// The threads that compute.
    #[error("the compute threads cannot be started: {0}")]
    Threads(String),
    /// A backend that this build leaves out.
    #[error("this build has no {0} backend; build it with the cargo feature `{0}`")]
    NotBuilt(&'static str),
}

impl Checkpoint {
    /// Loads the weights onto the backend `kind`; see [`load_model`].
    ///
    /// # Errors
    /// [`LoadError`] says whether it was the checkpoint or the device.
    pub fn load_on(&mut self, kind: BackendKind, threads: usize) -> Result<LoadedModel, LoadError> {
        load_model(&self.config, &mut self.weights, kind, threads)
    }
}

/// Loads the weights of `source` onto the backend `kind`; the CPU computes with `threads` threads.
///
/// # Errors
/// [`LoadError`] says whether it was the weights or the device.
pub fn load_model(
    config: &BertConfig,
    source: &mut dyn WeightSource,
    kind: BackendKind,
    threads: usize,
) -> Result<LoadedModel, LoadError> {
    match kind {
        #[cfg(feature = "cpu")]
        BackendKind::Cpu => {
            backend::cpu::use_threads(threads).map_err(LoadError::Threads)?;
            let model = Bert::<backend::cpu::Cpu>::load(config, source, &Default::default(), Precision::F32);
            let features = backend::cpu::cpu_features();
            Ok(LoadedModel {
                model: Box::new(model.map_err(CheckpointError::Weights)?),
                device: format!("cpu (ndarray), {threads} threads, {features}"),
                warning: None,
            })
        }
        #[cfg(feature = "gpu")]
        BackendKind::Gpu => {
            let gpu = backend::gpu::open()?;
            let model = Bert::<backend::gpu::Gpu>::load(config, source, &gpu.device, Precision::F32);
            let warning = gpu.adapter.is_software().then(|| {
                format!(
                    "{} computes on the CPU; no real GPU was found, and --backend cpu is much faster",
                    gpu.adapter.name
                )
            });
            Ok(LoadedModel {
                model: Box::new(model.map_err(CheckpointError::Weights)?),
                device: format!("gpu (wgpu), {}", gpu.adapter),
                warning,
            })
        }
        #[cfg(not(feature = "cpu"))]
        BackendKind::Cpu => {
            let _unused = threads;
            Err(LoadError::NotBuilt("cpu"))
        }
        #[cfg(not(feature = "gpu"))]
        BackendKind::Gpu => Err(LoadError::NotBuilt("gpu")),
    }
}
