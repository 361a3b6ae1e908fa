//! transformers' `BertJapaneseTokenizer` with the word tokenizer `basic`: no dictionary, words are what white space and
//! punctuation separate. The subword tokenizer is `wordpiece` or `character`.

use ahash::AHashMap;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, NFD, NFKC, Replace, Sequence};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::settings::Settings;
use super::{add_tokens, with_bert_processing};

/// Takes the place of white space between words. Texts do not have it: it is a control character to the normalizer.
const SPACE: char = '\u{e000}';

/// The characters that transformers' `BasicTokenizer` removes. It asks Python, whose tables of characters are newer
/// than those of the library's own rules for BERT.
const CONTROL: &str = "[[\\p{C}&&[^\\t\\n\\r]]\u{fffd}]";
const PUNCTUATION: &str = "[\\p{P}!-/:-@\\[-`{-~]";
/// The sigma that Python's `str.lower` makes the one of the end of a word.
const FINAL_SIGMA: &str = "(?<=\\p{L})Σ(?!['.:\u{2019}\\p{Mn}]*\\p{L})";

/// The subword tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subwords {
    WordPiece,
    /// Each character of a word.
    Characters,
}

/// Builds the tokenizer from `vocab.txt`.
pub fn build(vocab: &[u8], settings: &Settings) -> Result<Tokenizer, String> {
    let subwords = subwords(settings)?;
    let vocab = std::str::from_utf8(vocab).map_err(|e| e.to_string())?;
    let mut lines: Vec<&str> = vocab.lines().collect();
    while lines.pop_if(|line| line.is_empty()).is_some() {}
    let ids = lines.iter().zip(0u32..).map(|(&token, id)| (token.to_owned(), id));
    let ids: AHashMap<String, u32> = ids.collect();
    let unk = settings.special("unk_token").map_or("[UNK]", |token| &token.content);
    let model: ModelWrapper = match subwords {
        Subwords::WordPiece => {
            let model = WordPiece::builder().vocab(ids).unk_token(unk.to_owned()).build();
            model.map_err(|e| e.to_string())?.into()
        }
        Subwords::Characters => {
            let model = WordLevel::builder().vocab(ids).unk_token(unk.to_owned()).build();
            model.map_err(|e| e.to_string())?.into()
        }
    };
    let mut tokenizer = Tokenizer::new(model);
    let mut normalizers: Vec<NormalizerWrapper> = vec![replace(CONTROL, "")?, replace("\\s", " ")?, NFC.into()];
    if settings.do_lower_case.unwrap_or(false) {
        normalizers.extend([
            replace(FINAL_SIGMA, "ς")?,
            Lowercase.into(),
            NFD.into(),
            replace("\\p{Mn}", "")?,
        ]);
    }
    let pre_tokenizer = match subwords {
        Subwords::WordPiece => PreTokenizers::new(vec![
            split(" ", SplitDelimiterBehavior::Removed)?,
            split(PUNCTUATION, SplitDelimiterBehavior::Isolated)?,
        ]),
        Subwords::Characters => {
            // transformers normalizes each word by itself, where a character may become a space and stays in its word.
            normalizers.extend([replace(" ", &SPACE.to_string())?, NFKC.into()]);
            PreTokenizers::new(vec![
                split(&SPACE.to_string(), SplitDelimiterBehavior::Removed)?,
                split("(?s).", SplitDelimiterBehavior::Isolated)?,
            ])
        }
    };
    tokenizer
        .with_normalizer(Some(Sequence::new(normalizers)))
        .map_err(|e| e.to_string())?
        .with_pre_tokenizer(Some(pre_tokenizer))
        .with_decoder(Some(WordPieceDecoder::new("##".to_owned(), false)));
    add_tokens(&mut tokenizer, settings.added_tokens(), settings)?;
    with_bert_processing(tokenizer, settings)
}

fn replace(pattern: &str, content: &str) -> Result<NormalizerWrapper, String> {
    let replace = Replace::new(ReplacePattern::Regex(pattern.to_owned()), content);
    replace.map(NormalizerWrapper::from).map_err(|e| e.to_string())
}

fn split(pattern: &str, behavior: SplitDelimiterBehavior) -> Result<PreTokenizerWrapper, String> {
    let split = Split::new(SplitPattern::Regex(pattern.to_owned()), behavior, false);
    split.map(PreTokenizerWrapper::from).map_err(|e| e.to_string())
}

/// The settings of the class.
///
/// # Errors
/// A setting that asks for a dictionary or for SentencePiece, by its name.
pub fn subwords(settings: &Settings) -> Result<Subwords, String> {
    let japanese = &settings.japanese;
    let refused = |name: &str, value: &str, supported: &str| {
        Err(format!(
            "{name} is \"{value}\", which is not supported; supported: {supported}"
        ))
    };
    match japanese.words.as_deref() {
        None | Some("basic") => {}
        Some(other) => return refused("word_tokenizer_type", other, "basic"),
    }
    if japanese.splits_words == Some(false) || japanese.splits_subwords == Some(false) {
        return Err("do_word_tokenize and do_subword_tokenize must be true".to_owned());
    }
    match japanese.subwords.as_deref() {
        None | Some("wordpiece") => Ok(Subwords::WordPiece),
        Some("character") => Ok(Subwords::Characters),
        Some(other) => refused("subword_tokenizer_type", other, "wordpiece, character"),
    }
}
