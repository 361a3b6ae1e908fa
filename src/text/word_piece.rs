//! Tokens of WordPiece to text: the result of the library's decoder, without its eleven searches in each token.

use tokenizers::Tokenizer;
use tokenizers::decoders::wordpiece::{WordPiece, cleanup};

/// The text of `ids`. Ids without a token are left out.
pub fn decode(tokenizer: &Tokenizer, decoder: &WordPiece, ids: &[u32], skip_special_tokens: bool) -> String {
    let added = tokenizer.get_added_vocabulary();
    let tokens = ids.iter().filter_map(|&id| tokenizer.id_to_token(id));
    let tokens = tokens.filter(|token| !skip_special_tokens || !added.is_special_token(token));
    let mut text = String::new();
    for (index, token) in tokens.enumerate() {
        let continuation = token.strip_prefix(&decoder.prefix).filter(|_| index > 0);
        let begins_word = index > 0 && continuation.is_none();
        let token = continuation.unwrap_or(&token);
        let space = if begins_word { " " } else { "" };
        match decoder.cleanup && may_change(begins_word, token) {
            true => text.push_str(&cleanup(&format!("{space}{token}"))),
            false => text.extend([space, token]),
        }
    }
    text
}

/// False only if the clean-up leaves the token as it is: everything that it replaces begins with a space.
fn may_change(begins_word: bool, token: &str) -> bool {
    token.contains(' ') || begins_word && token.starts_with(['.', '?', '!', ',', '\'', 'n'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::PretrainedModel;

    #[test]
    fn texts_are_those_of_the_library() {
        let mut tokenizer = PretrainedModel::embedded().unwrap().tokenizer.tokenizer;
        let words = ["do not", "it 's", "n't", "##n't", "##.", "' ", "'ve", "nn", ". . ."];
        tokenizer
            .add_tokens(words.map(|word| tokenizers::AddedToken::from(word, false)))
            .unwrap();
        let size = u64::from(tokenizer.get_vocab_size(true) as u32);
        let mut state = 1_u64;
        // A linear congruential generator: MMIX's constants.
        let mut random = |end: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        for (prefix, is_cleaned) in [("##", true), ("##", false), ("", true), ("n", true)] {
            let decoder = WordPiece::new(prefix.to_owned(), is_cleaned);
            tokenizer.with_decoder(Some(decoder.clone()));
            for _ in 0..500 {
                // Half of them are special tokens, punctuation and added ones.
                let ids: Vec<u32> = (0..random(12))
                    .map(|_| match random(4) {
                        0 => random(40),
                        1 => size - 1 - random(10),
                        _ => random(size),
                    } as u32)
                    .collect();
                for skip_special_tokens in [false, true] {
                    let expected = tokenizer.decode(&ids, skip_special_tokens).unwrap();
                    let ours = decode(&tokenizer, &decoder, &ids, skip_special_tokens);
                    assert_eq!(ours, expected, "{ids:?} {prefix:?} {is_cleaned}");
                }
            }
        }
    }
}
