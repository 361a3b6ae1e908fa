//! Around every request: its id, its line in the log, its part in the metrics, the headers of its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use poem::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use poem::{Endpoint, Request, Response};
use tokio::time::Instant;
use tracing::Instrument;

use super::tracing_span as trace;
use crate::engine::Timing;
use crate::server::App;
use crate::server::error::respond;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const QUEUE_TIME: HeaderName = HeaderName::from_static("x-queue-time-ms");
const INFERENCE_TIME: HeaderName = HeaderName::from_static("x-inference-time-ms");
const TOKENS: HeaderName = HeaderName::from_static("x-tokens");

/// Longer ids are replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What one answered request took; travels with its response, from `predict` to here.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Texts of the request.
    pub texts: usize,
    /// Tokens of all of them.
    pub tokens: usize,
    /// From the body to token ids.
    pub tokenizing: Duration,
    /// In the queue and in the model.
    pub timing: Timing,
}

/// Which address a response is of, as the table of routes writes it; travels with the response.
#[derive(Clone)]
struct Matched(Arc<str>);

/// The label of whatever is not in the table.
pub const UNMATCHED: &str = "other";

/// An address of the table, whose responses say that they are its.
pub struct Labelled<E> {
    pub inner: E,
    pub route: Arc<str>,
}

impl<E: Endpoint<Output = Response>> Endpoint for Labelled<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let mut response = match self.inner.call(request).await {
            Ok(response) => response,
            Err(error) => respond(error).await,
        };
        response.extensions_mut().insert(Matched(Arc::clone(&self.route)));
        Ok(response)
    }
}

/// The outermost layer: nothing is answered past it.
pub struct Observed<E> {
    pub inner: E,
    pub app: Arc<App>,
}

impl<E: Endpoint<Output = Response>> Endpoint for Observed<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let started_at = Instant::now();
        let id = request_id(request.headers());
        let method = method_name(request.method());
        let span = trace::begin(&request, method, id.to_str().unwrap_or_default());
        let mut response = match self.inner.call(request).instrument(span.clone()).await {
            Ok(response) => response,
            Err(error) => respond(error).await,
        };
        let whole = started_at.elapsed();
        let extensions = response.extensions();
        let route = extensions.get::<Matched>().cloned();
        let route = route.as_ref().map_or(UNMATCHED, |matched| &matched.0);
        let cost = extensions.get::<Cost>().copied();
        let status = response.status();
        self.app.state.metrics.observe(route, method, status, whole, cost);
        trace::end(&span, method, route, status);
        let log = || log(method, route, status.as_u16(), &id, whole, cost);
        match status {
            StatusCode::SERVICE_UNAVAILABLE => self.app.state.refusals.tell(|count| {
                log();
                if count > 1 {
                    tracing::info!(count, "requests refused with 503 since the last such line");
                }
            }),
            _ => log(),
        }
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, id);
        if let Some(cost) = cost {
            headers.insert(QUEUE_TIME, milliseconds(cost.timing.queue));
            headers.insert(INFERENCE_TIME, milliseconds(cost.timing.inference));
            headers.insert(TOKENS, HeaderValue::from(cost.tokens));
        }
        Ok(response)
    }
}

/// One line at info; never a text, a key or an address as it came.
fn log(method: &str, route: &str, status: u16, id: &HeaderValue, whole: Duration, cost: Option<Cost>) {
    let id = id.to_str().unwrap_or_default();
    let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    match cost {
        Some(cost) => tracing::info!(
            method,
            route,
            status,
            id,
            texts = cost.texts,
            tokens = cost.tokens,
            tokenizing_ms = ms(cost.tokenizing),
            queue_ms = ms(cost.timing.queue),
            inference_ms = ms(cost.timing.inference),
            total_ms = ms(whole),
            "answered"
        ),
        // Probes and scrapes come every few seconds for ever.
        None if status < 400 => tracing::debug!(method, route, status, id, total_ms = ms(whole), "answered"),
        None => tracing::info!(method, route, status, id, total_ms = ms(whole), "refused"),
    }
}

fn milliseconds(duration: Duration) -> HeaderValue {
    let text = format!("{:.3}", duration.as_secs_f64() * 1e3);
    HeaderValue::try_from(text).expect("digits and a point")
}

/// The client's own id where it is one that logs and headers can carry, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        let in_id = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(byte);
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(in_id)
    };
    match headers.get(REQUEST_ID).filter(is_sane) {
        Some(theirs) => theirs.clone(),
        None => HeaderValue::try_from(unique_id()).expect("hexadecimal digits and a dash"),
    }
}

/// Methods that anybody uses; clients may make up more.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// An id that nothing else of this server has, now or after a restart.
pub fn unique_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.map_or(0, |time| time.as_micros() as u64);
    format!("{micros:x}-{:x}", COUNT.fetch_add(1, Ordering::Relaxed))
}
