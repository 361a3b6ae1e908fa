//! State that changes while the server runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::metrics::Metrics;
use super::throttled_log::ThrottledLog;

/// Interval between log lines of the same kind of refusal.
const REFUSALS_INTERVAL: Duration = Duration::from_secs(1);

/// State that changes while the server runs.
#[derive(Debug)]
pub struct State {
    pub metrics: Metrics,
    /// Rate limit for the log lines of 503 refusals: a server under overload must not spend its time on logging.
    pub(super) refusals: ThrottledLog,
    /// Rate limit for the log lines of heads that are not HTTP: a client sends them at no cost.
    pub(super) bad_heads: ThrottledLog,
    /// Rate limit for the log lines of clients that left.
    pub(super) departures: ThrottledLog,
    draining: AtomicBool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            metrics: Metrics::default(),
            refusals: ThrottledLog::new(REFUSALS_INTERVAL),
            bad_heads: ThrottledLog::new(REFUSALS_INTERVAL),
            departures: ThrottledLog::new(REFUSALS_INTERVAL),
            draining: AtomicBool::default(),
        }
    }
}

impl State {
    /// Starts draining: readiness probes fail from here on, requests are still answered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Counts and logs an answer whose connection ended in its middle.
    pub(super) fn unread_answer(&self) {
        self.metrics.unread_answer();
        self.departures
            .log(|count| tracing::info!(count, "the connection ended before the client had read its answer"));
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
