//! A model on a device that may fail and may rest.

use std::time::Duration;

use super::{Batch, MaskedLm, ModelError, Scores};
use crate::sys::panics;

/// CubeCL's threads take 8 % of a core until then.
const REST_AFTER: Duration = Duration::from_millis(100);

/// A device beside the host. No method waits for a computation.
pub trait Device: Send + Sync {
    /// Ends a rest.
    fn wake(&self) {}

    /// Lets an idle device stop its threads.
    fn rest(&self) {}

    /// The first fault that is known so far.
    fn fault(&self) -> Option<String>;
}

/// A model whose device is checked around every batch.
///
/// After a fault the device's memory may hold anything: scores that were computed meanwhile are dropped, and later
/// batches are refused.
pub struct DeviceModel<M, D> {
    model: M,
    device: D,
}

impl<M, D: Device> DeviceModel<M, D> {
    /// `model` computes on `device`.
    pub fn new(model: M, device: D) -> Self {
        Self { model, device }
    }
}

impl<M: MaskedLm, D: Device> MaskedLm for DeviceModel<M, D> {
    fn rest_after(&self) -> Option<Duration> {
        Some(REST_AFTER)
    }

    fn tokens_per_readout(&self) -> f32 {
        self.model.tokens_per_readout()
    }

    fn rest(&mut self) {
        self.device.rest();
    }

    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
        self.checked(|model| model.predict(batch))
    }

    fn warm_up(&mut self, batch: Batch) -> Result<(), ModelError> {
        self.checked(|model| model.warm_up(batch))
    }
}

impl<M: MaskedLm, D: Device> DeviceModel<M, D> {
    /// Runs `work`, and checks the device before and after it.
    fn checked<T>(&mut self, work: impl FnOnce(&mut M) -> Result<T, ModelError>) -> Result<T, ModelError> {
        self.device.wake();
        if let Some(fault) = self.device.fault() {
            return Err(ModelError::Device(fault));
        }
        let outcome = panics::catch(|| work(&mut self.model));
        // A fault is the cause of any error or panic.
        match self.device.fault() {
            Some(fault) => Err(ModelError::Device(fault)),
            None => outcome.unwrap_or_else(|panic| panic.resume()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Model {
        calls: Arc<AtomicUsize>,
        breaks: FakeDevice,
        panics: bool,
    }

    #[derive(Clone, Default)]
    struct FakeDevice(Arc<Mutex<Option<String>>>);

    impl Device for FakeDevice {
        fn fault(&self) -> Option<String> {
            self.0.lock().unwrap().clone()
        }
    }

    impl MaskedLm for Model {
        fn predict(&mut self, _: Batch) -> Result<Vec<Scores>, ModelError> {
            if self.calls.fetch_add(1, Ordering::Relaxed) == 1 {
                *self.breaks.0.lock().unwrap() = Some("the GPU was lost".to_owned());
                assert!(!self.panics, "a consequence of it");
            }
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_fault_during_a_batch_is_its_error_and_the_last_thing_computed() {
        for panics in [false, true] {
            let (calls, device) = (Arc::new(AtomicUsize::new(0)), FakeDevice::default());
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
