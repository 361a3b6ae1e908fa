//! Settings of a tokenizer, merged from `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` with
//! the precedence of transformers 5.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::class::{Class, SPECIAL_TOKENS};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::files::Files;
use crate::checkpoint::json;
use crate::checkpoint::names::{ADDED_TOKENS, CONFIG, SPECIAL_TOKENS_MAP, TOKENIZER, TOKENIZER_CONFIG};
use crate::sys::excerpt;

/// The merged settings.
#[derive(Debug)]
pub struct Settings {
    pub class: Class,
    /// `tokenizer_class`, without `Fast`.
    class_name: Option<String>,
    pub do_lower_case: Option<bool>,
    pub keep_accents: Option<bool>,
    pub add_prefix_space: Option<bool>,
    /// This setting and the next one do not apply to `tokenizer.json`.
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    pub strip_accents: Option<bool>,
    pub tokenize_chinese_chars: bool,
    pub clean_up_spaces: bool,
    /// `model_max_length`.
    pub length_max: Option<usize>,
    /// True if `truncation_side` is `left`; `None` if it is absent.
    pub truncates_left: Option<bool>,
    pub japanese: Japanese,
    /// `vocab_size` of `config.json`: an id from there on has no embedding.
    pub vocab_size: Option<u32>,
    /// The file that states the mask token, for messages.
    pub mask_file: &'static str,
    special: SpecialTokens,
    /// By id, from `added_tokens_decoder` or `added_tokens.json`.
    added: BTreeMap<u32, AddedToken>,
    /// True if `added` is from `added_tokens_decoder`, which replaces the added tokens of `tokenizer.json`.
    pub added_is_complete: bool,
}

/// Settings of [`Class::BertJapanese`].
#[derive(Debug)]
pub struct Japanese {
    /// `word_tokenizer_type`.
    pub words: Option<String>,
    /// `subword_tokenizer_type`.
    pub subwords: Option<String>,
    /// `do_word_tokenize`.
    pub splits_words: Option<bool>,
    /// `do_subword_tokenize`.
    pub splits_subwords: Option<bool>,
}

