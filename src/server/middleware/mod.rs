//! Layers around every request, each a function of the request and the layers inside it.

pub mod auth;
pub mod cors;
pub mod host;
pub mod paths;
pub mod telemetry;
mod tracing_span;
