//! Counters and histograms of requests and connections, and their text form.
//!
//! No client can create a series: labels are routes of the table, methods and statuses of a fixed list, and names in
//! this program. A series appears with its first event.
//!
//! | file | content |
//! |---|---|
//! | `definition` | name, type, labels and help of every metric |
//! | `exposition` | Prometheus' text format and OpenMetrics |
//! | `connections` | counters of connections |

mod connections;
pub mod definition;
pub mod exposition;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use poem::http::StatusCode;

pub use connections::ConnectionCounters;
use definition as metric;
use exposition::{Exposition, HistogramValue};

use crate::pipeline::Cost;

/// Every status of an answer; any other is counted as 500.
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
    500,
    503,
    504,
];

/// The status of a request whose client left before its answer, as nginx has it. It is never sent.
pub const CLIENT_LEFT: u16 = 499;

/// The route label of a path that is not in the route table.
pub const UNMATCHED: &str = "other";

/// One request, as it is counted and logged.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub method: &'static str,
    /// A path of the route table, or [`UNMATCHED`].
    pub route: &'static str,
    pub status: StatusCode,
    /// The `error_type` of the answer.
    pub error_type: Option<&'static str>,
    pub total: Duration,
    /// `None` unless a task was answered.
    pub cost: Option<Cost>,
}

/// Counters and histograms of requests; those of the engine are read at each scrape.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The paths of the route table.
    routes: OnceLock<Vec<&'static str>>,
    requests: Mutex<BTreeMap<(&'static str, &'static str, u16), u64>>,
    errors: Mutex<BTreeMap<(&'static str, &'static str, &'static str), u64>>,
    tasks: Mutex<BTreeMap<&'static str, Arc<TaskMetrics>>>,
    unread_answers: AtomicU64,
    pub connections: Arc<ConnectionCounters>,
}

/// Counters and histograms of one task.
#[derive(Debug, Default)]
struct TaskMetrics {
    requests: AtomicU64,
    texts: AtomicU64,
    sequences: AtomicU64,
    tokens: AtomicU64,
    total: SecondsHistogram,
    tokenizing: SecondsHistogram,
    queue: SecondsHistogram,
    inference: SecondsHistogram,
}

impl Metrics {
    /// Takes the paths of the route table.
    pub fn prepare(&self, routes: impl Iterator<Item = &'static str>) {
        // Fails if the service is built twice over one state; the table is the same.
        let _ = self.routes.set(routes.collect());
    }

    /// The route of the table that matches `path`, or [`UNMATCHED`].
    pub fn route(&self, path: &str) -> &'static str {
        let mut routes = self.routes.get().into_iter().flatten();
        routes.find(|route| matches(route, path)).copied().unwrap_or(UNMATCHED)
    }

    /// Counts a request whose client left before its answer.
    pub fn client_left(&self, method: &'static str, route: &'static str) {
        *locked(&self.requests).entry((method, route, CLIENT_LEFT)).or_default() += 1;
    }

    /// Counts an answer that its client did not read to the end.
    pub fn unread_answer(&self) {
        self.unread_answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one request.
    pub fn observe(&self, outcome: &Outcome) {
        let &Outcome {
            method,
            route,
            status,
            error_type,
            total,
            cost,
        } = outcome;
        let status = Some(status.as_u16()).filter(|status| STATUSES.contains(status));
        let key = (method, route, status.unwrap_or(500));
        *locked(&self.requests).entry(key).or_default() += 1;
        if let Some(error_type) = error_type {
            *locked(&self.errors).entry((method, route, error_type)).or_default() += 1;
        }
        if let Some(cost) = cost {
            let task = Arc::clone(locked(&self.tasks).entry(cost.task).or_default());
            for (counter, count) in [
                (&task.requests, 1),
                (&task.texts, cost.texts),
                (&task.sequences, cost.computed.sequences),
                (&task.tokens, cost.computed.tokens),
            ] {
                counter.fetch_add(count as u64, Ordering::Relaxed);
            }
            task.total.observe(total);
            task.tokenizing.observe(cost.tokenizing);
            task.queue.observe(cost.timing.queue);
            task.inference.observe(cost.timing.inference);
        }
    }

    /// Writes the metrics of requests.
    pub fn write(&self, page: &mut Exposition) {
        let requests = locked(&self.requests).clone();
        let requests = requests.into_iter().map(|((method, route, status), count)| {
            let labels = vec![method.to_owned(), route.to_owned(), status.to_string()];
            (labels, count as f64)
        });
        page.series(&metric::HTTP_REQUESTS, requests);
        let errors = locked(&self.errors).clone();
        let errors = errors.into_iter().map(|((method, route, error_type), count)| {
            let labels = vec![method.to_owned(), route.to_owned(), error_type.to_owned()];
            (labels, count as f64)
        });
        page.series(&metric::HTTP_ERRORS, errors);
        page.value(
            &metric::UNREAD_ANSWERS,
            self.unread_answers.load(Ordering::Relaxed) as f64,
        );
        let tasks = locked(&self.tasks).clone();
        for (definition, counter) in [
            (
                &metric::TASK_REQUESTS,
                (|task| &task.requests) as fn(&TaskMetrics) -> &AtomicU64,
            ),
            (&metric::TASK_TEXTS, |task| &task.texts),
            (&metric::TASK_SEQUENCES, |task| &task.sequences),
            (&metric::TASK_TOKENS, |task| &task.tokens),
        ] {
            let counts = tasks.iter().map(|(&name, task)| {
                let count = counter(task).load(Ordering::Relaxed);
                (vec![name.to_owned()], count as f64)
            });
            page.series(definition, counts);
        }
        for (definition, histogram) in [
            (
                &metric::REQUEST_SECONDS,
                (|task| &task.total) as fn(&TaskMetrics) -> &SecondsHistogram,
            ),
            (&metric::TOKENIZING_SECONDS, |task| &task.tokenizing),
            (&metric::QUEUE_SECONDS, |task| &task.queue),
            (&metric::INFERENCE_SECONDS, |task| &task.inference),
        ] {
            let histograms = tasks
                .iter()
                .map(|(&name, task)| (vec![name.to_owned()], histogram(task).value()));
            page.histograms(definition, histograms);
        }
    }

    #[cfg(test)]
    pub fn unread_answers(&self) -> u64 {
        self.unread_answers.load(Ordering::Relaxed)
    }

    /// The number of requests with these labels.
    #[cfg(test)]
    pub fn requests(&self, method: &'static str, route: &'static str, status: u16) -> u64 {
        let requests = locked(&self.requests);
        requests.get(&(method, route, status)).copied().unwrap_or_default()
    }
}

