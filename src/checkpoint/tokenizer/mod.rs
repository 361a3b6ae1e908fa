//! Builds the tokenizer by the rules of transformers 5, from `tokenizer.json` or vocabulary files and the [`settings`].
//!
//! | file | subject |
//! |---|---|
//! | `settings` | settings of `tokenizer_config.json` and other files, merged |
//! | `class` | transformers' tokenizer classes: files and special tokens of each |
//! | `bpe`, `unigram`, `letters`, `japanese` | tokenizers of RoBERTa, of XLM-RoBERTa and ALBERT, of ESM, of Japanese BERT; WordPiece is below |
//! | `sentencepiece` | SentencePiece model files |
//! | `growth` | bounds on the work that a file's rules multiply |

mod bpe;
mod class;
mod growth;
mod japanese;
mod letters;
mod sentencepiece;
mod settings;
#[cfg(test)]
mod tests;
mod unigram;

use std::collections::HashSet;
use std::fmt::{self, Display, Formatter};

use ahash::AHashMap;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::ModelWrapper;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Decoder, Model, Tokenizer, TruncationDirection};

use super::CheckpointError;
use super::error::Part;
use super::files::Files;
use super::names::{TOKENIZER, TOKENIZER_CONFIG, VOCAB};
use crate::sys::panics;
use class::Class;
use settings::Settings;

/// A tokenizer and its settings from other files.
pub struct TokenizerFiles {
    /// Truncation and padding are off.
    pub tokenizer: Tokenizer,
    /// `[MASK]` in BERT's own vocabularies.
    pub mask_token: String,
    pub mask_id: u32,
    /// Id of the padding token. Decoded text omits it.
    pub pad_id: Option<u32>,
    /// The text of an id without a token, for classes that transformers has in Python; the others leave it out.
    pub unknown: Option<String>,
    /// `clean_up_tokenization_spaces`: decoded text has no spaces before punctuation, beyond what the tokenizer's
    /// decoder removes.
    pub clean_up_spaces: bool,
    /// `model_max_length`: tokens that transformers truncates a text to.
    pub length_max: Option<usize>,
    /// True if transformers truncates a text on the left.
    pub truncates_left: bool,
    /// Path of the file that it was built from, for messages.
    file: String,
}

/// The files that the tokenizer is built from, if `has` says that they are there. `files` has the files with settings.
///
/// # Errors
/// Settings that are not valid or not supported.
pub fn sources(files: &Files, has: impl Fn(&str) -> bool) -> Result<Option<&'static [&'static str]>, CheckpointError> {
    sources_of(&Settings::read(files)?, files, has)
}

/// The part that a model lacks for which there are no [`sources`].
pub fn missing(files: &Files) -> Part {
    Settings::read(files).map_or(Part::Tokenizer, |settings| missing_part(settings.class))
}

fn missing_part(class: Class) -> Part {
    match class.files(|file| file != VOCAB) {
        Some(_) => Part::Tokenizer,
        None => Part::Vocabulary,
    }
}

fn sources_of(
    settings: &Settings,
    files: &Files,
    has: impl Fn(&str) -> bool,
) -> Result<Option<&'static [&'static str]>, CheckpointError> {
    let not_supported = |reason| invalid(files, TOKENIZER_CONFIG, reason);
    if settings.class == Class::BertJapanese {
        japanese::subwords(settings).map_err(not_supported)?;
    }
    settings.sources(has).map_err(not_supported)
}

