//! A text as the model takes it.

use super::{FillMask, InputError, PREDICTIONS_MAX, Wanted};

/// A tokenized text and where its masks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Token ids with the special tokens around them.
    pub input_ids: Vec<u32>,
    /// Where the mask tokens stand, ascending; at least one.
    pub mask_positions: Vec<usize>,
}

impl FillMask {
    /// Tokenizes a text that somebody wants filled in.
    ///
    /// # Errors
    /// An empty text, one without a mask, one that is too long, or one that asks for too much at once.
    pub fn question(&self, text: &str, wanted: &Wanted) -> Result<Question, InputError> {
        let mask_token = || self.mask_token.clone();
        if text.trim().is_empty() {
            return Err(InputError::Empty {
                mask_token: mask_token(),
            });
        }
        let encoding = self.tokenizer.encode_fast(text, true);
        let encoding = encoding.map_err(|e| InputError::Tokenizer(e.to_string()))?;
        let input_ids = encoding.get_ids();
        if input_ids.len() > self.max_input_tokens {
            return Err(InputError::TooLong {
                tokens: input_ids.len(),
                max: self.max_input_tokens,
            });
        }
        let masks = input_ids.iter().enumerate().filter(|(_, id)| **id == self.mask_id);
        let mask_positions: Vec<usize> = masks.map(|(position, _)| position).collect();
        if mask_positions.is_empty() {
            return Err(InputError::NoMask {
                mask_token: mask_token(),
            });
        }
        if mask_positions.len() * wanted.top_k > PREDICTIONS_MAX {
            return Err(InputError::TooManyPredictions {
                masks: mask_positions.len(),
                top_k: wanted.top_k,
                max: PREDICTIONS_MAX,
            });
        }
        Ok(Question {
            input_ids: input_ids.to_vec(),
            mask_positions,
        })
    }
}
