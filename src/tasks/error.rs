//! Refusals of a request by a task.

use crate::text::EncodeError;

/// One sentence for the client: what was wrong, and how to correct it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    #[error("The request holds {texts} texts and at most {max} are allowed; send them in parts.")]
    TooManyTexts { texts: usize, max: usize },
    /// A text of white space alone.
    #[error("The text is empty; send a text with a mask, for example \"Paris is the capital of {mask_token}.\".")]
    Empty { mask_token: String },
    #[error("The text has no mask; write {mask_token} where a word is missing.")]
    NoMask { mask_token: String },
    /// A text of white space alone, for a task without masks.
    #[error("The text is empty; send a text with at least one word.")]
    EmptyText,
    #[error("The text has no token that can be scored; send a text with at least one word.")]
    NoTokens,
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// An error of one text of a list.
    #[error("The text at index {index}, counted from 0: {error}")]
    InList { index: usize, error: Box<InputError> },
    /// `top_k` is 0, or exceeds the vocabulary without targets.
    #[error("top_k is {top_k}; it must be between 1 and {vocab_size}, the size of the vocabulary.")]
    TopK { top_k: usize, vocab_size: usize },
    /// `predictions` is `top_k` times the masks, counted until the limit was exceeded.
    #[error(
        "The answer would hold {predictions} predictions or more, and at most {max} are allowed; lower top_k or send fewer texts."
    )]
    TooManyPredictions { predictions: usize, max: usize },
    /// `tokens` is predictions times the tokens of their texts, counted until the limit was exceeded.
    #[error(
        "The answer repeats a text for each prediction, {tokens} tokens or more in all, and at most {max} are allowed; lower top_k or send fewer or shorter texts."
    )]
    AnswerTooLong { tokens: usize, max: usize },
    #[error("There are {targets} targets and at most {max} are allowed; name fewer.")]
    TooManyTargets { targets: usize, max: usize },
    #[error("A target is {bytes} bytes long and at most {max} are allowed; a target is a word.")]
    LongTarget { bytes: usize, max: usize },
    /// Parameters that exclude each other, as a sentence.
    #[error("{0}")]
    Parameters(&'static str),
    #[error("A target is {tokens} tokens long and at most {max} are allowed; a target is a word.")]
    LongWord { tokens: usize, max: usize },
    #[error("The targets have more than {max} tokens in all; name fewer.")]
    TooManyWordTokens { max: usize },
    #[error("The beam is {beam}; it must be between 1 and {max}.")]
    Beam { beam: usize, max: usize },
    /// `top_k` of a joint filling.
    #[error("top_k is {top_k}; with joint it must be between 1 and {max}.")]
    Fillings { top_k: usize, max: usize },
    /// `tokens` are those of the text, without special tokens.
    #[error(
        "There is no token to read at index {index}: the text has {tokens} tokens, counted from 0 without special tokens."
    )]
    NoSuchToken { index: usize, tokens: usize },
    /// `sequences` and `tokens` are counted until a limit was exceeded.
    #[error(
        "The request takes {sequences} sequences of {tokens} tokens in all, or more, and at most {sequences_max} sequences and {tokens_max} tokens are computed for one request; send fewer or shorter texts, or narrow its parameters."
    )]
    TooMuchComputation {
        sequences: usize,
        tokens: usize,
        sequences_max: usize,
        tokens_max: usize,
    },
    /// A text that fits the limit, but not with the longest target in place of a mask.
    #[error(
        "With the longest target in place of a mask the text is {tokens} tokens long and at most {max} are allowed; shorten the text."
    )]
    WordBeyondLimit { tokens: usize, max: usize },
    /// The tokenizer drops every target.
    #[error("None of the targets is a word that the model knows; name at least one word in targets, or leave it out.")]
    NoTarget,
}

impl InputError {
    /// True for a text that truncation would cut to the limit.
    pub fn is_over_limit(&self) -> bool {
        match self {
            Self::InList { error, .. } => error.is_over_limit(),
            _ => matches!(self, Self::Encode(EncodeError::TooManyTokens { .. })),
        }
    }

    /// True if the sentence may repeat a part of a text.
    pub fn repeats_text(&self) -> bool {
        match self {
            Self::InList { error, .. } => error.repeats_text(),
            _ => matches!(self, Self::Encode(EncodeError::Failed(_))),
        }
    }
}
