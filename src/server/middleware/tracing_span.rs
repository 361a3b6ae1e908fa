//! The tracing span of a request. With the cargo feature `otel` it joins the client's trace; without it, it only
//! serves logs.

use poem::Request;
use poem::http::StatusCode;
use tracing::{Span, info_span};

#[cfg(not(feature = "otel"))]
pub fn begin(_: &Request, _: &'static str, id: &str) -> Span {
    info_span!("request", id)
}

#[cfg(not(feature = "otel"))]
pub fn end(_: &Span, _: &'static str, _: &str, _: StatusCode) {}

/// Starts the span, as a child of the span in the request's `traceparent` header.
#[cfg(feature = "otel")]
pub fn begin(request: &Request, method: &'static str, id: &str) -> Span {
    use opentelemetry::Context;
    use opentelemetry::trace::TraceContextExt;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    if method != "POST" {
        // Probes and scrapes come every few seconds and are not traced.
        return info_span!(target: "cloze::probe", "request", id);
    }
    let span = info_span!("request", id, otel.kind = "server");
    let headers = opentelemetry_http::HeaderExtractor(request.headers());
    let caller = opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &headers)
    });
    if caller.span().span_context().is_valid() {
        // It fails if there is no OpenTelemetry layer, so nothing is traced.
        let _ = span.set_parent(caller);
    }
    span
}

/// Adds the outcome to the span, by OpenTelemetry's semantic conventions.
#[cfg(feature = "otel")]
pub fn end(span: &Span, method: &'static str, route: &str, status: StatusCode) {
    use opentelemetry::trace::{Status, TraceContextExt};
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    span.context().span().update_name(format!("{method} {route}"));
    span.set_attribute("http.request.method", method);
    span.set_attribute("http.route", route.to_owned());
    span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
}
