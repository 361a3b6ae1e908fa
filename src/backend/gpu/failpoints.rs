//! Fault injection for tests. Each fault happens once the file exists that an environment variable names. No build for
//! use has this module: it needs the cargo feature `failpoints`.

use std::path::Path;
use std::time::Duration;

use super::faults::Faults;

/// Buffers that [`exhaust`] allocates at most, and bytes of each at most.
const BUFFERS_MAX: usize = 64;
const BUFFER_BYTES_MAX: u64 = 1 << 30;

fn is_triggered(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|file| Path::new(&file).exists())
}

/// `CLOZE_TEST_REFUSE_SPIRV`: the driver gives no device for SPIR-V.
#[cfg(feature = "vulkan")]
pub fn refuse_spirv() -> Result<(), String> {
    match is_triggered("CLOZE_TEST_REFUSE_SPIRV") {
        true => Err("refused for a test".to_owned()),
        false => Ok(()),
    }
}

/// After a batch: exhausts the memory, hangs, or loses the device, as requested.
pub fn after_batch(device: &wgpu::Device, faults: &Faults) {
    exhaust(device, faults);
    hang();
    lose(device);
}

/// `CLOZE_TEST_EXHAUST_GPU`: allocates memory until an allocation fails, then frees it. Without a limit on the memory,
/// no allocation fails.
fn exhaust(device: &wgpu::Device, faults: &Faults) {
    if !is_triggered("CLOZE_TEST_EXHAUST_GPU") {
        return;
    }
    let size = device.limits().max_buffer_size.min(BUFFER_BYTES_MAX);
    let mut buffers = Vec::new();
    while faults.first().is_none() && buffers.len() < BUFFERS_MAX {
        buffers.push(device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        }));
    }
    buffers.iter().for_each(wgpu::Buffer::destroy);
}

/// `CLOZE_TEST_HANG_GPU`: waits as long as the file exists, as a driver that hangs.
fn hang() {
    while is_triggered("CLOZE_TEST_HANG_GPU") {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// `CLOZE_TEST_LOSE_GPU`: destroys the device.
pub fn lose(device: &wgpu::Device) {
    if is_triggered("CLOZE_TEST_LOSE_GPU") {
        device.destroy();
    }
}
