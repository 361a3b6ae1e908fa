//! From texts to answers, whatever the protocol that brought them.

use std::sync::Arc;
use std::time::Duration;

use poem::Response;
use poem::http::{HeaderMap, HeaderName};
use tokio::time::Instant;
use tracing::debug_span;
use tracing::field::Empty;

use super::app::App;
use super::error::ApiError;
use super::metrics::Cost;
use super::request::FillMaskRequest;
use crate::engine::EngineError;
use crate::fill_mask::{Answer, AnswerSize, FillMask, Question, Wanted};
use crate::lm::Sequence;

/// How long a client waits for its answer, in milliseconds.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");

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

    /// Of a request that begins now; the client may shorten what the server allows.
    ///
    /// # Errors
    /// A header that is not a time.
    pub fn start(app: &App, headers: &HeaderMap) -> Result<Self, ApiError> {
        let timeout = app.request_timeout;
        let ours = Self {
            at: Instant::now() + timeout,
            timeout,
        };
        let Some(value) = headers.get(REQUEST_TIMEOUT) else {
            return Ok(ours);
        };
        let milliseconds = value.to_str().ok().and_then(|value| value.parse::<u64>().ok());
        match milliseconds {
            Some(milliseconds @ 1..) => Ok(ours.within(Duration::from_millis(milliseconds))),
            _ => Err(ApiError::bad_request(
                "bad_timeout",
                format!("The header {REQUEST_TIMEOUT} is not a whole number of milliseconds above 0."),
            )),
        }
    }
}

/// Answers one request: `read` makes texts and parameters of what came, `render` makes what is sent of the
/// answers, one for each text, and of what `read` left for it. Both run where computing is allowed. The response
/// carries its [`Cost`].
///
/// # Errors
/// What `read` says, the first text or parameter that is wrong, and what the engine says.
pub async fn predict<C: Send + 'static>(
    app: &Arc<App>,
    mut deadline: Deadline,
    read: impl FnOnce() -> Result<(FillMaskRequest, C), ApiError> + Send + 'static,
    render: impl FnOnce(Vec<Answer>, C) -> Result<Response, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let refused = |error| ApiError::from_engine(error, deadline.timeout);
    let admission = app.engine.admit().map_err(refused)?;
    let started_at = Instant::now();
    let span = debug_span!("tokenize", texts = Empty, tokens = Empty);
    let prepared = on_cpu(app, deadline, move |app| {
        let _entered = span.enter();
        let (request, context) = read()?;
        let (wanted, questions) = prepare(&app.fill_mask, &request, app.engine.limits().queue_size)?;
        let tokens: usize = questions.iter().map(|question| question.input_ids.len()).sum();
        span.record("texts", questions.len());
        span.record("tokens", tokens);
        // It comes along, so that it counts until this has run, even if the client leaves before.
        Ok::<_, ApiError>(((wanted, questions, tokens), request.timeout, context, admission))
    });
    let ((wanted, questions, tokens), timeout, context, admission) = prepared.await??;
    if let Some(timeout) = timeout {
        deadline = deadline.within(timeout);
    }
    let tokenizing = started_at.elapsed();
    let texts = questions.len();
    let inputs = questions.iter().map(|question| {
        Sequence::new(
            question.input_ids.clone(),
            question.mask_positions.clone(),
            wanted.select.clone(),
        )
    });
    let inputs = inputs.collect();
    drop(admission);
    let scores = app.engine.predict(inputs, deadline.at).await;
    let (scores, timing) = scores.map_err(|error| ApiError::from_engine(error, deadline.timeout))?;
    let span = debug_span!("render");
    let rendered = on_cpu(app, deadline, move |app| {
        let _entered = span.enter();
        let answered = questions.iter().zip(scores);
        let answers = answered.map(|(question, scores)| app.fill_mask.answer(question, &wanted, scores));
        let answers = answers.collect::<Result<_, _>>().map_err(ApiError::internal)?;
        render(answers, context)
    });
    let mut response = rendered.await??;
    response.extensions_mut().insert(Cost {
        texts,
        tokens,
        tokenizing,
        timing,
    });
    Ok(response)
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

/// Runs what computes for longer than a moment off the threads that accept and read; waits until the deadline at most.
/// What has begun then ends unheard, and what has not never begins.
///
/// # Errors
/// Of the deadline (504), and of a panic (500).
async fn on_cpu<T: Send + 'static>(
    app: &Arc<App>,
    deadline: Deadline,
    work: impl FnOnce(&App) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let theirs = Arc::clone(app);
    let mut working = tokio::task::spawn_blocking(move || work(&theirs));
    match tokio::time::timeout_at(deadline.at, &mut working).await {
        Ok(done) => done.map_err(ApiError::internal),
        Err(_) => {
            working.abort();
            app.engine.stats().expired.add(1);
            Err(ApiError::from_engine(EngineError::Deadline, deadline.timeout))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_is_too_late_when_its_turn_comes_never_begins() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let app = crate::server::tests::app(|_| {}, 8, Duration::from_secs(60));
            // The only thread that computes is busy with another request until the deadline is over.
            let (may_end, wait) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || wait.recv());
            let begun = Arc::new(AtomicBool::new(false));
            let theirs = Arc::clone(&begun);
            let timeout = Duration::from_millis(30);
            let deadline = Deadline {
                at: Instant::now() + timeout,
                timeout,
            };
            let late = on_cpu(&app, deadline, move |_| theirs.store(true, Ordering::SeqCst)).await;
            assert!(late.is_err());
            assert_eq!(app.engine.stats().expired.get(), 1);
            may_end.send(()).unwrap();
            busy.await.unwrap().unwrap();
            // Behind it in line, if it were still there.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert!(!begun.load(Ordering::SeqCst), "computed for nobody");
        });
    }
}
