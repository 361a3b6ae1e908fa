//! A model on a device that computes beside the host, may fail, and may rest.

use std::sync::Arc;
use std::time::Duration;

use super::{Batch, MaskedLm, ModelError, PendingBatch};
use crate::sys::panics;

/// CubeCL's threads take 8 % of a core until then.
const REST_AFTER: Duration = Duration::from_millis(100);

/// A device beside the host. No method waits for a computation.
pub trait AsyncDevice: Send + Sync {
    /// Ends a rest.
    fn wake(&self) {}

    /// Lets an idle device stop its threads.
    fn rest(&self) {}

    /// Sends what was launched to the device, and gives its first fault, if there was one.
    fn submit(&self) -> Option<String>;

    /// The first fault that is known so far.
    fn fault(&self) -> Option<String>;
}

/// A model whose device is checked around every batch.
///
/// After a fault the device's memory may hold anything: scores that were computed meanwhile are dropped, and later
/// batches are refused.
pub struct DeviceModel<M, D> {
    model: M,
    device: Arc<D>,
}

impl<M, D: AsyncDevice> DeviceModel<M, D> {
    /// `model` computes on `device`.
    pub fn new(model: M, device: D) -> Self {
        Self {
            model,
            device: Arc::new(device),
        }
    }
}

/// The result of `compute`, unless there is a `fault` by then: it is the cause of any error or panic.
fn checked<T>(
    compute: impl FnOnce() -> Result<T, ModelError>,
    fault: impl FnOnce() -> Option<String>,
) -> Result<T, ModelError> {
    let outcome = panics::catch(compute);
    match fault() {
        Some(fault) => Err(ModelError::Device(fault)),
        None => outcome.unwrap_or_else(|panic| panic.resume()),
    }
}

impl<M: MaskedLm, D: AsyncDevice + 'static> MaskedLm for DeviceModel<M, D> {
    /// False: wgpu 29 blocks each submission while a thread of CubeCL waits for the one before it, so that nothing would
    /// overlap, and the answers of a batch would wait for the next batch.
    fn is_async(&self) -> bool {
        false
    }

    fn rest_after(&self) -> Option<Duration> {
        Some(REST_AFTER)
    }

    fn tokens_per_readout(&self) -> f32 {
        self.model.tokens_per_readout()
    }

    fn rest(&mut self) {
        self.device.rest();
    }

    fn submit(&mut self, batch: Batch) -> Result<PendingBatch, ModelError> {
        self.device.wake();
        if let Some(fault) = self.device.fault() {
            return Err(ModelError::Device(fault));
        }
        let pending = checked(|| self.model.submit(batch), || self.device.submit())?;
        let device = Arc::clone(&self.device);
        // Only this batch is waited for: a later one may be computing.
        Ok(PendingBatch::new(move || checked(|| pending.wait(), || device.fault())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Model {
        calls: Arc<AtomicUsize>,
        breaks: Device,
        panics: bool,
    }

    #[derive(Clone, Default)]
    struct Device(Arc<Mutex<Option<String>>>);

    impl AsyncDevice for Device {
        fn submit(&self) -> Option<String> {
            self.fault()
        }

        fn fault(&self) -> Option<String> {
            self.0.lock().unwrap().clone()
        }
    }

    impl MaskedLm for Model {
        fn submit(&mut self, _: Batch) -> Result<PendingBatch, ModelError> {
            if self.calls.fetch_add(1, Ordering::Relaxed) == 1 {
                *self.breaks.0.lock().unwrap() = Some("the GPU was lost".to_owned());
                assert!(!self.panics, "a consequence of it");
            }
            Ok(PendingBatch::ready(Vec::new()))
        }
    }

    #[test]
    fn a_fault_fails_all_submitted_batches() {
        let device = Device::default();
        let model = Model {
            calls: Arc::default(),
            breaks: device.clone(),
            panics: false,
        };
        let mut checked = DeviceModel::new(model, device);
        let first = checked.submit(Batch::default()).unwrap();
        let lost = ModelError::Device("the GPU was lost".to_owned());
        assert_eq!(checked.submit(Batch::default()).err(), Some(lost.clone()));
        assert_eq!(first.wait(), Err(lost));
    }

    #[test]
    fn a_fault_during_a_batch_is_its_error_and_the_last_thing_computed() {
        for panics in [false, true] {
            let (calls, device) = (Arc::new(AtomicUsize::new(0)), Device::default());
            let model = Model {
                calls: Arc::clone(&calls),
                breaks: device.clone(),
                panics,
            };
            let mut checked = DeviceModel::new(model, device);
            assert_eq!(checked.predict(Batch::default()), Ok(Vec::new()));
            for _ in 0..2 {
                let error = checked.predict(Batch::default()).unwrap_err();
                assert_eq!(error, ModelError::Device("the GPU was lost".to_owned()));
                assert!(error.is_fatal());
            }
            assert_eq!(calls.load(Ordering::Relaxed), 2);
        }
    }
}
