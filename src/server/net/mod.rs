//! From a listener to answered requests: which connections are taken, how long each may take its time, and how they
//! end.
//!
//! poem's own server has no timer for a request's head, and its accept loop spins when descriptors run out; so
//! connections are ours, on hyper, and poem begins where a request has been read. HTTP/1.1 only: what balancers speak
//! to what is behind them, and what every timer here is made for.
//!
//! | file | what it is |
//! |---|---|
//! | `accept` | the accept loop: the limit on connections, the wait when descriptors run out, the end |
//! | `slots` | how many connections there may be, and who gives up a place |
//! | `connection` | one connection: requests in, answers out, closed when its clock says so |
//! | `deadlines` | until when a connection must do what |
//! | `tls` | a certificate and its key |
//! | `deadline_io` | a socket that tells the clock what happens on it |

mod accept;
mod connection;
mod deadline_io;
mod deadlines;
mod slots;
mod tls;

use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use crate::server::{App, routes};

pub use tls::{Tls, TlsError};

/// How many connections there may be, and how long each may take its time. Requests have limits of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections; for a further one the longest idle is closed, else it waits, and the next in the system's backlog.
    pub connections_max: usize,
    /// For the head of a request, and for what TLS says before it: from the accept for a connection's first, from its first byte for others.
    pub head_timeout: Duration,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// For a client to read its answer; each 64 KiB that it has read give it another second.
    pub write_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            head_timeout: Duration::from_secs(20),
            // Longer than balancers keep theirs, a minute mostly: else one of them sends into a closing connection.
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// What holds for every connection.
#[derive(Clone)]
struct Rules {
    limits: ConnectionLimits,
    tls: Option<Arc<Tls>>,
}

/// Serves until `shutdown` completes, then lets what was accepted finish for at most `drain_timeout`.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
    drain_timeout: Duration,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let draining = Arc::clone(&app);
    let shutdown = async move {
        shutdown.await;
        // First of all: whoever asks from here on sees that the end has begun.
        draining.state.drain();
    };
    let stopping = Arc::clone(&app);
    let rules = Rules {
        limits: app.options.connections,
        tls: app.options.tls.clone(),
    };
    accept::run(listener, Arc::new(routes(app)), rules, shutdown, drain_timeout).await;
    // All connections are closed; nobody waits any more, so this ends after the running batch at the latest.
    let stopping = tokio::task::spawn_blocking(move || stopping.engine.stop());
    if tokio::time::timeout(drain_timeout, stopping).await.is_err() {
        tracing::warn!("the last batch did not end within the limit; leaving it");
    }
    Ok(())
}
