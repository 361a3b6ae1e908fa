//! Bounds on the work that a tokenizer multiplies: a file may hold rules that turn one byte into a megabyte.
//!
//! The factor of each rule is the most bytes that it makes of one byte. The factors of a chain are multiplied, so the
//! bound is above what a usual tokenizer needs: 4,096 for a text and 64 for the decoder, where ALBERT needs some hundreds.

mod charsmap;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::{Model, NormalizerWrapper, Tokenizer};

/// Largest factor of normalizer and pre-tokenizer together.
const TEXT_FACTOR_MAX: f64 = 4096.0;
/// Largest factor of the decoder.
const DECODER_FACTOR_MAX: f64 = 64.0;
/// Most rules in one chain.
const RULES_MAX: usize = 256;
/// Most copies of the text in the post-processor's template.
const COPIES_MAX: usize = 4;
/// Most tokens that the post-processor adds.
const ADDED_TOKENS_MAX: usize = 256;
/// Longest token in bytes.
const TOKEN_BYTES_MAX: usize = 16_384;
/// Longest word that WordPiece splits. Its time is quadratic in it.
const WORD_CHARS_MAX: usize = 10_000;
/// The most that Unicode's decompositions (NFKC, NFKD) lengthen a text in UTF-8, and the canonical ones (NFC, NFD).
const COMPATIBILITY_FACTOR: f64 = 11.0;
const CANONICAL_FACTOR: f64 = 3.0;

/// Checks the normalizer of a `tokenizer.json`, before the library applies it to the file's own added tokens.
///
/// # Errors
/// As of [`check`].
pub fn check_normalizer(tokenizer_json: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Parts {
        normalizer: Option<NormalizerWrapper>,
    }
    let parts: Parts = serde_json::from_slice(tokenizer_json).map_err(|error| error.to_string())?;
    let Some(normalizer) = parts.normalizer else {
        return Ok(());
    };
    let factor = chain(&json(&normalizer)?, "normalizers", &normalizer_factor)?;
    refuse_beyond(TEXT_FACTOR_MAX, factor, "the normalizer")
}

/// Checks that the tokenizer's memory and time are in proportion to the text.
///
/// # Errors
/// One sentence that names the part of the file.
pub fn check(tokenizer: &Tokenizer) -> Result<(), String> {
    let mut factor = 1.0;
    if let Some(normalizer) = tokenizer.get_normalizer() {
        factor *= chain(&json(normalizer)?, "normalizers", &normalizer_factor)?;
    }
    if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
        factor *= chain(&json(pre_tokenizer)?, "pretokenizers", &pre_tokenizer_factor)?;
    }
    refuse_beyond(TEXT_FACTOR_MAX, factor, "the normalizer")?;
    if let Some(decoder) = tokenizer.get_decoder() {
        let factor = chain(&json(decoder)?, "decoders", &decoder_factor)?;
        refuse_beyond(DECODER_FACTOR_MAX, factor, "the decoder")?;
    }
    if let Some(post_processor) = tokenizer.get_post_processor() {
        check_post_processor(&json(post_processor)?)?;
    }
    check_model(tokenizer)
}

fn refuse_beyond(max: f64, factor: f64, part: &str) -> Result<(), String> {
    match factor <= max {
        true => Ok(()),
        false => Err(format!(
            "{part} may make a text {factor:.0} times as long, and {max:.0} times is the most that is supported"
        )),
    }
}

fn json(part: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(part).map_err(|error| error.to_string())
}

/// The factor of a rule, or the product of a sequence of rules, in `field`.
fn chain(rule: &Value, field: &str, factor: &dyn Fn(&Value) -> f64) -> Result<f64, String> {
    let mut rules = Vec::new();
    flatten(rule, field, &mut rules);
    match rules.len() <= RULES_MAX {
        true => Ok(rules.into_iter().map(factor).product()),
        false => Err(format!("{field} has {} rules; {RULES_MAX} are supported", rules.len())),
    }
}

fn flatten<'v>(rule: &'v Value, field: &str, rules: &mut Vec<&'v Value>) {
    match rule.get(field).and_then(Value::as_array) {
        Some(sequence) => sequence.iter().for_each(|rule| flatten(rule, field, rules)),
        None => rules.push(rule),
    }
}

