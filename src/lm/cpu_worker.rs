//! One model for several workers on the CPU, each with threads of its own.

use std::sync::Arc;

use super::{Batch, EncoderModel, MaskedLm, ModelError, PendingBatch};
use crate::backend::cpu::{Compute, Cpu};

/// A worker's share: the weights, which all workers share, and the threads that compute for this worker alone.
pub struct CpuWorkerModel {
    model: Arc<EncoderModel<Cpu>>,
    threads: Arc<Compute>,
}

impl CpuWorkerModel {
    pub fn new(model: Arc<EncoderModel<Cpu>>, threads: Arc<Compute>) -> Self {
        Self { model, threads }
    }
}

impl MaskedLm for CpuWorkerModel {
    fn tokens_per_readout(&self) -> f32 {
        self.model.tokens_per_readout()
    }

    fn submit(&mut self, batch: Batch) -> Result<PendingBatch, ModelError> {
        let scores = self.threads.run(|| self.model.start(batch)?.wait())?;
        Ok(PendingBatch::ready(scores))
    }
}
