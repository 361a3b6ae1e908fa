//! A text as the model takes it.

use super::{AnswerSize, FillMask, InputError, Wanted};

/// How much of a long text is tokenized at once to see whether it is too long.
const PIECE_BYTES: usize = 16 * 1024;

/// Tokens that a cut inside a word can add: WordPiece takes a word of more than 100 characters for one token,
/// and cuts a shorter one into at most as many as it has characters; two words are cut at a piece's two ends.
const TOKENS_A_CUT_MAX: usize = 256;

/// A tokenized text and where its masks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Token ids with the special tokens around them.
    pub input_ids: Vec<u32>,
    /// Where the mask tokens stand, ascending; at least one.
    pub mask_positions: Vec<usize>,
}

impl FillMask {
    /// Tokenizes a text that somebody wants filled in.
    ///
    /// # Errors
    /// An empty text, one without a mask, one that is too long, or one that asks for too much at once.
    pub fn question(&self, text: &str, wanted: &Wanted) -> Result<Question, InputError> {
        let mask_token = || self.mask_token.clone();
        if text.trim().is_empty() {
            return Err(InputError::Empty {
                mask_token: mask_token(),
            });
        }
        self.refuse_far_too_long(text)?;
        let encoding = self.tokenizer.encode_fast(text, true);
        let encoding = encoding.map_err(|e| InputError::Tokenizer(e.to_string()))?;
        let input_ids = encoding.get_ids();
        if input_ids.len() > self.max_input_tokens {
            return Err(InputError::TooLong {
                tokens: input_ids.len(),
                max: self.max_input_tokens,
            });
        }
        let masks = input_ids.iter().enumerate().filter(|(_, id)| **id == self.mask_id);
        let mask_positions: Vec<usize> = masks.map(|(position, _)| position).collect();
        if mask_positions.is_empty() {
            return Err(InputError::NoMask {
                mask_token: mask_token(),
            });
        }
        let question = Question {
            input_ids: input_ids.to_vec(),
            mask_positions,
        };
        AnswerSize::default().add(&question, wanted)?;
        Ok(question)
    }

    /// The tokenizer takes some 500 bytes a token before anybody can count them, so a megabyte of punctuation
    /// would take half a gigabyte. A long text is therefore counted piece by piece first, until it is certain
    /// that it is too long.
    fn refuse_far_too_long(&self, text: &str) -> Result<(), InputError> {
        let mut rest = text;
        let mut tokens_min = 0_usize;
        while rest.len() > PIECE_BYTES {
            let (piece, behind) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
            let encoding = self.tokenizer.encode_fast(piece, false);
            let tokens = encoding.map_err(|e| InputError::Tokenizer(e.to_string()))?.len();
            tokens_min += tokens.saturating_sub(TOKENS_A_CUT_MAX);
            if tokens_min > self.max_input_tokens {
                return Err(InputError::FarTooLong {
                    bytes: text.len(),
                    max: self.max_input_tokens,
                });
            }
            rest = behind;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fill_mask::Parameters;
    use crate::lm::PretrainedModel;

    #[test]
    fn a_long_text_is_refused_by_its_tokens_not_by_its_bytes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/uncased-tied");
        let model = PretrainedModel::open(&folder).unwrap();
        let fill_mask = FillMask::new(model.tokenizer, &model.info, 64);
        let wanted = fill_mask.wanted(&Parameters::default()).unwrap();
        let spaces = " ".repeat(PIECE_BYTES);
        let one_word = "x".repeat(10 * PIECE_BYTES);
        for text in [
            format!("a{spaces}{spaces}[MASK]"),
            // Cut in the middle of the mask and of a character.
            format!("{}[MASK]{spaces}", &spaces[2..]),
            format!("[MASK] {}é{spaces}", &spaces[..PIECE_BYTES - 8]),
            format!("[MASK] {one_word}"),
        ] {
            assert!(fill_mask.question(&text, &wanted).is_ok(), "{} bytes", text.len());
        }
        for text in [
            "!".repeat(2 * PIECE_BYTES),
            "[MASK] ".repeat(PIECE_BYTES),
            format!("{spaces}{spaces}{}", "a ".repeat(2 * PIECE_BYTES)),
        ] {
            let error = fill_mask.question(&text, &wanted).unwrap_err();
            assert!(matches!(error, InputError::FarTooLong { max: 64, .. }), "{error}");
        }
        // Too long, but not by far enough to be seen in pieces.
        let error = fill_mask.question(&format!("{spaces}{}", "a ".repeat(100)), &wanted);
        assert!(
            matches!(error, Err(InputError::TooLong { tokens: 102, max: 64 })),
            "{error:?}"
        );
    }
}
