//! ESM's tokenizer: every line of `vocab.txt` is a token wherever a text has it, as transformers' `EsmTokenizer` has
//! it.

use ahash::AHashMap;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::settings::Settings;
use super::{add_tokens, special_id, unigram};

/// White space of Python's `str.split`, which has four characters more than Unicode's.
const SPACES: &str = "[\\s\\x1c-\\x1f]+";

/// The tokenizer of the text of a `vocab.txt`.
pub fn build(vocab: &[u8], settings: &Settings) -> Result<Tokenizer, String> {
    let text = std::str::from_utf8(vocab).map_err(|e| e.to_string())?;
    let tokens: Vec<&str> = text.lines().map(str::trim).collect();
    let ids: AHashMap<String, u32> = tokens.iter().map(|&token| token.to_owned()).zip(0..).collect();
    let unk = settings.special("unk_token").map_or("<unk>", |token| &token.content);
    let model = WordLevel::builder().vocab(ids).unk_token(unk.to_owned()).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|e| e.to_string())?);
    let spaces = SplitPattern::Regex(SPACES.to_owned());
    let split = Split::new(spaces, SplitDelimiterBehavior::Removed, false).map_err(|e| e.to_string())?;
    tokenizer.with_pre_tokenizer(Some(split));
    let letters = tokens.into_iter().filter(|token| !token.is_empty());
    let is_special = |letter: &str| settings.special_tokens().any(|token| token.content == letter);
    let letters = letters.map(|token| AddedToken::from(token, is_special(token)).normalized(false));
    add_tokens(&mut tokenizer, letters.collect(), settings)?;
    let cls = special_id(&tokenizer, settings, "cls_token")?;
    let end = match settings.special("eos_token") {
        Some(_) => Some(special_id(&tokenizer, settings, "eos_token")?),
        None => None,
    };
    tokenizer.with_post_processor(Some(unigram::template(Some(&cls), end.as_ref())?));
    Ok(tokenizer)
}
