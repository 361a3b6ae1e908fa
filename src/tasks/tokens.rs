//! The tokens of a text, without the model.

use super::planning::LOOKUPS_MAX;
use super::{InputError, TaskModel};
use crate::text::{EncodeError, LengthRule, Truncation, TruncationError};
use crate::work::WorkBudget;

impl TaskModel {
    /// The token ids of a text, special tokens included, and the number of those over the limit, which are left out. If
    /// a mask is among those, all are.
    ///
    /// # Errors
    /// A text that takes too much work, and a tokenizer that fails.
    pub async fn tokens(&self, text: &str) -> Result<(Vec<u32>, usize), InputError> {
        let mut budget = WorkBudget::new(LOOKUPS_MAX);
        let rule = LengthRule::truncate(Truncation::Right);
        match self.tokenizer.encode_within(text, rule, &mut budget).await {
            Ok(encoded) => Ok((encoded.token_ids, encoded.truncated)),
            Err(EncodeError::Truncation(TruncationError::MaskCutOff { tokens, kept_max })) => {
                let special = self.tokens_max().saturating_sub(kept_max);
                Ok((Vec::new(), tokens + special))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The token as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.token(id)
    }
}
