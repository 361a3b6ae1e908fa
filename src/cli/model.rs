//! Flags that choose the model and its backend.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum, ValueHint};
use cloze::backend::Precision;
use cloze::checkpoint::{CheckpointError, HAS_DEMO_MODEL, Source};
use cloze::hub::{Hub, HubError, ModelName, Settings};
use cloze::lm::{
    BackendKind, DeviceInfo, LoadError, LoadedModel, Placement, PretrainedModel, automatic_precision, check_config,
};

use super::headings::{HARDWARE, MODEL};
use super::message;
use super::progress::Download;
use super::values::{THREADS_MAX, within};

/// Flags of every command that opens a model.
#[derive(Debug, Args)]
pub struct ModelArguments {
    /// Model: a folder with config.json, tokenizer and weights, or a name on the Hugging Face hub [default: the
    /// embedded demo model]
    ///
    /// Set it for any real use, for example to google-bert/bert-base-uncased; the demo model is small. A model of the
    /// hub is downloaded at the first start.
    #[arg(short, long, env = "CLOZE_MODEL", value_name = "DIR|NAME", value_hint = ValueHint::AnyPath,
          help_heading = MODEL)]
    pub model: Option<PathBuf>,

    /// Branch, tag or commit of a model on the hub [default: main]
    ///
    /// Set it to a commit so that every machine loads the same weights.
    #[arg(long, env = "CLOZE_REVISION", value_name = "REVISION", help_heading = MODEL)]
    pub revision: Option<String>,

    /// Hardware that computes
    ///
    /// Set it to gpu on a machine with a GPU; `cloze devices` lists what is there.
    #[arg(short, long, env = "CLOZE_BACKEND", value_enum, ignore_case = true, default_value = "cpu",
          help_heading = HARDWARE)]
    pub backend: Backend,

    /// GPU to use: its index or a part of its name, as `cloze devices` lists them [default: the best]
    ///
    /// Set it on a machine with several GPUs, together with --backend gpu.
    #[arg(long, env = "CLOZE_GPU_DEVICE", value_name = "INDEX|NAME", help_heading = HARDWARE)]
    pub gpu_device: Option<String>,

    /// Compute precision: less precision takes less memory, and less time on CPUs that compute in it [default: f32; f16
    /// on a GPU that has it]
    ///
    /// Set it to bf16 on a CPU with amx, or of AMD with avx512_bf16. Set it to int8 on one with avx512_vnni, avx2 or amx
    /// if tokens with almost the same score may change places. `cloze devices` shows the CPU's features.
    #[arg(short, long, env = "CLOZE_DTYPE", ignore_case = true, value_parser = dtypes(), help_heading = HARDWARE)]
    pub dtype: Option<Dtype>,

    /// CPU threads that compute [default: one for each core]
    ///
    /// Lower it to leave cores to other programs, and in a container whose share of the cores is not limited.
    #[arg(short, long, env = "CLOZE_THREADS", value_name = "N", value_parser = within::<usize>(1..=THREADS_MAX),
          help_heading = HARDWARE)]
    pub threads: Option<usize>,

    /// Batches that the CPU computes at the same time; the workers divide the threads and share the weights
    ///
    /// Raise it by one for every 8 cores if requests fill batches; one worker answers a single request fastest.
    #[arg(long, env = "CLOZE_WORKERS", default_value = "1", value_name = "N",
          value_parser = within::<usize>(1..=THREADS_MAX), help_heading = HARDWARE)]
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

/// `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// [`automatic_precision`].
    Auto,
    Is(Precision),
}

impl Dtype {
    fn precision(self, backend: BackendKind) -> Option<Precision> {
        match self {
            Self::Auto => automatic_precision(backend),
            Self::Is(precision) => Some(precision),
        }
    }
}

