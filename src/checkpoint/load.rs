//! Weights onto a backend, chosen at run time.

#[cfg(feature = "cpu")]
use std::sync::Arc;

use super::{Checkpoint, CheckpointError};
#[cfg(feature = "gpu")]
use crate::backend;
use crate::backend::Precision;
#[cfg(feature = "cpu")]
use crate::backend::cpu::Compute;
#[cfg(feature = "cpu")]
use crate::bert::OnThreads;
use crate::bert::{Bert, BertConfig, MaskedLm, WeightSource};
#[cfg(feature = "gpu")]
use crate::bert::{Guarded, TensorSpec, tensors};

/// Where the model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// ndarray.
    Cpu,
    /// wgpu.
    Gpu,
}

/// On what, and with what, a model runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// CPU or GPU.
    pub backend: BackendKind,
    /// Threads that compute on the CPU, shared out among the workers.
    pub threads: usize,
    /// How many batches may run at once, each on its share of the threads; on a GPU one.
    pub workers: usize,
    /// What products are computed with; the backend's best choice if none is named.
    pub precision: Option<Precision>,
    /// Which GPU: a number in the order of `backend::gpu::adapters`, or a part of its name; the best if none is
    /// named.
    pub gpu_device: Option<String>,
}

impl Placement {
    /// The best device of `backend` in the precision that suits it, and one worker with `threads` threads.
    pub fn new(backend: BackendKind, threads: usize) -> Self {
        Self {
            backend,
            threads,
            workers: 1,
            precision: None,
            gpu_device: None,
        }
    }
}

/// A model with its weights on a device.
pub struct LoadedModel {
    /// The model.
    pub model: Box<dyn MaskedLm>,
    /// The same for each further worker: the same weights, other threads.
    pub others: Vec<Box<dyn MaskedLm>>,
    /// What its products are computed with.
    pub precision: Precision,
    /// Whether the device compiles or tunes something for each rung of the [ladder](crate::backend::ladder).
    pub compiles_by_size: bool,
    /// Whether it waits for hardware, which may hang, rather than for programs, which take as long as they take.
    pub may_hang: bool,
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
    /// More workers than threads.
    #[error("--workers {workers} needs a thread for each, and there are {threads}; ask for fewer, or see --threads")]
    TooManyWorkers {
        /// What was asked for.
        workers: usize,
        /// The threads there are.
        threads: usize,
    },
    /// Several workers on a GPU.
    #[error("--workers {0} is for the CPU: a GPU computes one batch at a time; leave it out with --backend gpu")]
    WorkersOnGpu(usize),
    /// A precision that the backend does not compute in.
    #[error("--backend {backend} cannot compute in {precision}; it can in {supported}")]
    Precision {
        /// The backend.
        backend: &'static str,
        /// What was asked for.
        precision: Precision,
        /// What there is, in words.
        supported: &'static str,
    },
    /// A backend that this build leaves out.
    #[error("this build has no {0} backend; build it with the cargo feature `{0}`")]
    NotBuilt(&'static str),
}

impl Checkpoint {
    /// Loads the weights onto a backend; see [`load_model`].
    ///
    /// # Errors
    /// [`LoadError`] says whether it was the checkpoint or the device.
    pub fn load_on(&mut self, placement: &Placement) -> Result<LoadedModel, LoadError> {
        load_model(&self.config, &mut self.weights, placement)
    }
}

/// Loads the weights of `source` onto the backend that `placement` says.
///
/// # Errors
/// [`LoadError`] says whether it was the weights or the device.
pub fn load_model(
    config: &BertConfig,
    source: &mut dyn WeightSource,
    placement: &Placement,
) -> Result<LoadedModel, LoadError> {
    match placement.backend {
        #[cfg(feature = "cpu")]
        BackendKind::Cpu => on_cpu(config, source, placement),
        #[cfg(feature = "gpu")]
        BackendKind::Gpu => on_gpu(config, source, placement),
        #[cfg(not(feature = "cpu"))]
        BackendKind::Cpu => Err(LoadError::NotBuilt("cpu")),
        #[cfg(not(feature = "gpu"))]
        BackendKind::Gpu => Err(LoadError::NotBuilt("gpu")),
    }
}

#[cfg(feature = "cpu")]
fn on_cpu(config: &BertConfig, source: &mut dyn WeightSource, placement: &Placement) -> Result<LoadedModel, LoadError> {
    let Placement { threads, workers, .. } = *placement;
    if workers > threads {
        return Err(LoadError::TooManyWorkers { workers, threads });
    }
    let precision = placement.precision.unwrap_or_default();
    if precision == Precision::F16 {
        return Err(LoadError::Precision {
            backend: "cpu",
            precision,
            supported: "f32, bf16 and int8",
        });
    }
    // All threads load; where there is one worker, they are its own from then on.
    let all = Compute::new(threads).map_err(LoadError::Threads)?;
    let model = all.run(|| Bert::load(config, source, &Default::default(), precision));
    let model = Arc::new(model.map_err(CheckpointError::Weights)?);
    cloze_allocator::trim();
    let features = all.features();
    let mut shares = vec![all];
    if workers > 1 {
        shares.clear();
        for worker in 0..workers {
            let share = threads / workers + usize::from(worker < threads % workers);
            shares.push(Compute::new(share).map_err(LoadError::Threads)?);
        }
    }
    let on = |share| -> Box<dyn MaskedLm> { Box::new(OnThreads::new(Arc::clone(&model), share)) };
    let mut models = shares.into_iter().map(on);
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let parts = match workers {
        1 => count(threads, "thread"),
        _ => format!("{workers} workers over {}", count(threads, "thread")),
    };
    Ok(LoadedModel {
        model: models.next().expect("one worker at least"),
        others: models.collect(),
        precision,
        compiles_by_size: false,
        may_hang: false,
        device: format!("cpu (ndarray), {precision}, {parts}, {features}"),
        warning: None,
    })
}

#[cfg(feature = "gpu")]
fn on_gpu(config: &BertConfig, source: &mut dyn WeightSource, placement: &Placement) -> Result<LoadedModel, LoadError> {
    if placement.workers > 1 {
        return Err(LoadError::WorkersOnGpu(placement.workers));
    }
    if let Some(precision @ (Precision::Bf16 | Precision::Int8)) = placement.precision {
        return Err(LoadError::Precision {
            backend: "gpu",
            precision,
            supported: "f32 and f16",
        });
    }
    let gpu = backend::gpu::open(placement.gpu_device.as_deref())?;
    let precision = gpu.precision(placement.precision)?;
    // Weights under either name take as much.
    let all = tensors(config, config.tie_word_embeddings, &|_| true);
    let all = all.iter().map(TensorSpec::parameters).sum();
    gpu.check_fits(config.largest_weight(), all, config.exact_tables(), precision)?;
    let model = gpu.fill(|device| Bert::<backend::gpu::Gpu>::load(config, source, device, precision))?;
    let model = model.map_err(CheckpointError::Weights)?;
    let is_software = gpu.adapter.is_software();
    let warning = is_software.then(|| {
        format!(
            "{} computes on the CPU; no real GPU was found or asked for, and --backend cpu is much faster",
            gpu.adapter.name
        )
    });
    let device = format!("gpu (wgpu, {}), {precision}, {}", gpu.language, gpu.adapter);
    Ok(LoadedModel {
        model: Box::new(Guarded::new(model, move || gpu.fault())),
        others: Vec::new(),
        precision,
        compiles_by_size: true,
        may_hang: !is_software,
        device,
        warning,
    })
}
