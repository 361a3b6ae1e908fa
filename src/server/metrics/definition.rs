//! The definition of every metric: name, type, labels and help text.

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// Always 1, with values as labels; a gauge in Prometheus' text format.
    Info,
}

/// A metric and the labels of its series.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// Name of its series; a histogram adds `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! definitions {
    ($($constant:ident = $kind:ident $name:literal $labels:tt $help:literal;)*) => {
        $(pub const $constant: Definition = Definition {
            name: $name,
            kind: Kind::$kind,
            labels: &$labels,
            help: $help,
        };)*

        /// Every metric, in the order of a scrape.
        #[cfg(test)]
        pub const ALL: &[Definition] = &[$($constant),*];
    };
}

// `docs/metrics.md` describes each; a test compares it with this table.
definitions! {
    HTTP_REQUESTS = Counter "cloze_http_requests_total" ["method", "route", "status"]
        "Requests; status 499: the client left before its answer";
    HTTP_ERRORS = Counter "cloze_http_errors_total" ["method", "route", "error_type"]
        "Requests that got an error, by the error_type of the answer";
    UNREAD_ANSWERS = Counter "cloze_unread_answers_total" []
        "Long answers whose connection ended before the client had read them";
    TASK_REQUESTS = Counter "cloze_task_requests_total" ["task"]
        "Answered requests";
    TASK_TEXTS = Counter "cloze_task_texts_total" ["task"]
        "Texts of answered requests";
    TASK_SEQUENCES = Counter "cloze_task_sequences_total" ["task"]
        "Sequences that the model computed for answered requests";
    TASK_TOKENS = Counter "cloze_task_tokens_total" ["task"]
        "Tokens and readout positions that the model computed for answered requests";
    REQUEST_SECONDS = Histogram "cloze_request_seconds" ["task"]
        "Time from the head of a request to its answer, of answered requests";
    TOKENIZING_SECONDS = Histogram "cloze_tokenizing_seconds" ["task"]
        "Time from the body of a request to token ids, of answered requests";
    QUEUE_SECONDS = Histogram "cloze_queue_seconds" ["task"]
        "Time from submission to the last batch's end without the time in the model, of answered requests";
    INFERENCE_SECONDS = Histogram "cloze_inference_seconds" ["task"]
        "Time during which the model computed a batch of the request, of answered requests";
    EXPIRED_REQUESTS = Counter "cloze_expired_requests_total" []
        "Requests whose deadline passed";
    REJECTED_REQUESTS = Counter "cloze_rejected_requests_total" []
        "Requests refused because the queue was full";
    ABANDONED_TEXTS = Counter "cloze_abandoned_texts_total" []
        "Texts removed from the queue because their client left or their deadline passed";
    FAILED_TEXTS = Counter "cloze_failed_texts_total" []
        "Texts whose batch failed in the model";
    QUEUE_TEXTS = Gauge "cloze_queue_texts" []
        "Texts in the queue";
    QUEUE_TEXTS_MAX = Gauge "cloze_queue_texts_max" []
        "Queue capacity in texts";
    QUEUE_TOKENS = Gauge "cloze_queue_tokens" []
        "Tokens in the queue";
    BATCH_TEXTS = Histogram "cloze_batch_texts" []
        "Texts per batch";
    BATCH_TOKENS = Histogram "cloze_batch_tokens" []
        "Tokens per batch";
    WORKERS = Gauge "cloze_workers" []
        "Worker threads, each running one batch at a time";
    COMPUTING_REQUESTS = Gauge "cloze_computing_requests" []
        "Requests that tokenize or decode, or wait for a thread to do so";
    REQUEST_MEMORY = Gauge "cloze_request_memory_bytes" []
        "Memory of request bodies and answers";
    REQUEST_MEMORY_MAX = Gauge "cloze_request_memory_bytes_max" []
        "Limit on the memory of request bodies and answers";
    CONNECTIONS = Gauge "cloze_connections" []
        "Open connections";
    CONNECTIONS_MAX = Gauge "cloze_connections_max" []
        "Limit on open connections";
    ACCEPTED_CONNECTIONS = Counter "cloze_accepted_connections_total" []
        "Accepted connections";
    CLOSED_CONNECTIONS = Counter "cloze_closed_connections_total" ["reason"]
        "Connections that ended early";
    READY = Gauge "cloze_ready" []
        "1 if a new request would be answered, otherwise 0";
    BUILD = Info "cloze_build_info" ["version", "model", "backend", "device", "dtype"]
        "Version, model and device";
    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "CPU time of the process, user and system";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory of the process";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" []
        "Virtual memory of the process";
    PROCESS_START = Gauge "process_start_time_seconds" []
        "Start of the process, in seconds since 1970";
    PROCESS_FDS = Gauge "process_open_fds" []
        "Open file descriptors";
    PROCESS_FDS_MAX = Gauge "process_max_fds" []
        "Limit on open file descriptors";
    PROCESS_THREADS = Gauge "process_threads" []
        "Threads of the process";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the tables in `docs/metrics.md`: name, type and labels.
    fn documented() -> Vec<(String, String, String)> {
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
        let rows = document.lines().filter(|line| line.starts_with("| `"));
        let cells = rows.map(|row| {
            row.split(" | ")
                .map(|cell| cell.trim_matches(['|', ' ']))
                .collect::<Vec<_>>()
        });
        let metrics = cells.filter(|cells| cells[0].starts_with("`cloze_") || cells[0].starts_with("`process_"));
        metrics
            .map(|cells| {
                let text = |index: usize| cells[index].replace('`', "");
                (text(0), text(1), text(2))
            })
            .collect()
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_metric_exists() {
        let defined = ALL.iter().map(|metric| {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Histogram => "histogram",
                Kind::Gauge | Kind::Info => "gauge",
            };
            (metric.name.to_owned(), kind.to_owned(), metric.labels.join(", "))
        });
        assert_eq!(documented(), defined.collect::<Vec<_>>());
    }
}
