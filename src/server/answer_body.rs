//! The body of an answer: a short one at once, a long one in pieces that are made while the client reads.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use poem::http::{HeaderName, HeaderValue};
use poem::{Body, Response};
use serde_json::{Value, json};
use tracing::{Instrument, debug_span};

use super::app::App;
use super::error::ApiError;
use super::net::Held;
use crate::api::AnswerJson;
use crate::pipeline::{self, Deadline, Reservation, Scored};
use crate::tasks::{AnyAnswer, Notes};

/// Tokens that truncation removed from all texts.
const TRUNCATED_TOKENS: HeaderName = HeaderName::from_static("x-truncated-tokens");
/// A JSON object: targets that the vocabulary lacks, and the token in place of each.
const REPLACED_TARGETS: HeaderName = HeaderName::from_static("x-replaced-targets");
/// Further such targets, which the header above has no space for.
const UNLISTED_TARGETS: HeaderName = HeaderName::from_static("x-replaced-targets-unlisted");

/// A longer answer is sent in pieces of about this many bytes, without a Content-Length.
const PIECE_BYTES: usize = 64 * 1024;

/// A piece ends with the prediction that fills it.
const PIECE_CAPACITY: usize = PIECE_BYTES + 8 * 1024;

/// Pieces of one answer in memory: one is made while the one before it is sent.
const PIECES: usize = 2;

/// The answer to a request as JSON.
///
/// # Errors
/// The deadline before the first piece is there, the memory limit, and a tokenizer whose decoder fails.
pub async fn json(app: &Arc<App>, scored: Scored<AnyAnswer>, deadline: Deadline) -> Result<Response, ApiError> {
    let Scored {
        answer,
        notes,
        cost,
        mut memory,
    } = scored;
    let headers = note_headers(&notes);
    let pieces = PIECES * PIECE_CAPACITY;
    let estimate = answer.bytes_estimate().min(pieces);
    memory.grow(estimate).map_err(pipeline::Error::from)?;
    let first = piece(app, AnswerJson::new(answer), deadline);
    let (first, json) = first.instrument(debug_span!("render")).await?;
    let needed = if json.is_complete() { first.capacity() } else { pieces };
    memory
        .grow(needed.saturating_sub(estimate))
        .map_err(pipeline::Error::from)?;
    let mut response = match json.is_complete() {
        true => {
            memory.shrink_to(first.len());
            let mut response = Response::builder().body(first);
            response.extensions_mut().insert(Held::new(memory));
            response
        }
        false => {
            let rest = Rest {
                app: Arc::clone(app),
                json: Some(json),
                ended: false,
                _memory: memory,
            };
            let rest = stream::unfold(rest, |mut rest| async move { Some((rest.piece().await?, rest)) });
            let pieces = stream::once(async { Ok(first) }).chain(rest);
            Response::builder().body(Body::from_bytes_stream(pieces))
        }
    };
    response.extensions_mut().insert(cost);
    response.headers_mut().extend(headers);
    Ok(response.set_content_type("application/json; charset=utf-8"))
}

/// The headers of facts that the body has no place for.
fn note_headers(notes: &Notes) -> Vec<(HeaderName, HeaderValue)> {
    let truncated = notes
        .truncated_tokens
        .map(|tokens| (TRUNCATED_TOKENS, HeaderValue::from(tokens)));
    let mut headers: Vec<_> = truncated.into_iter().collect();
    let replaced = &notes.replaced_targets;
    if !replaced.is_empty() {
        let listed = replaced
            .listed
            .iter()
            .map(|(target, token)| (target.clone(), json!(token)));
        let listed = ascii(&Value::Object(listed.collect()).to_string());
        let value = HeaderValue::try_from(listed).expect("ASCII without control characters");
        headers.push((REPLACED_TARGETS, value));
    }
    if replaced.unlisted > 0 {
        headers.push((UNLISTED_TARGETS, HeaderValue::from(replaced.unlisted)));
    }
    headers
}

/// JSON whose other characters than ASCII are escaped.
fn ascii(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    let mut units = [0; 2];
    for character in json.chars() {
        match character.is_ascii() && character != '\u{7f}' {
            true => escaped.push(character),
            false => {
                for unit in character.encode_utf16(&mut units) {
                    escaped.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    escaped
}

/// The next piece of an answer.
async fn piece(app: &Arc<App>, mut json: AnswerJson, deadline: Deadline) -> Result<(Vec<u8>, AnswerJson), ApiError> {
    let pipeline = Arc::clone(&app.pipeline);
    let work = async move {
        let mut piece = Vec::new();
        let written = json.write_in_slices(pipeline.model(), &mut piece, PIECE_BYTES).await;
        written.map(|()| (piece, json))
    };
    let written = app.pipeline.compute(deadline, work).await?;
    Ok(written.map_err(pipeline::Error::from)?)
}

/// An answer of which the first piece is made.
struct Rest {
    app: Arc<App>,
    /// `None` while a piece is made, and at the end.
    json: Option<AnswerJson>,
    /// The answer is complete, or failed.
    ended: bool,
    _memory: Reservation,
}

impl Rest {
    /// The next piece, or `None` at the end. The status is sent already, so a failure breaks the connection. The
    /// connection limits the time.
    async fn piece(&mut self) -> Option<std::io::Result<Vec<u8>>> {
        match piece(&self.app, self.json.take()?, Deadline::never()).await {
            Ok((piece, json)) => {
                self.ended = json.is_complete();
                self.json = (!self.ended).then_some(json);
                Some(Ok(piece))
            }
            Err(error) => {
                self.ended = true;
                Some(Err(std::io::Error::other(error.to_string())))
            }
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if !self.ended {
            self.app.state.unread_answer();
        }
    }
}
