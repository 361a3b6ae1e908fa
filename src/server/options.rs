//! What whoever runs the server may set about HTTP itself, and what the server remembers of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::middleware::auth::ApiKey;
use super::middleware::cors::Origins;
use super::net::{ConnectionLimits, Tls};
use super::routes::metrics::Metrics;
use super::throttled_log::NowAndThen;

/// Who may ask, and over how many connections.
#[derive(Debug, Default)]
pub struct Options {
    /// The key that requests must carry; `None` takes everybody.
    pub api_key: Option<ApiKey>,
    /// Whether `GET /metrics` needs no key.
    pub metrics_without_key: bool,
    /// Other sites whose pages may ask from a browser.
    pub cors_origins: Origins,
    /// How many connections there may be, and how long each may take its time.
    pub connections: ConnectionLimits,
    /// What to prove the server's name with; `None` speaks in the clear.
    pub tls: Option<Arc<Tls>>,
}

/// Refusals with 503 are logged this often.
const REFUSALS_INTERVAL: Duration = Duration::from_secs(1);

/// What changes while the server runs.
#[derive(Debug)]
pub struct State {
    /// What it counts.
    pub metrics: Metrics,
    /// Refusals with 503: their lines in the log must not be what a busy server is busy with.
    pub(super) refusals: NowAndThen,
    draining: AtomicBool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            metrics: Metrics::default(),
            refusals: NowAndThen::new(REFUSALS_INTERVAL),
            draining: AtomicBool::default(),
        }
    }
}

impl State {
    /// From here on the server is not ready, though it still answers.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the end has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
