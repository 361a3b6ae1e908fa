//! Unigram tokenizers as transformers' `XLMRobertaTokenizer`, `CamembertTokenizer`, `AlbertTokenizer` and
//! `RemBertTokenizer` build them.

use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::unicode::NFKD;
use tokenizers::normalizers::{
    Lowercase, NormalizerWrapper, Precompiled, Replace, Sequence as Normalizers, StripAccents,
};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer};

use super::class::Class;
use super::settings::Settings;
use super::{add_tokens, special_id};

/// The parts of a tokenizer.
pub struct Parts {
    /// Pieces with their scores; the index of a piece is its id.
    pub pieces: Vec<(String, f64)>,
    /// SentencePiece's table of characters.
    pub characters: Option<Precompiled>,
    pub post_processor: Option<PostProcessorWrapper>,
}

impl Parts {
    /// The parts of a tokenizer that count; its other options are those of its class.
    pub fn of(tokenizer: &Tokenizer, model: &Unigram) -> Self {
        let characters = |normalizer: &NormalizerWrapper| match normalizer {
            NormalizerWrapper::Precompiled(characters) => Some(characters.clone()),
            _ => None,
        };
        Self {
            pieces: model.iter().cloned().collect(),
            characters: match tokenizer.get_normalizer() {
                Some(NormalizerWrapper::Sequence(all)) => all.as_ref().iter().find_map(characters),
                Some(normalizer) => characters(normalizer),
                None => None,
            },
            post_processor: tokenizer.get_post_processor().cloned(),
        }
    }
}

/// The tokenizer of a class of Unigram tokenizers.
pub fn build(parts: Parts, class: Class, mut added: Vec<AddedToken>, settings: &Settings) -> Result<Tokenizer, String> {
    let unk = settings.special("unk_token").map(|token| token.content.as_str());
    let unk_id = match class {
        Class::Albert => 1,
        Class::RemBert => 2,
        Class::Camembert => {
            let mut pieces = parts.pieces.iter();
            pieces.position(|(piece, _)| Some(piece.as_str()) == unk).unwrap_or(0)
        }
        _ => 3,
    };
    let model = Unigram::from(parts.pieces, Some(unk_id), false).map_err(|e| e.to_string())?;
    let mut tokenizer = Tokenizer::new(model);
    let normalizers = normalizers(parts.characters, class, settings)?;
    if !normalizers.is_empty() {
        let normalizers = Normalizers::new(normalizers);
        tokenizer
            .with_normalizer(Some(normalizers))
            .map_err(|e| e.to_string())?;
    }
    let prepend = match settings.add_prefix_space.unwrap_or(true) {
        true => PrependScheme::Always,
        false => PrependScheme::Never,
    };
    let metaspace = Metaspace::new('▁', prepend, true);
    let pre_tokenizer: PreTokenizerWrapper = match class {
        Class::RemBert => metaspace.clone().into(),
        _ => PreTokenizers::new(vec![WhitespaceSplit.into(), metaspace.clone().into()]).into(),
    };
    tokenizer
        .with_pre_tokenizer(Some(pre_tokenizer))
        .with_decoder(Some(metaspace));
    if class == Class::RemBert {
        // transformers' class adds these once more, without the options that they have in the files.
        added.retain(|token| !settings.is_unnamed(&token.content) || tokenizer.token_to_id(&token.content).is_none());
    }
    add_tokens(&mut tokenizer, added, settings)?;
    let (begin, end) = match class {
        Class::Albert | Class::RemBert => ("cls_token", "sep_token"),
        _ => ("bos_token", "eos_token"),
    };
    let adds = [settings.add_bos_token, settings.add_eos_token];
    let post_processor = match parts.post_processor {
        // Only this class keeps the one of `tokenizer.json`.
        Some(own) if class == Class::Albert => own,
        // These settings replace the class's own template, and RemBERT's even by their absence.
        None if class == Class::RemBert || (class == Class::Albert && adds.iter().any(Option::is_some)) => {
            let token = |name: &str, adds: Option<bool>| match adds {
                Some(true) => special_id(&tokenizer, settings, name).map(Some),
                _ => Ok(None),
            };
            let (begin, end) = (token("bos_token", adds[0])?, token("eos_token", adds[1])?);
            template(begin.as_ref(), end.as_ref())?
        }
        _ => template(
            Some(&special_id(&tokenizer, settings, begin)?),
            Some(&special_id(&tokenizer, settings, end)?),
        )?,
    };
    tokenizer.with_post_processor(Some(post_processor));
    Ok(tokenizer)
}

fn normalizers(
    characters: Option<Precompiled>,
    class: Class,
    settings: &Settings,
) -> Result<Vec<NormalizerWrapper>, String> {
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let replace = |pattern: &str, content: &str| Replace::new(pattern, content).map_err(|e| e.to_string());
    let is_albert = class == Class::Albert;
    if matches!(class, Class::Albert | Class::RemBert) {
        normalizers.push(replace("``", "\"")?.into());
        normalizers.push(replace("''", "\"")?.into());
        if !is_albert {
            let spaces = tokenizers::normalizers::replace::ReplacePattern::Regex(" {2,}".to_owned());
            normalizers.push(Replace::new(spaces, " ").map_err(|e| e.to_string())?.into());
        }
        if !settings.keep_accents.unwrap_or(!is_albert) {
            normalizers.extend([NFKD.into(), StripAccents.into()]);
        }
        if settings.do_lower_case.unwrap_or(is_albert) {
            normalizers.push(Lowercase.into());
        }
    }
    normalizers.extend(characters.map(NormalizerWrapper::from));
    Ok(normalizers)
}

/// The post-processor that puts one token before a text and another one after it.
pub fn template(begin: Option<&(String, u32)>, end: Option<&(String, u32)>) -> Result<PostProcessorWrapper, String> {
    let name = |token: Option<&(String, u32)>| token.map(|(name, _)| name.clone());
    let single: Vec<String> = [name(begin), Some("$A".to_owned()), name(end)]
        .into_iter()
        .flatten()
        .collect();
    let mut special: Vec<(String, u32)> = begin.into_iter().chain(end).cloned().collect();
    special.dedup();
    let template = TemplateProcessing::builder()
        .try_single(single)
        .map_err(|e| e.to_string())?
        .special_tokens(special)
        .build();
    template.map(PostProcessorWrapper::from).map_err(|e| e.to_string())
}
