//! Readouts that are pooled over all positions of a sequence.

use super::{Batch, ModelError, Scores, Select, TokenScore};
use crate::backend::PooledRows;

/// The pooled sequences of a batch.
pub struct PooledSequences {
    /// Index of each in its batch.
    sequences: Vec<usize>,
    /// Their readout rows.
    pub rows: Vec<PooledRows>,
}

impl PooledSequences {
    pub fn of(batch: &Batch) -> Self {
        let mut pooled = Self {
            sequences: Vec::new(),
            rows: Vec::new(),
        };
        let mut first = 0;
        for (sequence, (rows, select)) in batch.readouts().enumerate() {
            let rows = first..first + rows.len();
            first = rows.end;
            if let Select::Pool(pooling) = *select {
                pooled.rows.push(PooledRows {
                    rows,
                    to: pooled.rows.len(),
                    pooling,
                });
                pooled.sequences.push(sequence);
            }
        }
        pooled
    }

    /// Puts the weights of these sequences, whose pooled `values` are `[sequences, vocab_size]`, into the scores of the
    /// batch.
    pub fn put_weights(&self, values: &[f32], vocab_size: usize, scores: &mut [Scores]) -> Result<(), ModelError> {
        if values.len() != self.rows.len() * vocab_size {
            return Err(ModelError::Readback("it is not as long as it should be".to_owned()));
        }
        let of_sequences = self.sequences.iter().zip(&self.rows);
        for ((&sequence, rows), values) in of_sequences.zip(values.chunks_exact(vocab_size)) {
            let mut weights = Vec::new();
            for (token, &value) in values.iter().enumerate() {
                // Most values are 0.
                if value == 0.0 {
                    continue;
                }
                let weight = rows.pooling.weight(value);
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
            scores[sequence] = vec![weights];
        }
        Ok(())
    }
}