/// Reads `tokenizer.json` or vocabulary files, and the files with settings.
pub fn read(files: &Files) -> Result<TokenizerFiles, CheckpointError> {
    let mut settings = Settings::read(files)?;
    let sources = sources_of(&settings, files, |file| files.has(file))?;
    let Some(&[name, ref others @ ..]) = sources else {
        return Err(CheckpointError::Missing {
            part: missing_part(settings.class),
            location: files.location(),
            other_weights: None,
        });
    };
    let bytes = files.read(name)?;
    let others = others.iter().map(|other| files.read(other));
    let others = others.collect::<Result<Vec<_>, _>>()?;
    let built = catch(|| match (name, settings.class, others.as_slice()) {
        (TOKENIZER, _, _) => from_json(&bytes, &mut settings),
        (_, Class::Esm, _) => letters::build(&bytes, &settings),
        (_, Class::BertJapanese, _) => japanese::build(&bytes, &settings),
        (_, class @ (Class::XlmRoberta | Class::Camembert | Class::Albert | Class::RemBert), _) => {
            let (parts, mut added) = sentencepiece::read(&bytes, class, &settings)?;
            added.extend(settings.added_tokens());
            unigram::build(parts, class, added, &settings)
        }
        (_, class, [merges]) => {
            let model = bpe::from_files(&bytes, merges)?;
            match class {
                Class::Herbert => bpe::build_for_words(model, settings.added_tokens(), &settings),
                _ => bpe::build(model, settings.added_tokens(), &settings),
            }
        }
        _ => from_vocab(&bytes, &settings),
    });
    let mut tokenizer = built.map_err(|reason| invalid(files, name, reason))?;
    // Texts that are too long are refused; batches are packed without padding.
    let truncates_left = tokenizer
        .get_truncation()
        .map(|truncation| truncation.direction == TruncationDirection::Left);
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| invalid(files, name, e))?;
    let mask = settings.special("mask_token").ok_or_else(|| {
        let reason = "mask_token is null; without a mask token there is nothing to predict";
        invalid(files, settings.mask_file, reason)
    })?;
    let mask_token = mask.content.clone();
    if mask_token.is_empty() {
        let reason = "mask_token is empty; without a mask token there is nothing to predict";
        return Err(invalid(files, settings.mask_file, reason));
    }
    // Added tokens are part of the vocabulary.
    let mask_id = tokenizer.token_to_id(&mask_token).ok_or_else(|| {
        let no_row = match settings.vocab_size {
            Some(size) if settings.is_appended(&mask_token) => {
                format!(", and the model has no embedding for one more token (vocab_size is {size})")
            }
            _ => String::new(),
        };
        let reason = format!("the mask token {mask_token} is not in the vocabulary{no_row}");
        invalid(files, name, reason)
    })?;
    catch(|| growth::check(&tokenizer)).map_err(|reason| invalid(files, name, reason))?;
    catch(|| try_out(&tokenizer, &mask_token, mask_id)).map_err(|reason| invalid(files, name, reason))?;
    let is_bpe = matches!(tokenizer.get_model(), ModelWrapper::BPE(_));
    let pad_id = settings
        .special("pad_token")
        .and_then(|pad| tokenizer.token_to_id(&pad.content));
    Ok(TokenizerFiles {
        tokenizer,
        mask_token,
        mask_id,
        pad_id,
        unknown: match settings.class {
            Class::Esm | Class::BertJapanese => settings.special("unk_token").map(|token| token.content.clone()),
            _ => None,
        },
        // transformers ignores the setting for BPE.
        clean_up_spaces: settings.clean_up_spaces && !is_bpe,
        length_max: settings.length_max,
        truncates_left: settings.truncates_left.or(truncates_left).unwrap_or(false),
        file: files.path(name),
    })
}

/// A tokenizer that has few of the model's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewTokens {
    pub tokens: usize,
    /// The tokens of the model.
    pub vocab_size: usize,
}

impl Display for TooFewTokens {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { tokens, vocab_size } = self;
        write!(
            f,
            "the tokenizer has {tokens} of the model's {vocab_size} tokens; predictions of the others have no text"
        )
    }
}

