//! BPE as transformers builds it: over bytes (`RobertaTokenizer`), and over the characters of words
//! (`HerbertTokenizer`).

use ahash::AHashMap;
use tokenizers::decoders::bpe::BPEDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, Model, ModelWrapper, Tokenizer};

use super::settings::Settings;
use super::{add_tokens, special_id};

/// The model of `vocab.json` and `merges.txt`.
pub fn from_files(vocab: &[u8], merges: &[u8]) -> Result<BPE, String> {
    let vocab: AHashMap<String, u32> = serde_json::from_slice(vocab).map_err(|e| e.to_string())?;
    let text = std::str::from_utf8(merges).map_err(|e| format!("merges.txt: {e}"))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with("#version"));
    let merges = lines.map(|(number, line)| match line.split(' ').collect::<Vec<_>>().as_slice() {
        [left, right] => Ok(((*left).to_owned(), (*right).to_owned())),
        _ => Err(format!("merges.txt: line {} is not two tokens", number + 1)),
    });
    let merges = merges.collect::<Result<Vec<_>, String>>()?;
    let model = BPE::builder().vocab_and_merges(vocab, merges).build();
    model.map_err(|e| e.to_string())
}

/// The model of a `tokenizer.json`. One of another kind has no merges: its vocabulary counts, as in transformers.
pub fn of(model: &ModelWrapper) -> Result<BPE, String> {
    match model {
        ModelWrapper::BPE(model) => Ok(model.clone()),
        other => {
            let vocab: AHashMap<String, u32> = other.get_vocab().into_iter().collect();
            let model = BPE::builder().vocab_and_merges(vocab, Vec::new()).build();
            model.map_err(|e| e.to_string())
        }
    }
}

/// The byte-level tokenizer of a model. The vocabulary and the merges count, no other option of `model`.
pub fn build(mut model: BPE, added: Vec<AddedToken>, settings: &Settings) -> Result<Tokenizer, String> {
    let add_prefix_space = settings.add_prefix_space.unwrap_or(false);
    (model.dropout, model.unk_token) = (None, None);
    (model.continuing_subword_prefix, model.end_of_word_suffix) = (None, None);
    (model.fuse_unk, model.byte_fallback, model.ignore_merges) = (false, false, false);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_pre_tokenizer(Some(ByteLevel::new(add_prefix_space, true, true)))
        .with_decoder(Some(ByteLevel::default()));
    add_tokens(&mut tokenizer, added, settings)?;
    let sep = special_id(&tokenizer, settings, "sep_token")?;
    let cls = special_id(&tokenizer, settings, "cls_token")?;
    let processing = RobertaProcessing::new(sep, cls).add_prefix_space(add_prefix_space);
    tokenizer.with_post_processor(Some(processing));
    Ok(tokenizer)
}

/// The tokenizer of a model whose pieces at the end of a word have a suffix.
pub fn build_for_words(mut model: BPE, added: Vec<AddedToken>, settings: &Settings) -> Result<Tokenizer, String> {
    const SUFFIX: &str = "</w>";
    let unk = settings.special("unk_token").map(|token| token.content.clone());
    (model.dropout, model.unk_token) = (None, unk);
    (model.continuing_subword_prefix, model.end_of_word_suffix) = (None, Some(SUFFIX.to_owned()));
    (model.fuse_unk, model.byte_fallback, model.ignore_merges) = (false, false, false);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(BertNormalizer::new(true, true, Some(false), false)))
        .map_err(|e| e.to_string())?
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_decoder(Some(BPEDecoder::new(SUFFIX.to_owned())));
    add_tokens(&mut tokenizer, added, settings)?;
    // transformers' class has these ids, whatever the tokens are.
    let id = |name: &str, id: u32| Ok::<_, String>((special_id(&tokenizer, settings, name)?.0, id));
    let processing = BertProcessing::new(id("sep_token", 2)?, id("cls_token", 0)?);
    tokenizer.with_post_processor(Some(processing));
    Ok(tokenizer)
}
