//! Text to token ids, in slices, within limits that hold before the text is tokenized as a whole.
//!
//! `tokenizers::Tokenizer::encode` does the same in one call that cannot be interrupted. Its steps are public: added
//! tokens and normalization, splitting into words (pre-tokens), the model on each word, special tokens.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;

use tokenizers::{
    Encoding, Model, OffsetReferential, OffsetType, PostProcessor, PreTokenizedString, PreTokenizer, Token,
};

use super::{LengthRule, Tokenizer, Truncation, TruncationError};
use crate::sys::excerpt;
use crate::work::{self, TooMuchWork, WorkBudget};

/// Bytes of a long text that are split into words at once to estimate its length.
const PIECE_BYTES: usize = 16 * 1024;

/// Bytes of any text, and for each token of the limit if that is more. A call of the tokenizer's library on a text
/// cannot be interrupted, and takes up to a second and hundreds of bytes of memory for each byte of some scripts.
const TEXT_BYTES_MAX: usize = 64 * 1024;
const BYTES_PER_TOKEN_MAX: usize = 32;

/// Words that cutting a text into pieces can add at the two ends of one piece: the characters of an added token that
/// was cut, each a word of its own.
const CUT_WORDS_MAX: usize = 64;

/// Words of a text that is truncated, as many as one piece can have. Words take memory until the text is tokenized.
const TRUNCATED_WORDS_MAX: usize = PIECE_BYTES;

/// Tokens are counted exactly up to this multiple of the limit, for the sentence that refuses a text.
const COUNTED_TOKENS_FACTOR: usize = 4;

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
    /// A word whose tokenization takes time that grows faster than its length.
    #[error("The text has a word of {bytes} bytes and at most {max} are allowed; put spaces between words.")]
    LongWord { bytes: usize, max: usize },
    #[error(
        "The request takes more than {max} look-ups in the vocabulary, because it has very many long words or targets that the vocabulary lacks; send them in several requests."
    )]
    TooMuchWork { max: u64 },
    #[error(transparent)]
    Truncation(#[from] TruncationError),
    /// The tokenizer itself failed.
    #[error("The text cannot be tokenized: {0}.")]
    Failed(String),
}

impl EncodeError {
    fn failed(error: tokenizers::Error) -> Self {
        Self::Failed(excerpt::sentence(&error.to_string()).to_string())
    }
}

impl From<TooMuchWork> for EncodeError {
    fn from(TooMuchWork { max }: TooMuchWork) -> Self {
        Self::TooMuchWork { max }
    }
}

/// A tokenized text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Special tokens included.
    pub token_ids: Vec<u32>,
    /// The index of each token's word in the text; `None` for special tokens around the text.
    pub word_ids: Vec<Option<u32>>,
    /// Tokens that truncation removed.
    pub truncated: usize,
}

/// A tokenized text, with the place of each token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub encoded: Encoded,
    /// The bytes of each token in the text; `(0, 0)` for special tokens around it.
    pub offsets: Vec<(usize, usize)>,
}

impl Tokenizer {
    /// The token ids of `text` with the special tokens around them.
    ///
    /// # Errors
    /// A text of more than [`tokens_max`](Self::tokens_max) tokens, one beyond the budget, and a tokenizer that fails.
    pub async fn encode(&self, text: &str, budget: &mut WorkBudget) -> Result<Vec<u32>, EncodeError> {
        let encoded = self.encode_within(text, LengthRule::default(), budget).await?;
        Ok(encoded.token_ids)
    }

