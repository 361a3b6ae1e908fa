//! Export of traces by OTLP over HTTP, configured by OpenTelemetry's environment variables.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;
use ureq::Agent;

use super::variables::value;

/// Target of the spans of untraced requests, set by the server's trace middleware.
const PROBE: &str = "cloze::probe";
/// Traces are exported if one of these is set.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// In milliseconds.
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const TIMEOUT: Duration = Duration::from_secs(10);
/// Limit on the last export at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit on the body of a collector's response.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// Exports the remaining spans when it is dropped.
pub struct Traces(SdkTracerProvider);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

/// The layer that records spans, and the guard that flushes them.
type Started<S> = (Box<dyn Layer<S> + Send + Sync>, Traces);

/// Starts the export; `None` if no collector is set.
///
/// # Errors
/// A variable that is not valid.
pub fn start<S>() -> Result<Option<Started<S>>, Box<dyn Error>>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    if ENDPOINTS.iter().all(|name| value(name).is_none()) {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new()?)
        .build()
        .map_err(|error| format!("{}: traces cannot be exported: {error}", ENDPOINTS[1]))?;
    // OTEL_SERVICE_NAME takes precedence.
    let mut resource = Resource::builder();
    if value("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(env!("CARGO_PKG_NAME"));
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(env!("CARGO_PKG_NAME")))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    let ours = |metadata: &Metadata<'_>| {
        metadata.is_span() && metadata.target().starts_with("cloze::") && metadata.target() != PROBE
    };
    let ours = filter_fn(ours).with_max_level_hint(LevelFilter::DEBUG);
    Ok(Some((layer.with_filter(ours).boxed(), Traces(provider))))
}

/// The project's HTTP client for OTLP. It runs on the exporter's own thread, which it may block.
#[derive(Debug)]
struct Client {
    agent: Agent,
    /// Only the first failure in a row is logged.
    failing: AtomicBool,
}

impl Client {
    fn new() -> Result<Self, Box<dyn Error>> {
        let timeout = match TIMEOUTS
            .iter()
            .find_map(|name| Some((name, value(name)?.into_string().ok()?)))
        {
            None => TIMEOUT,
            Some((name, value)) => match value.parse() {
                Ok(milliseconds @ 1..) => Duration::from_millis(milliseconds),
                _ => return Err(format!("{name}={value} is not a whole number of milliseconds above 0").into()),
            },
        };
        let mut config = Agent::config_builder()
            .user_agent(concat!("cloze/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .timeout_global(Some(timeout));
        let wants_tls = |name: &&str| std::env::var(name).is_ok_and(|url| url.starts_with("https:"));
        if ENDPOINTS.iter().any(wants_tls) {
            config = config.tls_config(cloze::sys::crypto::client()?);
        }
        Ok(Self {
            agent: config.build().new_agent(),
            failing: AtomicBool::new(false),
        })
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let mut response = self.agent.run(Request::from_parts(head, &body[..]))?;
        let body = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec()?;
        let (head, _) = response.into_parts();
        Ok(Response::from_parts(head, body.into()))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let url = request.uri().clone();
        let sent = self.send(request);
        let fault = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("status {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        let failed = self.failing.swap(fault.is_some(), Ordering::Relaxed);
        match fault {
            Some(fault) if !failed => tracing::warn!(%url, %fault, "traces cannot be exported and are dropped"),
            None if failed => tracing::info!(%url, "traces are exported again"),
            _ => {}
        }
        Ok(sent?)
    }
}
