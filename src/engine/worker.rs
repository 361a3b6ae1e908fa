//! Runs batches, one after the other, until the queue is closed and empty or the model is lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Item, Queue, Reply};
use super::{EngineError, Scores, Stats, Timing};
use crate::bert::{MaskedLm, PackedBatch, PredictError, Selection};

/// While the model fails, and nobody asks because the engine is not ready, it is tried this often.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Closes and empties the queue when the worker ends, however it ends: nobody may wait for a worker that is gone.
struct AbandonOnDrop<'a>(&'a Queue);

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .stats
                .break_down("the worker thread panicked; the log says where".to_owned());
        }
        self.0.abandon();
    }
}

pub async fn run(queue: &Queue, mut model: Box<dyn MaskedLm>) {
    let _guard = AbandonOnDrop(queue);
    let stats = &queue.stats;
    loop {
        let next = match stats.is_healthy() {
            true => Ok(queue.next_batch().await),
            // Nothing is lost if the time ends first: a batch leaves the queue in the moment it is given.
            false => tokio::time::timeout(PROBE_INTERVAL, queue.next_batch()).await,
        };
        match next {
            Ok(Some(batch)) => run_batch(&mut *model, batch, stats),
            Ok(None) => return,
            Err(_) => probe(&mut *model, stats),
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

/// What one forward pass gave.
struct Pass {
    /// One for each text, in order.
    scores: Vec<Scores>,
    started_at: Instant,
    inference: Duration,
}

/// One forward pass. If it fails, every text that is still wanted is tried once on its own, so that the culprit
/// alone fails. Health is noted before anybody is answered, so that who has an answer sees what it says.
fn run_batch(model: &mut dyn MaskedLm, batch: Vec<Item>, stats: &Stats) {
    let mut failure = match forward(model, &batch, stats) {
        Ok(pass) => return answer(batch, pass, stats),
        Err(failure) => failure,
    };
    note(&failure, stats);
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
            stats.abandoned.add(1);
            continue;
        }
        if retry {
            match forward(model, std::slice::from_ref(&item), stats) {
                Ok(pass) => {
                    answer(vec![item], pass, stats);
                    continue;
                }
                Err(of_one) => failure = of_one,
            }
            // The batch is counted already; a lost device must be known.
            if matches!(failure, Failure::Model(_)) {
                note(&failure, stats);
            }
        }
        stats.failed.add(1);
        reply(item, Err(failure.to_error()));
    }
}

fn answer(batch: Vec<Item>, pass: Pass, stats: &Stats) {
    stats.batch_done(true);
    for (item, scores) in batch.into_iter().zip(pass.scores) {
        let timing = Timing {
            queue: pass.started_at - item.queued_at,
            inference: pass.inference,
        };
        reply(item, Ok((scores, timing)));
    }
}

fn note(failure: &Failure, stats: &Stats) {
    match failure {
        Failure::Batch(_) => stats.batch_done(false),
        Failure::Model(reason) => stats.break_down(reason.clone()),
    }
}

/// One token, which every vocabulary has: does the model compute again?
fn probe(model: &mut dyn MaskedLm, stats: &Stats) {
    let mut packed = PackedBatch::default();
    packed.push(&[0], &[0], &Selection::TopK(1));
    match predict(model, &packed) {
        Ok(_) => {
            tracing::info!("the model answers again");
            stats.batch_done(true);
        }
        Err(failure) => note(&failure, stats),
    }
}

fn forward(model: &mut dyn MaskedLm, items: &[Item], stats: &Stats) -> Result<Pass, Failure> {
    let mut packed = PackedBatch::default();
    for item in items {
        let input = &item.input;
        packed.push(&input.input_ids, &input.mask_positions, &input.selection);
    }
    stats.batches.add(1);
    stats.texts.add(items.len() as u64);
    stats.tokens.add(packed.input_ids().len() as u64);
    stats.batch_texts.observe(items.len() as u64);
    stats.batch_tokens.observe(packed.input_ids().len() as u64);
    let started_at = Instant::now();
    let scores = predict(model, &packed)?;
    let inference = started_at.elapsed();
    let mut scores = scores.into_iter();
    let of_one = |item: &Item| scores.by_ref().take(item.input.mask_positions.len()).collect();
    Ok(Pass {
        scores: items.iter().map(of_one).collect(),
        started_at,
        inference,
    })
}

fn predict(model: &mut dyn MaskedLm, packed: &PackedBatch) -> Result<Scores, Failure> {
    // A model that panicked is used again: it holds no state from one batch to the next.
    match catch_unwind(AssertUnwindSafe(|| model.predict(packed))) {
        // Fewer would give one text the answer of another.
        Ok(Ok(scores)) if scores.len() != packed.queries().len() => {
            let (got, wanted) = (scores.len(), packed.queries().len());
            Err(Failure::Batch(format!("the model answered {got} masks of {wanted}")))
        }
        Ok(Ok(scores)) => Ok(scores),
        Ok(Err(error)) => Err(of_error(&error)),
        Err(panic) => Err(Failure::Batch(panic_message(&*panic))),
    }
}

fn of_error(error: &PredictError) -> Failure {
    match error.is_fatal() {
        true => Failure::Model(error.to_string()),
        false => Failure::Batch(error.to_string()),
    }
}

fn reply(item: Item, reply: Reply) {
    // An error here means that the client went away during the forward pass; there is nobody to tell.
    let _ = item.reply.send(reply);
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", message.unwrap_or("without a message"))
}
