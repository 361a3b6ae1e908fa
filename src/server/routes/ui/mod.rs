//! The web page at `GET /`. Its files are embedded, and it loads nothing from other sites.

use std::sync::Arc;

use poem::http::header;
use poem::web::Data;
use poem::{Request, Response, handler};

use super::asset::{CSS, HTML, JS, SVG, asset};
use crate::server::app::App;

/// `GET /`.
#[handler]
pub fn index(request: &Request, Data(app): Data<&Arc<App>>) -> Response {
    let host = request.header(header::HOST).unwrap_or("localhost");
    let address = format!("{}://{host}", request.scheme());
    let page = include_str!("index.html")
        .replace("{address}", &escaped(&address))
        .replace("{demo}", &app.about.is_demo.to_string())
        .replace("{mask}", &escaped(app.pipeline.model().mask_token()))
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

/// Escapes `text` for HTML, also inside double quotes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