impl TokenizerFiles {
    /// Path of the file that the tokenizer was built from.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The numbers of tokens, if this tokenizer has so many fewer than the model that it may be another model's.
    /// Embeddings are often padded to a multiple of 64.
    pub fn too_few_tokens(&self, vocab_size: usize) -> Option<TooFewTokens> {
        let tokens = self.tokenizer.get_vocab_size(true);
        let are_few = tokens + 128 < vocab_size && tokens < vocab_size / 10 * 9;
        are_few.then_some(TooFewTokens { tokens, vocab_size })
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

/// `tokenizer.json`. For most classes only its vocabulary and its added tokens count, as in transformers.
fn from_json(json: &[u8], settings: &mut Settings) -> Result<Tokenizer, String> {
    growth::check_normalizer(json)?;
    let mut tokenizer = Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
    if let Some(padding) = tokenizer.get_padding() {
        settings.set_padding(&padding.pad_token);
    }
    let settings = &*settings;
    let mut added = settings.added_tokens();
    if !settings.added_is_complete {
        let mut own: Vec<_> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        own.sort_by_key(|(id, _)| *id);
        added.extend(own.into_iter().map(|(_, token)| token));
    }
    match (settings.class, tokenizer.get_model()) {
        (Class::Bert | Class::MpNet, model) => word_piece(model.get_vocab().into_iter().collect(), added, settings),
        (Class::Roberta, model) => bpe::build(bpe::of(model)?, added, settings),
        (Class::Herbert, model) => bpe::build_for_words(bpe::of(model)?, added, settings),
        (Class::ConvBert, _) => {
            add_tokens(&mut tokenizer, added, settings)?;
            with_bert_processing(tokenizer, settings)
        }
        (
            class @ (Class::XlmRoberta | Class::Camembert | Class::Albert | Class::RemBert),
            ModelWrapper::Unigram(model),
        ) => unigram::build(unigram::Parts::of(&tokenizer, model), class, added, settings),
        (Class::XlmRoberta | Class::Camembert | Class::Albert | Class::RemBert, _) => {
            Err("its model is not Unigram, which its tokenizer_class needs".to_owned())
        }
        (Class::Generic | Class::Other | Class::Esm | Class::BertJapanese, _) => {
            add_tokens(&mut tokenizer, added, settings)?;
            Ok(tokenizer)
        }
    }
}

/// `vocab.txt`: one token per line, whose number is the id.
fn from_vocab(vocab: &[u8], settings: &Settings) -> Result<Tokenizer, String> {
    let vocab = std::str::from_utf8(vocab).map_err(|e| e.to_string())?;
    let mut lines: Vec<&str> = vocab.lines().map(str::trim_end).collect();
    // Blank lines at the end are no tokens. Those between others are, so that the ids of the others are right.
    while lines.pop_if(|line| line.is_empty()).is_some() {}
    let ids = lines.iter().zip(0u32..).map(|(&token, id)| (token.to_owned(), id));
    word_piece(ids.collect(), settings.added_tokens(), settings)
}

/// A WordPiece tokenizer as transformers' `BertTokenizer` and `MPNetTokenizer` build it.
fn word_piece(vocab: AHashMap<String, u32>, added: Vec<AddedToken>, settings: &Settings) -> Result<Tokenizer, String> {
    let unk = settings.special("unk_token").map_or("[UNK]", |token| &token.content);
    let model = WordPiece::builder()
        .vocab(vocab)
        .unk_token(unk.to_owned())
        .build()
        .map_err(|e| e.to_string())?;
    let mut tokenizer = Tokenizer::new(model);
    let normalizer = BertNormalizer::new(
        true,
        settings.tokenize_chinese_chars,
        settings.strip_accents,
        settings.do_lower_case.unwrap_or(true),
    );
    tokenizer
        .with_normalizer(Some(normalizer))
        .map_err(|e| e.to_string())?
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_decoder(Some(WordPieceDecoder::default()));
    add_tokens(&mut tokenizer, added, settings)?;
    with_bert_processing(tokenizer, settings)
}

/// Puts the class token before a text and the separator after it. transformers has fixed ids for those that are null.
fn with_bert_processing(mut tokenizer: Tokenizer, settings: &Settings) -> Result<Tokenizer, String> {
    let (cls_id, sep_id) = match settings.class {
        Class::MpNet => (0, 2),
        // Of two tokens with one name, the second counts.
        _ if settings
            .special("cls_token")
            .or(settings.special("sep_token"))
            .is_none() =>
        {
            (3, 3)
        }
        _ => (2, 3),
    };
    let token = |name: &str, id: u32| match settings.special(name) {
        Some(_) => special_id(&tokenizer, settings, name),
        None => Ok((tokenizer.id_to_token(id).unwrap_or_default(), id)),
    };
    let (cls, sep) = (token("cls_token", cls_id)?, token("sep_token", sep_id)?);
    tokenizer.with_post_processor(Some(BertProcessing::new(sep, cls)));
    Ok(tokenizer)
}

/// A special token by transformers' name, with its id. A token that is null has its usual text.
fn special_id(tokenizer: &Tokenizer, settings: &Settings, name: &str) -> Result<(String, u32), String> {
    let token = match settings.special(name) {
        Some(token) => token.content.as_str(),
        None => settings.class.default_token(name).unwrap_or_default(),
    };
    match tokenizer.token_to_id(token) {
        Some(id) => Ok((token.to_owned(), id)),
        None => Err(format!("the special token {token} is not in it")),
    }
}

/// Adds tokens that the tokenizer does not have as added tokens yet, special ones last, as transformers does.
fn add_tokens(tokenizer: &mut Tokenizer, added: Vec<AddedToken>, settings: &Settings) -> Result<(), String> {
    let is_named = |token: &AddedToken| settings.named_tokens().any(|named| named.content == token.content);
    let mut tokens: Vec<AddedToken> = Vec::new();
    for mut token in added {
        token.special |= is_named(&token);
        tokens.push(token);
    }
    tokenizer.add_tokens(tokens).map_err(|e| e.to_string())?;
    let mut known: HashSet<String> = tokenizer
        .get_added_tokens_decoder()
        .into_values()
        .map(|token| token.content)
        .collect();
    let mut tokens = Vec::new();
    let mut next_id = next_id(tokenizer);
    for token in settings.special_tokens() {
        if !known.insert(token.content.clone()) {
            continue;
        }
        let has_id = tokenizer.token_to_id(&token.content).is_some();
        // An id without an embedding would fail in every text that has the token.
        let has_row = settings.vocab_size.is_some_and(|size| next_id < size);
        if has_id || (has_row && settings.is_appended(&token.content)) {
            next_id += u32::from(!has_id);
            tokens.push(token.clone());
        }
    }
    tokenizer.add_tokens(tokens).map_err(|e| e.to_string()).map(drop)
}

/// The id that the library gives to the next token that is not in the vocabulary.
fn next_id(tokenizer: &Tokenizer) -> u32 {
    let size = tokenizer.get_model().get_vocab_size() as u32;
    let added = tokenizer.get_added_tokens_decoder().into_keys().max();
    added.map_or(size, |id| size.max(id.saturating_add(1)))
}

/// Encodes and decodes the mask token, alone and in a text, and the pieces of that text. A tokenizer that fails here
/// would fail in every request, or answer with other tokens than those of the text.
fn try_out(tokenizer: &Tokenizer, mask_token: &str, mask_id: u32) -> Result<(), String> {
    for text in [mask_token.to_owned(), format!("The {mask_token} is 1 é, 研究 .")] {
        let encoding = tokenizer.encode_fast(text, true).map_err(|e| e.to_string())?;
        let ids = encoding.get_ids();
        if !ids.contains(&mask_id) {
            return Err(format!(
                "the tokenizer does not recognize its mask token {mask_token} in a text"
            ));
        }
        if let Some(id) = ids.iter().find(|&&id| tokenizer.id_to_token(id).is_none()) {
            return Err(format!(
                "the post-processor adds token {id}, which is not in the vocabulary"
            ));
        }
        decode(tokenizer, ids, true, None).map_err(|e| e.to_string())?;
        for &id in ids {
            decode(tokenizer, &[id], false, None).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// The text of `ids`, with `unknown` for an id without a token. A decoder of the library (`BPEDecoder`) fails if no
/// token is left.
///
/// # Errors
/// When the tokenizer's decoder fails.
pub fn decode(
    tokenizer: &Tokenizer,
    ids: &[u32],
    skip_special_tokens: bool,
    unknown: Option<&str>,
) -> Result<String, tokenizers::Error> {
    let added = tokenizer.get_added_vocabulary();
    let tokens = ids.iter().filter_map(|&id| match tokenizer.id_to_token(id) {
        Some(token) => (!skip_special_tokens || !added.is_special_token(&token)).then_some(token),
        None => unknown.map(str::to_owned),
    });
    let tokens: Vec<String> = tokens.collect();
    match tokenizer.get_decoder() {
        _ if tokens.is_empty() => Ok(String::new()),
        Some(decoder) => decoder.decode(tokens),
        None => Ok(tokens.join(" ")),
    }
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
