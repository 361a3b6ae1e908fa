//! The OpenAPI document at `/openapi.json`, and `/docs`, which draws it.
//!
//! The document is a file, written by hand: a schema made from the types could not say what a status means, nor
//! which errors there are. Tests hold it against the routes and against real answers; `e2e/clients` lets
//! schemathesis look for what it does not say. What depends on the model and on the flags is filled in here.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use poem::web::Data;
use poem::{Response, handler};
use serde_json::{Value, json};

use super::asset::{CSS, HTML, JS, JSON, asset};
use crate::server::App;

/// `GET /openapi.json`.
#[handler]
pub fn openapi(Data(app): Data<&Arc<App>>) -> Response {
    asset(JSON, document(app).to_string())
}

/// `GET /docs`.
#[handler]
pub fn page() -> Response {
    asset(HTML, include_str!("docs.html"))
}

/// `GET /docs.css`.
#[handler]
pub fn style() -> Response {
    asset(CSS, include_str!("docs.css"))
}

/// `GET /docs.js`.
#[handler]
pub fn script() -> Response {
    asset(JS, include_str!("docs.js"))
}

/// The document for this server.
fn document(app: &App) -> Value {
    let mask = app.fill_mask.mask_token();
    let quoted = Value::from(mask).to_string();
    let text = include_str!("openapi.json").replace("[MASK]", &quoted[1..quoted.len() - 1]);
    let mut document: Value = serde_json::from_str(&text).expect("a test reads it");
    let limits = app.engine.limits();
    for (pointer, value) in [
        ("/info/version", json!(env!("CARGO_PKG_VERSION"))),
        (
            "/components/parameters/ModelName/schema/enum/0",
            json!(app.about.model_name),
        ),
        ("/components/schemas/Text/pattern", json!(escaped(mask))),
        (
            "/components/schemas/FillMaskRequest/properties/inputs/oneOf/1/maxItems",
            json!(limits.queue_size),
        ),
        (
            "/components/schemas/InferInput/properties/data/maxItems",
            json!(limits.queue_size),
        ),
        ("/components/schemas/TopK/maximum", json!(app.fill_mask.vocab_size())),
    ] {
        *document.pointer_mut(pointer).expect("a test reads it") = value;
    }
    let description = document["info"]["description"].as_str().unwrap_or_default();
    document["info"]["description"] = json!(format!(
        "{description}\n\nHere a text has up to {} tokens, a request up to {} texts and {} bytes, and an answer is \
         ready within {} ms.",
        app.fill_mask.max_input_tokens(),
        limits.queue_size,
        app.body_bytes_max,
        app.request_timeout.as_millis(),
    ));
    document
}

/// A text as a regular expression that matches it alone, anywhere.
fn escaped(text: &str) -> String {
    let mut pattern = String::new();
    for character in text.chars() {
        if character.is_ascii_punctuation() {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}