/// True if `route`, whose segments `:name` are parameters, matches the path. As in poem, a parameter may be empty, but
/// not at the end.
fn matches(route: &str, path: &str) -> bool {
    let (mut expected, mut segments) = (route.split('/'), path.split('/').peekable());
    loop {
        match (expected.next(), segments.next()) {
            (None, None) => return true,
            (Some(expected), Some(segment)) => {
                let is_parameter = expected.starts_with(':') && (!segment.is_empty() || segments.peek().is_some());
                if !is_parameter && expected != segment {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

fn locked<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Durations by buckets that double from half a millisecond to half a minute.
#[derive(Debug, Default)]
struct SecondsHistogram {
    counts: [AtomicU64; Self::BOUNDS + 1],
    nanoseconds: AtomicU64,
}

impl SecondsHistogram {
    const BOUNDS: usize = 17;
    const FIRST_BOUND: f64 = 0.0005;

    fn bound(index: usize) -> f64 {
        match index {
            Self::BOUNDS => f64::INFINITY,
            index => Self::FIRST_BOUND * (1_u32 << index) as f64,
        }
    }

    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let index = (0..Self::BOUNDS).find(|&index| seconds <= Self::bound(index));
        self.counts[index.unwrap_or(Self::BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds
            .fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
    }

    fn value(&self) -> HistogramValue {
        let counts = self.counts.iter().enumerate();
        HistogramValue {
            counts: counts
                .map(|(index, count)| (Self::bound(index), count.load(Ordering::Relaxed)))
                .collect(),
            sum: self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_its_bucket() {
        let histogram = SecondsHistogram::default();
        for milliseconds in [0, 1, 32, 33, 40_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let value = histogram.value();
        let up_to = |bound: f64| -> u64 {
            let counts = value.counts.iter().filter(|(own, _)| *own <= bound);
            counts.map(|(_, count)| count).sum()
        };
        for (bound, count) in [
            (0.0005, 1),
            (0.001, 2),
            (0.032, 3),
            (0.064, 4),
            (33.0, 4),
            (f64::INFINITY, 5),
        ] {
            assert_eq!(up_to(bound), count, "{bound}");
        }
        assert!((value.sum - 40.066).abs() < 1e-9);
    }

    #[test]
    fn paths_match_routes_with_parameters() {
        for (route, path, expected) in [
            ("/", "/", true),
            ("/health", "/health", true),
            ("/health", "/health/live", false),
            ("/v2/models/:name", "/v2/models/tiny", true),
            ("/v2/models/:name", "/v2/models/", false),
            ("/v2/models/:name/infer", "/v2/models//infer", true),
            ("/v2/models/:name/infer", "/v2/models/a%2Fb/infer", true),
            ("/v2/models/:name/infer", "/v2/models/tiny/ready", false),
        ] {
            assert_eq!(matches(route, path), expected, "{route} {path}");
        }
    }
}
