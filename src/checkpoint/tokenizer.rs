//! Builds the tokenizer: `tokenizer.json` as it is, or from `vocab.txt` as transformers' `BertTokenizerFast` does.

use serde::Deserialize;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::CheckpointError;
use super::error::Part;
use super::files::{Files, TOKENIZER, TOKENIZER_CONFIG, VOCAB};
use crate::sys::panics;

/// A tokenizer and its settings from other files.
pub struct TokenizerFiles {
    /// Truncation and padding are off.
    pub tokenizer: Tokenizer,
    /// `[MASK]` in BERT's own vocabularies.
    pub mask_token: String,
    pub mask_id: u32,
    /// Id of the padding token. Decoded text omits it.
    pub pad_id: Option<u32>,
    /// `clean_up_tokenization_spaces`: decoded text has no spaces before punctuation, beyond what the tokenizer's
    /// decoder removes.
    pub clean_up_spaces: bool,
    /// Path of the file that it was built from, for messages.
    file: String,
}

/// The keys of `tokenizer_config.json` that are used, with transformers' defaults for BERT.
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

/// A special token: a string, or an object with the string in `content`.
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

/// Reads `tokenizer_config.json`, and `tokenizer.json` or `vocab.txt`.
pub fn read(files: &Files) -> Result<TokenizerFiles, CheckpointError> {
    let config = match files.has(TOKENIZER_CONFIG) {
        true => {
            serde_json::from_slice(&files.read(TOKENIZER_CONFIG)?).map_err(|e| invalid(files, TOKENIZER_CONFIG, e))?
        }
        false => ConfigFile::default(),
    };
    let (name, mut tokenizer) = if files.has(TOKENIZER) {
        let bytes = files.read(TOKENIZER)?;
        let tokenizer = catch(|| Tokenizer::from_bytes(bytes).map_err(|e| e.to_string()));
        (
            TOKENIZER,
            tokenizer.map_err(|reason| invalid(files, TOKENIZER, reason))?,
        )
    } else if files.has(VOCAB) {
        let vocab = String::from_utf8(files.read(VOCAB)?).map_err(|e| invalid(files, VOCAB, e))?;
        let tokenizer = catch(|| from_vocab(&vocab, &config));
        (VOCAB, tokenizer.map_err(|reason| invalid(files, VOCAB, reason))?)
    } else {
        return Err(CheckpointError::Missing {
            part: Part::Tokenizer,
            location: files.location(),
            other_weights: None,
        });
    };
    // Texts that are too long are refused; batches are packed without padding.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| invalid(files, name, e))?;
    let mask_token = config.mask_token.as_str().to_owned();
    let mask_id = tokenizer.token_to_id(&mask_token).ok_or_else(|| {
        invalid(
            files,
            name,
            format!("the mask token {mask_token} is not in the vocabulary"),
        )
    })?;
    // A tokenizer that panics here would panic in every request.
    let try_out = || {
        let encoded = tokenizer
            .encode_fast(mask_token.as_str(), true)
            .map_err(|e| e.to_string())?;
        tokenizer.decode(encoded.get_ids(), true).map_err(|e| e.to_string())
    };
    catch(try_out).map_err(|reason| invalid(files, name, reason))?;
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
    /// Path of the file that the tokenizer was built from.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Checks that every token id has an embedding.
    pub fn check_fits(&self, vocab_size: usize) -> Result<(), CheckpointError> {
        let vocabulary = self.tokenizer.get_vocab(true);
        match vocabulary.iter().max_by_key(|(_, id)| **id) {
            Some((token, &id)) if id as usize >= vocab_size => Err(CheckpointError::Tokenizer {
                file: self.file.clone(),
                reason: format!(
                    "token \"{token}\" has id {id}, but the model has only {vocab_size} tokens (vocab_size in config.json); \
                     the tokenizer belongs to another model"
                ),
            }),
            _ => Ok(()),
        }
    }
}

/// A WordPiece tokenizer with the settings of transformers' `BertTokenizerFast`. `vocab` has one token per line.
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

/// The library panics on some invalid files.
fn catch<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    panics::catch(work).unwrap_or_else(|_| Err("the tokenizer library panicked".to_owned()))
}

fn invalid(files: &Files, name: &str, reason: impl std::fmt::Display) -> CheckpointError {
    CheckpointError::Tokenizer {
        file: files.path(name),
        reason: reason.to_string(),
    }
}
