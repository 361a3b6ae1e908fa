//! Life-cycle of the engine: its workers' health, stopping, broken for good.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::SetOnce;
use tokio::time::Instant;

use super::batch_timer::BatchTimer;

/// State that workers, watchdog and handles share.
#[derive(Debug)]
pub struct EngineState {
    workers: usize,
    /// Workers whose last batches all failed.
    failing: AtomicUsize,
    stopping: SetOnce<()>,
    /// Why no batch will ever run again.
    broken: SetOnce<String>,
    /// The same, where the running batches never end.
    hung: SetOnce<String>,
    timers: Mutex<Vec<Arc<BatchTimer>>>,
}

impl EngineState {
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            failing: AtomicUsize::default(),
            stopping: SetOnce::new(),
            broken: SetOnce::new(),
            hung: SetOnce::new(),
            timers: Mutex::default(),
        }
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    /// A worker begins to fail, or succeeds again.
    pub fn set_worker_failing(&self, failing: bool) {
        match failing {
            true => self.failing.fetch_add(1, Ordering::Relaxed),
            false => self.failing.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// True while at least one worker succeeds.
    pub fn is_healthy(&self) -> bool {
        self.failing.load(Ordering::Relaxed) < self.workers
    }

    /// Ends the watchdog and the probes of failing workers.
    pub fn stop(&self) {
        // An error says that it is set already.
        let _ = self.stopping.set(());
    }

    pub fn stopping(&self) -> &SetOnce<()> {
        &self.stopping
    }

    /// Marks the engine as broken for good. The first reason stays.
    pub fn set_broken(&self, reason: String) {
        tracing::error!(%reason, "the model is lost");
        let _ = self.broken.set(reason);
    }

    pub fn broken(&self) -> &SetOnce<String> {
        &self.broken
    }

    /// Marks the engine as broken by a batch that never ends, so that nothing waits for it.
    pub fn set_hung(&self, reason: String) {
        self.set_broken(reason.clone());
        let _ = self.hung.set(reason);
    }

    pub fn hung(&self) -> &SetOnce<String> {
        &self.hung
    }

    /// The timer of one more worker.
    pub fn new_timer(&self) -> Arc<BatchTimer> {
        let timer = Arc::default();
        self.timers().push(Arc::clone(&timer));
        timer
    }

    /// The start of the batch that has run longest, if one runs.
    pub fn running_since(&self) -> Option<Instant> {
        self.timers().iter().filter_map(|timer| timer.running_since()).min()
    }

    fn timers(&self) -> impl std::ops::DerefMut<Target = Vec<Arc<BatchTimer>>> {
        self.timers.lock().expect("no thread panics while it holds the timers")
    }
}
