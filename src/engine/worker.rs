//! Runs batches, one after the other, until the queue is closed and empty or the model is lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Item, Queue, Reply};
use super::watch::{Clock, Ends};
use super::{EngineError, Scores, Stats, Timing, spans};
use crate::lm::{Batch, MaskedLm, ModelError, PendingBatch, Select, Sequence};
use crate::sys::panics;

/// After this many failed batches in a row a worker is no longer sure that it can answer; when no worker is, the
/// engine no longer calls itself ready.
const FAILURES_IN_A_ROW_MAX: u64 = 3;

/// While a worker fails, and nobody asks it because others answer or the engine is not ready, it is tried this often.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Closes and empties the queue when the worker ends, however it ends: nobody may wait for a worker that is gone. An end in
/// order comes when the queue is closed and empty, and a lost device is lost for all workers.
struct AbandonOnDrop<'a>(&'a Queue);

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .stats
                .break_down("the worker thread panicked; the log says where".to_owned());
        }
        self.0.abandon();
        self.0.stats.stop_probing();
    }
}

pub async fn run(queue: &Queue, model: Box<dyn MaskedLm>) {
    let _guard = AbandonOnDrop(queue);
    let stats = &queue.stats;
    let mut worker = Worker {
        model,
        stats,
        clock: stats.new_clock(),
        failures_in_a_row: 0,
    };
    loop {
        let next = if !worker.is_failing() {
            Some(queue.next_batch().await)
        } else if stats.is_healthy() {
            // Others answer: what waits is theirs, until a probe says that this one can answer too.
            match tokio::time::timeout(PROBE_INTERVAL, stats.stopping().wait()).await {
                Ok(_) => return,
                Err(_) => None,
            }
        } else {
            // Nothing is lost if the time ends first: a batch leaves the queue in the moment it is given.
            tokio::time::timeout(PROBE_INTERVAL, queue.next_batch()).await.ok()
        };
        match next {
            Some(Some(batch)) => worker.run_batches(batch, queue),
            Some(None) => return,
            None => worker.probe(),
        }
        if stats.broken().get().is_some() {
            return;
        }
    }
}

/// Why there are no scores; the reason is for the log.
#[derive(Clone, Debug)]
enum Failure {
    /// This batch failed, the next may not.
    Batch(String),
    /// None will ever succeed again.
    Model(String),
}

impl Failure {
    fn to_error(&self) -> EngineError {
        let (Self::Batch(reason) | Self::Model(reason)) = self;
        EngineError::Model(reason.clone())
    }
}

/// A forward pass that has begun.
struct Begun {
    ends: Result<PendingBatch, Failure>,
    started_at: Instant,
    traced: spans::Pass,
    /// Until then its time is counted.
    _running: Ends,
}

/// What one forward pass gave.
struct Pass {
    /// One for each text, in order.
    scores: Vec<Scores>,
    started_at: Instant,
    /// With what was left of the pass before, where a device computes one after the other.
    inference: Duration,
}

/// A model, and how it fares.
struct Worker<'a> {
    model: Box<dyn MaskedLm>,
    stats: &'a Stats,
    clock: Arc<Clock>,
    failures_in_a_row: u64,
}