impl Settings {
    /// Reads the files that are present.
    pub fn read(files: &Files) -> Result<Self, CheckpointError> {
        let (mut config, mut order) = read_object(files, TOKENIZER_CONFIG)?.unwrap_or_default();
        let model = match files.has(CONFIG) {
            // Its own errors are reported where it is read as a whole.
            true => files.read(CONFIG).ok().and_then(|json| json::parse(&json).ok()),
            false => None,
        };
        let invalid = |name: &str, reason: String| CheckpointError::Tokenizer {
            file: files.path(name),
            reason,
        };
        let class = match config.get("tokenizer_class") {
            None | Some(Value::Null) => None,
            Some(Value::String(class)) => Some(class.clone()),
            Some(_) => return Err(invalid(TOKENIZER_CONFIG, "tokenizer_class is not a text".to_owned())),
        };
        let class = class.or_else(|| {
            let model: &Map<String, Value> = model.as_ref()?;
            Some(model.get("tokenizer_class")?.as_str()?.to_owned())
        });
        let decoder = config.remove("added_tokens_decoder");
        let added_is_complete = decoder.is_some();
        use_additional_as_extra(&mut config);
        let mut mask_file = TOKENIZER_CONFIG;
        if !added_is_complete && let Some((map, of_map)) = read_object(files, SPECIAL_TOKENS_MAP)? {
            // transformers adds its tokens first.
            order.splice(..0, of_map);
            if map.contains_key("mask_token") {
                mask_file = SPECIAL_TOKENS_MAP;
            }
            merge_special_tokens_map(&mut config, map);
        }
        let class_name = class.map(|class| class.strip_suffix("Fast").unwrap_or(&class).to_owned());
        let model_type = model.as_ref().and_then(|model| model.get("model_type")?.as_str());
        let class = Class::of(class_name.as_deref(), model_type).map_err(|reason| invalid(TOKENIZER_CONFIG, reason))?;
        let special = SpecialTokens::of(&config, &order, class).map_err(|reason| invalid(TOKENIZER_CONFIG, reason))?;
        let mut added = BTreeMap::new();
        if let Some(decoder) = decoder {
            added = added_tokens_decoder(&decoder).map_err(|reason| invalid(TOKENIZER_CONFIG, reason))?;
        } else if let Some((map, order)) = read_object(files, ADDED_TOKENS)? {
            // Of tokens with one id, the last counts.
            let places = places(&order);
            let mut tokens: Vec<_> = map.into_iter().collect();
            tokens.sort_by_key(|(content, _)| places.get(content.as_str()).copied());
            for (content, id) in tokens {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.ok_or_else(|| invalid(ADDED_TOKENS, format!("the id of \"{content}\" is not a number")))?;
                let is_special = special.is_listed(&content);
                added.insert(id, AddedToken::from(content, is_special));
            }
        }
        let flag = |name: &str| match config.get(name).filter(|_| class.reads(name)) {
            None => Ok(None),
            Some(Value::Null) => class.null(name).map_err(|reason| invalid(TOKENIZER_CONFIG, reason)),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(invalid(TOKENIZER_CONFIG, format!("{name} is neither true nor false"))),
        };
        if config.get("split_special_tokens") == Some(&Value::Bool(true)) {
            let reason = "split_special_tokens is true; a mask token that is split cannot be found in a text";
            return Err(invalid(TOKENIZER_CONFIG, reason.to_owned()));
        }
        if let Some(file) = versioned_tokenizer(&config) {
            let reason = format!(
                "fast_tokenizer_files names {}, which transformers reads in place of {TOKENIZER}; it is not supported",
                excerpt::name(file)
            );
            return Err(invalid(TOKENIZER_CONFIG, reason));
        }
        let text = |name: &str| match config.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(value)) => Ok(Some(value.clone())),
            Some(_) => Err(invalid(TOKENIZER_CONFIG, format!("{name} is not a text"))),
        };
        Ok(Self {
            japanese: Japanese {
                words: text("word_tokenizer_type")?,
                subwords: text("subword_tokenizer_type")?,
                splits_words: flag("do_word_tokenize")?,
                splits_subwords: flag("do_subword_tokenize")?,
            },
            class,
            class_name,
            do_lower_case: flag("do_lower_case")?,
            keep_accents: flag("keep_accents")?,
            add_prefix_space: flag("add_prefix_space")?,
            add_bos_token: flag("add_bos_token")?.filter(|_| !files.has(TOKENIZER)),
            add_eos_token: flag("add_eos_token")?.filter(|_| !files.has(TOKENIZER)),
            strip_accents: flag("strip_accents")?,
            tokenize_chinese_chars: flag("tokenize_chinese_chars")?.unwrap_or(true),
            // A model without a limit has a number of thirty digits here.
            length_max: config
                .get("model_max_length")
                .and_then(Value::as_u64)
                .and_then(|length| usize::try_from(length).ok()),
            truncates_left: config
                .get("truncation_side")
                .and_then(Value::as_str)
                .map(|side| side == "left"),
            clean_up_spaces: config.get("clean_up_tokenization_spaces") == Some(&Value::Bool(true)),
            vocab_size: model
                .as_ref()
                .and_then(|model| u32::try_from(model.get("vocab_size")?.as_u64()?).ok()),
            mask_file,
            special,
            added,
            added_is_complete,
        })
    }

    /// The files that the tokenizer is built from, if `has` says that they are there.
    ///
    /// # Errors
    /// The name of a class that is not supported without `tokenizer.json`; an absent one is `Ok(None)`.
    pub fn sources(&self, has: impl Fn(&str) -> bool) -> Result<Option<&'static [&'static str]>, String> {
        let sources = self.class.files(has);
        match (sources, &self.class_name, self.class) {
            (None, Some(name), Class::Generic | Class::Other) => Err(format!(
                "tokenizer_class is \"{name}\", which is not supported without tokenizer.json"
            )),
            _ => Ok(sources),
        }
    }

    /// A special token by transformers' name; `None` if it is null.
    pub fn special(&self, name: &str) -> Option<&AddedToken> {
        let mut named = self.special.named.iter();
        named.find(|(known, _)| known == name).map(|(_, token)| token)
    }

    /// The added tokens of `added_tokens_decoder` or `added_tokens.json`, in the order of their ids.
    pub fn added_tokens(&self) -> Vec<AddedToken> {
        self.added.values().cloned().collect()
    }

    /// All special tokens, in the order in which transformers adds them.
    pub fn special_tokens(&self) -> impl Iterator<Item = &AddedToken> {
        self.special.all()
    }

    /// False for the default mask token, used if no file states one: transformers has none.
    pub fn is_appended(&self, content: &str) -> bool {
        let is_default = |name: &str| SPECIAL_TOKENS.contains(&name) && !self.is_stated(name);
        let mut named = self.special.named.iter();
        self.class != Class::Generic || !named.any(|(name, token)| token.content == content && is_default(name))
    }

    fn is_stated(&self, name: &str) -> bool {
        self.special.stated.contains(&name)
    }

    /// Takes the padding token of `tokenizer.json` where no file states one.
    pub fn set_padding(&mut self, content: &str) {
        if self.class == Class::Generic && !self.is_stated("pad_token") {
            let token = AddedToken::from(content, true);
            self.special.named.push(("pad_token".to_owned(), token));
        }
    }

    /// True for a special token that no file gives a name, or that is one of `extra_special_tokens`.
    pub fn is_unnamed(&self, content: &str) -> bool {
        let mut named = self.special.named.iter();
        named.any(|(name, token)| token.content == content && !self.is_stated(name))
            || self.special.extra.iter().any(|token| token.content == content)
    }

    /// The special tokens that have a name, such as `mask_token`.
    pub fn named_tokens(&self) -> impl Iterator<Item = &AddedToken> {
        self.special.named.iter().map(|(_, token)| token)
    }
}

