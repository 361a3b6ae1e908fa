//! The accept loop.

use std::future::Future;
use std::io::{Error, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use poem::{Endpoint, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Rules;
use super::connection::Connection;
use super::slots::Places;
use crate::server::throttled_log::NowAndThen;

/// How long the loop rests when the system gives no connection for a reason that will not pass at once, such as that
/// there are no descriptors left.
const REST: Duration = Duration::from_millis(100);
/// The same trouble is told this often.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// Takes connections until `shutdown` completes; then ends the idle ones at once and the others when they have their
/// answers, or after `drain_timeout`.
pub async fn run(
    listener: TcpListener,
    endpoint: Arc<impl Endpoint<Output = Response> + 'static>,
    rules: Rules,
    shutdown: impl Future<Output = ()>,
    drain_timeout: Duration,
) {
    let places = Arc::new(Places::new(rules.limits.connections_max));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let (full, failing) = (NowAndThen::new(TELL_INTERVAL), NowAndThen::new(TELL_INTERVAL));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, remote)) => {
                let place = match places.try_take() {
                    Some(place) => place,
                    // One waits here, the others in the backlog, where they cost us nothing.
                    None => {
                        full.tell(|count| {
                            tracing::warn!(
                                count,
                                "as many connections as --max-connections allows; further ones wait"
                            );
                        });
                        tokio::select! {
                            biased;
                            () = &mut shutdown => break,
                            place = places.take() => place,
                        }
                    }
                };
                let connection = Connection {
                    endpoint: Arc::clone(&endpoint),
                    rules: rules.clone(),
                    places: Arc::clone(&places),
                    stopping: stopping.clone(),
                    remote,
                };
                connections.spawn(async move {
                    connection.run(stream).await;
                    drop(place);
                });
            }
            Err(error) if concerns_one(&error) => tracing::debug!(%error, "a connection ended before it began"),
            Err(error) => {
                failing.tell(|count| tracing::error!(%error, count, "no connection can be accepted; trying on"));
                tokio::select! {
                    () = &mut shutdown => break,
                    () = tokio::time::sleep(REST) => {}
                }
            }
        }
    }
    drop(listener);
    // An error says that there is no connection.
    let _ = stop.send(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain_timeout, all_ended).await.is_err() {
        let left = connections.len();
        tracing::warn!(left, "connections did not end within the limit; closing them");
        connections.shutdown().await;
    }
}

/// Whether an error of accept is of one connection, and the next may be sound.
fn concerns_one(error: &Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
