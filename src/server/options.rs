//! What whoever runs the server may set about HTTP itself, and what the server remembers of itself.

use std::sync::atomic::{AtomicBool, Ordering};

use super::auth::ApiKey;
use super::cors::Origins;
use super::metrics::Metrics;

/// Who may ask.
#[derive(Debug, Default)]
pub struct Options {
    /// The key that requests must carry; `None` takes everybody.
    pub api_key: Option<ApiKey>,
    /// Whether `GET /metrics` needs no key.
    pub metrics_without_key: bool,
    /// Other sites whose pages may ask from a browser.
    pub cors_origins: Origins,
}

/// What changes while the server runs.
#[derive(Debug, Default)]
pub struct State {
    /// What it counts.
    pub metrics: Metrics,
    draining: AtomicBool,
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
