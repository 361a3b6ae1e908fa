//! Limits and TLS of every connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::tls::Tls;
use crate::server::metrics::ConnectionCounters;

/// Limits of connections. Requests have limits of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections. For a further one the connection that has been idle longest is closed, or the request ends
    /// whose body has been arriving longest. If there is neither, it waits, and those after it wait in the system's
    /// backlog.
    pub connections_max: usize,
    /// For the head of a request, and for the TLS handshake before it: from the accept for the first request of a
    /// connection, from its first byte for later ones.
    pub head_timeout: Duration,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// For a client to read its answer. Each 64 KiB extend it by a second, and a client may never stop reading for
    /// longer than this.
    pub write_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            head_timeout: Duration::from_secs(20),
            // Longer than load balancers keep idle connections, mostly a minute, so that none of them sends a request
            // on a connection that is being closed.
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// Limits, TLS and counters of every connection.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    pub limits: ConnectionLimits,
    /// `None` serves plain HTTP.
    pub tls: Option<Arc<Tls>>,
    pub counters: Arc<ConnectionCounters>,
    /// Called again and again while a connection waits for a slot.
    pub end_slow_request: EndSlowRequest,
}

/// Ends one request whose body arrives slowly, if there is one.
#[derive(Clone)]
pub struct EndSlowRequest(pub Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for EndSlowRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndSlowRequest")
    }
}
