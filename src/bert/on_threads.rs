//! One model for several workers, each with threads of its own.

use std::sync::Arc;

use crate::backend::cpu::{Compute, Cpu};

use super::{Bert, MaskedLm, PackedBatch, PredictError, TokenScore};

/// A worker's share: the weights, which are there once, and the threads that compute with them for this worker alone.
pub struct OnThreads {
    model: Arc<Bert<Cpu>>,
    threads: Arc<Compute>,
}

impl OnThreads {
    /// The model as the worker with these threads sees it.
    pub fn new(model: Arc<Bert<Cpu>>, threads: Arc<Compute>) -> Self {
        Self { model, threads }
    }
}

impl MaskedLm for OnThreads {
    fn predict(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
        self.threads.run(|| self.model.answer(batch))
    }
}
