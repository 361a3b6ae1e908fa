//! Properties of the model that every task uses: its tokenizer, the size of its vocabulary, the pooling of sparse
//! vectors.

use crate::checkpoint::TokenizerFiles;
use crate::lm::{ModelInfo, Pooling};
use crate::text::Tokenizer;

/// The tokenizer of one model, for all tasks.
pub struct TaskModel {
    pub(super) tokenizer: Tokenizer,
    pub(super) vocab_size: usize,
    pub(super) pooling: Pooling,
}

impl TaskModel {
    /// Texts of more than `tokens_max` tokens, special tokens included, are refused, and those that the model cannot
    /// take.
    pub fn new(files: TokenizerFiles, info: &ModelInfo, tokens_max: usize) -> Self {
        Self {
            tokenizer: Tokenizer::new(files, tokens_max.min(info.max_tokens)),
            vocab_size: info.vocab_size,
            pooling: info.pooling,
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

    /// The longest text in bytes.
    pub fn text_bytes_max(&self) -> usize {
        self.tokenizer.text_bytes_max()
    }
}