/// The values of `--dtype`.
fn dtypes() -> impl TypedValueParser<Value = Dtype> {
    const AUTO: &str = "auto";
    let auto = PossibleValue::new(AUTO).help("bf16 on a CPU that computes it faster than f32, else the default");
    let values = Precision::ALL.map(|precision| {
        PossibleValue::new(precision.name()).help(match precision {
            Precision::F32 => "32-bit floating point",
            Precision::F16 => "16-bit floating point in matrix products: half the memory (GPU)",
            Precision::Bf16 => "bfloat16 in matrix products: half the memory (CPU)",
            Precision::Int8 => "8-bit integers in matrix products: a quarter of the memory (CPU)",
        })
    });
    PossibleValuesParser::new(values.into_iter().chain([auto])).try_map(|name| match &*name.to_ascii_lowercase() {
        AUTO => Ok(Dtype::Auto),
        name => name.parse().map(Dtype::Is),
    })
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl ModelArguments {
    /// Checks flags that need each other.
    ///
    /// # Errors
    /// A flag that would have no effect, an instruction set that the CPU lacks, or a language of kernels that does not exist.
    pub fn check(&self) -> Result<(), String> {
        check_revision(self.model.as_deref(), self.revision.as_deref())?;
        // CLOZE_CPU_FEATURES, which the CPU may lack.
        #[cfg(feature = "cpu")]
        if self.backend == Backend::Cpu {
            cloze::backend::cpu::automatic_precision()?;
        }
        // CLOZE_GPU_LANGUAGE.
        #[cfg(feature = "gpu")]
        if self.backend == Backend::Gpu {
            cloze::backend::gpu::Language::selected()?;
        }
        match &self.gpu_device {
            Some(_) if self.backend != Backend::Gpu => Err("--gpu-device needs --backend gpu".to_owned()),
            _ => Ok(()),
        }
    }

    /// Opens the checkpoint, downloading it first where it has to be: its configuration and tokenizer are read,
    /// its weights are not.
    pub fn open(&self) -> Result<PretrainedModel, Box<dyn Error>> {
        let source = locate(self.model.as_deref(), self.revision.as_deref())?;
        PretrainedModel::read(source).map_err(|error| self.with_inspect(LoadError::Checkpoint(error)))
    }

    /// Adds the command that lists all errors of the files to the first of them.
    fn with_inspect(&self, error: LoadError) -> Box<dyn Error> {
        let is_of_files = matches!(
            &error,
            LoadError::Checkpoint(
                CheckpointError::Config { .. }
                    | CheckpointError::Tokenizer { .. }
                    | CheckpointError::NoHead { .. }
                    | CheckpointError::OtherNames { .. }
                    | CheckpointError::Weights(_)
            )
        );
        match (&self.model, &self.revision) {
            (Some(model), None) if is_of_files => {
                let text = message(&error);
                format!("{text}; all errors: `cloze inspect {}`", model.display()).into()
            }
            (Some(model), Some(revision)) if is_of_files => {
                let (text, model) = (message(&error), model.display());
                format!("{text}; all errors: `cloze inspect {model} --revision {revision}`").into()
            }
            _ => error.into(),
        }
    }

    /// Loads the weights onto the device that the flags select.
    pub fn load(&self, model: &mut PretrainedModel) -> Result<LoadedModel, Box<dyn Error>> {
        let loaded = model.load(&Placement {
            backend: self.backend.into(),
            threads: self.threads.unwrap_or_else(cores),
            workers: self.workers,
            precision: self.dtype.and_then(|dtype| dtype.precision(self.backend.into())),
            gpu_device: self.gpu_device.clone(),
        });
        let loaded = loaded.map_err(|error| self.with_inspect(error))?;
        if let DeviceInfo::Cpu {
            precision,
            isa,
            gains: false,
            ..
        } = &loaded.device
        {
            if cfg!(target_arch = "aarch64") {
                tracing::warn!(
                    "the speed of {precision} is not measured on this CPU ({isa}); {precision} saves memory"
                );
            } else {
                tracing::warn!(
                    "this CPU ({isa}) computes {precision} no faster than f32; {precision} only saves memory"
                );
            }
        }
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

/// Checks that a revision has a model.
///
/// # Errors
/// It has none.
pub fn check_revision(model: Option<&Path>, revision: Option<&str>) -> Result<(), String> {
    match (model, revision) {
        (None, Some(_)) => Err("--revision is for a model of the hub; name the model with --model".to_owned()),
        _ => Ok(()),
    }
}

/// Finds a model: the embedded one, a folder, or a model of the hub, which is downloaded unless it is in the cache.
pub fn locate(model: Option<&Path>, revision: Option<&str>) -> Result<Source, Box<dyn Error>> {
    let Some(model) = model else {
        return match HAS_DEMO_MODEL {
            true => Ok(Source::embedded()),
            false => Err(
                "this build has no demo model; choose a model with --model, such as google-bert/bert-base-uncased"
                    .into(),
            ),
        };
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
            "there is no folder {shown}, and a model of the hub has a name such as google-bert/bert-base-uncased"
        )
        .into());
    }
    let Some(name) = ModelName::parse(id, revision) else {
        return Err("--revision takes a branch, a tag or a commit".into());
    };
    let hub = Hub::new(Settings::from_env()?);
    let source = Source::hub(&hub, &name, &mut Download::default(), &check_config);
    source.map_err(|error| match error {
        // The name may be a folder's with a mistake in it.
        CheckpointError::Hub(HubError::Offline { .. }) => {
            format!("there is no local folder {shown}, and {}", message(&error)).into()
        }
        CheckpointError::Hub(HubError::Unreachable { .. }) => {
            let state = hub.cache_state(&name);
            let text = message(&error);
            format!("there is no local folder {shown}, a model of this name {state}, and {text}").into()
        }
        error => error.into(),
    })
}