    /// The tokens of `text`, truncated by `rule`, with the special tokens around them.
    ///
    /// # Errors
    /// As of [`encode`](Self::encode), and a mask that would be cut off.
    pub async fn encode_within(
        &self,
        text: &str,
        rule: LengthRule,
        budget: &mut WorkBudget,
    ) -> Result<Encoded, EncodeError> {
        self.refuse_far_too_long(text, rule).await?;
        let words = self.words(text)?;
        work::checkpoint().await;
        let counted_max = match rule.truncates() {
            true => usize::MAX,
            false => self.tokens_max.saturating_mul(COUNTED_TOKENS_FACTOR),
        };
        let mut tokens = Vec::new();
        let splits = words.get_splits(OffsetReferential::Normalized, OffsetType::None);
        for (index, (word, _, added)) in splits.into_iter().enumerate() {
            let of_word = |token: &Token| (token.id, index as u32);
            match added {
                Some(added) => tokens.extend(added.iter().map(of_word)),
                None => tokens.extend(self.word_tokens(word, budget)?.iter().map(of_word)),
            }
            if tokens.len() > counted_max {
                return Err(self.far_too_long(text));
            }
            work::checkpoint().await;
        }
        let window = self.window(rule, tokens.iter().map(|(id, _)| *id))?;
        let truncated = tokens.len() - window.len();
        let kept = tokens[window].iter();
        let encoding = kept
            .map(|&(id, word)| (id, String::new(), (0, 0), Some(word), 0))
            .collect();
        let encoding = self.with_special_tokens(encoding)?;
        Ok(Encoded {
            token_ids: encoding.get_ids().to_vec(),
            word_ids: encoding.get_word_ids().to_vec(),
            truncated,
        })
    }

