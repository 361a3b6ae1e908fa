//! A request's span: a part of its client's trace, where there is one. Without the cargo feature `otel` it is for logs alone.

use poem::Request;
use poem::http::StatusCode;
use tracing::{Span, info_span};

#[cfg(not(feature = "otel"))]
pub fn begin(_: &Request, _: &'static str, id: &str) -> Span {
    info_span!("request", id)
}

#[cfg(not(feature = "otel"))]
pub fn end(_: &Span, _: &'static str, _: &str, _: StatusCode) {}

/// A request that begins; a child of what its `traceparent` names.
#[cfg(feature = "otel")]
pub fn begin(request: &Request, method: &'static str, id: &str) -> Span {
    use opentelemetry::Context;
    use opentelemetry::trace::TraceContextExt;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    if method != "POST" {
        // Probes and scrapes, every few seconds for ever, are not traced.
        return info_span!(target: "cloze::probe", "request", id);
    }
    let span = info_span!("request", id, otel.kind = "server");
    let headers = opentelemetry_http::HeaderExtractor(request.headers());
    let caller = opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &headers)
    });
    if caller.span().span_context().is_valid() {
        // An error says that nobody traces.
        let _ = span.set_parent(caller);
    }
    span
}

/// What became of it, in the words of OpenTelemetry's conventions.
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
