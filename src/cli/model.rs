//! Flags that choose the model and its backend.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use cloze::backend::Precision;
use cloze::checkpoint::Source;
use cloze::hub::{Hub, ModelName, Settings};
use cloze::lm::{BackendKind, DeviceInfo, LoadError, LoadedModel, Placement, PretrainedModel, check_config};

use super::progress::Download;
use super::ranges::{THREADS_MAX, within};

/// Flags of every command that opens a model.
#[derive(Debug, Args)]
pub struct ModelArguments {
    /// Folder with config.json, tokenizer.json (or vocab.txt) and model.safetensors, or name of a model on the Hugging
    /// Face hub, such as google-bert/bert-base-uncased [default: the embedded demo model]
    #[arg(long, env = "CLOZE_MODEL", value_name = "DIR|NAME")]
    pub model: Option<PathBuf>,

    /// Branch, tag or commit of a model on the hub [default: main]
    #[arg(long, env = "CLOZE_REVISION", value_name = "REVISION", requires = "model")]
    pub revision: Option<String>,

    /// Backend that runs the model
    #[arg(long, env = "CLOZE_BACKEND", value_enum, default_value = "cpu")]
    pub backend: Backend,

    /// Compute precision. CPU: f32, bf16 (up to twice as fast) or int8 (up to three times as fast), in order of
    /// decreasing accuracy. GPU: f32 or f16 [default: f32; f16 on a GPU that supports it]
    #[arg(long, env = "CLOZE_DTYPE", value_parser = precisions())]
    pub dtype: Option<Precision>,

    /// GPU to use: its index or a part of its name, as listed by `cloze devices` [default: the best]
    #[arg(long, env = "CLOZE_GPU_DEVICE", value_name = "INDEX|NAME")]
    pub gpu_device: Option<String>,

    /// Compute threads of the CPU backend [default: one per core]
    #[arg(long, env = "CLOZE_THREADS", value_name = "N", value_parser = within::<usize>(1..=THREADS_MAX))]
    pub threads: Option<usize>,

    /// Batches that the CPU backend computes concurrently; the workers divide the threads and share the weights
    #[arg(long, env = "CLOZE_WORKERS", default_value = "1", value_name = "N",
          value_parser = within::<usize>(1..=THREADS_MAX))]
    pub workers: usize,
}

/// `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The CPU
    Cpu,
    /// A GPU, through Vulkan, Metal or DX12
    Gpu,
}

impl Backend {
    /// The value of the flag.
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

/// The values of `--dtype`.
fn precisions() -> impl TypedValueParser<Value = Precision> {
    let values = Precision::ALL.map(|precision| {
        PossibleValue::new(precision.name()).help(match precision {
            Precision::F32 => "32-bit floating point",
            Precision::F16 => "16-bit floating point (GPU)",
            Precision::Bf16 => "bfloat16 weights and activations in matrix products (CPU)",
            Precision::Int8 => "8-bit integer weights and activations in matrix products (CPU)",
        })
    });
    PossibleValuesParser::new(values).try_map(|name| name.parse::<Precision>())
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl ModelArguments {
    /// Opens the checkpoint, downloading it first where it has to be: its configuration and tokenizer are read,
    /// its weights are not.
    pub fn open(&self) -> Result<PretrainedModel, Box<dyn Error>> {
        let source = locate(self.model.as_deref(), self.revision.as_deref())?;
        Ok(PretrainedModel::read(source)?)
    }

    /// Loads the weights onto the device that the flags select.
    pub fn load(&self, model: &mut PretrainedModel) -> Result<LoadedModel, LoadError> {
        let loaded = model.load(&Placement {
            backend: self.backend.into(),
            threads: self.threads.unwrap_or_else(cores),
            workers: self.workers,
            precision: self.dtype,
            gpu_device: self.gpu_device.clone(),
        })?;
        if let DeviceInfo::Gpu {
            adapter,
            is_software: true,
            ..
        } = &loaded.device
        {
            tracing::warn!(
                "{adapter} computes on the CPU; no real GPU was found or selected, and --backend cpu is much faster"
            );
        }
        Ok(loaded)
    }
}

/// Finds a model: the embedded one, a folder, or a model of the hub, which is downloaded unless it is in the cache.
pub fn locate(model: Option<&Path>, revision: Option<&str>) -> Result<Source, Box<dyn Error>> {
    let Some(model) = model else {
        return Ok(Source::embedded());
    };
    let shown = model.display();
    if model.exists() {
        return match revision {
            Some(_) => Err(format!("--revision is for models of the hub, and {shown} is a local folder").into()),
            None => Ok(Source::folder(model)?),
        };
    }
    let id = model.to_str().unwrap_or_default();
    if ModelName::parse(id, None).is_none() {
        return Err(format!(
            "{shown} is neither a local folder nor the name of a model on the hub, such as google-bert/bert-base-uncased"
        )
        .into());
    }
    let Some(name) = ModelName::parse(id, revision) else {
        return Err("--revision takes a branch, a tag or a commit".into());
    };
    let hub = Hub::new(Settings::from_env()?);
    Ok(Source::hub(&hub, &name, &mut Download::default(), &check_config)?)
}
