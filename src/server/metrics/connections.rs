//! Counters of connections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counters of connections since the start of the server.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    accepted: AtomicU64,
    ended: AtomicU64,
    ended_early: Mutex<BTreeMap<&'static str, u64>>,
}

/// An open connection; its drop counts the end.
#[derive(Debug)]
pub struct OpenConnection<'a>(&'a ConnectionCounters);

impl ConnectionCounters {
    /// Counts an accepted connection.
    pub fn open(&self) -> OpenConnection<'_> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self)
    }

    /// Counts a connection that ended before its client closed it; `reason` is a label.
    pub fn ended_early(&self, reason: &'static str) {
        let mut reasons = self.ended_early.lock().unwrap_or_else(PoisonError::into_inner);
        *reasons.entry(reason).or_default() += 1;
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The number of connections that are open.
    pub fn open_now(&self) -> u64 {
        // In this order the difference is never negative.
        let ended = self.ended.load(Ordering::Acquire);
        self.accepted().saturating_sub(ended)
    }

    /// The number of connections that ended early, by reason.
    pub fn early_ends(&self) -> BTreeMap<&'static str, u64> {
        self.ended_early.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}
