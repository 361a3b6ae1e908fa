//! `POST /` and `POST /v1/fill-mask`: from a body to an answer.

use std::sync::Arc;

use poem::web::{Data, Json};
use poem::{Body, IntoResponse, Request, Response, handler};
use serde::Serialize;

use crate::fill_mask::Answer;
use crate::server::app::App;
use crate::server::body;
use crate::server::error::ApiError;
use crate::server::predict::{Deadline, predict};
use crate::server::request::Form;

/// What all texts of a request are answered with: a list of one is unwrapped, as transformers does.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answers {
    /// Of a request with one text.
    One(Answer),
    /// Of a request with several.
    Many(Vec<Answer>),
}

impl From<Vec<Answer>> for Answers {
    fn from(mut answers: Vec<Answer>) -> Self {
        match answers.len() {
            1 => Self::One(answers.remove(0)),
            _ => Self::Many(answers),
        }
    }
}

#[handler]
pub async fn fill_mask(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    let headers = request.headers();
    let deadline = Deadline::start(app, headers)?;
    let body = body::read(app, headers, body, deadline).await?;
    let form = Form::of(headers);
    predict(
        app,
        deadline,
        move || form.parse(&body).map(|request| (request, ())),
        |answers, ()| Ok(Json(Answers::from(answers)).into_response()),
    )
    .await
}
