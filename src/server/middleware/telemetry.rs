//! Telemetry around every request: its id, span, log line, metrics, and the headers of its answer.

use std::net::SocketAddr;
use std::time::Duration;

use poem::http::{self, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use poem::{Endpoint, PathPattern, Request, Response};
use tokio::time::Instant;
use tracing::Instrument;

use super::tracing_span;
use crate::pipeline::Cost;
use crate::server::error::{ApiError, Refusal, respond};
use crate::server::metrics::{CLIENT_LEFT, Outcome, UNMATCHED};
use crate::server::net::BadHead;
use crate::server::state::State;
use crate::server::unique_id::unique_id;
use crate::sys::excerpt;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const QUEUE_TIME: HeaderName = HeaderName::from_static("x-queue-time-ms");
const INFERENCE_TIME: HeaderName = HeaderName::from_static("x-inference-time-ms");
const TOKENS: HeaderName = HeaderName::from_static("x-tokens");

/// A longer `x-request-id` is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Answers `request` with `next`; turns errors into responses, then logs and counts the response and adds its headers.
/// The path of the request is in the form of the route table.
pub async fn observe(state: &State, next: &impl Endpoint<Output = Response>, request: Request) -> Response {
    let started_at = Instant::now();
    let id = request_id(request.headers());
    let method = method_label(request.method());
    let span = tracing_span::begin(&request, method, id.to_str().unwrap_or_default());
    let route = state.metrics.route(request.uri().path());
    let peer = request.remote_addr().as_socket_addr().copied();
    let unknown_path = (route == UNMATCHED).then(|| request.uri().path().to_owned());
    let departure = Departure {
        state,
        method,
        route,
        peer,
        id: &id,
        started_at,
    };
    let mut response = match next.call(request).instrument(span.clone()).await {
        Ok(response) => response,
        Err(error) => respond(error).await,
    };
    std::mem::forget(departure);
    // poem finds the route too.
    debug_assert!(
        response.data::<PathPattern>().is_none_or(|found| *found.0 == *route),
        "{route}"
    );
    let refusal = response.extensions().get::<Refusal>().cloned();
    let outcome = Outcome {
        method,
        route,
        status: response.status(),
        error_type: refusal.as_ref().map(|refusal| refusal.error_type),
        total: started_at.elapsed(),
        cost: response.extensions().get::<Cost>().copied(),
    };
    state.metrics.observe(&outcome);
    tracing_span::end(&span, method, route, outcome.status);
    let sentence = refusal.and_then(|refusal| refusal.sentence);
    let log = || log(&outcome, sentence.as_deref(), peer, unknown_path.as_deref(), &id);
    match outcome.status {
        StatusCode::SERVICE_UNAVAILABLE => state.refusals.log(|count| {
            log();
            if count > 1 {
                tracing::info!(count, "requests refused with 503 since the last such line");
            }
        }),
        _ => log(),
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    if let Some(cost) = outcome.cost {
        headers.insert(QUEUE_TIME, milliseconds(cost.timing.queue));
        headers.insert(INFERENCE_TIME, milliseconds(cost.timing.inference));
        headers.insert(TOKENS, HeaderValue::from(cost.tokens));
    }
    response
}

/// Logs and counts a request whose client leaves before its answer: the connection then drops the request's future, and
/// this with it.
struct Departure<'a> {
    state: &'a State,
    method: &'static str,
    route: &'static str,
    peer: Option<SocketAddr>,
    id: &'a HeaderValue,
    started_at: Instant,
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        let Self {
            state,
            method,
            route,
            peer,
            id,
            started_at,
        } = *self;
        let total = started_at.elapsed();
        state.metrics.client_left(method, route);
        state.departures.log(|count| {
            tracing::info!(
                method,
                route,
                status = CLIENT_LEFT,
                peer = peer.map(tracing::field::display),
                id = id.to_str().unwrap_or_default(),
                total_ms = total.as_millis() as u64,
                count,
                "the client left before its answer"
            );
        });
    }
}

/// Answers, logs and counts a request of `peer` whose head was refused before it reached the service.
pub fn refuse(state: &State, reason: BadHead, peer: SocketAddr) -> http::Response<Vec<u8>> {
    let status = reason.status();
    let (error_type, message) = match reason {
        BadHead::Malformed => ("bad_request", "The request is not valid HTTP/1.1."),
        BadHead::Tls => (
            "bad_request",
            "This port serves plain HTTP, and the client started TLS; use http://.",
        ),
        BadHead::Host => ("bad_request", "An HTTP/1.1 request needs exactly one Host header."),
        BadHead::UriTooLong => ("uri_too_long", "The path of the request is too long."),
        BadHead::TooLarge => (
            "head_too_large",
            "The headers of the request are too many or too long, or its Content-Length is too large a number.",
        ),
    };
    let id = unique_id();
    state.metrics.observe(&Outcome {
        method: "other",
        route: UNMATCHED,
        status,
        error_type: Some(error_type),
        total: Duration::ZERO,
        cost: None,
    });
    state.bad_heads.log(|count| {
        tracing::info!(
            status = status.as_u16(),
            error_type,
            error = message,
            %peer,
            id,
            count,
            ?reason,
            "refused before the service"
        )
    });
    let body = ApiError::new(status, error_type, message).body();
    let body = serde_json::to_vec(&body).expect("two strings");
    let answer = http::Response::builder().status(status);
    let answer = answer
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .header(REQUEST_ID, id);
    answer.body(body).expect("headers from fixed characters")
}

/// One log line. It never contains a text, a key or a query; it contains a path only if no route matches it. `sentence`
/// is that of a refusal.
fn log(
    outcome: &Outcome,
    sentence: Option<&str>,
    peer: Option<SocketAddr>,
    unknown_path: Option<&str>,
    id: &HeaderValue,
) {
    let &Outcome {
        method,
        route,
        status,
        error_type,
        total,
        cost,
    } = outcome;
    let status = status.as_u16();
    let id = id.to_str().unwrap_or_default();
    let ms = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    match cost {
        Some(cost) => tracing::info!(
            method,
            route,
            status,
            id,
            task = cost.task,
            texts = cost.texts,
            tokens = cost.tokens,
            tokenizing_ms = ms(cost.tokenizing),
            queue_ms = ms(cost.timing.queue),
            inference_ms = ms(cost.timing.inference),
            total_ms = ms(total),
            "answered"
        ),
        // At debug level, because probes and scrapes come every few seconds.
        None if status < 400 => tracing::debug!(method, route, status, id, total_ms = ms(total), "answered"),
        None => tracing::info!(
            method,
            route,
            // Written with quotes and escapes, so that a client cannot write a line of its own.
            path = unknown_path.map(|path| tracing::field::debug(excerpt::name(path))),
            status,
            error_type,
            error = sentence,
            peer = peer.map(tracing::field::display),
            id,
            total_ms = ms(total),
            "refused"
        ),
    }
}

fn milliseconds(duration: Duration) -> HeaderValue {
    let text = format!("{:.3}", duration.as_secs_f64() * 1e3);
    HeaderValue::try_from(text).expect("digits and a point")
}

/// The client's id if logs and headers can carry it, else a new one.
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

/// The method as a label; a client can invent methods, which all become `other`.
fn method_label(method: &Method) -> &'static str {
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
