//! The accept loop.

use std::future::Future;
use std::io::{Error, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use poem::{Endpoint, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;

use super::connection::Connection;
use super::options::{ConnectionOptions, EndSlowRequest};
use super::refusal::Refuse;
use super::slots::ConnectionSlots;
use crate::server::throttled_log::ThrottledLog;

/// Pause after an error that will not pass at once, such as no free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Interval between two requests that end for one connection that waits for a slot.
const SLOW_REQUEST_INTERVAL: Duration = Duration::from_millis(50);
/// Requests with slow bodies that end in such an interval while the server drains.
const SLOW_REQUESTS_PER_INTERVAL: usize = 64;
/// Interval between log lines about the same problem.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts connections until `shutdown` completes. Then closes idle connections at once and the others after their
/// answers, or after `drain_timeout`. `refuse` answers the heads that never reach `endpoint`.
///
/// # Errors
/// If the listener cannot be used.
pub async fn serve(
    listener: std::net::TcpListener,
    endpoint: Arc<impl Endpoint<Output = Response> + 'static>,
    refuse: Refuse,
    options: ConnectionOptions,
    shutdown: impl Future<Output = ()>,
    drain_timeout: Duration,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let slots = Arc::new(ConnectionSlots::new(options.limits.connections_max));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let full = ThrottledLog::new(LOG_INTERVAL, |count| {
        tracing::warn!(
            count,
            "connections waited at the connection limit since the last such line"
        );
    });
    let failing = ThrottledLog::new(LOG_INTERVAL, |count| {
        tracing::error!(count, "failures to accept connections since the last such line");
    });
    let connection = |remote| Connection {
        endpoint: Arc::clone(&endpoint),
        refuse: Arc::clone(&refuse),
        options: options.clone(),
        slots: Arc::clone(&slots),
        stopping: stopping.clone(),
        remote,
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
            _ = full.log_counts() => continue,
            _ = failing.log_counts() => continue,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, remote)) => {
                slots.request_none();
                let slot = match slots.try_acquire() {
                    Some(slot) => slot,
                    // One connection waits here, the others in the backlog, where they cost this process nothing.
                    None => {
                        let connections_max = options.limits.connections_max;
                        full.log(|count| {
                            tracing::warn!(
                                count,
                                connections_max,
                                "connection limit reached; further connections wait"
                            );
                        });
                        let slot = tokio::select! {
                            biased;
                            () = &mut shutdown => None,
                            slot = acquire(&slots, &options.end_slow_request) => Some(slot),
                        };
                        let Some(slot) = slot else {
                            connections.spawn(connection(remote).run(stream));
                            break;
                        };
                        slot
                    }
                };
                let connection = connection(remote);
                connections.spawn(async move {
                    connection.run(stream).await;
                    drop(slot);
                });
            }
            Err(error) if concerns_one_connection(&error) => {
                tracing::debug!(%error, "a connection failed before it was accepted");
            }
            Err(error) => {
                failing.log(|count| tracing::error!(%error, count, "cannot accept connections; retrying"));
                // Mostly there are no more file descriptors.
                slots.request_one();
                (options.end_slow_request.0)();
                tokio::select! {
                    () = &mut shutdown => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    full.log_count();
    failing.log_count();
    // Fails if there is no connection.
    let _ = stop.send(true);
    // Clients whose connections the system has accepted may have sent their requests.
    let listener = listener.into_std()?;
    while let Some(slot) = slots.try_acquire()
        && let Ok((stream, remote)) = listener.accept()
    {
        stream.set_nonblocking(true)?;
        let (connection, stream) = (connection(remote), TcpStream::from_std(stream)?);
        connections.spawn(async move {
            connection.run(stream).await;
            drop(slot);
        });
    }
    drop(listener);
    let all_ended = async {
        loop {
            match tokio::time::timeout(SLOW_REQUEST_INTERVAL, connections.join_next()).await {
                Ok(None) => return,
                Ok(Some(_)) => {}
                // A body that does not arrive is no accepted request.
                Err(_) => (0..SLOW_REQUESTS_PER_INTERVAL).for_each(|_| (options.end_slow_request.0)()),
            }
        }
    };
    if tokio::time::timeout(drain_timeout, all_ended).await.is_err() {
        let left = connections.len();
        tracing::warn!(
            left,
            "connections did not end within the shutdown timeout; closing them"
        );
        connections.shutdown().await;
    }
    Ok(())
}

/// Waits for a slot. Meanwhile requests whose bodies arrive slowly end one after the other.
async fn acquire(slots: &ConnectionSlots, EndSlowRequest(end_slow_request): &EndSlowRequest) -> OwnedSemaphorePermit {
    let mut slot = pin!(slots.acquire());
    loop {
        end_slow_request();
        if let Ok(slot) = tokio::time::timeout(SLOW_REQUEST_INTERVAL, &mut slot).await {
            return slot;
        }
    }
}

/// True if an error of `accept` belongs to one connection, so the next may be accepted at once.
fn concerns_one_connection(error: &Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
