//! `POST /` and `POST /v1/fill-mask`.

use std::sync::Arc;

use poem::http::header;
use poem::web::Data;
use poem::{Body, IntoResponse, Request, Response, handler};

use crate::api::{FillMaskResponse, Format};
use crate::server::app::App;
use crate::server::body;
use crate::server::deadline::deadline;
use crate::server::error::ApiError;

#[handler]
pub async fn fill_mask(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    let pipeline = &app.pipeline;
    let headers = request.headers();
    let deadline = deadline(app, headers)?;
    body::check(app, headers)?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let format = Format::from_content_type(content_type)?;

    let admission = pipeline.admit()?;
    let body = body::read(app, body, deadline).await?;
    let parsed = pipeline.compute_bytes(body.len(), deadline, move || format.parse(&body));
    let answered = pipeline.run(admission, parsed.await??, deadline).await?;

    let cost = answered.cost;
    let json = pipeline.compute_bytes(answered.bytes(), deadline, move || {
        serde_json::to_vec(&FillMaskResponse(&answered.texts))
    });
    let json = json.await?.map_err(ApiError::internal)?;
    let mut response = json
        .with_content_type("application/json; charset=utf-8")
        .into_response();
    response.extensions_mut().insert(cost);
    Ok(response)
}
