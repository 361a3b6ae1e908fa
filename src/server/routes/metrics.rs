//! `GET /metrics`: what Prometheus collects.
//!
//! Every series exists from the start and no client can make one: labels are routes of the table and statuses
//! of a fixed list.

use std::sync::Arc;
use std::time::Duration;

use poem::http::StatusCode;
use poem::web::Data;
use poem::{Response, handler};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::engine_metrics::EngineMetrics;
use crate::server::middleware::telemetry::{Cost, UNMATCHED};
use crate::server::{ApiError, App};

/// Every status that an answer can have; any other would be counted as the last.
const STATUSES: [u16; 14] = [200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 422, 503, 504, 500];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    status: u16,
}

/// What is counted around requests; what the engine counts is read when it is asked for.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    whole: Histogram,
    tokenizing: Histogram,
    queue: Histogram,
    inference: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // Half a millisecond to half a minute.
        let seconds = || Histogram::new(exponential_buckets(0.0005, 2.0, 17));
        let requests = Family::default();
        let [whole, tokenizing, queue, inference] = [seconds(), seconds(), seconds(), seconds()];
        let mut registry = Registry::with_prefix("cloze");
        registry.register("http_requests", "Requests by route and status", requests.clone());
        for (name, help, histogram) in [
            (
                "request_seconds",
                "A request for answers, from its head to its answer",
                &whole,
            ),
            ("tokenizing_seconds", "From a request's body to token ids", &tokenizing),
            ("queue_seconds", "A request in the queue", &queue),
            (
                "inference_seconds",
                "A request in the model, with its batch",
                &inference,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
        Self {
            registry,
            requests,
            whole,
            tokenizing,
            queue,
            inference,
        }
    }
}

impl Metrics {
    /// Makes the series of every route.
    pub fn prepare<'a>(&self, routes: impl Iterator<Item = &'a Arc<str>>) {
        for route in routes.cloned().chain([Arc::from(UNMATCHED)]) {
            for status in STATUSES {
                let route = Arc::clone(&route);
                drop(self.requests.get_or_create(&RequestLabels { route, status }));
            }
        }
    }

    /// Counts one request; `route` is of the table or [`UNMATCHED`].
    pub fn observe(&self, route: &str, method: &str, status: StatusCode, whole: Duration, cost: Option<Cost>) {
        let known = STATUSES.contains(&status.as_u16());
        let labels = RequestLabels {
            route: Arc::from(route),
            status: if known { status.as_u16() } else { 500 },
        };
        self.requests.get_or_create(&labels).inc();
        let asked = method == "POST" && !matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        if asked {
            self.whole.observe(whole.as_secs_f64());
        }
        if let Some(cost) = cost {
            self.tokenizing.observe(cost.tokenizing.as_secs_f64());
            self.queue.observe(cost.timing.queue.as_secs_f64());
            self.inference.observe(cost.timing.inference.as_secs_f64());
        }
    }
}

/// `GET /metrics`.
#[handler]
pub fn metrics(Data(app): Data<&Arc<App>>) -> poem::Result<Response> {
    let mut text = String::new();
    let mut engine = Registry::with_prefix("cloze");
    engine.register_collector(Box::new(EngineMetrics::read(app)));
    encode_registry(&mut text, &app.state.metrics.registry)
        .and_then(|()| encode_registry(&mut text, &engine))
        .and_then(|()| encode_eof(&mut text))
        .map_err(ApiError::internal)?;
    Ok(Response::builder()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(text))
}
