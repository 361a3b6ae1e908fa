//! Files that the binary carries for browsers.

use poem::http::header;
use poem::{Body, IntoResponse, Response};

/// Our pages load their own files and speak to their own server; nothing else can be loaded or run in them, and
/// nobody can frame them.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub const HTML: &str = "text/html; charset=utf-8";
pub const CSS: &str = "text/css; charset=utf-8";
pub const JS: &str = "text/javascript; charset=utf-8";
pub const JSON: &str = "application/json; charset=utf-8";
pub const SVG: &str = "image/svg+xml";

/// A file. A browser asks again each time, so that a new server never meets an old page.
pub fn asset(content_type: &'static str, content: impl Into<Body>) -> Response {
    let content: Body = content.into();
    content
        .with_content_type(content_type)
        .with_header(header::CACHE_CONTROL, "no-cache")
        .with_header(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY)
        .with_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .with_header(header::REFERRER_POLICY, "no-referrer")
        .into_response()
}
