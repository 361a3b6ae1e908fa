//! wgpu: adapter selection, device set-up without a panic, fault detection.
//!
//! Burn's own initialisation panics where there is no adapter and takes a software one without a word, so the
//! adapter is chosen and its device requested here, and Burn is given the result.
//!
//! | file | what it is |
//! |---|---|
//! | `adapters` | what is known of each adapter, and which one a user selects |
//! | `settings` | the settings of CubeCL |
//! | `language` | SPIR-V or WGSL for a device |
//! | `spirv`, `wgsl` | devices for each of them, in a build that has both |
//! | `device_thread` | parks CubeCL's thread while there is no work |
//! | `kernels` | CubeCL kernels, one launch where plain Burn takes several |
//! | `operations` | the encoder's operations as launches of those kernels |
//! | `failpoints` | fault injection for tests |
//! | `faults` | a lost device, memory that ran out: remembered, so that no wrong answer is given |
//! | `memory` | how much memory an adapter has, if the driver reports it |

mod adapters;
mod device_thread;
#[cfg(feature = "failpoints")]
mod failpoints;
mod faults;
mod kernels;
mod language;
mod memory;
mod operations;
mod settings;
#[cfg(feature = "vulkan")]
mod spirv;
#[cfg(test)]
mod tests;
#[cfg(feature = "vulkan")]
mod wgsl;

use std::time::Duration;

use burn::backend::{Backend, ExecutionError};
use burn_cubecl::CubeDevice;
use burn_wgpu::{Wgpu, WgpuSetup};
use cubecl::MemoryScope;

use super::Precision;

pub use adapters::{Adapter, adapters};
use device_thread::DeviceThread;
use faults::{Faults, caught, in_one_line};
pub use language::Language;
pub use memory::AdapterMemory;

/// The wgpu backend. Tensors are f32 by default; in half precision each tensor carries its own element type.
#[derive(Clone, Copy, Debug)]
pub struct Gpu;

/// Reason why no device could be opened, or no model loaded onto it.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    #[error("no GPU adapter was found through {apis}")]
    NoAdapter {
        /// The graphics APIs that were searched.
        apis: String,
    },
    /// The variable for the language of kernels has no valid value.
    #[error("{0}")]
    Language(String),
    /// None of the adapters matches the request, or several do.
    #[error("the GPU \"{requested}\" matches {} of {found}", count(*.matches))]
    NoSuchAdapter {
        requested: String,
        matches: usize,
        /// All adapters.
        found: String,
    },
    /// The adapter refused a device.
    #[error("{adapter} gave no device: {reason}. Adapters found: {found}")]
    NoDevice {
        adapter: String,
        reason: String,
        /// All adapters.
        found: String,
    },
    /// Half precision is requested and the adapter lacks it.
    #[error("{adapter} cannot compute in f16")]
    NoF16 { adapter: String },
    /// A weight is larger than a buffer may be.
    #[error("the model's largest weight takes {bytes} bytes and {adapter} allows {bytes_max} in one buffer")]
    TooLarge {
        /// Bytes of the weight on the device.
        bytes: u64,
        /// The largest buffer of the adapter.
        bytes_max: u64,
        adapter: String,
    },
    /// There is less memory than the weights take.
    #[error("the model's weights take {} MiB and {adapter} {}", .bytes.div_ceil(1 << 20), has(*.memory))]
    TooLittleMemory {
        /// Bytes of all weights on the device.
        bytes: u64,
        /// Memory of the adapter, if known; otherwise an allocation was tried.
        memory: Option<AdapterMemory>,
        adapter: String,
    },
    /// The system gave no thread for the device.
    #[error("no thread for {adapter} could be started: {reason}")]
    NoThread { adapter: String, reason: String },
    /// The device failed while the weights were put onto it.
    #[error("the model could not be put onto {adapter}: {reason}")]
    Load { adapter: String, reason: String },
}

fn count(matches: usize) -> String {
    match matches {
        0 => "no adapter".to_owned(),
        more => format!("{more} adapters"),
    }
}

fn has(memory: Option<AdapterMemory>) -> String {
    match memory {
        Some(AdapterMemory { total, free }) => format!("has {} MiB free of {} MiB", free >> 20, total >> 20),
        None => "refused as much".to_owned(),
    }
}

