//! Device faults: the first one is recorded, and from then on no scores are returned.
//!
//! wgpu reports a lost device, a failed allocation or an invalid command to callbacks; without one it panics on the
//! thread that notices. After any of them values that are read back are unspecified.

use std::cell::Cell;
use std::sync::{Arc, Mutex, Once, OnceLock};

use burn_wgpu::WgpuDevice;
use cubecl::device::WgpuDeviceKind;

use crate::sys::panics;

/// The thread of every device by name, and the faults that its panics are recorded in.
static THREADS: Mutex<Vec<(String, Faults)>> = Mutex::new(Vec::new());

thread_local! {
    /// True while a panic of this thread becomes an error, in [`caught`].
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// The faults of a device; shared with the device's callbacks.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    /// The loss of the device. It is the cause of all other faults, though often reported last.
    lost: OnceLock<String>,
    /// The fault that was reported first.
    first: OnceLock<String>,
}

impl Faults {
    /// The cause in one sentence, if there was a fault.
    pub fn first(&self) -> Option<String> {
        self.0.lost.get().or(self.0.first.get()).cloned()
    }

    /// True if the device is known to be lost.
    pub fn is_lost(&self) -> bool {
        self.0.lost.get().is_some()
    }

    /// Records `fault` if it is the first.
    pub fn record(&self, fault: String) {
        // Later faults are consequences of the first.
        if let Err(later) = self.0.first.set(fault) {
            tracing::debug!("after the first fault of the GPU: {later}");
        }
    }

    /// Records panics of the thread that Burn runs `device` on: Burn itself logs them and goes on.
    pub fn watch_thread(&self, device: &WgpuDevice) {
        let Some(name) = thread_name(device) else {
            return;
        };
        if let Ok(mut threads) = THREADS.lock() {
            threads.push((name, self.clone()));
        }
        install_panic_hook();
    }

    /// Records everything that `device` reports.
    pub(super) fn watch(device: &wgpu::Device) -> Self {
        let faults = Self::default();
        let lost = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            // The handle is dropped with the last tensor, at the end of the process.
            let fault = match message.is_empty() {
                true => format!("the GPU was lost ({reason:?})"),
                false => format!("the GPU was lost ({reason:?}): {message}"),
            };
            let _ = lost.0.lost.set(fault);
        });
        let failed = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            failed.record(match error {
                wgpu::Error::OutOfMemory { .. } => "the GPU is out of memory".to_owned(),
                other => format!("the GPU failed: {}", in_one_line(&other.to_string())),
            });
        }));
        faults
    }
}

/// The name of the thread that CubeCL runs `device` on, if the device was opened by [`open`](super::open).
pub(super) fn thread_name(device: &WgpuDevice) -> Option<String> {
    match device.kind {
        // 5 is the kind of `Existing`; the test of a device that fails would notice another name.
        WgpuDeviceKind::Existing(index) => Some(format!("DSD-5-{index}")),
        _ => None,
    }
}

/// wgpu and Burn format an error over several lines: the error, and below that its place and cause.
pub fn in_one_line(error: &str) -> String {
    let lines = error.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && *line != "Caused by:");
    lines.collect::<Vec<_>>().join(": ")
}

/// Runs `work`, in which Burn may panic, and returns the panic's message as an error, without the lines that a panic
/// prints.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    install_panic_hook();
    let before = CATCHES.replace(true);
    let outcome = panics::catch(work);
    CATCHES.set(before);
    outcome.map_err(|panic| panic.message().unwrap_or("Burn gave up without a reason").to_owned())
}

/// Installs a panic hook: a panic on a device's thread is recorded as its fault, one in [`caught`] is returned, and
/// neither prints anything. All others are reported as before.
fn install_panic_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let mut becomes_error = CATCHES.get();
            if let (Some(name), Ok(threads)) = (thread.name(), THREADS.lock()) {
                for (_, faults) in threads.iter().filter(|(known, _)| known == name) {
                    let what = info.payload_as_str().unwrap_or("a panic without a message");
                    faults.record(format!("the GPU failed: {what}"));
                    becomes_error = true;
                }
            }
            match becomes_error {
                true => tracing::debug!("{info}"),
                false => previous(info),
            }
        }));
    });
}
