//! The HTTP service: requests in, answers out. It knows texts and status codes, no tensors of a model.
//!
//! [`service()`] is the whole service as a poem endpoint, so a test calls it without a socket. [`serve`] runs it on a
//! listener until a shutdown signal. A module uses those below it in this table and none above it.
//!
//! | module | content |
//! |---|---|
//! | `service` | route table with the access rule of each method, the layers around it, start and stop |
//! | `routes` | the handlers: tasks, health, info, metrics, the OpenAPI document, the web page |
//! | `open_inference` | the Open Inference Protocol, for the clients of Triton and KServe |
//! | `route` | one row of the route table |
//! | `body`, `deadline` | reading a body within its limits; the deadline of a request |
//! | `answer_body` | the body of an answer, in pieces if it is long |
//! | `app`, `options` | what a handler needs; the settings of the server |
//! | `middleware` | around every request: telemetry, the host check of loopback servers, authentication, CORS |
//! | `net` | connections: accept loop, deadlines, slots, TLS |
//! | `state`, `metrics` | readiness; counters and histograms of requests and connections, and their text form |
//! | `error`, `unique_id`, `throttled_log` | errors as JSON, request ids, rate-limited logging |

mod answer_body;
mod app;
mod body;
mod deadline;
mod error;
mod metrics;
mod middleware;
mod net;
mod open_inference;
mod options;
mod route;
mod routes;
mod service;
mod state;
#[cfg(test)]
mod tests;
mod throttled_log;
mod unique_id;

pub use app::{About, App};
pub use error::ApiError;
pub use middleware::auth::ApiKey;
pub use middleware::cors::{InvalidOrigin, Origins};
pub use middleware::host::{AllowedHosts, InvalidHost};
pub use net::{ConnectionLimits, Tls, TlsError, TlsFile};
pub use open_inference::parse_infer;
pub use options::{Options, Settings};
pub use service::{serve, service};
pub use state::State;