/// Without tokens that are null.
#[derive(Debug)]
struct SpecialTokens {
    /// By transformers' name, then those that a model names itself, such as `image_token`.
    named: Vec<(String, AddedToken)>,
    /// `extra_special_tokens`, or in its absence `additional_special_tokens` or those of the class.
    extra: Vec<AddedToken>,
    extra_is_listed: bool,
    /// The names of [`SPECIAL_TOKENS`] that a file states.
    stated: Vec<&'static str>,
}

impl SpecialTokens {
    /// `order` has the keys of the files in order.
    fn of(config: &Map<String, Value>, order: &[String], class: Class) -> Result<Self, String> {
        let mut named = Vec::new();
        for (name, default) in SPECIAL_TOKENS.into_iter().zip(class.special_tokens()) {
            let takes_space = name == "mask_token" && class.mask_takes_space();
            let token = match config.get(name) {
                None => default.map(|content| AddedToken::from(content, true).lstrip(takes_space)),
                Some(Value::String(content)) if takes_space => {
                    Some(AddedToken::from(content.as_str(), true).lstrip(true))
                }
                Some(value) => token(value, true).map_err(|reason| format!("{name} {reason}"))?,
            };
            named.extend(token.map(|token| (name.to_owned(), token)));
        }
        let of_model = config.iter().filter(|(name, value)| {
            let is_token = value.is_string() || value.get("content").is_some();
            name.ends_with("_token") && is_token && !SPECIAL_TOKENS.contains(&name.as_str())
        });
        let by_name = config.get(EXTRA).and_then(Value::as_object);
        let mut of_model: Vec<_> = of_model.chain(by_name.into_iter().flatten()).collect();
        let places = places(order);
        of_model.sort_by_key(|(name, _)| places.get(name.as_str()).copied());
        for (name, value) in of_model {
            let token = token(value, true).map_err(|reason| format!("{name} {reason}"))?;
            named.extend(token.map(|token| (name.clone(), token)));
        }
        let mut extra = Vec::new();
        match config
            .get(EXTRA)
            .or_else(|| config.get(ADDITIONAL).filter(|list| !list.is_null()))
        {
            Some(Value::Array(tokens)) => {
                // transformers takes an object's own word for it, but for those of `special_tokens_map.json`.
                let has_options = config.contains_key(EXTRA) && class != Class::RemBert;
                for value in tokens {
                    let is_special = !has_options || value.is_string();
                    let token = token(value, is_special).map_err(|reason| format!("{EXTRA}: a token {reason}"))?;
                    extra.extend(token.filter(|token| !extra.contains(token)));
                }
            }
            Some(_) => {}
            None => {
                let tokens = class.extra_tokens().iter();
                extra.extend(tokens.map(|&token| AddedToken::from(token, true)));
            }
        }
        Ok(Self {
            named,
            extra,
            extra_is_listed: config.contains_key(EXTRA),
            stated: SPECIAL_TOKENS
                .into_iter()
                .filter(|name| config.contains_key(*name))
                .collect(),
        })
    }

