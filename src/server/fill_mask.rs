//! `POST /`: from a body to an answer.

use std::sync::Arc;
use std::time::Duration;

use poem::error::ReadBodyError;
use poem::http::{HeaderMap, StatusCode};
use poem::web::{Data, Json};
use poem::{Body, Response, handler};
use poem::{IntoResponse, Request};
use serde::Serialize;
use tokio::time::Instant;

use super::request::{FillMaskRequest, parse};
use super::{ApiError, App};
use crate::engine::Input;
use crate::fill_mask::{Answer, Question, Wanted};

/// What all texts of a request are answered with: a list of one is unwrapped, as transformers does.
#[derive(Serialize)]
#[serde(untagged)]
enum Answers {
    One(Answer),
    Many(Vec<Answer>),
}

#[handler]
pub async fn fill_mask(request: &Request, body: Body, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    let deadline = Instant::now() + app.request_timeout;
    let body = read_body(
        request.headers(),
        body,
        app.body_bytes_max,
        deadline,
        app.request_timeout,
    )
    .await?;
    let request = parse(request.headers(), &body)?;
    drop(body);
    let (wanted, questions) = on_cpu(app, move |app| prepare(app, &request)).await??;
    let inputs = questions.iter().map(|question| Input {
        input_ids: question.input_ids.clone(),
        mask_positions: question.mask_positions.clone(),
        selection: wanted.selection.clone(),
    });
    let scores = app.engine.predict(inputs.collect(), deadline).await;
    let (scores, _timing) = scores.map_err(|error| ApiError::from_engine(error, app.request_timeout))?;
    on_cpu(app, move |app| {
        let answered = questions.iter().zip(scores);
        let answers = answered.map(|(question, scores)| app.fill_mask.answer(question, &wanted, scores));
        let mut answers = answers
            .collect::<Result<Vec<Answer>, _>>()
            .map_err(ApiError::internal)?;
        let answers = match answers.len() {
            1 => Answers::One(answers.remove(0)),
            _ => Answers::Many(answers),
        };
        Ok(Json(answers).into_response())
    })
    .await?
}

/// Reads the whole body, but never more than `max` bytes of it and not beyond the deadline.
async fn read_body(
    headers: &HeaderMap,
    body: Body,
    max: usize,
    deadline: Instant,
    timeout: Duration,
) -> Result<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]>, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("The body is larger than the {max} bytes that are allowed; send less text at once."),
        )
    };
    let length = headers
        .get(poem::http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    if length
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length > max as u64)
    {
        return Err(too_large());
    }
    match tokio::time::timeout_at(deadline, body.into_bytes_limit(max)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(ReadBodyError::PayloadTooLarge)) => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::bad_request(
            "bad_body",
            format!("The body cannot be read: {error}."),
        )),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            format!("The body did not arrive within {} ms.", timeout.as_millis()),
        )),
    }
}

/// Checks the parameters and tokenizes every text; the first that is wrong fails the request.
fn prepare(app: &App, request: &FillMaskRequest) -> Result<(Wanted, Vec<Question>), ApiError> {
    let wanted = app.fill_mask.wanted(&request.parameters)?;
    let questions = request.texts.iter().map(|text| app.fill_mask.question(text, &wanted));
    let questions = questions.collect::<Result<_, _>>()?;
    Ok((wanted, questions))
}

/// Runs what computes for longer than a moment off the threads that accept and read.
async fn on_cpu<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&App) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || work(&app)).await;
    done.map_err(ApiError::internal)
}
