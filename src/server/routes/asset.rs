//! Static files of the web page and the API documentation, embedded in the binary.

use poem::http::header;
use poem::{Body, IntoResponse, Response};

/// The pages load their own files and call their own server. Browsers block everything else, and framing.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub const HTML: &str = "text/html; charset=utf-8";
pub const CSS: &str = "text/css; charset=utf-8";
pub const JS: &str = "text/javascript; charset=utf-8";
pub const JSON: &str = "application/json; charset=utf-8";
pub const SVG: &str = "image/svg+xml";

/// A static file. Browsers revalidate it at each use, so a page never comes from another version than its server.
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