    /// True for a token that is special in `added_tokens.json`: one of transformers' names, or of
    /// `extra_special_tokens`.
    fn is_listed(&self, content: &str) -> bool {
        let mut named = self
            .named
            .iter()
            .filter(|(name, _)| SPECIAL_TOKENS.contains(&name.as_str()));
        named.any(|(_, token)| token.content == content)
            || (self.extra_is_listed && self.extra.iter().any(|token| token.content == content))
    }

    fn all(&self) -> impl Iterator<Item = &AddedToken> {
        self.named.iter().map(|(_, token)| token).chain(&self.extra)
    }
}

/// The file of `fast_tokenizer_files` for an older version of transformers on, such as `tokenizer.4.0.0.json`.
fn versioned_tokenizer(config: &Map<String, Value>) -> Option<&str> {
    let mut files = config
        .get("fast_tokenizer_files")?
        .as_array()?
        .iter()
        .filter_map(Value::as_str);
    files.find(|file| {
        let version = file
            .strip_prefix("tokenizer.")
            .and_then(|rest| rest.strip_suffix(".json"));
        let major = version.and_then(|version| version.split('.').next()?.parse().ok());
        major.is_some_and(|major: u32| major <= 5)
    })
}

const EXTRA: &str = "extra_special_tokens";
/// The former name of [`EXTRA`].
const ADDITIONAL: &str = "additional_special_tokens";

/// In `tokenizer_config.json` the former name counts if the present one has no tokens.
fn use_additional_as_extra(config: &mut Map<String, Value>) {
    let is_empty = |value: &Value| match value {
        Value::Array(tokens) => tokens.is_empty(),
        Value::Object(tokens) => tokens.is_empty(),
        other => other.is_null(),
    };
    if let Some(additional) = config.remove(ADDITIONAL)
        && config.get(EXTRA).is_none_or(is_empty)
    {
        config.insert(EXTRA.to_owned(), additional);
    }
}

/// Tokens of `special_tokens_map.json` replace those of `tokenizer_config.json`; a list of extra tokens is added to it.
fn merge_special_tokens_map(config: &mut Map<String, Value>, map: Map<String, Value>) {
    for (name, value) in map {
        match (config.get_mut(&name), value) {
            (Some(Value::Array(tokens)), Value::Array(more)) if name == EXTRA => {
                for mut token in more {
                    if let Some(object) = token.as_object_mut() {
                        object.insert("special".to_owned(), Value::Bool(true));
                    }
                    if !tokens.contains(&token) {
                        tokens.push(token);
                    }
                }
            }
            (_, value) => {
                config.insert(name, value);
            }
        }
    }
}

/// A token: its text, an object with `content` and options, or null.
fn token(value: &Value, special: bool) -> Result<Option<AddedToken>, String> {
    let object = match value {
        Value::Null => return Ok(None),
        Value::String(content) => return Ok(Some(AddedToken::from(content.as_str(), special))),
        Value::Object(object) => object,
        _ => return Err("is neither a text nor an object".to_owned()),
    };
    let content = object.get("content").and_then(Value::as_str);
    let content = content.ok_or("has no content")?;
    let flag = |name: &str| object.get(name).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    let token = AddedToken::from(content, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special));
    Ok(Some(token))
}

fn added_tokens_decoder(value: &Value) -> Result<BTreeMap<u32, AddedToken>, String> {
    let mut added = BTreeMap::new();
    for (id, value) in value.as_object().into_iter().flatten() {
        let id = id
            .parse()
            .map_err(|_| format!("added_tokens_decoder: \"{id}\" is not an id"))?;
        let token = token(value, false).map_err(|reason| format!("added_tokens_decoder: token {id} {reason}"))?;
        added.extend(token.map(|token| (id, token)));
    }
    Ok(added)
}

/// An object, and the keys of the file in order.
type Ordered = (Map<String, Value>, Vec<String>);

fn read_object(files: &Files, name: &str) -> Result<Option<Ordered>, CheckpointError> {
    if !files.has(name) {
        return Ok(None);
    }
    let bytes = files.read(name)?;
    match json::parse(&bytes) {
        Ok(object) => Ok(Some((object, json::keys(&bytes)))),
        Err(error) => Err(CheckpointError::Tokenizer {
            file: files.path(name),
            reason: error.to_string(),
        }),
    }
}

/// The place of each key in the order of the file.
fn places(order: &[String]) -> HashMap<&str, usize> {
    // The first place of a key counts.
    let places = order.iter().enumerate().rev();
    places.map(|(place, key)| (key.as_str(), place)).collect()
}
