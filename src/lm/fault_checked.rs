//! A model on a device that may fail while it computes.

use std::sync::Arc;

use super::{Batch, MaskedLm, ModelError, PendingBatch};
use crate::sys::panics;

/// Gives the device's first fault, if there was one.
type Fault = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A model whose device is checked around every batch.
///
/// After a fault the device's memory may hold anything: scores that were computed meanwhile are dropped, and later
/// batches are refused.
pub struct FaultChecked<M> {
    model: M,
    fault: Fault,
}

impl<M> FaultChecked<M> {
    /// `fault` gives the device's first fault, if there was one.
    pub fn new(model: M, fault: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self {
            model,
            fault: Arc::new(fault),
        }
    }
}

fn check(fault: &Fault) -> Result<(), ModelError> {
    match fault() {
        Some(fault) => Err(ModelError::Device(fault)),
        None => Ok(()),
    }
}

/// The result of `compute`, unless there is a fault by then: it is the cause of any error or panic.
fn checked<T>(fault: &Fault, compute: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
    let outcome = panics::catch(compute);
    check(fault)?;
    outcome.unwrap_or_else(|panic| panic.resume())
}

impl<M: MaskedLm> MaskedLm for FaultChecked<M> {
    fn is_async(&self) -> bool {
        self.model.is_async()
    }

    fn tokens_per_readout(&self) -> f32 {
        self.model.tokens_per_readout()
    }

    fn submit(&mut self, batch: Batch) -> Result<PendingBatch, ModelError> {
        check(&self.fault)?;
        let pending = checked(&self.fault, || self.model.submit(batch))?;
        let fault = Arc::clone(&self.fault);
        Ok(PendingBatch::new(move || checked(&fault, || pending.wait())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Model {
        calls: Arc<AtomicUsize>,
        breaks: Arc<Mutex<Option<String>>>,
        panics: bool,
    }

    impl MaskedLm for Model {
        fn submit(&mut self, _: Batch) -> Result<PendingBatch, ModelError> {
            if self.calls.fetch_add(1, Ordering::Relaxed) == 1 {
                *self.breaks.lock().unwrap() = Some("the GPU was lost".to_owned());
                assert!(!self.panics, "a consequence of it");
            }
            Ok(PendingBatch::ready(Vec::new()))
        }
    }

    #[test]
    fn a_fault_fails_all_submitted_batches() {
        let fault = Arc::new(Mutex::new(None));
        let model = Model {
            calls: Arc::default(),
            breaks: Arc::clone(&fault),
            panics: false,
        };
        let mut checked = FaultChecked::new(model, move || fault.lock().unwrap().clone());
        let first = checked.submit(Batch::default()).unwrap();
        let lost = ModelError::Device("the GPU was lost".to_owned());
        assert_eq!(checked.submit(Batch::default()).err(), Some(lost.clone()));
        assert_eq!(first.wait(), Err(lost));
    }

    #[test]
    fn a_fault_during_a_batch_is_its_error_and_the_last_thing_computed() {
        for panics in [false, true] {
            let (calls, fault) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
            let model = Model {
                calls: Arc::clone(&calls),
                breaks: Arc::clone(&fault),
                panics,
            };
            let mut checked = FaultChecked::new(model, move || fault.lock().unwrap().clone());
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
