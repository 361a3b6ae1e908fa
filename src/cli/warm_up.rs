//! Warm-up: batches that run before the first request. They detect a broken model, and compile GPU kernels.

use std::time::Instant;

use clap::ValueEnum;
use cloze::backend::ladder;
use cloze::bert::{MaskedLm, PackedBatch, Selection};
use cloze::checkpoint::LoadedModel;
use cloze::sys::panics;

use super::batch::BatchArguments;
use super::progress::WarmUpBar;

/// `--warm-up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WarmUp {
    /// Every batch size that the GPU compiles kernels for; one batch on the CPU
    Full,
    /// One batch; the first batch of each other size waits for compilation
    Short,
}

/// Tokens per text in a warm-up batch.
const TEXT_TOKENS: usize = 8;

/// Runs a batch of every size in each worker. Returns the workers.
pub fn warm_up(
    loaded: LoadedModel,
    batches: &BatchArguments,
    vocab_size: usize,
    text_tokens_max: usize,
) -> Result<Vec<Box<dyn MaskedLm>>, String> {
    let tokens_max = match (batches.warm_up, loaded.compiles_by_size) {
        (WarmUp::Full, true) => batches.max_batch_tokens.into(),
        _ => 1,
    };
    let sizes = ladder::rungs(tokens_max);
    let mut workers: Vec<_> = std::iter::once(loaded.model).chain(loaded.others).collect();
    let started_at = Instant::now();
    let bar = WarmUpBar::new(sizes.len());
    for (done, &size) in sizes.iter().enumerate() {
        let batch = batch_of(size, vocab_size, TEXT_TOKENS.min(text_tokens_max));
        for model in &mut workers {
            run(&mut **model, &batch).map_err(|reason| match done {
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

fn run(model: &mut dyn MaskedLm, batch: &PackedBatch) -> Result<(), String> {
    match panics::catch(|| model.predict(batch)) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("panic: {panic}")),
    }
}

/// So many tokens in short texts, each of them a mask, so that as many rows go through the last layer and the head; they want
/// the likeliest tokens and certain tokens in turn.
fn batch_of(size: usize, vocab_size: usize, text_tokens: usize) -> PackedBatch {
    let ids: Vec<u32> = (0..text_tokens).map(|id| (id % vocab_size) as u32).collect();
    let positions: Vec<usize> = (0..text_tokens).collect();
    // Whole rows of logits, which only the first can tell without taking long, are copied by a kernel of any size.
    let top_k = if size == ladder::rung(1) { usize::MAX } else { 5 };
    let wishes = [Selection::TopK(top_k), Selection::Tokens([0].into())];
    let mut batch = PackedBatch::default();
    for (first, wish) in (0..size).step_by(text_tokens).zip(wishes.iter().cycle()) {
        let tokens = text_tokens.min(size - first);
        batch.push(&ids[..tokens], &positions[..tokens], wish);
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
            assert_eq!(batch.input_ids().len(), size);
            assert_eq!(batch.queries().len(), size);
            assert!(batch.input_ids().iter().all(|&id| id < 2));
        }
    }
}
