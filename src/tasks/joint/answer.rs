//! The fillings that a search found.

use super::{Order, TaskModel, Text};
use crate::text::DecodeError;

/// The answer to a request, before its strings are decoded.
pub struct Answer {
    pub(super) order: Order,
    pub(super) pad_id: Option<u32>,
    pub(super) texts: Vec<Text>,
}

/// Tokens for all masks of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Filling {
    /// The sum of the log-probabilities in this order of filling.
    pub log_score: f64,
    /// One for each mask, in the order of the text.
    pub tokens: Vec<u32>,
    pub token_strs: Vec<String>,
    /// The text with these tokens.
    pub sequence: String,
    pub order: Order,
}

impl Answer {
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// The number of fillings of a text.
    pub fn fillings(&self, text: usize) -> usize {
        self.texts[text].fillings.len()
    }

    /// About as many bytes as the answer has in JSON, mostly more.
    pub fn bytes_estimate(&self) -> usize {
        let of_texts = self.texts.iter().map(|text| {
            let of_filling = 128 + 32 * text.masks.len() + 16 * text.token_ids.len();
            text.fillings.len() * of_filling
        });
        of_texts.sum()
    }

    /// Decodes one filling.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn filling(&self, model: &TaskModel, text: usize, rank: usize) -> Result<Filling, DecodeError> {
        let text = &self.texts[text];
        let filling = &text.fillings[rank];
        let tokens: Vec<u32> = filling.tokens.iter().copied().flatten().collect();
        let mut shown = text.filled(filling);
        shown.retain(|&id| Some(id) != self.pad_id);
        let token_strs = tokens.iter().map(|&token| model.tokenizer.decode(&[token], false));
        Ok(Filling {
            log_score: filling.log_score,
            token_strs: token_strs.collect::<Result<_, _>>()?,
            tokens,
            sequence: model.tokenizer.decode(&shown, true)?,
            order: self.order,
        })
    }
}
