//! The time that a worker has waited for its model.

use std::sync::Mutex;

use tokio::time::Instant;

/// Measures how long one worker has waited for its model.
#[derive(Debug, Default)]
pub struct BatchTimer(Mutex<Option<Instant>>);

impl BatchTimer {
    /// A batch begins; it is complete when the guard is dropped.
    pub fn start(&self) -> RunningGuard<'_> {
        self.set(Some(Instant::now()));
        RunningGuard(self)
    }

    /// The start of the running batch.
    pub fn running_since(&self) -> Option<Instant> {
        *self.lock()
    }

    fn set(&self, since: Option<Instant>) {
        *self.lock() = since;
    }

    fn lock(&self) -> impl std::ops::DerefMut<Target = Option<Instant>> {
        self.0.lock().expect("no thread panics while it holds a timer")
    }
}

/// A batch that is running.
pub struct RunningGuard<'a>(&'a BatchTimer);

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
