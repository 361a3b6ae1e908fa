//! The cost of tokenizing one word, bounded before it is tokenized, for the tokenizer's kind of model.

use tokenizers::models::ModelWrapper;
use tokenizers::{Model, Tokenizer};

use super::EncodeError;
use crate::work::WorkBudget;

/// Bytes of a word for BPE and Unigram. Neither needs as many for a text within any token limit: no vocabulary has
/// tokens of hundreds of bytes.
const WORD_BYTES_MAX: usize = 64 * 1024;

/// Look-ups of BPE for each byte of a word: its merges, in a heap.
const BPE_LOOKUPS_PER_BYTE: u64 = 8;

/// Look-ups of Unigram for each byte of a word: one for each piece of the vocabulary that begins there.
const UNIGRAM_LOOKUPS_PER_BYTE: u64 = 8;

/// Growth of the cost of a word with its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordCost {
    /// The longest piece first, then the rest of the word: a look-up for each pair of begin and end. A word of more
    /// than `word_chars_max` characters becomes the unknown token at once.
    WordPiece {
        word_chars_max: usize,
    },
    Linear {
        lookups_per_byte: u64,
    },
    /// One look-up.
    WordLevel,
}

impl WordCost {
    pub fn of(tokenizer: &Tokenizer) -> Self {
        match tokenizer.get_model() {
            ModelWrapper::WordPiece(model) => Self::WordPiece {
                word_chars_max: model.max_input_chars_per_word,
            },
            ModelWrapper::BPE(_) => Self::Linear {
                lookups_per_byte: BPE_LOOKUPS_PER_BYTE,
            },
            ModelWrapper::Unigram(_) => Self::Linear {
                lookups_per_byte: UNIGRAM_LOOKUPS_PER_BYTE,
            },
            ModelWrapper::WordLevel(_) => Self::WordLevel,
        }
    }

    /// Takes the most look-ups that `word` can need.
    ///
    /// # Errors
    /// A word that is too long, and one beyond the budget.
    pub fn spend(self, word: &str, tokenizer: &Tokenizer, budget: &mut WorkBudget) -> Result<(), EncodeError> {
        budget.spend(self.lookups(word, tokenizer)?)?;
        Ok(())
    }

    /// The most look-ups for `text`, from the lengths of its words between spaces. A normalizer that makes text longer
    /// may cause more.
    pub fn estimate(self, text: &str) -> u64 {
        let words = text.split_whitespace();
        match self {
            Self::WordLevel => words.count() as u64,
            // Byte-level BPE writes a byte as a character of two.
            Self::Linear { lookups_per_byte } => 1 + text.len() as u64 * lookups_per_byte * 2,
            Self::WordPiece { word_chars_max } => {
                // A longer word is split, or unknown at once.
                let of_word = |chars: u64| 1 + chars * chars.min(word_chars_max as u64) / 2;
                words.map(|word| of_word(word.chars().count() as u64)).sum()
            }
        }
    }

    /// The most look-ups that `word` can need.
    ///
    /// # Errors
    /// A word that is too long.
    pub fn lookups(self, word: &str, tokenizer: &Tokenizer) -> Result<u64, EncodeError> {
        match self {
            Self::WordLevel => Ok(1),
            Self::Linear { .. } if word.len() > WORD_BYTES_MAX => Err(EncodeError::LongWord {
                bytes: word.len(),
                max: WORD_BYTES_MAX,
            }),
            Self::Linear { lookups_per_byte } => Ok(1 + word.len() as u64 * lookups_per_byte),
            // Most words are in the vocabulary.
            Self::WordPiece { .. } if tokenizer.get_model().token_to_id(word).is_some() => Ok(2),
            Self::WordPiece { word_chars_max } => {
                let chars = word.chars().count();
                match chars > word_chars_max {
                    true => Ok(1 + chars as u64 / 64),
                    false => Ok(1 + (chars as u64).saturating_pow(2) / 2),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::PretrainedModel;

    #[test]
    fn word_piece_is_quadratic_in_words_that_the_vocabulary_lacks() {
        let tokenizer = PretrainedModel::embedded().unwrap().tokenizer.tokenizer;
        let cost = WordCost::of(&tokenizer);
        assert_eq!(cost, WordCost::WordPiece { word_chars_max: 100 });
        let lookups = |word: &str| cost.lookups(word, &tokenizer).unwrap();
        assert_eq!(lookups("paris"), 2);
        assert_eq!(lookups(&"x".repeat(100)), 5001);
        assert_eq!(lookups(&"x".repeat(128)), 3);
        // Characters, not bytes.
        assert_eq!(lookups(&"ж".repeat(10)), 51);
    }

    #[test]
    fn a_linear_model_refuses_a_word_that_no_text_needs() {
        let tokenizer = PretrainedModel::embedded().unwrap().tokenizer.tokenizer;
        let cost = WordCost::Linear { lookups_per_byte: 8 };
        assert_eq!(cost.lookups("word", &tokenizer), Ok(33));
        assert!(cost.lookups(&"x".repeat(WORD_BYTES_MAX), &tokenizer).is_ok());
        let error = cost.lookups(&"x".repeat(WORD_BYTES_MAX + 1), &tokenizer).unwrap_err();
        assert!(matches!(error, EncodeError::LongWord { bytes: 65_537, .. }), "{error}");
    }
}
