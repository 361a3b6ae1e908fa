//! HTTP: requests in, JSON out. Knows texts and status codes, no tensors.
//!
//! [`routes`] is the whole service as a poem endpoint, so that a test can call it without a socket;
//! [`serve`] runs it on a listener until it is told to stop.
//!
//! | file | what it is |
//! |---|---|
//! | `fill_mask` | `POST /` and `POST /v1/fill-mask` |
//! | `request` | their two forms of a body: plain text and JSON |
//! | `predict` | from texts to answers, whatever the protocol |
//! | `body` | reading a body, bounded in size and time |
//! | `page` | `GET /`, for a person at a browser |
//! | `v2` | the Open Inference Protocol, for the clients of Triton and KServe |
//! | `methods` | what an address says of methods that it does not take |
//! | `error` | every error as JSON with a sentence |
//! | `health` | `GET /health` |

mod body;
mod error;
mod fill_mask;
mod health;
mod methods;
mod page;
mod predict;
mod request;
#[cfg(test)]
mod tests;
mod v2;

use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use poem::listener::TcpAcceptor;
use poem::{Endpoint, EndpointExt, Response, Route, Server};

use crate::engine::Engine;
use crate::fill_mask::FillMask;
use methods::{get, get_post, post};

pub use error::{ApiError, ErrorBody};
pub use fill_mask::Answers;
pub use predict::prepare;
pub use request::{FillMaskRequest, Form};

/// What the handlers need of a request's surroundings.
pub struct App {
    /// Text to ids and back.
    pub fill_mask: FillMask,
    /// The queue and its worker.
    pub engine: Engine,
    /// How long a request may take, from its first byte to its answer.
    pub request_timeout: Duration,
    /// The longest body, in bytes.
    pub body_bytes_max: usize,
    /// What the service says of itself.
    pub about: About,
}

/// What runs here, for people and programs that ask.
#[derive(Clone, Debug)]
pub struct About {
    /// The name that the model is served under; without a slash, as it stands in addresses.
    pub model_name: String,
    /// The backend and the device that it runs on.
    pub device: String,
}

/// All routes over one app.
pub fn routes(app: Arc<App>) -> impl Endpoint<Output = Response> + 'static {
    v2::routes(Route::new())
        .at("/", get_post(page::index, fill_mask::fill_mask))
        .at("/page.css", get(page::style))
        .at("/page.js", get(page::script))
        .at("/favicon.svg", get(page::icon))
        .at("/v1/fill-mask", post(fill_mask::fill_mask))
        .at("/health", get(health::health))
        .data(app)
        .catch_all_error(error::respond)
        .map_to_response()
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
    let acceptor = TcpAcceptor::from_std(listener)?;
    let stopping = Arc::clone(&app);
    Server::new_with_acceptor(acceptor)
        .run_with_graceful_shutdown(routes(app), shutdown, Some(drain_timeout))
        .await?;
    // All connections are closed; nobody waits any more, so this ends after the running batch at the latest.
    let stopping = tokio::task::spawn_blocking(move || stopping.engine.stop());
    if tokio::time::timeout(drain_timeout, stopping).await.is_err() {
        tracing::warn!("the last batch did not end within the limit; leaving it");
    }
    Ok(())
}
