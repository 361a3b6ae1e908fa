//! The OpenAPI document at `/openapi.json`, and `/docs`, which renders it.
//!
//! The document is written by hand, because a schema generated from the types would contain neither the meaning of a
//! status nor the list of errors. Tests compare it with the route table and with real answers; an end-to-end test runs
//! schemathesis over it. The values that depend on the model and on the settings are filled in here.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use poem::web::Data;
use poem::{Response, handler};
use serde_json::{Value, json};

use super::asset::{CSS, HTML, JS, JSON, asset};
use crate::server::app::App;
use crate::server::options::Options;

/// `GET /openapi.json`.
#[handler]
pub fn document(Data(app): Data<&Arc<App>>) -> Response {
    let document = app.openapi.get_or_init(|| render(app).to_string().into());
    asset(JSON, document.to_string())
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

/// The document with the limits and names of this server.
fn render(app: &App) -> Value {
    let mask = app.pipeline.model().mask_token();
    let quoted = Value::from(mask).to_string();
    let text = include_str!("openapi.json").replace("[MASK]", &quoted[1..quoted.len() - 1]);
    let mut rendered: Value = serde_json::from_str(&text).expect("a test reads it");
    let limits = app.pipeline.engine().limits();
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
            "/components/schemas/ScoreRequest/properties/inputs/oneOf/1/maxItems",
            json!(limits.queue_size),
        ),
        (
            "/components/schemas/SparseRequest/properties/inputs/oneOf/1/maxItems",
            json!(limits.queue_size),
        ),
        (
            "/components/schemas/InferInput/properties/data/maxItems",
            json!(limits.queue_size),
        ),
        (
            "/components/schemas/TopK/maximum",
            json!(app.pipeline.model().vocab_size()),
        ),
    ] {
        *rendered.pointer_mut(pointer).expect("a test reads it") = value;
    }
    secure(&mut rendered, &app.options);
    let description = rendered["info"]["description"].as_str().unwrap_or_default();
    rendered["info"]["description"] = json!(format!(
        "{description}\n\nHere a text has up to {} tokens, a request up to {} texts and {} bytes, and an answer is \
         ready within {} ms.",
        app.pipeline.model().tokens_max(),
        limits.queue_size,
        app.body_bytes_max,
        app.request_timeout.as_millis(),
    ));
    rendered
}

/// Sets the security requirement. Operations that are open with a key say so in the document itself.
fn secure(rendered: &mut Value, options: &Options) {
    if options.api_key.is_none() {
        rendered["security"] = json!([]);
        let components = rendered["components"].as_object_mut().expect("a test reads it");
        components.remove("securitySchemes");
        return;
    }
    rendered["security"] = json!([{"ApiKey": []}]);
    if options.metrics_without_key {
        rendered["paths"]["/metrics"]["get"]["security"] = json!([]);
    }
}

/// A regular expression that matches `text` anywhere.
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
