//! `POST /v2/models/{name}/infer`.

use std::sync::Arc;

use poem::http::HeaderMap;
use poem::web::Data;
use poem::{Body, Request, Response, handler};

use super::model::check_model;
use super::request::{HEADER_LENGTH, InferRequest};
use super::response;
use crate::pipeline;
use crate::server::app::App;
use crate::server::body::{self, ReadBody};
use crate::server::deadline::deadline;
use crate::server::error::ApiError;
use crate::server::net::Held;

#[handler]
pub async fn infer(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    let pipeline = &app.pipeline;
    let headers = request.headers();
    let deadline = deadline(app, headers)?;
    check_model(request, app)?;
    let json_length = json_length(headers)?;
    body::check(app, headers)?;

    let (admission, ReadBody { bytes, memory: _memory }) = body::receive(app, body, deadline).await?;
    let parsed = pipeline.compute_bytes(bytes.len(), deadline, move || InferRequest::parse(&bytes, json_length));
    let parsed = parsed.await??;
    let deadline = match parsed.timeout {
        Some(timeout) => deadline.within(timeout),
        None => deadline,
    };
    let scored = pipeline.run(admission, parsed.request, deadline).await?;
    let mut answered = pipeline.decode(scored, deadline).await?;

    // The tensors in JSON or binary take about as much as the strings.
    let bytes = answered.bytes();
    answered.memory.grow(bytes).map_err(pipeline::Error::from)?;
    let (cost, memory) = (answered.cost, answered.memory);
    let (texts, model_name, format) = (answered.texts, app.about.model_name.clone(), parsed.response);
    let rendered = pipeline.compute_bytes(bytes, deadline, move || response::render(&model_name, &texts, format));
    let mut response = rendered.await??;
    response.extensions_mut().insert(Held::new(memory));
    response.extensions_mut().insert(cost);
    Ok(response)
}

/// Length of the JSON in the body; `None` if the whole body is JSON.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(HEADER_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|value| value.trim().parse().ok());
    let message = || format!("The header {HEADER_LENGTH} is not a number of bytes.");
    length
        .map(Some)
        .ok_or_else(|| ApiError::bad_request("bad_request", message()))
}