    /// The tokens of `text` as [`encode_within`](Self::encode_within) gives them, with the bytes of each in the text.
    ///
    /// # Errors
    /// As of [`encode_within`](Self::encode_within).
    pub async fn encode_located(
        &self,
        text: &str,
        rule: LengthRule,
        budget: &mut WorkBudget,
    ) -> Result<Located, EncodeError> {
        self.refuse_far_too_long(text, rule).await?;
        let mut words = self.words(text)?;
        work::checkpoint().await;
        let mut tokens = VecDeque::new();
        for (word, _, added) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if added.is_none() {
                tokens.push_back(self.word_tokens(word, budget)?);
            }
            work::checkpoint().await;
        }
        // Words that are added tokens have their tokens already.
        let tokens = RefCell::new(tokens);
        let tokenized = words.tokenize(|_| Ok(tokens.borrow_mut().pop_front().unwrap_or_default()));
        tokenized.map_err(EncodeError::failed)?;
        let encoding = words
            .into_encoding(None, 0, OffsetType::Byte)
            .map_err(EncodeError::failed)?;
        let window = self.window(rule, encoding.get_ids().iter().copied())?;
        let truncated = encoding.get_ids().len() - window.len();
        let token = |index: usize| {
            let (id, token) = (encoding.get_ids()[index], encoding.get_tokens()[index].clone());
            (
                id,
                token,
                encoding.get_offsets()[index],
                encoding.get_word_ids()[index],
                0,
            )
        };
        let encoding = self.with_special_tokens(window.map(token).collect())?;
        Ok(Located {
            offsets: encoding.get_offsets().to_vec(),
            encoded: Encoded {
                token_ids: encoding.get_ids().to_vec(),
                word_ids: encoding.get_word_ids().to_vec(),
                truncated,
            },
        })
    }

    /// The token ids of `word` without special tokens.
    ///
    /// # Errors
    /// A word beyond the budget, and a tokenizer that fails.
    pub async fn encode_word(&self, word: &str, budget: &mut WorkBudget) -> Result<Vec<u32>, EncodeError> {
        budget.spend(1)?;
        let words = self.words(word)?;
        let mut ids = Vec::new();
        for (word, _, added) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match added {
                Some(added) => ids.extend(added.iter().map(|token| token.id)),
                None => ids.extend(self.word_tokens(word, budget)?.iter().map(|token| token.id)),
            }
            work::checkpoint().await;
        }
        Ok(ids)
    }

    /// The tokens of a text to keep by `rule`, without special tokens.
    fn window(&self, rule: LengthRule, ids: impl ExactSizeIterator<Item = u32>) -> Result<Range<usize>, EncodeError> {
        let (truncation, length_max) = match rule.truncation {
            Truncation::AsTokenizer => (self.side, self.length_max),
            truncation => (truncation, self.tokens_max),
        };
        let length_max = rule.max_length.unwrap_or(length_max);
        let rule = LengthRule { truncation, ..rule };
        let kept_max = length_max.saturating_sub(self.special_tokens());
        let tokens = ids.len();
        let masks = ids.enumerate().filter(|(_, id)| *id == self.mask_id());
        let masks: Vec<usize> = masks.map(|(index, _)| index).collect();
        Ok(rule.window(tokens, kept_max, &masks)?)
    }

    /// The number of special tokens around a text.
    fn special_tokens(&self) -> usize {
        let processor = self.tokenizer.get_post_processor();
        processor.map_or(0, |processor| processor.added_tokens(false))
    }

    /// The id of `word` if it is one token of the vocabulary, else that of its first piece. `None` for a word that
    /// the tokenizer drops, such as white space.
    ///
    /// # Errors
    /// A word beyond the budget, and a tokenizer that fails.
    pub async fn first_token(&self, word: &str, budget: &mut WorkBudget) -> Result<Option<u32>, EncodeError> {
        budget.spend(1)?;
        if let Some(id) = self.tokenizer.token_to_id(word) {
            return Ok(Some(id));
        }
        let words = self.words(word)?;
        for (word, _, added) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            let first = match added {
                Some(added) => added.first().map(|token| token.id),
                None => self.word_tokens(word, budget)?.first().map(|token| token.id),
            };
            if first.is_some() {
                return Ok(first);
            }
            work::checkpoint().await;
        }
        Ok(None)
    }

    /// The longest text in bytes.
    pub fn text_bytes_max(&self) -> usize {
        TEXT_BYTES_MAX.max(self.tokens_max.saturating_mul(BYTES_PER_TOKEN_MAX))
    }

    /// Normalizes `text` and splits it into words. An added token, such as the mask token, is a word with its token.
    pub(super) fn words(&self, text: &str) -> Result<PreTokenizedString, EncodeError> {
        let tokenizer = &self.tokenizer;
        let added = tokenizer.get_added_vocabulary();
        let mut words = added.extract_and_normalize(tokenizer.get_normalizer(), text);
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words).map_err(EncodeError::failed)?;
        }
        Ok(words)
    }

    /// The model's tokens for one word.
    fn word_tokens(&self, word: &str, budget: &mut WorkBudget) -> Result<Vec<Token>, EncodeError> {
        self.word_cost.spend(word, &self.tokenizer, budget)?;
        self.tokenizer.get_model().tokenize(word).map_err(EncodeError::failed)
    }

    fn with_special_tokens(&self, encoding: Encoding) -> Result<Encoding, EncodeError> {
        let encoding = self.tokenizer.post_process(encoding, None, true);
        let encoding = encoding.map_err(EncodeError::failed)?;
        match encoding.get_ids().len() > self.tokens_max {
            true => Err(EncodeError::TooManyTokens {
                tokens: encoding.get_ids().len(),
                max: self.tokens_max,
            }),
            false => Ok(encoding),
        }
    }

    /// Splitting allocates some 500 bytes per word, so a megabyte of punctuation would take half a gigabyte. The words
    /// of a long text are therefore counted in pieces first, until it is certain that they are too many: at least one
    /// token for each must fit, or be within what truncation takes.
    pub(super) async fn refuse_far_too_long(&self, text: &str, rule: LengthRule) -> Result<(), EncodeError> {
        let words_max = match rule.truncates() {
            true => TRUNCATED_WORDS_MAX,
            false => self.tokens_max,
        };
        if text.len() > self.text_bytes_max() {
            return Err(self.far_too_long(text));
        }
        let mut rest = text;
        let mut words_min = 0_usize;
        while rest.len() > PIECE_BYTES {
            let (piece, tail) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
            let words = self.words(piece)?;
            let words = words.get_splits(OffsetReferential::Normalized, OffsetType::None).len();
            words_min += words.saturating_sub(CUT_WORDS_MAX);
            if words_min > words_max {
                return Err(self.far_too_long(text));
            }
            rest = tail;
            work::checkpoint().await;
        }
        Ok(())
    }

    fn far_too_long(&self, text: &str) -> EncodeError {
        EncodeError::TooManyBytes {
            bytes: text.len(),
            tokens_max: self.tokens_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::PretrainedModel;

    const LOOKUPS_MAX: u64 = 1_000_000;

    fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, EncodeError> {
        work::run_to_end(tokenizer.encode(text, &mut WorkBudget::new(LOOKUPS_MAX)))
    }

    fn first_token(tokenizer: &Tokenizer, word: &str) -> Result<Option<u32>, EncodeError> {
        work::run_to_end(tokenizer.first_token(word, &mut WorkBudget::new(LOOKUPS_MAX)))
    }

    fn tokenizer() -> Tokenizer {
        Tokenizer::new(PretrainedModel::embedded().unwrap().tokenizer, 64)
    }

    #[test]
    fn a_long_text_is_refused_by_its_tokens_not_by_its_bytes() {
        let tokenizer = tokenizer();
        let spaces = " ".repeat(PIECE_BYTES);
        let one_word = "x".repeat(2 * PIECE_BYTES);
        for text in [
            format!("a{spaces}{spaces}[MASK]"),
            // Cut in the middle of the mask token and of a character.
            format!("{}[MASK]{spaces}", &spaces[2..]),
            format!("[MASK] {}é{spaces}", &spaces[..PIECE_BYTES - 8]),
            format!("[MASK] {one_word}"),
        ] {
            assert!(encode(&tokenizer, &text).is_ok(), "{} bytes", text.len());
        }
        for text in [
            "!".repeat(2 * PIECE_BYTES),
            "[MASK] ".repeat(PIECE_BYTES),
            format!("{spaces}{}", "a ".repeat(PIECE_BYTES)),
            // A text of one word, or without any, that is too large for one call of the library.
            format!("[MASK] {}", "\u{ac01}".repeat(TEXT_BYTES_MAX / 3)),
            format!("[MASK]{}", spaces.repeat(4)),
        ] {
            let error = encode(&tokenizer, &text).unwrap_err();
            assert!(
                matches!(error, EncodeError::TooManyBytes { tokens_max: 64, .. }),
                "{error}"
            );
        }
        // Too long, but not by enough to be seen in pieces.
        let error = encode(&tokenizer, &format!("{spaces}{}", "a ".repeat(100)));
        assert_eq!(error, Err(EncodeError::TooManyTokens { tokens: 102, max: 64 }));
    }

    #[test]
    fn the_limit_includes_the_special_tokens() {
        let tokenizer = tokenizer();
        let words = |count: usize| "a ".repeat(count);
        assert_eq!(encode(&tokenizer, &words(62)).map(|ids| ids.len()), Ok(64));
        assert!(encode(&tokenizer, &words(63)).is_err());
    }

    #[test]
    fn a_word_is_looked_up_whole_or_by_its_first_piece() {
        let tokenizer = tokenizer();
        let ids = encode(&tokenizer, "unthinkableness").unwrap();
        assert!(ids.len() > 3, "not in several pieces");
        assert_eq!(first_token(&tokenizer, "unthinkableness"), Ok(Some(ids[1])));
        assert_eq!(first_token(&tokenizer, "[MASK]"), Ok(Some(tokenizer.mask_id())));
        assert_eq!(first_token(&tokenizer, " \t"), Ok(None));
    }

    /// The tokens of whole texts are those of `tokenizers`' own call.
    #[test]
    fn tokens_are_those_of_the_library() {
        let tokenizer = tokenizer();
        for text in [
            "",
            "The [MASK] sat; it's unthinkableness!",
            "[MASK][MASK] [CLS]in the middle[SEP]",
            "\u{65e5}\u{672c} caf\u{e9} \u{1f600} a\u{301}",
            "  [MASK]\t\r\n",
        ] {
            let expected = tokenizer.tokenizer.encode_fast(text, true).unwrap();
            assert_eq!(encode(&tokenizer, text).unwrap(), expected.get_ids(), "{text:?}");
        }
    }

    #[test]
    fn a_megabyte_of_long_words_is_refused_without_a_look_up() {
        let tokenizer = tokenizer();
        // One word costs 4,900 look-ups and becomes one unknown token.
        let word = format!("{}\u{2603} ", "x".repeat(98));
        let text = word.repeat(1 << 20 >> 7);
        let refused = work::run_to_end(tokenizer.encode(&text, &mut WorkBudget::new(0)));
        assert!(matches!(refused, Err(EncodeError::TooManyBytes { .. })), "{refused:?}");
        // As many as the limit on tokens allows are bounded by the budget.
        let text = word.repeat(30);
        let mut budget = WorkBudget::new(100_000);
        let refused = work::run_to_end(tokenizer.encode(&text, &mut budget));
        assert_eq!(refused, Err(EncodeError::TooMuchWork { max: 100_000 }));
        assert!(encode(&tokenizer, &text).is_ok());
    }
}
