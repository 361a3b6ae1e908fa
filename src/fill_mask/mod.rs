//! From a text to token ids, and from scores back to text: the contract of transformers'
//! `FillMaskPipeline`, without the model in between.
//!
//! A request's [`Parameters`] become a [`Wanted`] once, each of its texts becomes a [`Question`]; with the
//! model's scores a question becomes an [`Answer`].

mod answer;
mod error;
mod question;
mod size;
mod targets;
mod text;

use tokenizers::Tokenizer;

use crate::checkpoint::TokenizerFiles;
use crate::lm::ModelInfo;

pub use answer::{Answer, Prediction};
pub use error::InputError;
pub use question::Question;
pub use size::{AnswerSize, PREDICTIONS_MAX, TOKENS_MAX};
pub use targets::Wanted;
pub use text::DecodeError;

/// Words that one request may name as targets.
pub const TARGETS_MAX: usize = 10_000;

/// Bytes of one target: a target is a word.
pub const TARGET_BYTES_MAX: usize = 1_000;

/// `top_k` where a request does not say.
pub const TOP_K_DEFAULT: usize = 5;

/// What a request may ask beside its texts; absent means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// How many predictions for each mask.
    pub top_k: Option<usize>,
    /// Score these words alone.
    pub targets: Option<Vec<String>>,
}

/// Everything about a model that turning text into ids and back needs.
pub struct FillMask {
    tokenizer: Tokenizer,
    mask_token: String,
    mask_id: u32,
    pad_id: Option<u32>,
    clean_up_spaces: bool,
    vocab_size: usize,
    max_input_tokens: usize,
}

impl FillMask {
    /// `max_input_tokens` bounds a text, special tokens included; the model's own limit bounds it too.
    pub fn new(files: TokenizerFiles, info: &ModelInfo, max_input_tokens: usize) -> Self {
        Self {
            tokenizer: files.tokenizer,
            mask_token: files.mask_token,
            mask_id: files.mask_id,
            pad_id: files.pad_id,
            clean_up_spaces: files.clean_up_spaces,
            vocab_size: info.vocab_size,
            max_input_tokens: max_input_tokens.min(info.max_tokens),
        }
    }

    /// What stands for a blank in a text.
    pub fn mask_token(&self) -> &str {
        &self.mask_token
    }

    /// Entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The longest text, in tokens, special tokens included.
    pub fn max_input_tokens(&self) -> usize {
        self.max_input_tokens
    }
}
