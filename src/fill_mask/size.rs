//! How much an answer may hold. Every prediction repeats its whole text, so a small request could ask for
//! gigabytes.

use super::{InputError, Question, Wanted};

/// Predictions in the answer to one request, over all its texts and blanks.
pub const PREDICTIONS_MAX: usize = 50_000;

/// Tokens of all their texts together: some 20 megabytes of English.
pub const TOKENS_MAX: usize = 4_000_000;

/// What the questions of one request add up to.
#[derive(Debug, Default)]
pub struct AnswerSize {
    predictions: usize,
    tokens: usize,
}

impl AnswerSize {
    /// Counts one more question.
    ///
    /// # Errors
    /// When the answer would hold more than is allowed.
    pub fn add(&mut self, question: &Question, wanted: &Wanted) -> Result<(), InputError> {
        let predictions = question.mask_positions.len() * wanted.top_k;
        self.predictions += predictions;
        self.tokens += predictions * question.input_ids.len();
        if self.predictions > PREDICTIONS_MAX {
            return Err(InputError::TooManyPredictions {
                predictions: self.predictions,
                max: PREDICTIONS_MAX,
            });
        }
        if self.tokens > TOKENS_MAX {
            return Err(InputError::AnswerTooLong {
                tokens: self.tokens,
                max: TOKENS_MAX,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::Select;

    #[test]
    fn predictions_and_their_tokens_are_bounded_over_all_texts() {
        let question = |tokens, masks| Question {
            input_ids: vec![0; tokens],
            mask_positions: (0..masks).collect(),
        };
        let wanted = |top_k| Wanted {
            select: Select::TopK(top_k),
            top_k,
        };
        let mut size = AnswerSize::default();
        size.add(&question(4, 2), &wanted(10_000)).unwrap();
        size.add(&question(4, 3), &wanted(10_000)).unwrap();
        let error = size.add(&question(4, 1), &wanted(1)).unwrap_err();
        assert!(error.to_string().contains("50001 predictions"), "{error}");

        let mut size = AnswerSize::default();
        size.add(&question(400, 1), &wanted(10_000)).unwrap();
        let error = size.add(&question(1, 1), &wanted(1)).unwrap_err();
        assert!(error.to_string().contains("4000001 tokens"), "{error}");
    }
}
