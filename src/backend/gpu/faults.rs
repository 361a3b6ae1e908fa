//! What went wrong with a device, told once and remembered.
//!
//! wgpu reports a lost device, a failed allocation or an invalid command to callbacks, and without one it panics
//! on whatever thread notices. After any of them what is read back may be anything, so the first one is kept
//! here and no answer is given out any more.

use std::panic;
use std::sync::{Arc, Mutex, Once, OnceLock};

use burn_wgpu::WgpuDevice;

/// Every device's thread by name, and where its panics are kept.
static THREADS: Mutex<Vec<(String, Faults)>> = Mutex::new(Vec::new());

/// The first fault of a device, if there was one; shared with the device's callbacks.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<OnceLock<String>>);

impl Faults {
    /// What went wrong, in one sentence.
    pub fn first(&self) -> Option<String> {
        self.0.get().cloned()
    }

    /// Keeps `fault` if it is the first.
    pub fn record(&self, fault: String) {
        // What comes after the first is its consequence.
        if let Err(later) = self.0.set(fault) {
            tracing::debug!("after the first fault of the GPU: {later}");
        }
    }

    /// Keeps what the thread that Burn runs `device` on panics with: Burn itself logs it, and reads on.
    pub fn watch_thread(&self, device: &WgpuDevice) {
        static HOOK: Once = Once::new();
        let WgpuDevice::Existing(index) = device else {
            return;
        };
        // 5 is the kind of `Existing`; the test of a device that fails would see another name.
        let name = format!("DSD-5-{index}");
        if let Ok(mut threads) = THREADS.lock() {
            threads.push((name, self.clone()));
        }
        HOOK.call_once(|| {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let thread = std::thread::current();
                if let (Some(name), Ok(threads)) = (thread.name(), THREADS.lock()) {
                    for (_, faults) in threads.iter().filter(|(known, _)| known == name) {
                        faults.record(format!("the GPU failed: {info}"));
                    }
                }
                previous(info);
            }));
        });
    }

    /// Listens to everything that `device` has to tell.
    pub(super) fn watch(device: &wgpu::Device) -> Self {
        let faults = Self::default();
        let lost = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            // The handle is dropped with the last tensor, when the process ends as it should.
            lost.record(format!("the GPU was lost ({reason:?}): {message}"));
        });
        let failed = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            failed.record(match error {
                wgpu::Error::OutOfMemory { .. } => "the GPU is out of memory".to_owned(),
                other => format!("the GPU failed: {other}"),
            });
        }));
        faults
    }
}
