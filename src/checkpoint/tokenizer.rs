//! The tokenizer: `tokenizer.json` as it is, or built from `vocab.txt` as transformers builds it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::CheckpointError;
use super::files::Files;
use crate::bert::BertConfig;

const CONFIG: &str = "tokenizer_config.json";
const FULL: &str = "tokenizer.json";
const VOCAB: &str = "vocab.txt";

/// A tokenizer and the settings that stand beside it.
pub struct TokenizerFiles {
    /// Without truncation and padding.
    pub tokenizer: Tokenizer,
    /// What stands for a blank, `[MASK]` in BERT's own vocabularies.
    pub mask_token: String,
    /// Its id.
    pub mask_id: u32,
    /// The id of the padding token, which decoded text leaves out, if there is one.
    pub pad_id: Option<u32>,
    /// Whether spaces before punctuation are removed from decoded text beyond what the tokenizer's own
    /// decoder does (`clean_up_tokenization_spaces`).
    pub clean_up_spaces: bool,
    /// Where it came from, for errors.
    file: String,
}

/// The keys of `tokenizer_config.json` that matter here, with transformers' defaults for BERT.
#[derive(Deserialize)]
#[serde(default)]
struct ConfigFile {
    do_lower_case: bool,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: bool,
    clean_up_tokenization_spaces: Option<bool>,
    unk_token: TokenName,
    sep_token: TokenName,
    pad_token: TokenName,
    cls_token: TokenName,
    mask_token: TokenName,
}

/// A special token: a string, or an object that holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenName {
    Name(String),
    Object { content: String },
}

impl TokenName {
    fn as_str(&self) -> &str {
        match self {
            Self::Name(name) | Self::Object { content: name } => name,
        }
    }
}

impl Default for ConfigFile {
    fn default() -> Self {
        let name = |name: &str| TokenName::Name(name.to_owned());
        Self {
            do_lower_case: true,
            strip_accents: None,
            tokenize_chinese_chars: true,
            clean_up_tokenization_spaces: None,
            unk_token: name("[UNK]"),
            sep_token: name("[SEP]"),
            pad_token: name("[PAD]"),
            cls_token: name("[CLS]"),
            mask_token: name("[MASK]"),
        }
    }
}

pub fn read(files: &Files) -> Result<TokenizerFiles, CheckpointError> {
    let config = match files.has(CONFIG) {
        true => serde_json::from_slice(&files.read(CONFIG)?).map_err(|e| broken(files, CONFIG, e))?,
        false => ConfigFile::default(),
    };
    let (name, mut tokenizer) = if files.has(FULL) {
        let bytes = files.read(FULL)?;
        let tokenizer = caught(|| Tokenizer::from_bytes(bytes).map_err(|e| e.to_string()));
        (FULL, tokenizer.map_err(|reason| broken(files, FULL, reason))?)
    } else if files.has(VOCAB) {
        let vocab = String::from_utf8(files.read(VOCAB)?).map_err(|e| broken(files, VOCAB, e))?;
        let tokenizer = caught(|| from_vocab(&vocab, &config));
        (VOCAB, tokenizer.map_err(|reason| broken(files, VOCAB, reason))?)
    } else {
        return Err(CheckpointError::Missing(format!(
            "{} is missing, and so is {VOCAB}; a model folder needs one of them",
            files.path(FULL)
        )));
    };
    // A text that is too long is refused, never cut; a batch is packed, never padded.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| broken(files, name, e))?;
    let mask_token = config.mask_token.as_str().to_owned();
    let mask_id = tokenizer.token_to_id(&mask_token).ok_or_else(|| {
        broken(
            files,
            name,
            format!("the mask token {mask_token} is not in the vocabulary"),
        )
    })?;
    // What it panics on here it would panic on in every request.
    let try_out = || {
        let encoded = tokenizer
            .encode_fast(mask_token.as_str(), true)
            .map_err(|e| e.to_string())?;
        tokenizer.decode(encoded.get_ids(), true).map_err(|e| e.to_string())
    };
    caught(try_out).map_err(|reason| broken(files, name, reason))?;
    let pad_id = tokenizer.token_to_id(config.pad_token.as_str());
    Ok(TokenizerFiles {
        tokenizer,
        mask_token,
        mask_id,
        pad_id,
        clean_up_spaces: config.clean_up_tokenization_spaces.unwrap_or(false),
        file: files.path(name),
    })
}

impl TokenizerFiles {
    /// Where it came from.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Every id that the tokenizer can give must have an embedding.
    pub fn check_fits(&self, config: &BertConfig) -> Result<(), CheckpointError> {
        let vocabulary = self.tokenizer.get_vocab(true);
        match vocabulary.iter().max_by_key(|(_, id)| **id) {
            Some((token, &id)) if id as usize >= config.vocab_size => Err(CheckpointError::Tokenizer {
                file: self.file.clone(),
                reason: format!(
                    "token \"{token}\" has id {id}, but the model knows only {} tokens (vocab_size in config.json); \
                     the tokenizer belongs to another model",
                    config.vocab_size
                ),
            }),
            _ => Ok(()),
        }
    }
}

/// BERT's tokenizer over a vocabulary of one token a line, as transformers' `BertTokenizerFast` sets it up.
fn from_vocab(vocab: &str, config: &ConfigFile) -> Result<Tokenizer, String> {
    let ids = vocab
        .lines()
        .enumerate()
        .map(|(id, token)| (token.trim_end().to_owned(), id as u32));
    let ids: ahash::AHashMap<String, u32> = ids.collect();
    let special = |name: &TokenName| {
        let name = name.as_str();
        match ids.get(name) {
            Some(&id) => Ok((name.to_owned(), id)),
            None => Err(format!("the special token {name} is not in it")),
        }
    };
    let (cls, sep) = (special(&config.cls_token)?, special(&config.sep_token)?);
    let (unk, pad, mask) = (
        special(&config.unk_token)?,
        special(&config.pad_token)?,
        special(&config.mask_token)?,
    );
    let model = WordPiece::builder()
        .vocab(ids.clone())
        .unk_token(unk.0.clone())
        .build()
        .map_err(|e| e.to_string())?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(BertNormalizer::new(
            true,
            config.tokenize_chinese_chars,
            config.strip_accents,
            config.do_lower_case,
        )))
        .map_err(|e| e.to_string())?
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_decoder(Some(WordPieceDecoder::default()))
        .with_post_processor(Some(BertProcessing::new(sep.clone(), cls.clone())));
    let specials = [unk, sep, pad, cls, mask].map(|(name, _)| AddedToken::from(name, true));
    tokenizer.add_special_tokens(specials).map_err(|e| e.to_string())?;
    Ok(tokenizer)
}

/// The library panics on some files instead of refusing them.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let panicked = |_| Err("the tokenizer library panicked on it".to_owned());
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked)
}

fn broken(files: &Files, name: &str, reason: impl std::fmt::Display) -> CheckpointError {
    CheckpointError::Tokenizer {
        file: files.path(name),
        reason: reason.to_string(),
    }
}
