//! Loads a checkpoint's weights onto a backend that is chosen at run time: one file for each backend.

#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "gpu")]
mod gpu;
mod memory;

use std::fmt;

use super::MaskedLm;
use crate::backend::{EncoderBackend, Precision, UnsupportedPrecision, list_precisions};
use crate::checkpoint::{CheckpointError, TensorSource};
use crate::encoder::{Architecture, EncoderError};
use crate::sys::memory::Available;
pub use memory::MemoryNeed;

/// The backends that a model can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// ndarray, with kernels of ours.
    Cpu,
    /// wgpu: Vulkan, Metal or DX12.
    Gpu,
}

impl BackendKind {
    /// `cpu` or `gpu`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }
}

/// The fastest precision whose top-1 agreement with f32 is at least 99 %: on a CPU bf16 if it is faster than f32, else
/// f32. `None` leaves the choice to [`load_model`]: on a GPU, f16 if it has it.
pub fn automatic_precision(backend: BackendKind) -> Option<Precision> {
    match backend {
        // If the CPU lacks the selected instructions, loading fails with the reason.
        #[cfg(feature = "cpu")]
        BackendKind::Cpu => crate::backend::cpu::automatic_precision().ok(),
        _ => None,
    }
}

/// Device and precision to load a model for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub backend: BackendKind,
    /// Threads that compute on the CPU, divided among the workers.
    pub threads: usize,
    /// Batches that may run at once, each on its share of the threads; 1 on a GPU.
    pub workers: usize,
    /// The backend's default if `None`: f32, or f16 on a GPU that has it.
    pub precision: Option<Precision>,
    /// A GPU's index in `backend::gpu::adapters()` or a part of its name; the best one if `None`.
    pub gpu_device: Option<String>,
}

impl Placement {
    /// One worker with `threads` threads, on the backend's best device and in its default precision.
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
    /// One for each worker, at least one; all share the weights.
    pub workers: Vec<Box<dyn MaskedLm>>,
    pub precision: Precision,
    pub device: DeviceInfo,
}

impl LoadedModel {
    /// Models of the caller's own, one for each worker. `device` describes where they run.
    pub fn custom(device: &str, precision: Precision, workers: Vec<Box<dyn MaskedLm>>) -> Self {
        Self {
            workers,
            precision,
            device: DeviceInfo::Custom {
                precision,
                name: device.to_owned(),
            },
        }
    }
}

/// The device that a model was loaded for. It displays as one line, such as `cpu (ndarray), f32, 2 threads, avx512`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceInfo {
    Cpu {
        precision: Precision,
        workers: usize,
        threads: usize,
        /// The instruction set in use.
        isa: String,
        /// The precision is f32, or faster than f32 with these instructions.
        gains: bool,
    },
    Gpu {
        precision: Precision,
        adapter: String,
        /// The adapter is a software driver, which computes on the CPU.
        is_software: bool,
        /// The language that kernels are compiled to.
        shader_language: &'static str,
    },
    /// A model that Cloze has not loaded.
    Custom { precision: Precision, name: String },
}

impl DeviceInfo {
    /// `cpu`, `gpu` or `custom`.
    pub fn backend(&self) -> &'static str {
        match self {
            Self::Cpu { .. } => "cpu",
            Self::Gpu { .. } => "gpu",
            Self::Custom { .. } => "custom",
        }
    }

    pub fn precision(&self) -> Precision {
        match self {
            Self::Cpu { precision, .. } | Self::Gpu { precision, .. } | Self::Custom { precision, .. } => *precision,
        }
    }

    /// True if kernels are compiled for each bucket of row counts, so that a warm-up should run each of them.
    pub fn compiles_per_bucket(&self) -> bool {
        matches!(self, Self::Gpu { .. })
    }

    /// True if batches wait for hardware that may hang.
    pub fn may_hang(&self) -> bool {
        matches!(self, Self::Gpu { is_software: false, .. })
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu {
                precision,
                workers,
                threads,
                isa,
                ..
            } => {
                write!(f, "cpu (ndarray), {precision}, ")?;
                if *workers > 1 {
                    write!(f, "{workers} workers over ")?;
                }
                let plural = if *threads == 1 { "" } else { "s" };
                write!(f, "{threads} thread{plural}, {isa}")
            }
            Self::Gpu {
                precision,
                adapter,
                shader_language,
                ..
            } => write!(f, "gpu (wgpu, {shader_language}), {precision}, {adapter}"),
            Self::Custom { name, .. } => f.write_str(name),
        }
    }
}

