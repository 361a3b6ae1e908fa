//! The tokenizer at run time: bounded encoding, decoding, look-up of single tokens.

mod decode;
mod encode;
mod request_cost;
mod truncate;
mod word_cost;
mod word_piece;

pub use decode::DecodeError;
pub use encode::{EncodeError, Encoded, Located};
pub use truncate::{LengthRule, Truncation, TruncationError};

use crate::checkpoint::TokenizerFiles;
use word_cost::WordCost;

/// A model's tokenizer with its special tokens and the longest text that it encodes.
pub struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    mask_token: String,
    mask_id: u32,
    pad_id: Option<u32>,
    unknown: Option<String>,
    clean_up_spaces: bool,
    word_cost: WordCost,
    tokens_max: usize,
    /// The side and the length of [`Truncation::AsTokenizer`].
    side: Truncation,
    length_max: usize,
    /// Ids of the tokens that the tokenizer puts around a text, and of the padding token.
    special_ids: Vec<u32>,
}

impl Tokenizer {
    /// Texts of more than `tokens_max` tokens, special tokens included, are refused.
    pub fn new(files: TokenizerFiles, tokens_max: usize) -> Self {
        // A text that was tried out when the tokenizer was read.
        let around = files.tokenizer.encode_fast(files.mask_token.as_str(), true);
        let around = around.map(|encoding| {
            let tokens = encoding.get_ids().iter().zip(encoding.get_special_tokens_mask());
            let special = tokens.filter(|(_, is_special)| **is_special == 1);
            special.map(|(id, _)| *id).collect()
        });
        let around: Vec<u32> = around.unwrap_or_default();
        Self {
            side: match files.truncates_left {
                true => Truncation::Left,
                false => Truncation::Right,
            },
            length_max: files.length_max.unwrap_or(tokens_max).min(tokens_max),
            special_ids: around.into_iter().chain(files.pad_id).collect(),
            word_cost: WordCost::of(&files.tokenizer),
            tokenizer: files.tokenizer,
            mask_token: files.mask_token,
            mask_id: files.mask_id,
            pad_id: files.pad_id,
            unknown: files.unknown,
            clean_up_spaces: files.clean_up_spaces,
            tokens_max,
        }
    }

    pub fn mask_token(&self) -> &str {
        &self.mask_token
    }

    pub fn mask_id(&self) -> u32 {
        self.mask_id
    }

    /// The id of the padding token, if the vocabulary has one.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_id
    }

    /// Ids of the tokens that the tokenizer puts around a text, and of the padding token.
    pub fn special_ids(&self) -> &[u32] {
        &self.special_ids
    }

    /// The id of `token` if the vocabulary has it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The token as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The longest text in tokens, special tokens included.
    pub fn tokens_max(&self) -> usize {
        self.tokens_max
    }
}
