//! One file per route.

pub mod asset;
pub mod engine_metrics;
pub mod fill_mask;
pub mod health;
pub mod info;
pub mod methods;
pub mod metrics;
pub mod openapi;
pub mod ui;