impl Worker<'_> {
    fn is_failing(&self) -> bool {
        self.failures_in_a_row >= FAILURES_IN_A_ROW_MAX
    }

    fn batch_done(&mut self, succeeded: bool) {
        let failed_before = self.is_failing();
        match succeeded {
            true => self.failures_in_a_row = 0,
            false => self.failures_in_a_row += 1,
        }
        if failed_before != self.is_failing() {
            self.stats.worker_fails(self.is_failing());
        }
    }

    /// Runs a batch. While a device computes it, the next is begun if it is full already (one that is not may still
    /// grow), and so on, so that the device goes from one to the next.
    fn run_batches(&mut self, first: Vec<Item>, queue: &Queue) {
        let mut next = Some(self.begin_batch(first));
        while let Some((batch, begun)) = next {
            let works = begun.ends.is_ok() && !self.is_failing() && self.stats.broken().get().is_none();
            let full = match works && self.model.is_async() {
                true => queue.full_batch(),
                false => None,
            };
            next = full.map(|batch| self.begin_batch(batch));
            self.end_batch(batch, begun);
        }
    }

    fn begin_batch(&mut self, mut batch: Vec<Item>) -> (Vec<Item>, Begun) {
        batch.iter_mut().for_each(|item| item.spans.leave_queue());
        let begun = self.begin(&batch);
        (batch, begun)
    }

    /// Ends a forward pass. If it fails, every text that is still wanted is tried once on its own, so that the culprit
    /// alone fails. Health is noted before anybody is answered, so that who has an answer sees what it says.
    fn end_batch(&mut self, batch: Vec<Item>, begun: Begun) {
        let mut failure = match end(begun, &batch) {
            Ok(pass) => return self.answer(batch, pass),
            Err(failure) => failure,
        };
        self.note(&failure);
        let mut retry = batch.len() > 1;
        if let Failure::Batch(reason) = &failure
            && retry
        {
            tracing::error!(texts = batch.len(), %reason, "a batch failed; trying its texts one by one");
        }
        for item in batch {
            retry &= matches!(failure, Failure::Batch(_));
            // The first pass may have taken long: nobody computes for those who have left meanwhile.
            if retry && !item.is_wanted(Instant::now()) {
                self.stats.abandoned.add(1);
                continue;
            }
            if retry {
                let alone = std::slice::from_ref(&item);
                match end(self.begin(alone), alone) {
                    Ok(pass) => {
                        self.answer(vec![item], pass);
                        continue;
                    }
                    Err(of_one) => failure = of_one,
                }
                // The batch is counted already; a lost device must be known.
                if matches!(failure, Failure::Model(_)) {
                    self.note(&failure);
                }
            }
            self.stats.failed.add(1);
            reply(item, Err(failure.to_error()));
        }
    }

    fn answer(&mut self, batch: Vec<Item>, pass: Pass) {
        self.batch_done(true);
        for (item, scores) in batch.into_iter().zip(pass.scores) {
            let timing = Timing {
                queue: pass.started_at - item.queued_at,
                inference: pass.inference,
            };
            reply(item, Ok((scores, timing)));
        }
    }

    fn note(&mut self, failure: &Failure) {
        match failure {
            Failure::Batch(_) => self.batch_done(false),
            Failure::Model(reason) => self.stats.break_down(reason.clone()),
        }
    }

    /// One token, which every vocabulary has: does the model compute again?
    fn probe(&mut self) {
        let mut batch = Batch::default();
        batch.push(&Sequence::new([0], [0], Select::TopK(1)));
        let running = self.clock.begin();
        let probed = guarded(|| self.model.predict(batch));
        drop(running);
        match probed {
            Ok(_) => {
                tracing::info!("the model answers again");
                self.batch_done(true);
            }
            Err(failure) => self.note(&failure),
        }
    }

    fn begin(&mut self, items: &[Item]) -> Begun {
        let mut batch = Batch::default();
        for item in items {
            batch.push(&item.sequence);
        }
        let tokens = batch.token_ids().len();
        let stats = self.stats;
        stats.batches.add(1);
        stats.texts.add(items.len() as u64);
        stats.tokens.add(tokens as u64);
        stats.batch_texts.observe(items.len() as u64);
        stats.batch_tokens.observe(tokens as u64);
        let waited = items.iter().map(|item| &item.spans);
        let traced = spans::Pass::begin(waited, items.len(), tokens);
        let started_at = Instant::now();
        let running = self.clock.begin();
        let ends = {
            let _entered = traced.enter();
            guarded(|| self.model.submit(batch))
        };
        Begun {
            ends,
            started_at,
            traced,
            _running: running,
        }
    }
}

fn end(begun: Begun, items: &[Item]) -> Result<Pass, Failure> {
    let pending = begun.ends?;
    let scores = {
        let _entered = begun.traced.enter();
        guarded(|| pending.wait())?
    };
    let inference = begun.started_at.elapsed();
    // Fewer would give one sequence the scores of another.
    if scores.len() != items.len() {
        let (got, expected) = (scores.len(), items.len());
        return Err(Failure::Batch(format!(
            "the model gave scores of {got} sequences of {expected}"
        )));
    }
    for (scores, item) in scores.iter().zip(items) {
        let (got, expected) = (scores.len(), item.sequence.readout.positions.len());
        if got != expected {
            return Err(Failure::Batch(format!(
                "the model gave scores at {got} positions of {expected}"
            )));
        }
    }
    Ok(Pass {
        scores,
        started_at: begun.started_at,
        inference,
    })
}

/// A model that panicked is used again: it holds no state from one batch to the next.
fn guarded<T>(compute: impl FnOnce() -> Result<T, ModelError>) -> Result<T, Failure> {
    match panics::catch(compute) {
        Ok(Ok(computed)) => Ok(computed),
        Ok(Err(error)) => Err(of_error(&error)),
        Err(panic) => {
            let message = panic.message().unwrap_or("without a message");
            Err(Failure::Batch(format!("panic: {message}")))
        }
    }
}

fn of_error(error: &ModelError) -> Failure {
    match error.is_fatal() {
        true => Failure::Model(error.to_string()),
        false => Failure::Batch(error.to_string()),
    }
}

fn reply(item: Item, reply: Reply) {
    // An error here means that the client went away during the forward pass; there is nobody to tell.
    let _ = item.reply.send(reply);
}
