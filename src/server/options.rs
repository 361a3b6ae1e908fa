//! Settings of the HTTP service.

use std::sync::Arc;
use std::time::Duration;

use super::middleware::auth::ApiKey;
use super::middleware::cors::Origins;
use super::middleware::host::AllowedHosts;
use super::net::{ConnectionLimits, Tls};

/// Settings of a service beside those of its model.
#[derive(Debug)]
pub struct Settings {
    /// The model's name in paths; the last part of its own name if `None`.
    pub model_name: Option<String>,
    /// Upper limit from the head of a request to its answer.
    pub request_timeout: Duration,
    pub body_bytes_max: usize,
    /// Time for accepted requests to finish after the shutdown has begun.
    pub drain_timeout: Duration,
    pub options: Options,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model_name: None,
            request_timeout: Duration::from_secs(30),
            body_bytes_max: 1 << 20,
            drain_timeout: Duration::from_secs(10),
            options: Options::default(),
        }
    }
}

/// Access rules, connection limits and TLS.
#[derive(Debug, Default)]
pub struct Options {
    /// Key that requests must carry; `None` disables authentication.
    pub api_key: Option<ApiKey>,
    /// Opens `GET /metrics` to clients without the key.
    pub metrics_without_key: bool,
    /// Sites whose pages may call the service from a browser.
    pub cors_origins: Origins,
    /// Names under which clients reach a server on a loopback address, besides the local ones.
    pub allowed_hosts: AllowedHosts,
    pub connections: ConnectionLimits,
    /// Certificate and key; `None` serves plain HTTP.
    pub tls: Option<Arc<Tls>>,
}
