//! `GET /metrics`: counters, gauges and histograms for Prometheus.

use std::sync::Arc;

use poem::web::Data;
use poem::{Response, handler};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use super::engine_metrics::EngineMetrics;
use crate::server::app::App;
use crate::server::error::ApiError;

/// `GET /metrics`.
#[handler]
pub fn metrics(Data(app): Data<&Arc<App>>) -> poem::Result<Response> {
    let mut text = String::new();
    let mut engine = Registry::with_prefix("cloze");
    engine.register_collector(Box::new(EngineMetrics::read(app)));
    let encoded = app.state.metrics.encode(&mut text);
    encoded
        .and_then(|()| encode_registry(&mut text, &engine))
        .and_then(|()| encode_eof(&mut text))
        .map_err(ApiError::internal)?;
    Ok(Response::builder()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(text))
}
