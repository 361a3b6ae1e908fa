//! The time that a worker has waited for its model.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

/// Measures how long one worker has waited for its model.
#[derive(Debug, Default)]
pub struct BatchTimer(Mutex<Option<Running>>);

#[derive(Clone, Copy, Debug)]
struct Running {
    /// Batches that are submitted and not completed.
    batches: usize,
    /// When the first of them was submitted, or the one before it completed: a device computes one after the other.
    since: Instant,
}

impl BatchTimer {
    /// A batch is submitted; it is complete when the guard is dropped.
    pub fn start(self: &Arc<Self>) -> RunningGuard {
        let mut running = self.lock();
        let (batches, since) = running.map_or((0, Instant::now()), |running| (running.batches, running.since));
        *running = Some(Running {
            batches: batches + 1,
            since,
        });
        drop(running);
        RunningGuard(Arc::clone(self))
    }

    /// The start of the batch that should complete next.
    pub fn running_since(&self) -> Option<Instant> {
        self.lock().map(|running| running.since)
    }

    fn lock(&self) -> impl std::ops::DerefMut<Target = Option<Running>> {
        self.0.lock().expect("no thread panics while it holds a timer")
    }
}

/// A batch that is running.
pub struct RunningGuard(Arc<BatchTimer>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        let mut running = self.0.lock();
        *running = running.filter(|running| running.batches > 1).map(|running| Running {
            batches: running.batches - 1,
            since: Instant::now(),
        });
    }
}
