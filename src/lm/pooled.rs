//! Readouts that are pooled over all positions of a sequence, chunk by chunk of its logits: the logits of a sequence
//! are never there as a whole.

use std::ops::Range;

use burn::tensor::Tensor;

use super::{Batch, ModelError, Pooling, Scores, Select, TokenScore};
use crate::backend::EncoderBackend;

/// The pooled sequences of a batch.
pub struct Pools<B: EncoderBackend>(Vec<Pool<B>>);

struct Pool<B: EncoderBackend> {
    /// Index of the sequence in its batch.
    sequence: usize,
    pooling: Pooling,
    /// Its readout rows.
    rows: Range<usize>,
    pooled: Option<Tensor<B, 1>>,
}

/// A pooled sequence whose values are read back.
pub struct Pooled {
    sequence: usize,
    pooling: Pooling,
}

impl<B: EncoderBackend> Pools<B> {
    pub fn of(batch: &Batch) -> Self {
        let (mut pools, mut first) = (Vec::new(), 0);
        for (sequence, (rows, select)) in batch.readouts().enumerate() {
            if let Select::Pool(pooling) = select
                && !rows.is_empty()
            {
                pools.push(Pool {
                    sequence,
                    pooling: *pooling,
                    rows: first..first + rows.len(),
                    pooled: None,
                });
            }
            first += rows.len();
        }
        Self(pools)
    }

    /// Pools `logits` `[rows, vocabulary]`, whose first rows are the readout rows `chunk`.
    pub fn add(&mut self, logits: &Tensor<B, 2>, chunk: Range<usize>) {
        for pool in &mut self.0 {
            let rows = pool.rows.start.max(chunk.start)..pool.rows.end.min(chunk.end);
            if !rows.is_empty() {
                let rows = rows.start - chunk.start..rows.end - chunk.start;
                pool.pooled = Some(B::pool_logits(logits, rows, pool.pooling, pool.pooled.take()));
            }
        }
    }

    /// The sequences, and the tensors of their values `[vocabulary]`.
    pub fn into_parts(self) -> (Vec<Pooled>, Vec<Tensor<B, 1>>) {
        let parts = self.0.into_iter().filter_map(|pool| {
            let Pool { sequence, pooling, .. } = pool;
            Some((Pooled { sequence, pooling }, pool.pooled?))
        });
        parts.unzip()
    }
}

/// Puts the weights of pooled sequences, whose `values` were read end to end, into the scores of a batch.
pub fn put_weights(
    pooled: &[Pooled],
    values: &[f32],
    vocab_size: usize,
    scores: &mut [Scores],
) -> Result<(), ModelError> {
    if values.len() != pooled.len() * vocab_size {
        return Err(ModelError::Readback("it is not as long as it should be".to_owned()));
    }
    for (Pooled { sequence, pooling }, values) in pooled.iter().zip(values.chunks_exact(vocab_size)) {
        let mut weights = Vec::new();
        for (token, &value) in values.iter().enumerate() {
            let weight = pooling.weight(value);
            if !weight.is_finite() {
                return Err(ModelError::NotFinite);
            }
            if weight > 0.0 {
                weights.push(TokenScore {
                    token: token as u32,
                    log_prob: weight,
                });
            }
        }
        scores[*sequence] = vec![weights];
    }
    Ok(())
}
