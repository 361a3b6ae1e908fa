//! What went wrong with a device, told once and remembered.
//!
//! wgpu reports a lost device, a failed allocation or an invalid command to callbacks, and without one it panics
//! on whatever thread notices. After any of them what is read back may be anything, so the first one is kept
//! here and no answer is given out any more.

use std::cell::Cell;
use std::sync::{Arc, Mutex, Once, OnceLock};

use burn_wgpu::WgpuDevice;

use crate::sys::panics;

/// Every device's thread by name, and where its panics are kept.
static THREADS: Mutex<Vec<(String, Faults)>> = Mutex::new(Vec::new());

thread_local! {
    /// Whether a panic of this thread is an error that somebody tells, in [`caught`].
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// What went wrong with a device, if anything did; shared with the device's callbacks.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    /// That it was lost: the cause of all else, though often told last.
    lost: OnceLock<String>,
    /// What was told first.
    first: OnceLock<String>,
}

impl Faults {
    /// What went wrong, in one sentence.
    pub fn first(&self) -> Option<String> {
        self.0.lost.get().or(self.0.first.get()).cloned()
    }

    /// Whether the device is known to be lost.
    pub fn is_lost(&self) -> bool {
        self.0.lost.get().is_some()
    }

    /// Keeps `fault` if it is the first.
    pub fn record(&self, fault: String) {
        // What comes after the first is its consequence.
        if let Err(later) = self.0.first.set(fault) {
            tracing::debug!("after the first fault of the GPU: {later}");
        }
    }

    /// Keeps what the thread that Burn runs `device` on panics with: Burn itself logs it, and reads on.
    pub fn watch_thread(&self, device: &WgpuDevice) {
        let WgpuDevice::Existing(index) = device else {
            return;
        };
        // 5 is the kind of `Existing`; the test of a device that fails would see another name.
        let name = format!("DSD-5-{index}");
        if let Ok(mut threads) = THREADS.lock() {
            threads.push((name, self.clone()));
        }
        hear_panics();
    }

    /// Listens to everything that `device` has to tell.
    pub(super) fn watch(device: &wgpu::Device) -> Self {
        let faults = Self::default();
        let lost = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            // The handle is dropped with the last tensor, when the process ends as it should.
            let told = match message.is_empty() {
                true => format!("the GPU was lost ({reason:?})"),
                false => format!("the GPU was lost ({reason:?}): {message}"),
            };
            let _ = lost.0.lost.set(told);
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

/// wgpu tells an error over several lines: what it is, and below that where and why.
fn in_one_line(error: &str) -> String {
    let lines = error.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && *line != "Caused by:");
    lines.collect::<Vec<_>>().join(": ")
}

/// Runs `work`, in which Burn may panic, and gives the panic's message as an error, without the lines that a panic
/// prints otherwise.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    hear_panics();
    let before = CATCHES.replace(true);
    let outcome = panics::catch(work);
    CATCHES.set(before);
    outcome.map_err(|panic| panic.message().unwrap_or("Burn gave up without a reason").to_owned())
}

/// From here on a panic that becomes an error prints nothing: one of a device's thread is its fault, and one in
/// [`caught`] is given back. All others are told as before.
fn hear_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            let mut is_told = CATCHES.get();
            if let (Some(name), Ok(threads)) = (thread.name(), THREADS.lock()) {
                for (_, faults) in threads.iter().filter(|(known, _)| known == name) {
                    let what = info.payload_as_str().unwrap_or("a panic without a message");
                    faults.record(format!("the GPU failed: {what}"));
                    is_told = true;
                }
            }
            match is_told {
                true => tracing::debug!("{info}"),
                false => previous(info),
            }
        }));
    });
}
