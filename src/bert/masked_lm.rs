//! The model as the layers above see it: a batch in, scores out, no backend in sight.

use crate::backend::BertBackend;

use super::{Bert, PackedBatch, Selection, TokenScore};

/// A model that fills in blanks.
pub trait MaskedLm: Send {
    /// For each mask of the batch, in order, the tokens it asked for with their probabilities.
    ///
    /// # Errors
    /// [`PredictError`] when the model's own output cannot be trusted.
    fn predict(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError>;
}

/// Why a batch has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PredictError {
    /// A logit was infinite or not a number: broken weights or a broken device.
    #[error("the model gave a value that is not a finite number")]
    NotFinite,
    /// The device's memory could not be read back.
    #[error("the result could not be read from the device: {0}")]
    Readback(String),
    /// The device is gone or broken, and with it the model on it.
    #[error("{0}")]
    Device(String),
}

impl PredictError {
    /// Whether no batch will ever be answered again.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Device(_))
    }
}

/// How many masks go through the head at once. Bounds the memory of the logits: 64 rows of bert-base's
/// 30,522 entries are 7.8 MB.
const HEAD_ROWS_MAX: usize = 64;

impl<B: BertBackend> MaskedLm for Bert<B> {
    fn predict(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
        self.answer(batch)
    }
}

impl<B: BertBackend> Bert<B> {
    /// What [`MaskedLm::predict`] says. Nothing in the model changes, so that several workers may ask it at once.
    pub(super) fn answer(&self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
        if batch.queries().is_empty() {
            return Ok(Vec::new());
        }
        let states = self.mask_states(batch);
        let [rows, hidden] = states.dims();
        let mut answers = Vec::with_capacity(rows);
        for (chunk, queries) in batch.queries().chunks(HEAD_ROWS_MAX).enumerate() {
            let first = chunk * HEAD_ROWS_MAX;
            let states = match rows <= HEAD_ROWS_MAX {
                true => states.clone(),
                false => states.clone().slice([first..first + queries.len(), 0..hidden]),
            };
            let logits = self.logits(states);
            let vocab = logits.dims()[1];
            let data = logits
                .try_into_data()
                .map_err(|e| PredictError::Readback(e.to_string()))?;
            let data = data.convert::<f32>();
            let logits = data
                .as_slice::<f32>()
                .map_err(|e| PredictError::Readback(format!("{e:?}")))?;
            for (row, query) in logits.chunks_exact(vocab).zip(queries) {
                answers.push(score(row, &query.selection)?);
            }
        }
        Ok(answers)
    }
}

/// Softmax of one row of logits, at the selected tokens only. The sum runs in f64: over tens of thousands
/// of small terms f32 would lose the last digits.
fn score(logits: &[f32], selection: &Selection) -> Result<Vec<TokenScore>, PredictError> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
    // A NaN anywhere makes the sum NaN, an infinite logit makes it NaN too (inf - inf).
    if !sum.is_finite() {
        return Err(PredictError::NotFinite);
    }
    let probability = |token: u32| TokenScore {
        token,
        score: (f64::from(logits[token as usize] - max).exp() / sum) as f32,
    };
    Ok(match selection {
        Selection::Tokens(tokens) => tokens.iter().map(|&token| probability(token)).collect(),
        Selection::TopK(k) => top_k(logits, *k).into_iter().map(probability).collect(),
    })
}

/// The indices of the `k` largest values, largest first; of equal ones the lower index first.
fn top_k(values: &[f32], k: usize) -> Vec<u32> {
    let before = |&a: &u32, &b: &u32| values[b as usize].total_cmp(&values[a as usize]).then(a.cmp(&b));
    let mut indices: Vec<u32> = (0..values.len() as u32).collect();
    let k = k.min(indices.len());
    if 0 < k && k < indices.len() {
        indices.select_nth_unstable_by(k - 1, before);
    }
    indices.truncate(k);
    indices.sort_unstable_by(before);
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_is_sorted_and_breaks_ties_by_index() {
        let values = [0.5, 3.0, -1.0, 3.0, 2.0];
        for (k, expected) in [
            (0, vec![]),
            (1, vec![1]),
            (3, vec![1, 3, 4]),
            (5, vec![1, 3, 4, 0, 2]),
            (9, vec![1, 3, 4, 0, 2]),
        ] {
            assert_eq!(top_k(&values, k), expected, "k = {k}");
        }
    }

    #[test]
    fn scores_are_the_softmax_over_the_whole_row() {
        let logits = [0.0, (3.0f32).ln(), 0.0];
        let scores = score(&logits, &Selection::Tokens([1, 0].into())).unwrap();
        assert!((scores[0].score - 0.6).abs() < 1e-6, "{scores:?}");
        assert!((scores[1].score - 0.2).abs() < 1e-6, "{scores:?}");
        // Large logits must not overflow.
        let scores = score(&[1000.0, 1000.0], &Selection::TopK(1)).unwrap();
        assert!((scores[0].score - 0.5).abs() < 1e-6, "{scores:?}");
    }

    #[test]
    fn a_row_that_is_not_finite_is_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(score(&[0.0, bad], &Selection::TopK(1)), Err(PredictError::NotFinite));
        }
        assert_eq!(
            score(&[f32::NEG_INFINITY; 2], &Selection::TopK(1)),
            Err(PredictError::NotFinite)
        );
    }
}
