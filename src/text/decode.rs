//! Token ids back to text, as transformers' fast tokenizers decode them.

use tokenizers::DecoderWrapper;

use super::{Tokenizer, word_piece};
use crate::checkpoint;

/// The tokenizer's decoder failed on ids that the tokenizer has: `tokenizer.json` is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tokenizer cannot decode: {0}")]
pub struct DecodeError(String);

impl Tokenizer {
    /// The text of `ids`. The tokenizer's own decoder joins the pieces and, for BERT, removes the space before
    /// punctuation; `clean_up_tokenization_spaces` does so once more over the whole text.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, DecodeError> {
        let unknown = self.unknown.as_deref();
        let text = match self.tokenizer.get_decoder() {
            Some(DecoderWrapper::WordPiece(decoder)) if unknown.is_none() => {
                word_piece::decode(&self.tokenizer, decoder, ids, skip_special_tokens)
            }
            _ => {
                let text = checkpoint::decode(&self.tokenizer, ids, skip_special_tokens, unknown);
                text.map_err(|e| DecodeError(e.to_string()))?
            }
        };
        Ok(match self.clean_up_spaces {
            true => clean_up_spaces(&text),
            false => text,
        })
    }
}

/// `PreTrainedTokenizerBase.clean_up_tokenization` of transformers.
fn clean_up_spaces(text: &str) -> String {
    [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_are_cleaned_up_as_transformers_does() {
        for (text, expected) in [
            ("it is n't so , is it ?", "it isn't so, is it?"),
            ("i 'm here . you 've won !", "i'm here. you've won!"),
            ("they 're john 's", "they're john's"),
            ("rock ' n roll", "rock'n roll"),
            ("a - b", "a - b"),
        ] {
            assert_eq!(clean_up_spaces(text), expected);
        }
    }
}
