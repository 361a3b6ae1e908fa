//! Warm-up: batches that run before the first request. They detect a broken model, and compile GPU kernels.

use std::time::Instant;

use cloze::backend::buckets;
use cloze::lm::{Batch, LoadedModel, MaskedLm, Select, Sequence};
use cloze::sys::panics;

use super::batch::{BatchArguments, WarmUp};
use super::progress::WarmUpBar;

/// Tokens per text in a warm-up batch.
const TEXT_TOKENS: usize = 8;

/// Runs a batch of every size in each worker. Returns the workers.
pub fn warm_up(
    loaded: LoadedModel,
    batches: &BatchArguments,
    vocab_size: usize,
    text_tokens_max: usize,
) -> Result<Vec<Box<dyn MaskedLm>>, String> {
    let tokens_max = match (batches.warm_up, loaded.device.compiles_per_bucket()) {
        (WarmUp::Full, true) => batches.max_batch_tokens.into(),
        _ => 1,
    };
    let sizes = buckets::buckets(tokens_max);
    let mut workers = loaded.workers;
    let started_at = Instant::now();
    let bar = WarmUpBar::new(sizes.len());
    for (done, &size) in sizes.iter().enumerate() {
        let batch = batch_of(size, vocab_size, TEXT_TOKENS.min(text_tokens_max));
        for model in &mut workers {
            run(&mut **model, batch.clone()).map_err(|reason| match done {
                0 => format!("the model fails: {reason}"),
                _ => format!("a batch of {size} tokens fails: {reason}; a smaller --max-batch-tokens avoids this size"),
            })?;
        }
        bar.reached(done + 1);
    }
    bar.end();
    if sizes.len() > 1 {
        tracing::info!(
            sizes = sizes.len(),
            seconds = started_at.elapsed().as_secs_f64(),
            "warm-up complete"
        );
    }
    Ok(workers)
}

fn run(model: &mut dyn MaskedLm, batch: Batch) -> Result<(), String> {
    match panics::catch(|| model.predict(batch)) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("panic: {panic}")),
    }
}

/// A batch of `size` tokens in short sequences. Every token is read, so that as many rows pass through the last layer
/// and the head; sequences alternate between the most probable tokens and given ones.
fn batch_of(size: usize, vocab_size: usize, text_tokens: usize) -> Batch {
    let ids: Vec<u32> = (0..text_tokens).map(|id| (id % vocab_size) as u32).collect();
    let positions: Vec<usize> = (0..text_tokens).collect();
    // A kernel of any size copies full rows of logits, so the smallest batch warms it up.
    let top_k = if size == buckets::bucket_for(1) { usize::MAX } else { 5 };
    let selects = [Select::TopK(top_k), Select::Tokens([0].into())];
    let mut batch = Batch::default();
    for (first, select) in (0..size).step_by(text_tokens).zip(selects.iter().cycle()) {
        let tokens = text_tokens.min(size - first);
        batch.push(&Sequence::new(&ids[..tokens], &positions[..tokens], select.clone()));
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_its_size_in_tokens_and_masks() {
        for (size, text_tokens) in [(16, 8), (80, 8), (20, 8), (16, 3), (5, 1)] {
            let batch = batch_of(size, 2, text_tokens);
            assert_eq!(batch.token_ids().len(), size);
            assert_eq!(batch.readout_rows().len(), size);
            assert!(batch.token_ids().iter().all(|&id| id < 2));
        }
    }
}
