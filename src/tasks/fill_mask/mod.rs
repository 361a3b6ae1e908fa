//! Fill-mask: the contract of transformers' `FillMaskPipeline` without the model in between.
//!
//! [`FillMask::plan`] turns a [`Request`] into a [`Plan`], whose sequences go to the model; with the model's scores
//! the plan becomes an [`Answer`], whose predictions [`FillMask`] decodes: all, or one by one.

mod answer;
mod answer_size;
mod error;
mod plan;
mod scoring;
#[cfg(test)]
mod tests;

use crate::checkpoint::TokenizerFiles;
use crate::lm::ModelInfo;
use crate::text::{LengthRule, Tokenizer};

pub use answer::{Answer, Index, Prediction, TextAnswer};
pub use answer_size::{ANSWER_TOKENS_MAX, PREDICTIONS_MAX};
pub use error::InputError;
pub use plan::{LOOKUPS_MAX, Plan};
pub use scoring::{TARGET_BYTES_MAX, TARGETS_MAX, TOP_K_DEFAULT};

/// Texts with masks, and how to answer them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub texts: Vec<String>,
    pub parameters: Parameters,
}

/// The optional parameters of a request; `None` means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Predictions for each mask.
    pub top_k: Option<usize>,
    /// Score these words alone.
    pub targets: Option<Vec<String>>,
    /// The treatment of texts over the limit.
    pub length: LengthRule,
    /// Scores are a softmax over the targets alone.
    pub renormalize: bool,
}

/// The task for one model.
pub struct FillMask {
    tokenizer: Tokenizer,
    vocab_size: usize,
}

impl FillMask {
    /// Texts of more than `tokens_max` tokens, special tokens included, are refused, and those that the model cannot take.
    pub fn new(files: TokenizerFiles, info: &ModelInfo, tokens_max: usize) -> Self {
        Self {
            tokenizer: Tokenizer::new(files, tokens_max.min(info.max_tokens)),
            vocab_size: info.vocab_size,
        }
    }

    /// The token that marks a gap in a text, such as `[MASK]`.
    pub fn mask_token(&self) -> &str {
        self.tokenizer.mask_token()
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The longest text in tokens, special tokens included.
    pub fn tokens_max(&self) -> usize {
        self.tokenizer.tokens_max()
    }
}
