//! The routes of all tasks: a body of the task, its answer as JSON.

use std::sync::Arc;

use poem::http::header;
use poem::web::Data;
use poem::{Body, Request, Response, handler};

use crate::api::{Format, TaskKind};
use crate::server::answer_body;
use crate::server::app::App;
use crate::server::body::{self, ReadBody};
use crate::server::deadline::deadline;
use crate::server::error::ApiError;

/// `POST /` and `POST /v1/fill-mask`.
#[handler]
pub async fn fill_mask(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    answer(app, request, body, TaskKind::FillMask).await
}

/// `POST /v1/score`.
#[handler]
pub async fn score(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    answer(app, request, body, TaskKind::Score).await
}

/// `POST /embed_sparse` and `POST /v1/sparse-embeddings`.
#[handler]
pub async fn sparse(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    answer(app, request, body, TaskKind::Sparse).await
}

async fn answer(app: &Arc<App>, request: &Request, body: Body, kind: TaskKind) -> Result<Response, ApiError> {
    let pipeline = &app.pipeline;
    let headers = request.headers();
    let deadline = deadline(app, headers)?;
    body::check(app, headers)?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let format = Format::from_content_type(content_type)?;

    let (admission, ReadBody { bytes, memory: _memory }) = body::receive(app, body, deadline).await?;
    let parsed = pipeline.compute_bytes(bytes.len(), deadline, move || format.parse_task(kind, &bytes));
    let scored = pipeline.run(admission, parsed.await??, deadline).await;
    let scored = scored.map_err(|error| ApiError::of_task(kind, error))?;
    answer_body::json(app, scored, deadline).await
}
