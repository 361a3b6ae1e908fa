//! One request, from admission to answer.
//!
//! [`Pipeline::admit`] takes a place in the queue before the request's body is read; [`Pipeline::run`] plans the request,
//! submits its sequences to the engine and finishes the answer. Planning and finishing compute on blocking threads, until the
//! deadline at most. The steps are public for callers that bring threads of their own.

mod deadline;
mod error;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug_span;
use tracing::field::Empty;

pub use deadline::Deadline;
pub use error::Error;

use crate::engine::{Admission, Engine, Timing};
use crate::lm::Scores;
use crate::tasks::fill_mask::{FillMask, Plan, Request, TextAnswer};

/// Work on at most this many bytes is done at once, without a change of threads: some tens of microseconds.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// A task and the engine that computes it.
pub struct Pipeline {
    task: FillMask,
    engine: Engine,
    texts_max: usize,
}

/// Sizes and times of one answered request.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub texts: usize,
    /// Tokens of all texts.
    pub tokens: usize,
    /// From the start of the request's plan to its submission.
    pub tokenizing: Duration,
    /// In the queue and in the model.
    pub timing: Timing,
}

/// The answer to one request.
#[derive(Debug)]
pub struct Answered {
    /// One for each text, in order.
    pub texts: Vec<TextAnswer>,
    pub cost: Cost,
}

impl Pipeline {
    /// A request holds at most as many texts as the queue.
    pub fn new(task: FillMask, engine: Engine) -> Self {
        Self {
            task,
            texts_max: engine.limits().queue_size,
            engine,
        }
    }

    /// Sets the most texts of one request.
    pub fn with_texts_max(self, texts_max: usize) -> Self {
        Self { texts_max, ..self }
    }

    pub fn task(&self) -> &FillMask {
        &self.task
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The most texts of one request.
    pub fn texts_max(&self) -> usize {
        self.texts_max
    }

    /// Admits a request, before its body is read. It is not refused for a full queue afterwards.
    ///
    /// # Errors
    /// [`Error::Overloaded`] and [`Error::Stopped`].
    pub fn admit(&self) -> Result<Admission, Error> {
        self.engine
            .admit()
            .map_err(|error| Error::from_engine(error, Duration::ZERO))
    }

    /// Answers an admitted request.
    ///
    /// # Errors
    /// The first text or parameter that is refused, the deadline, and failures of the engine.
    pub async fn run(
        self: &Arc<Self>,
        admission: Admission,
        request: Request,
        deadline: Deadline,
    ) -> Result<Answered, Error> {
        let started_at = Instant::now();
        let span = debug_span!("tokenize", texts = Empty, tokens = Empty);
        // The admission comes along, so that the place is taken until the work ends, even if the client leaves before.
        let planned = self.compute(deadline, move |pipeline| {
            let _entered = span.enter();
            let plan = pipeline.plan(&request)?;
            span.record("texts", plan.sequences.len());
            span.record("tokens", plan.tokens());
            Ok::<_, Error>((plan, admission))
        });
        let (plan, admission) = planned.await??;
        let tokenizing = started_at.elapsed();

        let (scores, timing) = self.submit(admission, &plan, deadline).await?;

        let cost = Cost {
            texts: plan.sequences.len(),
            tokens: plan.tokens(),
            tokenizing,
            timing,
        };
        let span = debug_span!("render");
        let finished = self.compute(deadline, move |pipeline| {
            span.in_scope(|| pipeline.finish(&plan, scores))
        });
        let texts = finished.await??;
        Ok(Answered { texts, cost })
    }

    /// Checks and tokenizes a request. Takes processor time.
    ///
    /// # Errors
    /// The first text or parameter that is refused.
    pub fn plan(&self, request: &Request) -> Result<Plan, Error> {
        Ok(self.task.plan(request, self.texts_max)?)
    }

    /// Has the model score the sequences of a plan.
    ///
    /// # Errors
    /// The deadline, and failures of the engine; never a full queue.
    pub async fn submit(
        &self,
        admission: Admission,
        plan: &Plan,
        deadline: Deadline,
    ) -> Result<(Vec<Scores>, Timing), Error> {
        let submitted = self.engine.submit(admission, &plan.sequences, deadline.at).await;
        submitted.map_err(|error| Error::from_engine(error, deadline.timeout))
    }

    /// Turns scores into predictions. Takes processor time.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn finish(&self, plan: &Plan, scores: Vec<Scores>) -> Result<Vec<TextAnswer>, Error> {
        Ok(self.task.answer(plan, scores)?)
    }

    /// Runs `work` on a blocking thread, and waits until the deadline at most. Work that has not started by then, or when the
    /// future is dropped, never starts; work that has started runs to its end, and its result is dropped.
    ///
    /// # Errors
    /// [`Error::Timeout`], and [`Error::Internal`] for a panic.
    pub async fn compute<T: Send + 'static>(
        self: &Arc<Self>,
        deadline: Deadline,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let pipeline = Arc::clone(self);
        let mut working = AbortOnDrop(tokio::task::spawn_blocking(move || work(&pipeline)));
        match tokio::time::timeout_at(deadline.at, &mut working.0).await {
            Ok(done) => done.map_err(|error| Error::Internal(error.to_string())),
            Err(_) => {
                self.engine.stats().expired.add(1);
                Err(Error::Timeout(deadline.timeout))
            }
        }
    }

    /// The same for work on `bytes` bytes that takes no time worth a change of threads if they are few, such as parsing a
    /// body.
    ///
    /// # Errors
    /// As of [`compute`](Self::compute).
    pub async fn compute_bytes<T: Send + 'static>(
        self: &Arc<Self>,
        bytes: usize,
        deadline: Deadline,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        match bytes <= INLINE_BYTES_MAX {
            true => Ok(work()),
            false => self.compute(deadline, |_| work()).await,
        }
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Answered {
    /// The bytes of all strings: a measure for the work of writing the answer.
    pub fn bytes(&self) -> usize {
        let predictions = self.texts.iter().flatten().flatten();
        predictions
            .map(|prediction| prediction.sequence.len() + prediction.token_str.len())
            .sum()
    }
}
