//! Counters and histograms of requests.
//!
//! Every series exists from the start and no client can create one: labels are routes of the table and statuses of a
//! fixed list.

use std::sync::Arc;
use std::time::Duration;

use poem::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::pipeline::Cost;

/// Every status of an answer; any other is counted as the last.
const STATUSES: [u16; 16] = [
    200, 204, 400, 401, 403, 404, 405, 408, 413, 414, 415, 422, 431, 503, 504, 500,
];

/// The route label of a path that is not in the route table.
pub const UNMATCHED: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    status: u16,
}

/// Counters and histograms of requests; those of the engine are read at each scrape.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    total: Histogram,
    tokenizing: Histogram,
    queue: Histogram,
    inference: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // Half a millisecond to half a minute.
        let seconds = || Histogram::new(exponential_buckets(0.0005, 2.0, 17));
        let requests = Family::default();
        let [total, tokenizing, queue, inference] = [seconds(), seconds(), seconds(), seconds()];
        let mut registry = Registry::with_prefix("cloze");
        registry.register("http_requests", "Requests by route and status", requests.clone());
        for (name, help, histogram) in [
            (
                "request_seconds",
                "Time from the head of a POST request to its answer",
                &total,
            ),
            (
                "tokenizing_seconds",
                "Time from the body of a request to token ids",
                &tokenizing,
            ),
            ("queue_seconds", "Time of a request in the queue", &queue),
            (
                "inference_seconds",
                "Time of the batches of a request in the model",
                &inference,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
        Self {
            registry,
            requests,
            total,
            tokenizing,
            queue,
            inference,
        }
    }
}

impl Metrics {
    /// Creates the series of every route.
    pub fn prepare<'a>(&self, routes: impl Iterator<Item = &'a str>) {
        for route in routes.chain([UNMATCHED]) {
            for status in STATUSES {
                let route = Arc::from(route);
                drop(self.requests.get_or_create(&RequestLabels { route, status }));
            }
        }
    }

    /// Counts one request; `route` is a path of the route table or [`UNMATCHED`].
    pub fn observe(&self, route: &str, method: &str, status: StatusCode, total: Duration, cost: Option<Cost>) {
        let known = STATUSES.contains(&status.as_u16());
        let labels = RequestLabels {
            route: Arc::from(route),
            status: if known { status.as_u16() } else { 500 },
        };
        self.requests.get_or_create(&labels).inc();
        let is_inference =
            method == "POST" && !matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        if is_inference {
            self.total.observe(total.as_secs_f64());
        }
        if let Some(cost) = cost {
            self.tokenizing.observe(cost.tokenizing.as_secs_f64());
            self.queue.observe(cost.timing.queue.as_secs_f64());
            self.inference.observe(cost.timing.inference.as_secs_f64());
        }
    }

    /// Writes all series in OpenMetrics text form.
    ///
    /// # Errors
    /// Those of `text`.
    pub fn encode(&self, text: &mut String) -> std::fmt::Result {
        encode_registry(text, &self.registry)
    }
}
