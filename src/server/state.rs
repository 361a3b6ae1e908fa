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
            refusals: ThrottledLog::new(REFUSALS_INTERVAL, |count| {
                tracing::info!(count, "requests refused with 503 since the last such line");
            }),
            bad_heads: ThrottledLog::new(REFUSALS_INTERVAL, |count| {
                tracing::info!(count, "requests refused before the service since the last such line");
            }),
            departures: ThrottledLog::new(REFUSALS_INTERVAL, |count| {
                tracing::info!(count, "clients left before their answers since the last such line");
            }),
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

    /// Logs the counts of events without a line of their own, whenever the interval is over.
    pub(super) async fn log_counts(&self) {
        tokio::join!(
            self.refusals.log_counts(),
            self.bad_heads.log_counts(),
            self.departures.log_counts()
        );
    }

    /// Logs the counts of events without a line of their own now.
    pub(super) fn log_last_counts(&self) {
        for log in [&self.refusals, &self.bad_heads, &self.departures] {
            log.log_count();
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
