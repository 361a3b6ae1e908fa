//! `GET /info`: model, device and limits, as JSON.

use std::sync::Arc;

use poem::web::{Data, Json};
use poem::{IntoResponse, Response, handler};
use serde::Serialize;

use crate::server::app::App;

#[derive(Serialize)]
struct Info<'a> {
    version: &'static str,
    model: &'a str,
    architecture: &'static str,
    mask_token: &'a str,
    vocab_size: usize,
    backend: &'a str,
    device: &'a str,
    dtype: &'a str,
    workers: usize,
    limits: Limits,
}

#[derive(Serialize)]
struct Limits {
    max_input_tokens: usize,
    max_batch_tokens: usize,
    max_batch_size: usize,
    batch_delay_ms: u128,
    queue_size: usize,
    request_timeout_ms: u128,
    max_body_bytes: usize,
}

/// `GET /info`.
#[handler]
pub fn info(Data(app): Data<&Arc<App>>) -> Response {
    let limits = app.pipeline.engine().limits();
    Json(Info {
        version: env!("CARGO_PKG_VERSION"),
        model: &app.about.model_name,
        architecture: app.about.model.architecture,
        mask_token: app.pipeline.model().mask_token(),
        vocab_size: app.pipeline.model().vocab_size(),
        backend: &app.about.backend,
        device: &app.about.device,
        dtype: &app.about.dtype,
        workers: app.pipeline.engine().workers(),
        limits: Limits {
            max_input_tokens: app.pipeline.model().tokens_max(),
            max_batch_tokens: limits.batch_tokens_max,
            max_batch_size: limits.batch_size_max,
            batch_delay_ms: limits.batch_delay.as_millis(),
            queue_size: limits.queue_size,
            request_timeout_ms: app.request_timeout.as_millis(),
            max_body_bytes: app.body_bytes_max,
        },
    })
    .into_response()
}
