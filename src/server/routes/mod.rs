//! One file per route, or per group of routes with one subject.

mod asset;
mod engine_metrics;
pub mod health;
pub mod info;
pub mod metrics;
pub mod openapi;
pub mod task;
pub mod tokens;
pub mod ui;
