//! Settings of the HTTP service.

use std::sync::Arc;

use super::middleware::auth::ApiKey;
use super::middleware::cors::Origins;
use super::net::{ConnectionLimits, Tls};

/// Access rules, connection limits and TLS.
#[derive(Debug, Default)]
pub struct Options {
    /// Key that requests must carry; `None` disables authentication.
    pub api_key: Option<ApiKey>,
    /// Opens `GET /metrics` to clients without the key.
    pub metrics_without_key: bool,
    /// Sites whose pages may call the service from a browser.
    pub cors_origins: Origins,
    pub connections: ConnectionLimits,
    /// Certificate and key; `None` serves plain HTTP.
    pub tls: Option<Arc<Tls>>,
}
