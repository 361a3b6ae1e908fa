//! A model on a device that may fail under it.

use std::sync::Arc;

use super::{Begun, MaskedLm, PackedBatch, PredictError, TokenScore};
use crate::sys::panics;

/// Tells a device's first fault, if there was one.
type Fault = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A model, and somebody to ask whether its device still works.
///
/// After a fault the device's memory may hold anything: an answer that was computed meanwhile is thrown away,
/// and nothing is computed any more.
pub struct Guarded<M> {
    model: M,
    fault: Fault,
}

impl<M> Guarded<M> {
    /// `fault` tells the device's first fault, if there was one.
    pub fn new(model: M, fault: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self {
            model,
            fault: Arc::new(fault),
        }
    }
}

fn check(fault: &Fault) -> Result<(), PredictError> {
    match fault() {
        Some(fault) => Err(PredictError::Device(fault)),
        None => Ok(()),
    }
}

/// What `compute` gives, unless there is a fault: then that is the reason, whatever it looked like from above.
fn checked<T>(fault: &Fault, compute: impl FnOnce() -> Result<T, PredictError>) -> Result<T, PredictError> {
    let outcome = panics::catch(compute);
    check(fault)?;
    outcome.unwrap_or_else(|panic| panic.resume())
}

impl<M: MaskedLm> MaskedLm for Guarded<M> {
    fn predict(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
        check(&self.fault)?;
        checked(&self.fault, || self.model.predict(batch))
    }

    fn computes_beside_host(&self) -> bool {
        self.model.computes_beside_host()
    }

    fn begin(&mut self, batch: &PackedBatch) -> Result<Begun, PredictError> {
        check(&self.fault)?;
        let begun = checked(&self.fault, || self.model.begin(batch))?;
        let fault = Arc::clone(&self.fault);
        Ok(Box::new(move || checked(&fault, begun)))
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
    fn a_fault_fails_all_batches_that_have_begun() {
        let fault = Arc::new(Mutex::new(None));
        let model = Model {
            calls: Arc::default(),
            breaks: Arc::clone(&fault),
            panics: false,
        };
        let mut guarded = Guarded::new(model, move || fault.lock().unwrap().clone());
        let first = guarded.begin(&PackedBatch::default()).unwrap();
        let lost = PredictError::Device("the GPU was lost".to_owned());
        assert_eq!(guarded.begin(&PackedBatch::default()).err(), Some(lost.clone()));
        assert_eq!(first(), Err(lost));
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
