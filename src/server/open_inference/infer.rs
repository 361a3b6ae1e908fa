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
use crate::server::error::ApiError;
use crate::server::predict::{Deadline, predict};

#[handler]
pub async fn infer(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    let headers = request.headers();
    let deadline = Deadline::start(app, headers)?;
    check_model(request, app)?;
    let json_length = json_length(headers)?;
    let body = body::read(app, headers, body, deadline).await?;
    let model_name = app.about.model_name.clone();
    predict(
        app,
        deadline,
        move || InferRequest::parse(&body, json_length),
        move |answers, wanted| response::render(&model_name, answers, wanted),
    )
    .await
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
