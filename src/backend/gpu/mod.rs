//! wgpu: which adapters there are, setting one up without a panic, and hearing of its faults.
//!
//! Burn's own initialisation panics where there is no adapter and takes a software one in silence, so the
//! adapter is chosen and its device requested here, and Burn is given the result.
//!
//! | file | what it is |
//! |---|---|
//! | `adapters` | what is known of each adapter, and which one `--gpu-device` means |
//! | `kernels` | CubeCL kernels, one launch where plain Burn takes several |
//! | `operations` | what BERT needs of a backend, through those kernels |
//! | `faults` | a lost device, memory that ran out: remembered, so that no wrong answer is given |

mod adapters;
mod faults;
mod kernels;
mod operations;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::backend::Backend;
use burn_wgpu::{RuntimeOptions, Wgpu, WgpuDevice, WgpuSetup, init_device};

pub use adapters::{Adapter, adapters};
use faults::Faults;

/// The backend of `--backend gpu`.
pub type Gpu = Wgpu<f32>;

/// Why no device could be had, or no model put onto it.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No adapter can compute.
    #[error(
        "no GPU adapter was found through {apis}; install a driver for Vulkan, Metal or DX12 (or Mesa's software \
         driver), or start with --backend cpu"
    )]
    NoAdapter {
        /// The interfaces that were asked.
        apis: String,
    },
    /// `--gpu-device` means none of the adapters, or several.
    #[error("--gpu-device \"{wanted}\" means {}; give the number or a part of the name of one of {found}", count(*.matches))]
    NoSuchAdapter {
        /// What was asked for.
        wanted: String,
        /// How many it could mean.
        matches: usize,
        /// All adapters.
        found: String,
    },
    /// The adapter refused a device.
    #[error("{adapter} gave no device: {reason}. Adapters found: {found}")]
    NoDevice {
        /// What was asked.
        adapter: String,
        /// What it said.
        reason: String,
        /// All adapters.
        found: String,
    },
    /// A weight is larger than a buffer may be.
    #[error(
        "the model's largest weight takes {bytes} bytes and {adapter} allows {bytes_max} in one buffer; choose \
         another with --gpu-device, or start with --backend cpu"
    )]
    TooLarge {
        /// Bytes of the weight on the device.
        bytes: u64,
        /// What a buffer may have.
        bytes_max: u64,
        /// The adapter.
        adapter: String,
    },
    /// The device failed while the weights were put onto it.
    #[error("the model could not be put onto {adapter}: {reason}")]
    Load {
        /// The adapter.
        adapter: String,
        /// What it said.
        reason: String,
    },
}

fn count(matches: usize) -> String {
    match matches {
        0 => "no adapter".to_owned(),
        more => format!("{more} adapters"),
    }
}

/// A device ready to load a model onto, and the adapter that it belongs to.
pub struct GpuDevice {
    /// What Burn calls it.
    pub device: WgpuDevice,
    /// The adapter.
    pub adapter: Adapter,
    /// What went wrong with the device since.
    faults: Faults,
    #[cfg(test)]
    raw: wgpu::Device,
}

impl GpuDevice {
    /// Whether the largest weight, of `elements` numbers, fits into a buffer. How much memory there is in all
    /// is not known before it is asked for.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`] with both sizes.
    pub fn check_fits(&self, elements: usize) -> Result<(), GpuError> {
        let bytes = (elements * size_of::<f32>()) as u64;
        match bytes <= self.adapter.buffer_bytes_max {
            true => Ok(()),
            false => Err(GpuError::TooLarge {
                bytes,
                bytes_max: self.adapter.buffer_bytes_max,
                adapter: self.adapter.to_string(),
            }),
        }
    }

    /// What went wrong with the device, if anything did. Burn's own errors, such as a kernel that cannot be
    /// launched, are told by no read but only here, and what was read meanwhile means nothing.
    pub fn fault(&self) -> Option<String> {
        if self.faults.first().is_none() {
            match catch_unwind(AssertUnwindSafe(|| Gpu::sync(&self.device))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.faults.record(format!("the GPU failed: {error}")),
                Err(_) => self.faults.record("the GPU failed; the log says where".to_owned()),
            }
        }
        self.faults.first()
    }

    /// Runs `load`, which puts a model onto the device, and waits until it lies there. Where the device fails,
    /// Burn panics; here that is an error.
    ///
    /// # Errors
    /// [`GpuError::Load`] with the device's own reason where it gave one.
    pub fn fill<T>(&self, load: impl FnOnce(&WgpuDevice) -> T) -> Result<T, GpuError> {
        let filled = catch_unwind(AssertUnwindSafe(|| {
            let loaded = load(&self.device);
            Gpu::sync(&self.device).map(|()| loaded)
        }));
        let reason = match (self.faults.first(), filled) {
            (Some(fault), _) => fault,
            (None, Ok(Ok(loaded))) => return Ok(loaded),
            (None, Ok(Err(error))) => error.to_string(),
            (None, Err(panic)) => match panic.downcast::<String>() {
                Ok(message) => *message,
                Err(_) => "Burn gave up without a reason".to_owned(),
            },
        };
        Err(GpuError::Load {
            adapter: self.adapter.to_string(),
            reason,
        })
    }
}

/// Sets up the adapter that `wanted` means, a number or a part of a name; without it the best there is: discrete
/// before integrated before virtual before software.
///
/// # Errors
/// [`GpuError`] with what was found.
pub fn open(wanted: Option<&str>) -> Result<GpuDevice, GpuError> {
    let (instance, mut found) = adapters::enumerate();
    let known: Vec<Adapter> = found.iter().map(|(_, adapter)| adapter.clone()).collect();
    let (raw, adapter) = found.swap_remove(adapters::choose(&known, wanted)?);
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("cloze"),
        // Mappable primary buffers slow every buffer down on discrete cards; Burn leaves them out too. What is
        // experimental wgpu gives out only to those who accept that it may be unsound.
        required_features: raw.features()
            - wgpu::Features::MAPPABLE_PRIMARY_BUFFERS
            - wgpu::Features::all_experimental_mask(),
        required_limits: raw.limits(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(raw.request_device(&descriptor)).map_err(|e| GpuError::NoDevice {
        adapter: adapter.to_string(),
        reason: e.to_string(),
        found: adapters::list(&known),
    })?;
    let faults = Faults::watch(&device);
    let backend = raw.get_info().backend;
    #[cfg(test)]
    let handle = device.clone();
    let setup = WgpuSetup {
        instance,
        adapter: raw,
        device,
        queue,
        backend,
    };
    let device = init_device(setup, RuntimeOptions::default());
    faults.watch_thread(&device);
    Ok(GpuDevice {
        device,
        adapter,
        faults,
        #[cfg(test)]
        raw: handle,
    })
}
