//! Metrics of the engine, the connections and the process, read at each scrape. The engine does not know Prometheus.

use crate::engine::HistogramSnapshot;
use crate::server::app::App;
use crate::server::metrics::definition as metric;
use crate::server::metrics::exposition::{Exposition, HistogramValue};
use crate::sys::memory;
use crate::sys::process::ProcessStats;

/// Writes the metrics of the engine and its queue.
pub fn write_engine(app: &App, page: &mut Exposition) {
    let engine = app.pipeline.engine();
    let stats = engine.stats();
    let (texts, tokens) = engine.waiting();
    for (definition, counter) in [
        (&metric::EXPIRED_REQUESTS, &stats.expired),
        (&metric::REJECTED_REQUESTS, &stats.rejected),
        (&metric::ABANDONED_TEXTS, &stats.abandoned),
        (&metric::FAILED_TEXTS, &stats.failed),
    ] {
        page.value(definition, counter.get() as f64);
    }
    page.value(&metric::QUEUE_TEXTS, texts as f64);
    page.value(&metric::QUEUE_TEXTS_MAX, engine.limits().queue_size as f64);
    page.value(&metric::QUEUE_TOKENS, tokens as f64);
    for (definition, histogram) in [
        (&metric::BATCH_TEXTS, &stats.batch_sequences),
        (&metric::BATCH_TOKENS, &stats.batch_tokens),
    ] {
        page.histograms(definition, [(Vec::new(), value(histogram.snapshot()))]);
    }
    page.value(&metric::WORKERS, engine.workers() as f64);
    page.value(&metric::COMPUTING_REQUESTS, app.pipeline.computing() as f64);
    let memory = app.pipeline.memory();
    page.value(&metric::REQUEST_MEMORY, memory.used() as f64);
    page.value(&metric::REQUEST_MEMORY_MAX, memory.max() as f64);
}

/// Writes the metrics of connections, the state of the server, and its version.
pub fn write_server(app: &App, page: &mut Exposition) {
    let connections = &app.state.metrics.connections;
    page.value(&metric::CONNECTIONS, connections.open_now() as f64);
    let connections_max = app.options.connections.connections_max;
    page.value(&metric::CONNECTIONS_MAX, connections_max as f64);
    page.value(&metric::ACCEPTED_CONNECTIONS, connections.accepted() as f64);
    let ends = connections.early_ends().into_iter();
    let ends = ends.map(|(reason, count)| (vec![reason.to_owned()], count as f64));
    page.series(&metric::CLOSED_CONNECTIONS, ends);
    page.value(&metric::READY, u8::from(app.is_ready()).into());
    let about = &app.about;
    let labels = [
        env!("CARGO_PKG_VERSION"),
        &about.model_name,
        &about.backend,
        &about.device,
        &about.dtype,
    ];
    let labels = labels.map(str::to_owned).to_vec();
    page.series(&metric::BUILD, [(labels, 1.0)]);
}

/// Writes the metrics of the process that the system reports.
pub fn write_process(page: &mut Exposition) {
    let stats = ProcessStats::read();
    let number = |value: Option<u64>| value.map(|value| value as f64);
    for (definition, value) in [
        (&metric::PROCESS_CPU, stats.cpu_seconds),
        (&metric::PROCESS_RESIDENT, number(memory::resident())),
        (&metric::PROCESS_VIRTUAL, number(stats.virtual_bytes)),
        (&metric::PROCESS_START, stats.start_time_seconds),
        (&metric::PROCESS_FDS, number(stats.open_descriptors)),
        (&metric::PROCESS_FDS_MAX, number(stats.descriptors_max)),
        (&metric::PROCESS_THREADS, number(stats.threads)),
    ] {
        if let Some(value) = value {
            page.value(definition, value);
        }
    }
}

fn value(snapshot: HistogramSnapshot) -> HistogramValue {
    HistogramValue {
        counts: snapshot.counts,
        sum: snapshot.sum as f64,
    }
}
