//! The part of planning that all tasks share: the limits on texts and on tokenizing them, and the size of a request.

use super::fill_mask::LOOKUPS_MAX;
use super::{Computation, InputError, Notes, TaskModel};
use crate::text::{EncodeError, Encoded, LengthRule};
use crate::work::WorkBudget;

/// The size of a planned request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub texts: usize,
    /// Tokens of all texts.
    pub tokens: usize,
    /// The most that the model computes.
    pub computation: Computation,
}

/// A request that is being planned, text by text.
pub(super) struct Planning<'a> {
    model: &'a TaskModel,
    length: LengthRule,
    /// The texts of the whole request.
    texts: usize,
    truncated: usize,
    pub budget: WorkBudget,
    pub size: Size,
}

impl<'a> Planning<'a> {
    /// Checks the number of texts, and the work of tokenizing them and `targets`.
    ///
    /// # Errors
    /// Too many texts, and too much work.
    pub async fn begin(
        model: &'a TaskModel,
        texts: &[String],
        targets: &[String],
        length: LengthRule,
        texts_max: usize,
    ) -> Result<Self, InputError> {
        if texts.len() > texts_max {
            return Err(InputError::TooManyTexts {
                texts: texts.len(),
                max: texts_max,
            });
        }
        let strings = texts.iter().chain(targets).map(String::as_str);
        let counted = model.tokenizer.refuse_too_much_work(strings, length, LOOKUPS_MAX);
        counted.await.map_err(EncodeError::from)?;
        Ok(Self {
            model,
            length,
            texts: texts.len(),
            truncated: 0,
            budget: WorkBudget::new(LOOKUPS_MAX),
            size: Size::default(),
        })
    }

    /// Tokenizes the next text, which needs no mask.
    ///
    /// # Errors
    /// An empty text, and those of tokenizing.
    pub async fn encode(&mut self, text: &str) -> Result<Encoded, InputError> {
        if text.trim().is_empty() {
            return Err(InputError::NoTokens);
        }
        let encoded = self
            .model
            .tokenizer
            .encode_within(text, self.length, &mut self.budget)
            .await?;
        self.add_text(encoded.token_ids.len(), encoded.truncated);
        Ok(encoded)
    }

    /// Tokenizes the next text; returns its tokens and the positions of its masks.
    ///
    /// # Errors
    /// A text without a mask, and those of tokenizing.
    pub async fn encode_masked(&mut self, text: &str) -> Result<(Vec<u32>, Vec<usize>), InputError> {
        let read = self.model.tokens_and_masks(text, self.length, &mut self.budget);
        let (token_ids, masks, truncated) = read.await?;
        self.add_text(token_ids.len(), truncated);
        Ok((token_ids, masks))
    }

    /// Counts a text of which `truncated` tokens were removed.
    pub fn add_text(&mut self, tokens: usize, truncated: usize) {
        self.size.texts += 1;
        self.size.tokens += tokens;
        self.truncated += truncated;
    }

    /// The error of the text at `index`, which it names if there are several.
    pub fn error_at(&self, index: usize, error: InputError) -> InputError {
        match self.texts {
            1 => error,
            _ => InputError::InList {
                index,
                error: Box::new(error),
            },
        }
    }

    /// The tokens that truncation removed, if the request asks for it.
    pub fn notes(&self) -> Notes {
        Notes {
            truncated_tokens: self.length.truncates().then_some(self.truncated),
            ..Notes::default()
        }
    }
}