/// A device that is ready for a model, and the adapter that it belongs to.
pub struct GpuDevice {
    /// The device as Burn knows it.
    pub device: CubeDevice,
    pub adapter: Adapter,
    /// The language that kernels are compiled to.
    pub language: Language,
    /// Faults since it was opened.
    faults: Faults,
    thread: DeviceThread,
    raw: wgpu::Device,
}

/// Number of polls that wait for the loss of a failed device: it is the better reason, and comes late.
const CAUSE_TRIES: usize = 10;

/// Size of the pieces in which memory is allocated for a check.
const PIECE_BYTES: u64 = 1 << 30;

impl GpuDevice {
    /// The precision to compute in: `requested`, or else f16 if the device has it, and f32 if not.
    ///
    /// # Errors
    /// [`GpuError::NoF16`] if f16 is requested and the device lacks it.
    pub fn precision(&self, requested: Option<Precision>) -> Result<Precision, GpuError> {
        choose_precision(requested, operations::has_f16(&self.device)).ok_or_else(|| GpuError::NoF16 {
            adapter: self.adapter.to_string(),
        })
    }

    /// Checks that the largest weight fits into a buffer and all of them into the free memory, in bytes. Where the
    /// adapter does not tell how much memory is free, that much is allocated and released. The memory of a batch is not
    /// counted.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`] and [`GpuError::TooLittleMemory`] with the sizes.
    pub fn check_fits(&self, largest: u64, total: u64) -> Result<(), GpuError> {
        if largest > self.adapter.buffer_bytes_max {
            return Err(GpuError::TooLarge {
                bytes: largest,
                bytes_max: self.adapter.buffer_bytes_max,
                adapter: self.adapter.to_string(),
            });
        }
        let bytes = total;
        let memory = self.adapter.memory();
        let fits = match memory {
            Some(AdapterMemory { free, .. }) => bytes <= free,
            None => self.can_allocate(bytes),
        };
        match fits {
            true => Ok(()),
            false => Err(GpuError::TooLittleMemory {
                bytes,
                memory,
                adapter: self.adapter.to_string(),
            }),
        }
    }

    /// True if `bytes` of memory can be allocated now; they are released.
    fn can_allocate(&self, bytes: u64) -> bool {
        let mut buffers = Vec::new();
        let mut left = bytes;
        while left > 0 {
            let size = left.min(PIECE_BYTES).min(self.adapter.buffer_bytes_max);
            let scope = self.raw.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            buffers.push(self.raw.create_buffer(&wgpu::BufferDescriptor {
                label: Some("cloze: is there memory?"),
                // wgpu requires multiples of four.
                size: size.next_multiple_of(4),
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            }));
            if pollster::block_on(scope.pop()).is_some() {
                break;
            }
            left -= size;
        }
        buffers.iter().for_each(wgpu::Buffer::destroy);
        // They are gone once the device is idle. If it cannot even be waited for, its faults say so.
        if let Err(error) = self.raw.poll(wgpu::PollType::wait_indefinitely()) {
            tracing::debug!("the GPU did not become idle: {error}");
        }
        left == 0
    }

    /// Ends a rest of the device.
    pub fn wake(&self) {
        self.thread.wake();
    }

    /// Parks the idle device until [`wake`](Self::wake). Until then no other call of Burn for the device returns.
    pub fn rest(&self) {
        self.thread.rest();
    }

    /// The device's first fault that is known so far, if there was one. A kernel that cannot be launched and memory that
    /// cannot be allocated are no faults of the device: the read of a result that needs them is an error.
    pub fn fault(&self) -> Option<String> {
        #[cfg(feature = "failpoints")]
        if self.known_fault().is_none() {
            failpoints::after_batch(&self.raw, &self.faults);
        }
        self.known_fault()
    }

    /// The first fault that was reported so far. The loss of a device is reported to the thread that polls it, which
    /// may be another one, and later than its consequences.
    fn known_fault(&self) -> Option<String> {
        let _ = self.raw.poll(wgpu::PollType::Poll);
        self.faults.first()?;
        for _ in 0..CAUSE_TRIES {
            if self.faults.is_lost() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            let _ = self.raw.poll(wgpu::PollType::Poll);
        }
        self.faults.first()
    }

