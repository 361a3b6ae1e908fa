//! The page at `GET /`, for a person at a browser: embedded, without anything from elsewhere.

use std::sync::Arc;

use poem::http::header;
use poem::web::Data;
use poem::{IntoResponse, Response, handler};

use super::App;

/// The page loads its own files and speaks to its own server; nothing else can be loaded or run in it, and
/// nobody can frame it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// `GET /`.
#[handler]
pub fn index(Data(app): Data<&Arc<App>>) -> Response {
    let page = include_str!("index.html")
        .replace("{mask}", &escaped(app.fill_mask.mask_token()))
        .replace("{model}", &escaped(&app.about.model_name))
        .replace("{device}", &escaped(&app.about.device));
    asset(HTML, page)
}

/// `GET /page.css`.
#[handler]
pub fn style() -> Response {
    asset(CSS, include_str!("page.css"))
}

/// `GET /page.js`.
#[handler]
pub fn script() -> Response {
    asset(JS, include_str!("page.js"))
}

/// `GET /favicon.svg`.
#[handler]
pub fn icon() -> Response {
    asset(SVG, include_str!("favicon.svg"))
}

/// A file of the page. A browser asks again each time, so that a new server never meets an old page.
fn asset(content_type: &'static str, content: impl Into<poem::Body>) -> Response {
    Response::builder()
        .content_type(content_type)
        .header(header::CACHE_CONTROL, "no-cache")
        .header(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::REFERRER_POLICY, "no-referrer")
        .body(content)
        .into_response()
}

/// A text inside HTML, also between double quotes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
