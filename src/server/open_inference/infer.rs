//! `POST /v2/models/{name}/infer`.

use std::sync::Arc;

use poem::http::HeaderMap;
use poem::web::Data;
use poem::{Body, Request, Response, handler};

use super::model::check_model;
use super::request::{HEADER_LENGTH, InferRequest};
use super::response;
use crate::server::app::App;
use crate::server::body;
use crate::server::deadline::deadline;
use crate::server::error::ApiError;

#[handler]
pub async fn infer(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    let pipeline = &app.pipeline;
    let headers = request.headers();
    let deadline = deadline(app, headers)?;
    check_model(request, app)?;
    let json_length = json_length(headers)?;
    body::check(app, headers)?;

    let admission = pipeline.admit()?;
    let body = body::read(app, body, deadline).await?;
    let parsed = pipeline.compute_bytes(body.len(), deadline, move || InferRequest::parse(&body, json_length));
    let parsed = parsed.await??;
    let deadline = match parsed.timeout {
        Some(timeout) => deadline.within(timeout),
        None => deadline,
    };
    let answered = pipeline.run(admission, parsed.request, deadline).await?;

    let (cost, model_name, format) = (answered.cost, app.about.model_name.clone(), parsed.response);
    let rendered = pipeline.compute_bytes(answered.bytes(), deadline, move || {
        response::render(&model_name, &answered.texts, format)
    });
    let mut response = rendered.await??;
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
