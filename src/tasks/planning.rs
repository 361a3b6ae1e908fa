//! The part of planning that all tasks share: the limits on texts, on the work of a request, on its computation and on
//! its answer.

use super::answer_size::AnswerSize;
use super::{Computation, InputError, Notes, TaskModel};
use crate::text::{EncodeError, Encoded, LengthRule, Located};
use crate::work::{self, WorkBudget};

/// Look-ups in the vocabulary for one request: about a second. A megabyte of English needs a tenth.
pub const LOOKUPS_MAX: u64 = 10_000_000;

/// A score is read, copied and sorted.
const LOOKUPS_PER_SCORE: usize = 4;

/// The size of a planned request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub texts: usize,
    /// Tokens of all texts.
    pub tokens: usize,
    /// The most that the model computes.
    pub computation: Computation,
}

/// A request that is being planned, text by text. Errors of a text name its index in the list.
pub(super) struct Planning<'a> {
    model: &'a TaskModel,
    length: LengthRule,
    /// The texts of the whole request.
    texts: usize,
    /// The texts that were begun.
    begun: usize,
    truncated: usize,
    pub budget: WorkBudget,
    answer_size: AnswerSize,
    size: Size,
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
            begun: 0,
            truncated: 0,
            budget: WorkBudget::new(LOOKUPS_MAX),
            answer_size: AnswerSize::default(),
            size: Size::default(),
        })
    }

    /// Tokenizes the next text, which needs no mask.
    ///
    /// # Errors
    /// An empty text, and those of tokenizing.
    pub async fn encode(&mut self, text: &str) -> Result<Encoded, InputError> {
        self.begin_text(text, InputError::EmptyText).await?;
        self.tokens_of(text).await
    }

    /// [`encode`](Self::encode) with the place of each token in the text.
    ///
    /// # Errors
    /// As of [`encode`](Self::encode).
    pub async fn encode_located(&mut self, text: &str) -> Result<Located, InputError> {
        self.begin_text(text, InputError::EmptyText).await?;
        let tokenizer = &self.model.tokenizer;
        let located = tokenizer.encode_located(text, self.length, &mut self.budget).await;
        let located = located.map_err(|error| self.of_text(error.into()))?;
        self.add_text(&located.encoded);
        Ok(located)
    }

    /// Tokenizes the next text; returns its tokens and the positions of its masks, at least one, ascending.
    ///
    /// # Errors
    /// A text without a mask, and those of tokenizing.
    pub async fn encode_masked(&mut self, text: &str) -> Result<(Vec<u32>, Vec<usize>), InputError> {
        let model = self.model;
        let mask_token = || model.mask_token().to_owned();
        let empty = InputError::Empty {
            mask_token: mask_token(),
        };
        self.begin_text(text, empty).await?;
        let encoded = self.tokens_of(text).await?;
        let mask_id = model.tokenizer.mask_id();
        let masks = encoded.token_ids.iter().enumerate().filter(|(_, id)| **id == mask_id);
        let masks: Vec<usize> = masks.map(|(position, _)| position).collect();
        match masks.is_empty() {
            true => Err(self.of_text(InputError::NoMask {
                mask_token: mask_token(),
            })),
            false => Ok((encoded.token_ids, masks)),
        }
    }

    /// Begins the next text; its error is `empty` if it is white space alone.
    async fn begin_text(&mut self, text: &str, empty: InputError) -> Result<(), InputError> {
        work::checkpoint().await;
        self.begun += 1;
        match text.trim().is_empty() {
            true => Err(self.of_text(empty)),
            false => Ok(()),
        }
    }

    async fn tokens_of(&mut self, text: &str) -> Result<Encoded, InputError> {
        let tokenizer = &self.model.tokenizer;
        let encoded = tokenizer.encode_within(text, self.length, &mut self.budget).await;
        let encoded = encoded.map_err(|error| self.of_text(error.into()))?;
        self.add_text(&encoded);
        Ok(encoded)
    }

    fn add_text(&mut self, encoded: &Encoded) {
        self.size.texts += 1;
        self.size.tokens += encoded.token_ids.len();
        self.truncated += encoded.truncated;
    }

    /// Counts `sequences` sequences of `tokens` tokens for the model, each with `readouts` readout positions.
    ///
    /// # Errors
    /// Too much computation.
    pub fn add_sequences(&mut self, sequences: usize, tokens: usize, readouts: usize) -> Result<(), InputError> {
        self.size.computation.add(sequences, tokens, readouts)
    }

    /// Counts predictions in the answer, each with a text of `tokens` tokens.
    ///
    /// # Errors
    /// An answer that is too large.
    pub fn add_predictions(&mut self, predictions: usize, tokens: usize) -> Result<(), InputError> {
        self.answer_size.add(predictions, tokens)
    }

    /// Counts the work on scores that the model returns, of which the answer has some.
    ///
    /// # Errors
    /// Too much work.
    pub fn add_scores(&mut self, scores: usize) -> Result<(), InputError> {
        self.add_work(scores.saturating_mul(LOOKUPS_PER_SCORE))
    }

    /// Counts work in look-ups.
    ///
    /// # Errors
    /// Too much work.
    pub fn add_work(&mut self, lookups: usize) -> Result<(), InputError> {
        self.budget.spend(lookups as u64).map_err(EncodeError::from)?;
        Ok(())
    }

    /// The size of the texts so far.
    pub fn size(&self) -> Size {
        self.size
    }

    /// An error of the text that was begun last, which it names if there are several.
    pub fn of_text(&self, error: InputError) -> InputError {
        match self.texts {
            1 => error,
            _ => InputError::InList {
                index: self.begun - 1,
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
