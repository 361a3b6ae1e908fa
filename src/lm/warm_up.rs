//! Warm-up: batches before the first request, so that a broken model is known and no request waits for a compilation.

use std::time::Instant;

use super::{Batch, MaskedLm, ModelError, Select, Sequence};
use crate::backend::buckets;
use crate::sys::panics;

/// Tokens of one sequence in a warm-up batch.
const SEQUENCE_TOKENS: usize = 8;

/// A warm-up batch that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WarmUpError {
    /// The first batch: the model does not work at all.
    #[error("the model fails: {reason}")]
    Model { reason: String },
    /// A later batch, of `tokens` tokens.
    #[error("a batch of {tokens} tokens fails: {reason}")]
    Batch { tokens: usize, reason: String },
}

/// Facts about the model that the batches depend on.
#[derive(Clone, Copy, Debug)]
pub struct WarmUp {
    pub vocab_size: usize,
    /// The longest sequence in tokens.
    pub sequence_tokens_max: usize,
    /// The largest batch in tokens; one batch of the smallest size where sizes do not matter.
    pub batch_tokens_max: usize,
}

impl WarmUp {
    /// Runs a batch of each size in each worker. `progress` gets the number of sizes that are done, from 0, and of all.
    ///
    /// # Errors
    /// The first batch that fails.
    pub fn run(
        self,
        workers: &mut [Box<dyn MaskedLm>],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(), WarmUpError> {
        let started_at = Instant::now();
        let sizes = buckets::buckets(self.batch_tokens_max);
        for (done, &tokens) in sizes.iter().enumerate() {
            progress(done, sizes.len());
            let batch = self.batch(tokens);
            for worker in &mut *workers {
                let batch = batch.clone();
                match done {
                    // A whole pass, which finds a broken model.
                    0 => caught(|| worker.predict(batch).map(drop)).map_err(|reason| WarmUpError::Model { reason }),
                    _ => caught(|| worker.warm_up(batch)).map_err(|reason| WarmUpError::Batch { tokens, reason }),
                }?;
            }
        }
        progress(sizes.len(), sizes.len());
        if sizes.len() > 1 {
            tracing::info!(
                sizes = sizes.len(),
                seconds = started_at.elapsed().as_secs_f64(),
                "warm-up complete"
            );
        }
        Ok(())
    }

    /// A batch of short sequences that read every position, so that as many rows go through the last layer and the
    /// head. They select top-k and tokens in turn.
    fn batch(self, tokens: usize) -> Batch {
        let length = SEQUENCE_TOKENS.min(self.sequence_tokens_max);
        // A kernel of any size copies full rows of logits, so the smallest batch warms it up.
        let top_k = if tokens == buckets::bucket_for(1) {
            usize::MAX
        } else {
            5
        };
        let selects = [Select::TopK(top_k), Select::Tokens([0].into())];
        let mut batch = Batch::default();
        for (first, select) in (0..tokens).step_by(length).zip(selects.iter().cycle()) {
            let length = length.min(tokens - first);
            let token_ids: Vec<u32> = (0..length).map(|id| (id % self.vocab_size) as u32).collect();
            let positions: Vec<usize> = (0..length).collect();
            batch.push(&Sequence::new(token_ids, positions, select.clone()));
        }
        batch
    }
}

/// `work` with its error or panic as a sentence.
fn caught(work: impl FnOnce() -> Result<(), ModelError>) -> Result<(), String> {
    match panics::catch(work) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("panic: {panic}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::Scores;

    fn warm_up(batch_tokens_max: usize, sequence_tokens_max: usize) -> WarmUp {
        WarmUp {
            vocab_size: 2,
            sequence_tokens_max,
            batch_tokens_max,
        }
    }

    #[test]
    fn a_batch_has_its_size_in_tokens_and_readout_rows() {
        for (tokens, sequence_tokens) in [(16, 8), (80, 8), (20, 8), (16, 3), (5, 1)] {
            let batch = warm_up(tokens, sequence_tokens).batch(tokens);
            assert_eq!(batch.token_ids().len(), tokens);
            assert_eq!(batch.readout_rows().len(), tokens);
            assert!(batch.token_ids().iter().all(|&id| id < 2));
        }
    }

    /// Fails, or panics, on batches of more tokens than it takes.
    struct Model {
        tokens_max: usize,
        panics: bool,
    }

    impl MaskedLm for Model {
        fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
            let fits = batch.token_ids().len() <= self.tokens_max;
            assert!(fits || !self.panics, "on purpose");
            match fits {
                true => Ok(Vec::new()),
                false => Err(ModelError::NotFinite),
            }
        }
    }

    fn run(tokens_max: usize, panics: bool) -> (Result<(), WarmUpError>, Vec<(usize, usize)>) {
        let mut workers: Vec<Box<dyn MaskedLm>> = vec![Box::new(Model { tokens_max, panics })];
        let mut steps = Vec::new();
        let result = warm_up(64, 8).run(&mut workers, &mut |done, all| steps.push((done, all)));
        (result, steps)
    }

    #[test]
    fn every_size_runs_and_the_failing_one_is_named() {
        let sizes = buckets::buckets(64);
        assert!(sizes.len() > 1);
        let all: Vec<(usize, usize)> = (0..=sizes.len()).map(|done| (done, sizes.len())).collect();
        assert_eq!(run(usize::MAX, false), (Ok(()), all));
        for panics in [false, true] {
            assert!(matches!(run(0, panics).0, Err(WarmUpError::Model { .. })));
            let (result, steps) = run(sizes[0], panics);
            assert!(
                matches!(result, Err(WarmUpError::Batch { tokens, .. }) if tokens == sizes[1]),
                "{result:?}"
            );
            assert_eq!(steps.len(), 2);
        }
    }
}
