//! What runs around every request.

pub mod auth;
pub mod cors;
pub mod telemetry;
mod tracing_span;
