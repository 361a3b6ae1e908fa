//! One model for several workers on the CPU, each with threads of its own.

use std::sync::Arc;

use super::{Batch, EncoderModel, MaskedLm, ModelError, Scores};
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

    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
        self.threads.run(|| self.model.compute(batch))
    }
}
