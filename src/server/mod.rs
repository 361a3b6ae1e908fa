//! HTTP: requests in, JSON out. Knows texts and status codes, no tensors.
//!
//! [`routes`] is the whole service as a poem endpoint, so that a test can call it without a socket;
//! [`serve()`] runs it on a listener until it is told to stop.
//!
//! | file | what it is |
//! |---|---|
//! | `fill_mask` | `POST /` and `POST /v1/fill-mask` |
//! | `request` | their two forms of a body: plain text and JSON |
//! | `predict` | from texts to answers, whatever the protocol |
//! | `body` | reading a body, bounded in size and time |
//! | `page` | `GET /`, for a person at a browser |
//! | `v2` | the Open Inference Protocol, for the clients of Triton and KServe |
//! | `docs` | the OpenAPI document and `/docs` |
//! | `asset` | files for browsers |
//! | `methods` | what an address says of methods that it does not take |
//! | `error` | every error as JSON with a sentence |
//! | `health` | `GET /health`, `/health/live`, `/health/ready` |
//! | `info` | `GET /info` |
//! | `observe` | around every request: id, log line, metrics, headers |
//! | `trace` | its span, and whose trace it is a part of |
//! | `now_and_then` | log lines about what goes on and on |
//! | `metrics`, `engine_metrics` | `GET /metrics` |
//! | `auth` | the API key |
//! | `cors` | pages of other sites |
//! | `serve` | connections: which are taken, how long each may take its time, how they end |
//! | `options` | what may be set about all of this |

#[cfg(test)]
mod access_tests;
mod asset;
mod auth;
mod body;
mod cors;
mod docs;
mod engine_metrics;
mod error;
mod fill_mask;
mod health;
mod info;
mod methods;
mod metrics;
mod now_and_then;
mod observe;
#[cfg(test)]
mod operations_tests;
mod options;
mod page;
mod predict;
mod request;
mod serve;
#[cfg(test)]
mod tests;
mod trace;
mod v2;

use std::sync::Arc;
use std::time::Duration;

use poem::endpoint::BoxEndpoint;
use poem::{Endpoint, EndpointExt, Response, Route};

use crate::engine::Engine;
use crate::fill_mask::FillMask;
use auth::Guarded;
use cors::Shared;
use methods::{get, get_post, post};
use observe::{Labelled, Observed};

pub use auth::ApiKey;
pub use cors::Origins;
pub use error::{ApiError, ErrorBody};
pub use fill_mask::Answers;
pub use options::{Options, State};
pub use predict::prepare;
pub use request::{FillMaskRequest, Form};
pub use serve::{ConnectionLimits, Tls, TlsError, serve};
pub use v2::parse_infer;

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
    /// Who may ask.
    pub options: Options,
    /// What changes while the server runs.
    pub state: State,
}

/// What runs here, for people and programs that ask.
#[derive(Clone, Debug)]
pub struct About {
    /// The name that the model is served under; without a slash, as it stands in addresses.
    pub model_name: String,
    /// The backend and the device that it runs on.
    pub device: String,
    /// The backend alone: `cpu` or `gpu`.
    pub backend: String,
    /// What products are computed with: `f32`, `f16`, `bf16` or `int8`.
    pub dtype: String,
}

impl App {
    /// Whether a request would be answered, and none too late: not while the end has begun.
    pub fn is_ready(&self) -> bool {
        self.engine.is_ready() && !self.state.is_draining()
    }
}

/// All routes over one app.
pub fn routes(app: Arc<App>) -> impl Endpoint<Output = Response> + 'static {
    let table = table()
        .into_iter()
        .map(|(path, endpoint)| (Arc::<str>::from(path), endpoint));
    let table: Vec<_> = table.collect();
    app.state.metrics.prepare(table.iter().map(|(path, _)| path));
    let route = table.into_iter().fold(Route::new(), |route, (path, inner)| {
        route.at(Arc::clone(&path), Labelled { inner, route: path })
    });
    let inner = route.data(Arc::clone(&app)).map_to_response();
    let app = || Arc::clone(&app);
    let inner = Guarded { inner, app: app() };
    // A browser's preflight carries no key.
    let inner = Shared { inner, app: app() };
    Observed { inner, app: app() }
}

/// Every address and what is there. A test looks for each in `openapi.json`.
fn table() -> Vec<(String, BoxEndpoint<'static, Response>)> {
    let ours = [
        ("/", get_post(page::index, fill_mask::fill_mask)),
        ("/page.css", get(page::style)),
        ("/page.js", get(page::script)),
        ("/favicon.svg", get(page::icon)),
        ("/docs", get(docs::page)),
        ("/docs.css", get(docs::style)),
        ("/docs.js", get(docs::script)),
        ("/openapi.json", get(docs::openapi)),
        ("/v1/fill-mask", post(fill_mask::fill_mask)),
        ("/health", get(health::health)),
        ("/health/live", get(health::live)),
        ("/health/ready", get(health::health)),
        ("/info", get(info::info)),
        ("/metrics", get(metrics::metrics)),
    ];
    let ours = ours.into_iter().map(|(path, endpoint)| (path.to_owned(), endpoint));
    ours.chain(v2::table()).collect()
}
