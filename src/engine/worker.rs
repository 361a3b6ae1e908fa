//! Runs batches, one after the other, until the queue is closed and empty or the model is lost.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::batch_timer::BatchTimer;
use super::queue::{Entry, Queue, Reply, Returning};
use super::spans::BatchSpans;
use super::state::EngineState;
use super::{BatchInterval, EngineError};
use crate::lm::{Batch, MaskedLm, ModelError, Scores, Select, Sequence};
use crate::sys::panics;

/// A worker counts as failing after this many failed batches in a row.
const FAILURES_IN_A_ROW_MAX: u64 = 3;

/// A failing worker that gets no batches is probed at this interval.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Abandons the queue when a worker ends, also by a panic, so that no request waits for it. An orderly end comes when
/// the queue is closed and empty, and a lost device is lost for all workers.
struct AbandonOnDrop<'a>(&'a Queue, &'a EngineState);

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        let Self(queue, state) = self;
        if std::thread::panicking() {
            state.set_broken("the worker thread panicked; the log says where".to_owned());
        }
        queue.abandon();
        state.stop();
    }
}

pub async fn run(queue: &Queue, state: &EngineState, model: Box<dyn MaskedLm>) {
    let _guard = AbandonOnDrop(queue, state);
    let mut worker = Worker {
        model,
        queue,
        state,
        timer: state.new_timer(),
        failures_in_a_row: 0,
        returning: Returning::default(),
    };
    loop {
        let next = if !worker.is_failing() {
            Some(worker.next_batch().await)
        } else if state.is_healthy() {
            // Other workers answer: leave the queue to them until a probe succeeds.
            match tokio::time::timeout(PROBE_INTERVAL, state.stopping().wait()).await {
                Ok(_) => return,
                Err(_) => None,
            }
        } else {
            // A timeout loses nothing: a batch leaves the queue in the moment that it is returned.
            tokio::time::timeout(PROBE_INTERVAL, queue.next_batch()).await.ok()
        };
        match next {
            Some(Some(batch)) => worker.run_batch(batch),
            Some(None) => return,
            None => worker.probe(),
        }
        if state.broken().get().is_some() {
            return;
        }
    }
}

/// Why there are no scores; the reason is for the log.
#[derive(Clone, Debug)]
enum Failure {
    /// The next batch may succeed.
    Batch(String),
    /// No batch will succeed.
    Model(String),
    /// No request waits for the batch any more.
    Cancelled,
}

impl Failure {
    fn to_error(&self) -> EngineError {
        match self {
            Self::Batch(reason) | Self::Model(reason) => EngineError::Model(reason.clone()),
            Self::Cancelled => EngineError::Deadline { in_part: false },
        }
    }
}

impl From<&ModelError> for Failure {
    fn from(error: &ModelError) -> Self {
        match error {
            ModelError::Cancelled => Self::Cancelled,
            _ if error.is_fatal() => Self::Model(error.to_string()),
            _ => Self::Batch(error.to_string()),
        }
    }
}

/// The result of one forward pass.
struct CompletedBatch {
    /// One for each entry, in order.
    scores: Vec<Scores>,
    interval: BatchInterval,
}

struct Worker<'a> {
    model: Box<dyn MaskedLm>,
    queue: &'a Queue,
    state: &'a EngineState,
    timer: Arc<BatchTimer>,
    failures_in_a_row: u64,
    returning: Returning,
}