/// Reason why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[cfg(feature = "gpu")]
    #[error(transparent)]
    Gpu(#[from] crate::backend::gpu::GpuError),
    #[error("the compute threads cannot be started: {0}")]
    Threads(String),
    /// The weights do not fit into memory; nothing was read.
    #[error(
        "the model needs {} of memory at its peak in {precision} ({} of weights), and {} are available: {}",
        mebibytes(need.peak),
        mebibytes(need.weights),
        mebibytes(available.bytes),
        available.limit
    )]
    TooLittleMemory {
        need: MemoryNeed,
        precision: Precision,
        available: Available,
    },
    #[error("{workers} workers need a thread each, and there are {threads}")]
    TooManyWorkers { workers: usize, threads: usize },
    #[error("{0} workers are for the CPU: a GPU computes one batch at a time")]
    WorkersOnGpu(usize),
    /// A precision that the backend does not compute in.
    #[error("the {backend} backend cannot compute in {precision}; it supports {}", list_precisions(.supported))]
    Precision {
        backend: &'static str,
        precision: Precision,
        supported: &'static [Precision],
    },
    /// The device could not take a weight.
    #[error("the {backend} backend could not take the weights: {reason}")]
    Device { backend: &'static str, reason: String },
    #[error("this build has no {0} backend; build it with the cargo feature `{0}`")]
    NotBuilt(&'static str),
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

impl LoadError {
    fn from_encoder(error: EncoderError, backend: BackendKind) -> Self {
        match error {
            EncoderError::Tensor(error) => CheckpointError::Weights(error).into(),
            EncoderError::Precision(UnsupportedPrecision { requested, supported }) => Self::Precision {
                backend: backend.name(),
                precision: requested,
                supported,
            },
            EncoderError::Device(error) => Self::Device {
                backend: backend.name(),
                reason: error.to_string(),
            },
        }
    }
}

/// Refuses a precision that backend `B` does not compute in.
fn check_precision<B: EncoderBackend>(precision: Precision, backend: BackendKind) -> Result<(), LoadError> {
    let checked = UnsupportedPrecision::check(precision, B::PRECISIONS);
    checked.map_err(|error| LoadError::from_encoder(error.into(), backend))
}

/// Loads the weights of `source` onto the device that `placement` names.
///
/// # Errors
/// [`LoadError`] says if the weights or the device failed.
pub fn load_model(
    architecture: &Architecture,
    source: &mut dyn TensorSource,
    placement: &Placement,
) -> Result<LoadedModel, LoadError> {
    match placement.backend {
        #[cfg(feature = "cpu")]
        BackendKind::Cpu => cpu::load(architecture, source, placement),
        #[cfg(feature = "gpu")]
        BackendKind::Gpu => gpu::load(architecture, source, placement),
        #[cfg(not(all(feature = "cpu", feature = "gpu")))]
        other => Err(LoadError::NotBuilt(other.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_automatic_precision_agrees_with_f32() {
        if cfg!(feature = "cpu") {
            let chosen = automatic_precision(BackendKind::Cpu);
            assert!(matches!(chosen, Some(Precision::F32 | Precision::Bf16)), "{chosen:?}");
        }
        assert_eq!(automatic_precision(BackendKind::Gpu), None);
    }

    #[test]
    fn a_device_displays_as_one_line() {
        let cpu = |workers, threads| DeviceInfo::Cpu {
            precision: Precision::F32,
            workers,
            threads,
            isa: "avx512".to_owned(),
            gains: true,
        };
        assert_eq!(cpu(1, 1).to_string(), "cpu (ndarray), f32, 1 thread, avx512");
        assert_eq!(
            cpu(2, 4).to_string(),
            "cpu (ndarray), f32, 2 workers over 4 threads, avx512"
        );
        let gpu = DeviceInfo::Gpu {
            precision: Precision::F16,
            adapter: "NVIDIA T4 (discrete GPU, Vulkan)".to_owned(),
            is_software: false,
            shader_language: "WGSL",
        };
        assert_eq!(
            gpu.to_string(),
            "gpu (wgpu, WGSL), f16, NVIDIA T4 (discrete GPU, Vulkan)"
        );
    }
}
