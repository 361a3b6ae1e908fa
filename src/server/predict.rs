//! From texts to answers, whatever the protocol that brought them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::request::FillMaskRequest;
use super::{ApiError, App};
use crate::engine::{EngineError, Input, Timing};
use crate::fill_mask::{Answer, AnswerSize, FillMask, Question, Wanted};

/// Until when a request must be answered.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// The moment itself.
    pub at: Instant,
    /// How long that was from the request's beginning, to tell its client.
    pub timeout: Duration,
}

impl Deadline {
    /// The same, or `timeout` from now if that is sooner.
    fn within(self, timeout: Duration) -> Self {
        match Instant::now().checked_add(timeout) {
            Some(at) if at < self.at => Self { at, timeout },
            _ => self,
        }
    }

    /// Of a request that begins now.
    pub fn start(app: &App) -> Self {
        let timeout = app.request_timeout;
        Self {
            at: Instant::now() + timeout,
            timeout,
        }
    }
}

/// Answers one request: `read` makes texts and parameters of what came, `render` makes what is sent of the
/// answers, one for each text, and of what `read` left for it. Both run where computing is allowed.
///
/// # Errors
/// What `read` says, the first text or parameter that is wrong, and what the engine says.
pub async fn predict<T: Send + 'static, C: Send + 'static>(
    app: &Arc<App>,
    mut deadline: Deadline,
    read: impl FnOnce() -> Result<(FillMaskRequest, C), ApiError> + Send + 'static,
    render: impl FnOnce(Vec<Answer>, C) -> T + Send + 'static,
) -> Result<(T, Timing), ApiError> {
    let refused = move |error| ApiError::from_engine(error, deadline.timeout);
    let admission = app.engine.admit().map_err(refused)?;
    let prepared = on_cpu(app, move |app| {
        if deadline.at <= Instant::now() {
            return Err(refused(EngineError::Deadline));
        }
        let (request, context) = read()?;
        let prepared = prepare(&app.fill_mask, &request, app.engine.limits().queue_size)?;
        // It comes along, so that it counts until this has run, even if the client leaves before.
        Ok((prepared, request.timeout, context, admission))
    });
    let ((wanted, questions), timeout, context, admission) = prepared.await??;
    if let Some(timeout) = timeout {
        deadline = deadline.within(timeout);
    }
    let inputs = questions.iter().map(|question| Input {
        input_ids: question.input_ids.clone(),
        mask_positions: question.mask_positions.clone(),
        selection: wanted.selection.clone(),
    });
    let inputs = inputs.collect();
    drop(admission);
    let scores = app.engine.predict(inputs, deadline.at).await;
    let (scores, timing) = scores.map_err(|error| ApiError::from_engine(error, deadline.timeout))?;
    let rendered = on_cpu(app, move |app| {
        let answered = questions.iter().zip(scores);
        let answers = answered.map(|(question, scores)| app.fill_mask.answer(question, &wanted, scores));
        let answers = answers.collect::<Result<_, _>>().map_err(ApiError::internal)?;
        Ok::<_, ApiError>(render(answers, context))
    });
    Ok((rendered.await??, timing))
}

/// Checks the parameters and tokenizes every text of a request with at most `texts_max` of them.
///
/// # Errors
/// The first that is wrong.
pub fn prepare(
    fill_mask: &FillMask,
    request: &FillMaskRequest,
    texts_max: usize,
) -> Result<(Wanted, Vec<Question>), ApiError> {
    let texts = request.texts.len();
    if texts > texts_max {
        // The engine would say so too, but only once all of them are tokenized.
        return Err(ApiError::too_many_texts(texts, texts_max));
    }
    let wanted = fill_mask.wanted(&request.parameters)?;
    let mut size = AnswerSize::default();
    let questions = request.texts.iter().map(|text| {
        let question = fill_mask.question(text, &wanted)?;
        size.add(&question, &wanted)?;
        Ok::<_, ApiError>(question)
    });
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