impl Worker<'_> {
    /// The next batch of the queue. Without one for a while, the device rests.
    async fn next_batch(&mut self) -> Option<Vec<Entry>> {
        if let Some(rest_after) = self.model.rest_after() {
            // A timeout loses nothing: a batch leaves the queue in the moment that it is returned.
            let next = self.queue.next_batch_after(&mut self.returning);
            if let Ok(batch) = tokio::time::timeout(rest_after, next).await {
                return batch;
            }
            self.model.rest();
        }
        self.queue.next_batch_after(&mut self.returning).await
    }

    fn is_failing(&self) -> bool {
        self.failures_in_a_row >= FAILURES_IN_A_ROW_MAX
    }

    fn count_batch(&mut self, succeeded: bool) {
        let was_failing = self.is_failing();
        match succeeded {
            true => self.failures_in_a_row = 0,
            false => self.failures_in_a_row += 1,
        }
        if was_failing != self.is_failing() {
            self.state.set_worker_failing(self.is_failing());
        }
    }

    /// Runs a batch. If it fails, each entry that is still wanted is tried by itself, so that the culprit alone fails.
    /// Health is updated before a reply is sent, so that a client with an answer sees the health after it.
    fn run_batch(&mut self, mut batch: Vec<Entry>) {
        batch.iter_mut().for_each(|entry| entry.spans.leave_queue());
        let mut failure = match self.compute(&batch) {
            Ok(completed) => return self.answer(batch, completed),
            Err(Failure::Cancelled) => return self.queue.stats.abandoned.add(batch.len() as u64),
            Err(failure) => failure,
        };
        self.note(&failure);
        let mut retry = batch.len() > 1;
        if let Failure::Batch(reason) = &failure
            && retry
        {
            tracing::error!(texts = batch.len(), %reason, "a batch failed; trying its texts one by one");
        }
        for entry in batch {
            retry &= matches!(failure, Failure::Batch(_));
            // The first pass may have taken long enough for clients to leave.
            if retry && !entry.is_wanted(Instant::now()) {
                self.queue.stats.abandoned.add(1);
                continue;
            }
            if retry {
                match self.compute(std::slice::from_ref(&entry)) {
                    Ok(completed) => {
                        self.answer(vec![entry], completed);
                        continue;
                    }
                    Err(Failure::Cancelled) => {
                        self.queue.stats.abandoned.add(1);
                        continue;
                    }
                    Err(of_one) => failure = of_one,
                }
                // The batch is counted as failed already; a lost device is not.
                if matches!(failure, Failure::Model(_)) {
                    self.note(&failure);
                }
            }
            self.queue.stats.failed.add(1);
            reply(entry, Err(failure.to_error()));
        }
    }

    fn answer(&mut self, batch: Vec<Entry>, completed: CompletedBatch) {
        self.count_batch(true);
        let requests: HashSet<u64> = batch.iter().map(|entry| entry.request).collect();
        self.returning
            .answering(self.queue, requests.len(), completed.interval.duration());
        for (entry, scores) in batch.into_iter().zip(completed.scores) {
            reply(entry, Ok((scores, completed.interval)));
        }
    }

    fn note(&mut self, failure: &Failure) {
        match failure {
            Failure::Batch(_) => self.count_batch(false),
            Failure::Model(reason) => self.state.set_broken(reason.clone()),
            Failure::Cancelled => {}
        }
    }

    /// Runs one token, which every vocabulary has, to see if the model computes again.
    fn probe(&mut self) {
        let mut batch = Batch::default();
        batch.push(&Sequence::new([0], [0], Select::TopK(1)));
        match self.predict(batch) {
            Ok(_) => {
                tracing::info!("the model answers again");
                self.count_batch(true);
            }
            Err(failure) => self.note(&failure),
        }
    }

    /// One forward pass, with scores for each of `entries`.
    fn compute(&mut self, entries: &[Entry]) -> Result<CompletedBatch, Failure> {
        let mut batch = Batch::default();
        for entry in entries {
            batch.push(&entry.sequence);
        }
        batch.needed_by(entries.iter().map(|entry| entry.demand.clone()));
        let tokens = batch.token_ids().len();
        let stats = &self.queue.stats;
        stats.batch_sequences.observe(entries.len() as u64);
        stats.batch_tokens.observe(tokens as u64);
        let spans = BatchSpans::open(entries.iter().map(|entry| &entry.spans), entries.len(), tokens);
        let started_at = Instant::now();
        let scores = {
            let _entered = spans.enter();
            self.predict(batch)?
        };
        let interval = BatchInterval {
            started_at,
            ended_at: Instant::now(),
        };
        // Otherwise one text could get the answer of another.
        let returned = scores.iter().map(Vec::len);
        let expected = entries.iter().map(|entry| entry.sequence.readout.rows());
        if !returned.clone().eq(expected.clone()) {
            let (returned, expected) = (returned.sum::<usize>(), expected.sum::<usize>());
            return Err(Failure::Batch(format!(
                "the model returned scores for {returned} positions of {expected}"
            )));
        }
        Ok(CompletedBatch { scores, interval })
    }

    /// Catches panics. The model is used again afterwards: it holds no state from one batch to the next.
    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, Failure> {
        let _running = self.timer.start();
        match panics::catch(|| self.model.predict(batch)) {
            Ok(Ok(scores)) => Ok(scores),
            Ok(Err(error)) => Err(Failure::from(&error)),
            Err(panic) => {
                let message = panic.message().unwrap_or("without a message");
                Err(Failure::Batch(format!("panic: {message}")))
            }
        }
    }
}

fn reply(entry: Entry, reply: Reply) {
    // An error says that the client left during the forward pass.
    let _ = entry.reply.send(reply);
}
