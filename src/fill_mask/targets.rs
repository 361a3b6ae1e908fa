//! Which tokens a request wants scored: the likeliest, or its own targets.

use std::sync::Arc;

use super::{FillMask, InputError, Parameters, TARGET_BYTES_MAX, TARGETS_MAX, TOP_K_DEFAULT};
use crate::lm::Select;

/// A request's parameters, checked against the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What to ask the model for.
    pub select: Select,
    /// How many of the answers to keep, best first.
    pub top_k: usize,
}

impl FillMask {
    /// Checks `top_k` and looks the targets up.
    ///
    /// A target is looked up as it is; one that the vocabulary does not have is tokenized and stands for
    /// its first piece. Duplicates are merged. `top_k` beyond the number of targets means all of them.
    ///
    /// # Errors
    /// [`InputError::TopK`], [`InputError::NoTarget`] when no target is left, and targets that are too many or
    /// too long.
    pub fn wanted(&self, parameters: &Parameters) -> Result<Wanted, InputError> {
        let top_k = parameters.top_k.unwrap_or(TOP_K_DEFAULT);
        let out_of_range = InputError::TopK {
            top_k,
            vocab_size: self.vocab_size,
        };
        // The default means "up to five": a vocabulary of three tokens has three.
        if top_k == 0 || parameters.top_k.is_some_and(|asked| asked > self.vocab_size) {
            return Err(out_of_range);
        }
        let Some(targets) = &parameters.targets else {
            let top_k = top_k.min(self.vocab_size);
            return Ok(Wanted {
                select: Select::TopK(top_k),
                top_k,
            });
        };
        if targets.len() > TARGETS_MAX {
            return Err(InputError::TooManyTargets {
                targets: targets.len(),
                max: TARGETS_MAX,
            });
        }
        let mut ids = Vec::with_capacity(targets.len().min(self.vocab_size));
        for target in targets {
            ids.extend(self.target_id(target)?);
        }
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Err(InputError::NoTarget);
        }
        let ids: Arc<[u32]> = ids.into();
        Ok(Wanted {
            top_k: top_k.min(ids.len()),
            select: Select::Tokens(ids),
        })
    }

    fn target_id(&self, target: &str) -> Result<Option<u32>, InputError> {
        if target.len() > TARGET_BYTES_MAX {
            return Err(InputError::LongTarget {
                bytes: target.len(),
                max: TARGET_BYTES_MAX,
            });
        }
        if let Some(id) = self.tokenizer.token_to_id(target) {
            return Ok(Some(id));
        }
        let encoding = self.tokenizer.encode_fast(target, false);
        let encoding = encoding.map_err(|e| InputError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().first().copied())
    }
}
