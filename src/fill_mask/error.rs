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
        "The text has {masks} blanks and top_k is {top_k}: together more than the {max} predictions that an answer may hold; lower top_k."
    )]
    TooManyPredictions {
        /// Masks in the text.
        masks: usize,
        /// Predictions for each.
        top_k: usize,
        /// The limit on their product.
        max: usize,
    },
    /// No target is left once those that mean nothing to the tokenizer are dropped.
    #[error("None of the targets is a word that the model knows; name at least one word in targets, or leave it out.")]
    NoTarget,
    /// The tokenizer itself failed.
    #[error("The text cannot be tokenized: {0}.")]
    Tokenizer(String),
}
