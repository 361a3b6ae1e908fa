//! Text to token ids, with a limit that holds before the text is tokenized as a whole.

use super::Tokenizer;
use crate::sys::excerpt;

/// Bytes of a long text that are tokenized at once to estimate its length.
const PIECE_BYTES: usize = 16 * 1024;

/// Tokens that cutting a text into pieces can add at the two ends of one piece. WordPiece turns a word of more than 100
/// characters into one token and a shorter one into at most as many tokens as it has characters.
const CUT_TOKENS_MAX: usize = 256;

/// A text that cannot be encoded, as a sentence for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// `tokens` includes special tokens.
    #[error("The text is {tokens} tokens long and at most {max} are allowed; shorten it or split it.")]
    TooManyTokens { tokens: usize, max: usize },
    /// So long that its tokens were not counted to the end.
    #[error(
        "The text is {bytes} bytes long, far more than the {tokens_max} tokens that are allowed; shorten it or split it."
    )]
    TooManyBytes { bytes: usize, tokens_max: usize },
    /// The tokenizer itself failed.
    #[error("The text cannot be tokenized: {0}.")]
    Failed(String),
}

impl EncodeError {
    pub(super) fn failed(error: tokenizers::Error) -> Self {
        Self::Failed(excerpt::sentence(&error.to_string()).to_string())
    }
}

impl Tokenizer {
    /// The token ids of `text` with the special tokens around them.
    ///
    /// # Errors
    /// A text of more than [`tokens_max`](Self::tokens_max) tokens, and a tokenizer that fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        self.refuse_far_too_long(text)?;
        let encoding = self.tokenizer.encode_fast(text, true).map_err(EncodeError::failed)?;
        let token_ids = encoding.get_ids();
        match token_ids.len() > self.tokens_max {
            true => Err(EncodeError::TooManyTokens {
                tokens: token_ids.len(),
                max: self.tokens_max,
            }),
            false => Ok(token_ids.to_vec()),
        }
    }

    /// The tokenizer allocates some 500 bytes per token before a token can be counted, so a megabyte of punctuation would
    /// take half a gigabyte. A long text is therefore counted in pieces first, until it is certain to exceed the limit.
    fn refuse_far_too_long(&self, text: &str) -> Result<(), EncodeError> {
        let mut rest = text;
        let mut tokens_min = 0_usize;
        while rest.len() > PIECE_BYTES {
            let (piece, tail) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
            let encoding = self.tokenizer.encode_fast(piece, false).map_err(EncodeError::failed)?;
            tokens_min += encoding.len().saturating_sub(CUT_TOKENS_MAX);
            if tokens_min > self.tokens_max {
                return Err(EncodeError::TooManyBytes {
                    bytes: text.len(),
                    tokens_max: self.tokens_max,
                });
            }
            rest = tail;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::PretrainedModel;

    fn tokenizer() -> Tokenizer {
        Tokenizer::new(PretrainedModel::embedded().unwrap().tokenizer, 64)
    }

    #[test]
    fn a_long_text_is_refused_by_its_tokens_not_by_its_bytes() {
        let tokenizer = tokenizer();
        let spaces = " ".repeat(PIECE_BYTES);
        let one_word = "x".repeat(10 * PIECE_BYTES);
        for text in [
            format!("a{spaces}{spaces}[MASK]"),
            // Cut in the middle of the mask token and of a character.
            format!("{}[MASK]{spaces}", &spaces[2..]),
            format!("[MASK] {}é{spaces}", &spaces[..PIECE_BYTES - 8]),
            format!("[MASK] {one_word}"),
        ] {
            assert!(tokenizer.encode(&text).is_ok(), "{} bytes", text.len());
        }
        for text in [
            "!".repeat(2 * PIECE_BYTES),
            "[MASK] ".repeat(PIECE_BYTES),
            format!("{spaces}{spaces}{}", "a ".repeat(2 * PIECE_BYTES)),
        ] {
            let error = tokenizer.encode(&text).unwrap_err();
            assert!(
                matches!(error, EncodeError::TooManyBytes { tokens_max: 64, .. }),
                "{error}"
            );
        }
        // Too long, but not by enough to be seen in pieces.
        let error = tokenizer.encode(&format!("{spaces}{}", "a ".repeat(100)));
        assert_eq!(error, Err(EncodeError::TooManyTokens { tokens: 102, max: 64 }));
    }

    #[test]
    fn the_limit_includes_the_special_tokens() {
        let tokenizer = tokenizer();
        let words = |count: usize| "a ".repeat(count);
        assert_eq!(tokenizer.encode(&words(62)).map(|ids| ids.len()), Ok(64));
        assert!(tokenizer.encode(&words(63)).is_err());
    }

    #[test]
    fn a_word_is_looked_up_whole_or_by_its_first_piece() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("unthinkableness").unwrap();
        assert!(ids.len() > 3, "not in several pieces");
        assert_eq!(tokenizer.first_token("unthinkableness"), Ok(Some(ids[1])));
        assert_eq!(tokenizer.first_token("[MASK]"), Ok(Some(tokenizer.mask_id())));
        assert_eq!(tokenizer.first_token(" \t"), Ok(None));
    }
}
