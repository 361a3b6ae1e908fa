//! Which model, and where it runs.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use cloze::backend::Precision;
use cloze::hub::{Hub, ModelName, Settings};
use cloze::checkpoint::{BackendKind, Checkpoint, LoadError, LoadedModel, Placement, Source};

use super::progress::Download;

/// Flags of every command that opens a model.
#[derive(Debug, Args)]
pub struct ModelArguments {
    /// Folder with config.json, tokenizer.json (or vocab.txt) and model.safetensors, or the name of a model on
    /// the Hugging Face hub, such as google-bert/bert-base-uncased [default: the embedded demo model]
    #[arg(long, env = "CLOZE_MODEL", value_name = "DIR|NAME")]
    pub model: Option<PathBuf>,

    /// Branch, tag or commit of a model on the hub [default: main]
    #[arg(long, env = "CLOZE_REVISION", value_name = "REVISION", requires = "model")]
    pub revision: Option<String>,

    /// Where the model runs
    #[arg(long, env = "CLOZE_BACKEND", value_enum, default_value = "cpu")]
    pub backend: Backend,

    /// What is computed with. On the CPU f32, or bf16 for twice the speed, or int8 for up to three times; less exact in
    /// this order. On a GPU f32 or f16 [default: f32; on a GPU f16 where it has it]
    #[arg(long, env = "CLOZE_DTYPE", value_enum)]
    pub dtype: Option<Dtype>,

    /// Which GPU: its number or a part of its name, as `cloze devices` lists them [default: the best]
    #[arg(long, env = "CLOZE_GPU_DEVICE", value_name = "INDEX|NAME")]
    pub gpu_device: Option<String>,

    /// Threads that compute on the CPU [default: one for each core]
    #[arg(long, env = "CLOZE_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Batches that the CPU computes at once, each with its share of the threads; the weights are there once
    #[arg(long, env = "CLOZE_WORKERS", default_value = "1", value_name = "N")]
    pub workers: NonZeroUsize,
}

/// `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The CPU, through ndarray
    Cpu,
    /// A GPU, through wgpu: Vulkan, Metal or DX12
    Gpu,
}

impl Backend {
    /// As the flag takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }
}

impl From<Backend> for BackendKind {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Cpu => Self::Cpu,
            Backend::Gpu => Self::Gpu,
        }
    }
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32-bit floating point
    F32,
    /// 16-bit floating point, on a GPU
    F16,
    /// On the CPU: weights, and the activations that meet them, in bf16
    Bf16,
    /// On the CPU: both in 8-bit integers
    Int8,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::Bf16,
            Dtype::Int8 => Self::Int8,
        }
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl ModelArguments {
    /// Opens the checkpoint, downloading it first where it has to be: its configuration and tokenizer are read,
    /// its weights are not.
    pub fn open(&self) -> Result<Checkpoint, Box<dyn Error>> {
        let source = locate(self.model.as_deref(), self.revision.as_deref())?;
        Ok(Checkpoint::read(source)?)
    }

    /// Puts the weights onto the device that the flags name.
    pub fn load(&self, checkpoint: &mut Checkpoint) -> Result<LoadedModel, LoadError> {
        let loaded = checkpoint.load_on(&Placement {
            backend: self.backend.into(),
            threads: self.threads.map_or_else(cores, usize::from),
            workers: self.workers.into(),
            precision: self.dtype.map(Precision::from),
            gpu_device: self.gpu_device.clone(),
        })?;
        if let Some(warning) = &loaded.warning {
            tracing::warn!("{warning}");
        }
        Ok(loaded)
    }
}

/// Finds a model: the embedded one, a folder, or one of the hub, which is downloaded where it has to be.
pub fn locate(model: Option<&Path>, revision: Option<&str>) -> Result<Source, Box<dyn Error>> {
    let Some(model) = model else {
        return Ok(Source::embedded());
    };
    let shown = model.display();
    if model.exists() {
        return match revision {
            Some(_) => Err(format!("--revision is for models of the hub, and {shown} is here already").into()),
            None => Ok(Source::folder(model)?),
        };
    }
    let id = model.to_str().unwrap_or_default();
    if ModelName::parse(id, None).is_none() {
        return Err(format!(
            "{shown} is neither a folder that is here nor a name on the hub, such as google-bert/bert-base-uncased"
        )
        .into());
    }
    let Some(name) = ModelName::parse(id, revision) else {
        return Err("--revision takes a branch, a tag or a commit".into());
    };
    let hub = Hub::new(Settings::from_env()?);
    Ok(Source::hub(&hub, &name, &mut Download::default())?)
}
