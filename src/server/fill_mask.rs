//! `POST /` and `POST /v1/fill-mask`: from a body to an answer.

use std::sync::Arc;

use poem::web::{Data, Json};
use poem::{Body, IntoResponse, Request, Response, handler};
use serde::Serialize;

use super::predict::{Deadline, predict};
use super::request::Form;
use super::{ApiError, App, body};
use crate::fill_mask::Answer;

/// What all texts of a request are answered with: a list of one is unwrapped, as transformers does.
#[derive(Serialize)]
#[serde(untagged)]
enum Answers {
    One(Answer),
    Many(Vec<Answer>),
}

#[handler]
pub async fn fill_mask(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    let deadline = Deadline::start(app);
    let headers = request.headers();
    let body = body::read(app, headers, body, deadline).await?;
    let form = Form::of(headers);
    let (response, _timing) = predict(
        app,
        deadline,
        move || form.parse(&body).map(|request| (request, ())),
        |mut answers, ()| {
            let answers = match answers.len() {
                1 => Answers::One(answers.remove(0)),
                _ => Answers::Many(answers),
            };
            Json(answers).into_response()
        },
    )
    .await?;
    Ok(response)
}
