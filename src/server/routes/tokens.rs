//! `POST /v1/tokens`: the tokens of a text, without the model.

use std::sync::Arc;

use poem::http::header;
use poem::web::Data;
use poem::{Body, Request, Response, handler};

use crate::api::{Format, TokenJson, TokensAnswer, TokensRequest, without_bom};
use crate::pipeline;
use crate::server::app::App;
use crate::server::body::{self, ReadBody};
use crate::server::deadline::deadline;
use crate::server::error::ApiError;
use crate::server::net::Held;

/// `POST /v1/tokens`.
#[handler]
pub async fn tokens(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    let headers = request.headers();
    let deadline = deadline(app, headers)?;
    body::check(app, headers)?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // Refuses a form; any other body is JSON.
    Format::from_content_type(content_type)?;
    let (admission, ReadBody { bytes, mut memory }) = body::receive(app, body, deadline).await?;
    let pipeline = Arc::clone(&app.pipeline);
    let work = async move {
        // The place is taken while the work goes on.
        let _admission = admission;
        let model = pipeline.model();
        let (ids, left_out) = match TokensRequest::parse_json(without_bom(&bytes))? {
            TokensRequest::Text(text) => model.tokens(&text).await.map_err(pipeline::Error::from)?,
            TokensRequest::Ids(ids) => (ids, 0),
        };
        let count = ids.len() + left_out;
        let named = ids.into_iter().map(|token| TokenJson {
            token,
            token_str: model.token(token),
        });
        let answer = TokensAnswer {
            tokens: named.collect(),
            count,
            max_tokens: model.tokens_max(),
        };
        let json = serde_json::to_vec(&answer).map_err(ApiError::internal)?;
        memory.grow(json.len()).map_err(pipeline::Error::from)?;
        Ok::<_, ApiError>((json, memory))
    };
    let (json, memory) = app.pipeline.compute(deadline, work).await??;
    let mut response = Response::builder()
        .content_type("application/json; charset=utf-8")
        .body(json);
    response.extensions_mut().insert(Held::new(memory));
    Ok(response)
}
