//! Counters and histograms of requests.
//!
//! Every series exists from the start and no client can create one: labels are routes of the table and statuses of a
//! fixed list.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use poem::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::pipeline::Cost;
use crate::tasks::TASKS;

/// Every status of an answer; any other is counted as the last.
const STATUSES: [u16; 18] = [
    200,
    204,
    400,
    401,
    403,
    404,
    405,
    408,
    413,
    414,
    415,
    421,
    422,
    431,
    CLIENT_LEFT,
    503,
    504,
    500,
];

/// The status of a request whose client left before its answer, as nginx has it. It is never sent.
pub const CLIENT_LEFT: u16 = 499;

/// The route label of a path that is not in the route table.
pub const UNMATCHED: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabels {
    task: &'static str,
}

/// Counters and histograms of requests; those of the engine are read at each scrape.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The paths of the route table.
    routes: OnceLock<Vec<Arc<str>>>,
    requests: Family<RequestLabels, Counter>,
    task_requests: Family<TaskLabels, Counter>,
    task_sequences: Family<TaskLabels, Counter>,
    task_tokens: Family<TaskLabels, Counter>,
    /// Answers that their client did not read to the end.
    pub unread_answers: Counter,
    total: Histogram,
    tokenizing: Histogram,
    queue: Histogram,
    inference: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // Half a millisecond to half a minute.
        let seconds = || Histogram::new(exponential_buckets(0.0005, 2.0, 17));
        let (requests, unread_answers) = (Family::default(), Counter::default());
        let [total, tokenizing, queue, inference] = [seconds(), seconds(), seconds(), seconds()];
        let mut registry = Registry::with_prefix("cloze");
        registry.register("http_requests", "Requests by route and status", requests.clone());
        registry.register(
            "unread_answers",
            "Long answers whose connection ended before the client had read them",
            unread_answers.clone(),
        );
        let [task_requests, task_sequences, task_tokens] = <[Family<TaskLabels, Counter>; 3]>::default();
        for (name, help, counters) in [
            ("task_requests", "Answered requests by task", &task_requests),
            (
                "task_sequences",
                "Sequences that the model computed for answered requests, by task",
                &task_sequences,
            ),
            (
                "task_tokens",
                "Tokens and readout positions that the model computed for answered requests, by task",
                &task_tokens,
            ),
        ] {
            for task in TASKS {
                drop(counters.get_or_create(&TaskLabels { task }));
            }
            registry.register(name, help, counters.clone());
        }
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
            routes: OnceLock::new(),
            requests,
            task_requests,
            task_sequences,
            task_tokens,
            unread_answers,
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
        let routes: Vec<Arc<str>> = routes.map(Arc::from).collect();
        for route in routes.iter().cloned().chain([Arc::from(UNMATCHED)]) {
            for status in STATUSES {
                let route = Arc::clone(&route);
                drop(self.requests.get_or_create(&RequestLabels { route, status }));
            }
        }
        // Fails if the service is built twice over one state; the table is the same.
        let _ = self.routes.set(routes);
    }

    /// Counts a request whose client left before its answer.
    pub fn client_left(&self, route: &str) {
        let labels = RequestLabels {
            route: Arc::from(route),
            status: CLIENT_LEFT,
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// The route of the table that equals `path`, or [`UNMATCHED`], also for a route with parameters.
    pub fn route(&self, path: &str) -> &str {
        let same = self
            .routes
            .get()
            .and_then(|routes| routes.iter().find(|route| ***route == *path));
        same.map_or(UNMATCHED, |route| route)
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
            let labels = TaskLabels { task: cost.task };
            self.task_requests.get_or_create(&labels).inc();
            self.task_sequences
                .get_or_create(&labels)
                .inc_by(cost.computed.sequences as u64);
            self.task_tokens
                .get_or_create(&labels)
                .inc_by(cost.computed.tokens as u64);
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