fn kind(rule: &Value) -> &str {
    rule.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn bytes(rule: &Value, field: &str) -> f64 {
    rule.get(field).and_then(Value::as_str).map_or(0, str::len) as f64
}

fn normalizer_factor(rule: &Value) -> f64 {
    match kind(rule) {
        "NFKC" | "NFKD" => COMPATIBILITY_FACTOR,
        "NFC" | "NFD" => CANONICAL_FACTOR,
        // Spaces around ideographs, decomposition, lower case.
        "BertNormalizer" => 5.0,
        // U+0130 becomes three bytes.
        "Lowercase" => 1.5,
        "ByteLevel" => 2.0,
        "Replace" => replace_factor(rule),
        // A text of one byte, or each part between added tokens.
        "Prepend" => 1.0 + bytes(rule, "prepend"),
        "Precompiled" => charsmap::factor(
            rule.get("precompiled_charsmap")
                .and_then(Value::as_str)
                .unwrap_or_default(),
        ),
        // Strip, StripAccents, Nmt.
        _ => 1.0,
    }
}

fn pre_tokenizer_factor(rule: &Value) -> f64 {
    match kind(rule) {
        // Two bytes for one, and a space before each word.
        "ByteLevel" => 4.0,
        "Metaspace" => 2.0 * bytes(rule, "replacement").max(1.0),
        // The others only split.
        _ => 1.0,
    }
}

fn decoder_factor(rule: &Value) -> f64 {
    match kind(rule) {
        "Replace" => replace_factor(rule),
        // A space before each token, or in place of a suffix.
        "WordPiece" | "BPEDecoder" | "CTC" => 2.0,
        // Others remove characters, or replace them with one that is no longer.
        _ => 1.0,
    }
}

fn replace_factor(rule: &Value) -> f64 {
    let content = bytes(rule, "content");
    let pattern = rule.get("pattern");
    let text = |kind: &str| pattern.and_then(|pattern| pattern.get(kind)).and_then(Value::as_str);
    match (text("String"), text("Regex")) {
        (Some(pattern), _) if !pattern.is_empty() => (content / pattern.len() as f64).max(1.0),
        (_, Some(pattern)) if matches_no_empty_text(pattern) => content.max(1.0),
        // Between any two bytes.
        _ => 1.0 + content,
    }
}

/// True for patterns whose matches certainly have a character.
fn matches_no_empty_text(pattern: &str) -> bool {
    let optional = [
        "*", "?", "^", "$", "|", "(", "{0", "{,", "\\b", "\\B", "\\A", "\\z", "\\Z", "\\G", "\\K",
    ];
    !pattern.is_empty() && !optional.iter().any(|part| pattern.contains(part))
}

fn check_post_processor(processor: &Value) -> Result<(), String> {
    let mut processors = Vec::new();
    flatten(processor, "processors", &mut processors);
    let (mut copies, mut added) = (1, 0);
    for template in processors {
        let Some(pieces) = template.get("single").and_then(Value::as_array) else {
            continue;
        };
        copies *= pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
        let ids = |piece: &Value| {
            let name = piece.get("SpecialToken")?.get("id")?.as_str()?;
            Some(template.get("special_tokens")?.get(name)?.get("ids")?.as_array()?.len())
        };
        added += pieces.iter().filter_map(ids).sum::<usize>();
        if copies > COPIES_MAX || added > ADDED_TOKENS_MAX {
            return Err(format!(
                "the post-processor gives a text {copies} times with {added} more tokens; {COPIES_MAX} times and \
                 {ADDED_TOKENS_MAX} tokens are supported"
            ));
        }
    }
    Ok(())
}

fn check_model(tokenizer: &Tokenizer) -> Result<(), String> {
    if let ModelWrapper::WordPiece(model) = tokenizer.get_model()
        && model.max_input_chars_per_word > WORD_CHARS_MAX
    {
        return Err(format!(
            "max_input_chars_per_word is {}; at most {WORD_CHARS_MAX} is supported",
            model.max_input_chars_per_word
        ));
    }
    let vocabulary = tokenizer.get_model().get_vocab();
    match vocabulary.keys().map(String::len).max() {
        Some(bytes) if bytes > TOKEN_BYTES_MAX => Err(format!(
            "a token of the vocabulary has {bytes} bytes; at most {TOKEN_BYTES_MAX} are supported"
        )),
        _ => Ok(()),
    }
}
