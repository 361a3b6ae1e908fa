//! wgpu: which adapters there are, and setting one up without a panic.
//!
//! Burn's own initialisation panics where there is no adapter and takes a software one in silence, so the
//! adapter is chosen and its device requested here, and Burn is given the result.

mod adapters;

use burn_wgpu::{RuntimeOptions, Wgpu, WgpuDevice, WgpuSetup, init_device};

use super::{BertBackend, plain};

pub use adapters::Adapter;

/// The backend of `--backend gpu`.
pub type Gpu = Wgpu<f32>;

impl BertBackend for Gpu {
    type Linear = plain::PlainLinear<Self>;
}

/// Why no device could be had.
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
}

/// A device ready to load a model onto, and the adapter that it belongs to.
pub struct GpuDevice {
    /// What Burn calls it.
    pub device: WgpuDevice,
    /// The adapter.
    pub adapter: Adapter,
}

/// Sets up the best adapter there is: discrete before integrated before virtual before software.
///
/// # Errors
/// [`GpuError`] with what was found.
pub fn open() -> Result<GpuDevice, GpuError> {
    let (instance, mut found) = adapters::enumerate();
    found.sort_by_key(|(_, adapter)| adapter.rank());
    let names: Vec<String> = found.iter().map(|(_, adapter)| adapter.to_string()).collect();
    let Some((raw, adapter)) = found.into_iter().next() else {
        return Err(GpuError::NoAdapter {
            apis: adapters::APIS.to_owned(),
        });
    };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("cloze"),
        // Mappable primary buffers slow every buffer down on discrete cards; Burn leaves them out too.
        required_features: raw.features() - wgpu::Features::MAPPABLE_PRIMARY_BUFFERS - adapters::experimental(),
        required_limits: raw.limits(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(raw.request_device(&descriptor)).map_err(|e| GpuError::NoDevice {
        adapter: adapter.to_string(),
        reason: e.to_string(),
        found: names.join("; "),
    })?;
    let backend = raw.get_info().backend;
    let setup = WgpuSetup {
        instance,
        adapter: raw,
        device,
        queue,
        backend,
    };
    Ok(GpuDevice {
        device: init_device(setup, RuntimeOptions::default()),
        adapter,
    })
}
