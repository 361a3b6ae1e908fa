//! HTTP: requests in, JSON out. Knows texts and status codes, no tensors.
//!
//! [`routes`] is the whole service as a poem endpoint, so that a test can call it without a socket;
//! [`serve()`] runs it on a listener until it is told to stop.
//!
//! | module | content |
//! |---|---|
//! | `routes` | one file per route: `POST /` and `/v1/fill-mask`, health, info, metrics, the OpenAPI document, the web page |
//! | `open_inference` | the Open Inference Protocol, for the clients of Triton and KServe |
//! | `middleware` | around every request: telemetry, API key, CORS |
//! | `net` | connections: accept loop, deadlines, slots, TLS |
//! | `predict`, `request`, `body` | from a request body to answers, for every protocol |
//! | `error` | every error as JSON with a sentence |
//! | `options` | settings of the server and its state |
//! | `throttled_log` | rate-limited logging |

mod body;
mod error;
mod middleware;
mod net;
mod open_inference;
mod options;
mod predict;
mod request;
mod routes;
#[cfg(test)]
mod tests;
mod throttled_log;

use std::sync::Arc;
use std::time::Duration;

use poem::endpoint::BoxEndpoint;
use poem::{Endpoint, EndpointExt, Response, Route};

use crate::engine::Engine;
use crate::fill_mask::FillMask;
use middleware::auth::Guarded;
use middleware::cors::Shared;
use middleware::telemetry::{Labelled, Observed};
use routes::methods::{get, get_post, post};
use routes::{fill_mask, health, info, metrics, openapi, ui};

pub use error::{ApiError, ErrorBody};
pub use middleware::auth::ApiKey;
pub use middleware::cors::Origins;
pub use net::{ConnectionLimits, Tls, TlsError, serve};
pub use open_inference::parse_infer;
pub use options::{Options, State};
pub use predict::prepare;
pub use request::{FillMaskRequest, Form};
pub use routes::fill_mask::Answers;

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
        ("/", get_post(ui::index, fill_mask::fill_mask)),
        ("/page.css", get(ui::style)),
        ("/page.js", get(ui::script)),
        ("/favicon.svg", get(ui::icon)),
        ("/docs", get(openapi::page)),
        ("/docs.css", get(openapi::style)),
        ("/docs.js", get(openapi::script)),
        ("/openapi.json", get(openapi::openapi)),
        ("/v1/fill-mask", post(fill_mask::fill_mask)),
        ("/health", get(health::health)),
        ("/health/live", get(health::live)),
        ("/health/ready", get(health::health)),
        ("/info", get(info::info)),
        ("/metrics", get(metrics::metrics)),
    ];
    let ours = ours.into_iter().map(|(path, endpoint)| (path.to_owned(), endpoint));
    ours.chain(open_inference::table()).collect()
}
