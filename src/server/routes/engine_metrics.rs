//! Counters and gauges of the engine and the process, read at each scrape. The engine does not know Prometheus.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;

use crate::engine::HistogramSnapshot;
use crate::server::app::App;
use crate::sys::memory;

/// Values read at one scrape.
#[derive(Debug)]
pub struct EngineMetrics {
    counters: [(&'static str, &'static str, u64); 4],
    gauges: [(&'static str, &'static str, u64); 9],
    histograms: [(&'static str, &'static str, HistogramSnapshot); 2],
    info: Vec<(&'static str, String)>,
}

impl EngineMetrics {
    pub fn read(app: &App) -> Self {
        let stats = app.pipeline.engine().stats();
        let (texts, tokens) = app.pipeline.engine().waiting();
        Self {
            counters: [
                (
                    "expired_requests",
                    "Requests whose deadline passed",
                    stats.expired.get(),
                ),
                (
                    "abandoned_texts",
                    "Texts removed from the queue because their client left or their deadline passed",
                    stats.abandoned.get(),
                ),
                (
                    "rejected_requests",
                    "Requests refused because the queue was full",
                    stats.rejected.get(),
                ),
                (
                    "failed_texts",
                    "Texts whose batch failed in the model",
                    stats.failed.get(),
                ),
            ],
            gauges: [
                ("queue_texts", "Texts in the queue", texts as u64),
                ("queue_tokens", "Tokens in the queue", tokens as u64),
                (
                    "queue_texts_max",
                    "Queue capacity in texts",
                    app.pipeline.engine().limits().queue_size as u64,
                ),
                (
                    "workers",
                    "Worker threads, each running one batch at a time",
                    app.pipeline.engine().workers() as u64,
                ),
                ("ready", "1 if a new request would be answered", app.is_ready().into()),
                (
                    "request_memory_bytes",
                    "Bytes of request bodies and answers in memory",
                    app.pipeline.memory().used() as u64,
                ),
                (
                    "request_memory_bytes_max",
                    "Limit on the bytes of request bodies and answers in memory",
                    app.pipeline.memory().max() as u64,
                ),
                (
                    "computing_requests",
                    "Requests that tokenize or decode, or wait for a thread to do so",
                    app.pipeline.computing() as u64,
                ),
                (
                    "resident_memory_bytes",
                    "Resident memory of the process, 0 if the system does not report it",
                    memory::resident().unwrap_or(0),
                ),
            ],
            histograms: [
                ("batch_texts", "Texts per batch", stats.batch_sequences.snapshot()),
                ("batch_tokens", "Tokens per batch", stats.batch_tokens.snapshot()),
            ],
            info: vec![
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
                ("model", app.about.model_name.clone()),
                ("device", app.about.device.clone()),
            ],
        }
    }
}

impl Collector for EngineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        for (name, help, value) in self.counters {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(encoder)?;
        }
        for (name, help, value) in self.gauges {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value as i64).encode(encoder)?;
        }
        for (name, help, snapshot) in &self.histograms {
            let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            let count = snapshot.count();
            encoder.encode_histogram::<NoLabelSet>(snapshot.sum as f64, count, &snapshot.counts, None)?;
        }
        let encoder = encoder.encode_descriptor("build", "Version, model and device", None, MetricType::Info)?;
        Info::new(self.info.clone()).encode(encoder)
    }
}
