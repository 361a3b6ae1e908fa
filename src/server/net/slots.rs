//! The places for connections, and who gives one up when there are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// As many places as there may be connections. The accept loop alone takes them, one after the other.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    /// A connection has been accepted and finds no place.
    wanted: AtomicBool,
    /// Where idle connections wait to be told; whoever has waited longest is told first.
    idle: Notify,
}

impl Places {
    pub fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            wanted: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }

    /// A place if there is one.
    pub fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Waits for a place, which the longest idle connection gives up, or else the first that has its answer.
    pub async fn take(&self) -> OwnedSemaphorePermit {
        self.wanted.store(true, Ordering::Relaxed);
        // Kept for the next that becomes idle if nobody is.
        self.idle.notify_one();
        let place = Arc::clone(&self.free).acquire_owned().await;
        self.wanted.store(false, Ordering::Relaxed);
        place.expect("this semaphore is never closed")
    }

    /// Whether somebody waits for a place.
    pub fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Completes when an idle connection shall give up its place, if [`are_wanted`](Self::are_wanted) still says so.
    pub fn asked_for(&self) -> Notified<'_> {
        self.idle.notified()
    }
}