    /// Runs `load`, which uploads a model, and waits until the device has it. Every tensor that `load` makes has a
    /// buffer of its own size, and the memory of those that it dropped is given back. If the device fails, Burn panics;
    /// here that is an error.
    ///
    /// # Errors
    /// [`GpuError::Load`] with the device's own reason if it gave one.
    pub fn fill<T: Send>(&self, load: impl FnOnce(&CubeDevice) -> T + Send) -> Result<T, GpuError> {
        #[cfg(feature = "failpoints")]
        failpoints::lose(&self.raw);
        let filled = caught(|| {
            let client = self.device.client();
            // CubeCL's pools would take pages of up to 512 MiB, and keep them.
            let loaded = client.memory_persistent_allocation((), |()| load(&self.device));
            Wgpu::sync(&self.device)?;
            let released = client.memory_cleanup().map_err(|error| ExecutionError::WithContext {
                reason: error.to_string(),
            });
            released.map(|()| loaded)
        });
        let reason = match (self.known_fault(), filled) {
            (Some(fault), _) => fault,
            (None, Ok(Ok(loaded))) => return Ok(loaded),
            (None, Ok(Err(error))) => return Err(self.load_error(error)),
            (None, Err(panic)) => panic,
        };
        Err(GpuError::Load {
            adapter: self.adapter.to_string(),
            reason,
        })
    }

    /// Bytes of memory that are allocated on the device for this process.
    pub fn allocated_bytes(&self) -> u64 {
        let report = self.device.client().memory_report(MemoryScope::Device);
        report.usage().bytes_reserved
    }

    /// The error of a weight that could not be allocated or written.
    pub fn load_error(&self, error: ExecutionError) -> GpuError {
        GpuError::Load {
            adapter: self.adapter.to_string(),
            reason: in_one_line(&error.to_string()),
        }
    }
}

fn choose_precision(requested: Option<Precision>, has_f16: bool) -> Option<Precision> {
    match (requested, has_f16) {
        (None, true) => Some(Precision::F16),
        (None, false) => Some(Precision::F32),
        (Some(Precision::F16), false) => None,
        (requested, _) => requested,
    }
}

/// Sets up the adapter that `requested` names, by a number or a part of its name; without it the best one: discrete
/// before integrated before virtual before software.
///
/// # Errors
/// [`GpuError`] with what was found.
pub fn open(requested: Option<&str>) -> Result<GpuDevice, GpuError> {
    let selected = Language::selected().map_err(GpuError::Language)?;
    let (instance, mut found) = adapters::enumerate();
    let known: Vec<Adapter> = found.iter().map(|(_, adapter)| adapter.clone()).collect();
    let (raw, adapter) = found.swap_remove(adapters::choose(&known, requested)?);
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("cloze"),
        // Mappable primary buffers slow every buffer down on discrete GPUs; Burn leaves them out too. Experimental
        // features require a promise to wgpu that unsoundness is accepted.
        required_features: raw.features()
            - wgpu::Features::MAPPABLE_PRIMARY_BUFFERS
            - wgpu::Features::all_experimental_mask(),
        required_limits: raw.limits(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    let refused = |reason| GpuError::NoDevice {
        adapter: adapter.to_string(),
        reason,
        found: adapters::list(&known),
    };
    let (device, queue, language) = language::request_device(&raw, &descriptor, selected).map_err(refused)?;
    settings::apply();
    let backend = raw.get_info().backend;
    let handle = device.clone();
    let setup = WgpuSetup {
        instance,
        adapter: raw,
        device,
        queue,
        backend,
    };
    let device = language::register(setup, language).map_err(refused)?;
    // Replaces the callbacks of CubeCL, which panics.
    let faults = Faults::watch(&handle);
    faults.watch_thread(&device);
    let device = CubeDevice::Wgpu(device);
    let thread = DeviceThread::new(&device).map_err(|error| GpuError::NoThread {
        adapter: adapter.to_string(),
        reason: error.to_string(),
    })?;
    Ok(GpuDevice {
        device,
        adapter,
        language,
        faults,
        thread,
        raw: handle,
    })
}
