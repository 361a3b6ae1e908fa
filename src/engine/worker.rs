//! Runs batches, one after the other, until the queue is closed and empty.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Item, Queue, Reply};
use super::{EngineError, Scores, Stats, Timing};
use crate::bert::{MaskedLm, PackedBatch};

/// Closes the queue when the worker ends, however it ends: nobody may wait for a worker that is gone.
struct CloseOnDrop<'a>(&'a Queue);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

pub async fn run(queue: &Queue, mut model: Box<dyn MaskedLm>) {
    let _guard = CloseOnDrop(queue);
    while let Some(batch) = queue.next_batch().await {
        run_batch(&mut *model, batch, &queue.stats);
    }
}

/// What one forward pass gave.
struct Pass {
    /// One for each text, in order.
    scores: Vec<Scores>,
    started_at: Instant,
    inference: Duration,
}

/// One forward pass. If it fails, every text is tried once on its own, so that the culprit alone fails.
fn run_batch(model: &mut dyn MaskedLm, batch: Vec<Item>, stats: &Stats) {
    match forward(model, &batch, stats) {
        Ok(pass) => {
            stats.batch_done(true);
            for (item, scores) in batch.into_iter().zip(pass.scores) {
                let timing = Timing {
                    queue: pass.started_at - item.queued_at,
                    inference: pass.inference,
                };
                reply(item, Ok((scores, timing)));
            }
        }
        Err(error) if batch.len() > 1 => {
            tracing::error!(texts = batch.len(), %error, "a batch failed; trying its texts one by one");
            for item in batch {
                run_batch(model, vec![item], stats);
            }
        }
        Err(error) => {
            stats.batch_done(false);
            stats.failed.add(1);
            for item in batch {
                reply(item, Err(error.clone()));
            }
        }
    }
}

fn forward(model: &mut dyn MaskedLm, items: &[Item], stats: &Stats) -> Result<Pass, EngineError> {
    let mut packed = PackedBatch::default();
    for item in items {
        let input = &item.input;
        packed.push(&input.input_ids, &input.mask_positions, &input.selection);
    }
    stats.batches.add(1);
    stats.texts.add(items.len() as u64);
    stats.tokens.add(packed.input_ids().len() as u64);
    let started_at = Instant::now();
    // A model that panicked is used again: it holds no state from one batch to the next.
    let outcome = catch_unwind(AssertUnwindSafe(|| model.predict(&packed)));
    let inference = started_at.elapsed();
    let mut masks = match outcome {
        Ok(Ok(scores)) => scores.into_iter(),
        Ok(Err(error)) => return Err(EngineError::Model(error.to_string())),
        Err(panic) => return Err(EngineError::Model(panic_message(&*panic))),
    };
    let of_one = |item: &Item| masks.by_ref().take(item.input.mask_positions.len()).collect();
    Ok(Pass {
        scores: items.iter().map(of_one).collect(),
        started_at,
        inference,
    })
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
