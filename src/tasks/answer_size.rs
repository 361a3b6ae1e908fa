//! The limit on an answer. Every prediction repeats its whole text, so that a small request could demand gigabytes.

use super::InputError;

/// Predictions in the answer to one request, over all texts and masks.
const PREDICTIONS_MAX: usize = 50_000;

/// Tokens in the answer to one request: the length of its text for each prediction. Some 20 megabytes of English.
const ANSWER_TOKENS_MAX: usize = 4_000_000;

/// The size of the answer to the texts counted so far.
#[derive(Debug, Default)]
pub struct AnswerSize {
    predictions: usize,
    tokens: usize,
}

impl AnswerSize {
    /// Adds a text of `text_tokens` tokens.
    ///
    /// # Errors
    /// When the answer exceeds a limit.
    pub fn add(&mut self, predictions: usize, text_tokens: usize) -> Result<(), InputError> {
        self.predictions += predictions;
        self.tokens += predictions * text_tokens;
        if self.predictions > PREDICTIONS_MAX {
            return Err(InputError::TooManyPredictions {
                predictions: self.predictions,
                max: PREDICTIONS_MAX,
            });
        }
        if self.tokens > ANSWER_TOKENS_MAX {
            return Err(InputError::AnswerTooLong {
                tokens: self.tokens,
                max: ANSWER_TOKENS_MAX,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_and_their_tokens_are_bounded_over_all_texts() {
        let mut size = AnswerSize::default();
        size.add(2 * 10_000, 4).unwrap();
        size.add(3 * 10_000, 4).unwrap();
        let error = size.add(1, 4).unwrap_err();
        assert!(error.to_string().contains("50001 predictions"), "{error}");

        let mut size = AnswerSize::default();
        size.add(10_000, 400).unwrap();
        let error = size.add(1, 1).unwrap_err();
        assert!(error.to_string().contains("4000001 tokens"), "{error}");
    }
}
