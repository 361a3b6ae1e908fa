//! A model on a device that may fail under it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{MaskedLm, PackedBatch, PredictError, TokenScore};

/// A model, and somebody to ask whether its device still works.
///
/// After a fault the device's memory may hold anything: an answer that was computed meanwhile is thrown away,
/// and nothing is computed any more.
pub struct Guarded<M> {
    model: M,
    fault: Box<dyn Fn() -> Option<String> + Send>,
}

impl<M> Guarded<M> {
    /// `fault` tells the device's first fault, if there was one.
    pub fn new(model: M, fault: impl Fn() -> Option<String> + Send + 'static) -> Self {
        Self {
            model,
            fault: Box::new(fault),
        }
    }

    fn check(&self) -> Result<(), PredictError> {
        match (self.fault)() {
            Some(fault) => Err(PredictError::Device(fault)),
            None => Ok(()),
        }
    }
}

impl<M: MaskedLm> MaskedLm for Guarded<M> {
    fn predict(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
        self.check()?;
        let outcome = catch_unwind(AssertUnwindSafe(|| self.model.predict(batch)));
        // The fault is the reason, whatever it looked like from above.
        self.check()?;
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
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
        fn predict(&mut self, _: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
            if self.calls.fetch_add(1, Ordering::Relaxed) == 1 {
                *self.breaks.lock().unwrap() = Some("the GPU was lost".to_owned());
                assert!(!self.panics, "a consequence of it");
            }
            Ok(Vec::new())
        }
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
            let mut guarded = Guarded::new(model, move || fault.lock().unwrap().clone());
            let batch = PackedBatch::default();
            assert_eq!(guarded.predict(&batch), Ok(Vec::new()));
            for _ in 0..2 {
                let error = guarded.predict(&batch).unwrap_err();
                assert_eq!(error, PredictError::Device("the GPU was lost".to_owned()));
                assert!(error.is_fatal());
            }
            assert_eq!(calls.load(Ordering::Relaxed), 2);
        }
    }
}
