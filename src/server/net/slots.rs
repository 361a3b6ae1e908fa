//! Connection slots, and which idle connection gives its slot up when all are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// One slot per connection that may be open. Only the accept loop acquires slots, one at a time.
#[derive(Debug)]
pub struct ConnectionSlots {
    free: Arc<Semaphore>,
    /// An accepted connection waits for a slot.
    wanted: AtomicBool,
    /// Idle connections, and those with slow heads, wait here in the order in which they became so.
    idle: Notify,
}

impl ConnectionSlots {
    pub fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            wanted: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }

    /// A free slot, if there is one.
    pub fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Waits for a slot: the connection that has been idle longest gives up its own, else the first that finishes an
    /// answer or becomes idle.
    pub async fn acquire(&self) -> OwnedSemaphorePermit {
        self.wanted.store(true, Ordering::Relaxed);
        // If no connection is idle, the notification is kept for the next that becomes idle.
        self.idle.notify_one();
        let slot = Arc::clone(&self.free).acquire_owned().await;
        self.wanted.store(false, Ordering::Relaxed);
        slot.expect("this semaphore is never closed")
    }

    /// Asks one idle connection to end, for another resource that has run out.
    pub fn request_one(&self) {
        self.wanted.store(true, Ordering::Relaxed);
        self.idle.notify_one();
    }

    /// Ends the requests of [`request_one`](Self::request_one).
    pub fn request_none(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// True while an accepted connection waits for a slot.
    pub fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Completes when an idle connection should give up its slot, if [`are_wanted`](Self::are_wanted) still holds.
    pub fn requested(&self) -> Notified<'_> {
        self.idle.notified()
    }

    /// Completes when a connection that is idle should give up its slot.
    pub async fn requested_and_wanted(&self) {
        loop {
            self.requested().await;
            // Otherwise the connection that needed a slot has found one meanwhile.
            if self.are_wanted() {
                return;
            }
        }
    }
}
