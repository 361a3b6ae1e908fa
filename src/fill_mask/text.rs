//! Token ids back to text, as transformers' fast tokenizers decode them.

use super::FillMask;

impl FillMask {
    /// The text of `ids`. The tokenizer's own decoder joins the pieces and, for BERT, removes the space
    /// before punctuation; `clean_up_tokenization_spaces` does so once more over the whole text.
    pub(super) fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let text = self.tokenizer.decode(ids, skip_special_tokens);
        let text = text.expect("decoders of the tokenizers crate fail on no list of ids");
        match self.clean_up_spaces {
            true => clean_up_spaces(&text),
            false => text,
        }
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
