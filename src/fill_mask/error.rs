//! What can be wrong with a text or its parameters.

/// One sentence to the person who sent the text: what was wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Nothing but white space.
    #[error("The text is empty; send a text with a blank, for example \"Paris is the capital of {mask_token}.\".")]
    Empty {
        /// What stands for a blank.
        mask_token: String,
    },
    /// Nothing to fill in.
    #[error("The text has no blank; write {mask_token} where a word is missing.")]
    NoMask {
        /// What stands for a blank.
        mask_token: String,
    },
    /// Longer than the model, or the server, takes.
    #[error("The text is {tokens} tokens long and at most {max} are allowed; shorten it or split it.")]
    TooLong {
        /// Tokens of the text, special tokens included.
        tokens: usize,
        /// The limit.
        max: usize,
    },
    /// So long that nobody counted its tokens.
    #[error("The text is {bytes} bytes long, far more than the {max} tokens that are allowed; shorten it or split it.")]
    FarTooLong {
        /// Its length.
        bytes: usize,
        /// Tokens that are allowed.
        max: usize,
    },
    /// `top_k` is 0 or more than there are tokens.
    #[error("top_k is {top_k}; it must be between 1 and {vocab_size}, the size of the vocabulary.")]
    TopK {
        /// What was asked for.
        top_k: usize,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
    /// More predictions than an answer may hold.
    #[error(
        "The answer would hold {predictions} predictions or more, and at most {max} are allowed; lower top_k or send fewer texts."
    )]
    TooManyPredictions {
        /// `top_k` for each blank, as far as was counted.
        predictions: usize,
        /// The limit.
        max: usize,
    },
    /// The texts, repeated for each prediction, are more than an answer may hold.
    #[error(
        "The answer repeats a text for each prediction, {tokens} tokens or more in all, and at most {max} are allowed; lower top_k or send fewer or shorter texts."
    )]
    AnswerTooLong {
        /// Predictions times the tokens of their texts, as far as was counted.
        tokens: usize,
        /// The limit.
        max: usize,
    },
    /// More targets than may be named.
    #[error("There are {targets} targets and at most {max} are allowed; name fewer.")]
    TooManyTargets {
        /// How many were named.
        targets: usize,
        /// The limit.
        max: usize,
    },
    /// A target that cannot be a word.
    #[error("A target is {bytes} bytes long and at most {max} are allowed; a target is a word.")]
    LongTarget {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// No target is left once those that mean nothing to the tokenizer are dropped.
    #[error("None of the targets is a word that the model knows; name at least one word in targets, or leave it out.")]
    NoTarget,
    /// The tokenizer itself failed.
    #[error("The text cannot be tokenized: {0}.")]
    Tokenizer(String),
}
