//! Bounds on the work that a tokenizer multiplies: a file may hold rules that turn one byte into a megabyte.
//!
//! The factor of each rule is the most bytes that it makes of one byte. The factors of a chain are multiplied, so the bound
//! is far above what a usual tokenizer does: some hundreds for ALBERT's rules, 2^60 for sixty doublings.

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

/// The factor of a rule, or the product of a sequence of rules, which stands under `field`.
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
        "Precompiled" => precompiled_factor(
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

/// The largest ratio of a replacement to the bytes that it replaces, in a table of sentencepiece: the length of a double-array
/// trie, the trie, and the replacements, each with a zero byte behind it.
fn precompiled_factor(charsmap: &str) -> f64 {
    let Some(table) = base64(charsmap) else {
        return f64::INFINITY;
    };
    let Some((length, rest)) = table.split_first_chunk::<4>() else {
        return 1.0;
    };
    let Some((trie, replacements)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
        return f64::INFINITY;
    };
    let (units, _) = trie.as_chunks::<4>();
    let units: Vec<u32> = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
    let mut largest = 1.0_f64;
    let Some(&root) = units.first() else {
        return largest;
    };
    let mut visited = vec![false; units.len()];
    let mut nodes = vec![(offset(root), 0_usize)];
    while let Some((position, depth)) = nodes.pop() {
        for byte in 1..=u8::MAX {
            let child = position ^ usize::from(byte);
            let Some(&unit) = units.get(child) else {
                continue;
            };
            let label = unit & (1 << 31 | 0xff);
            if label != u32::from(byte) || std::mem::replace(&mut visited[child], true) {
                continue;
            }
            let position = child ^ offset(unit);
            if (unit >> 8) & 1 == 1
                && let Some(leaf) = units.get(position)
            {
                let value = (leaf & !(1 << 31)) as usize;
                let replacement = replacements.get(value..).unwrap_or_default();
                let bytes = replacement
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(replacement.len());
                largest = largest.max(bytes as f64 / (depth + 1) as f64);
            }
            nodes.push((position, depth + 1));
        }
    }
    largest
}

/// Decodes base64; `None` if it is not valid.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.trim_end_matches('=').bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
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

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use serde_json::json;
    use tokenizers::{DecoderWrapper, PostProcessorWrapper, PreTokenizerWrapper};

    use super::*;

    /// A tokenizer with one part replaced.
    fn with(part: &str, value: &Value) -> Result<(), String> {
        let mut tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1}}
        });
        match part.split_once('.') {
            Some((part, field)) => tokenizer[part][field] = value.clone(),
            None => tokenizer[part] = value.clone(),
        }
        check(&Tokenizer::from_str(&tokenizer.to_string()).unwrap())
    }

    fn replace(pattern: Value, content: &str) -> Value {
        json!({"type": "Replace", "pattern": pattern, "content": content})
    }

    #[test]
    fn rules_that_multiply_a_text_are_refused() {
        let long = "x".repeat(1 << 20);
        let doubling = replace(json!({"String": "a"}), "aa");
        let sequence = |field: &str, rule: &Value, count| json!({"type": "Sequence", field: vec![rule.clone(); count]});
        let nested = sequence("normalizers", &sequence("normalizers", &doubling, 8), 8);
        for (part, value, named) in [
            ("normalizer", replace(json!({"String": "q"}), &long), "the normalizer"),
            ("normalizer", replace(json!({"Regex": "q"}), &long), "the normalizer"),
            ("normalizer", replace(json!({"String": ""}), &long), "the normalizer"),
            (
                "normalizer",
                json!({"type": "Prepend", "prepend": long}),
                "the normalizer",
            ),
            ("normalizer", sequence("normalizers", &doubling, 60), "the normalizer"),
            ("normalizer", nested, "the normalizer"),
            // An insertion before each a, with another a in it.
            (
                "normalizer",
                sequence("normalizers", &replace(json!({"Regex": "(?=a)"}), "a"), 60),
                "the normalizer",
            ),
            (
                "normalizer",
                sequence("normalizers", &json!({"type": "Lowercase"}), 257),
                "normalizers has 257 rules",
            ),
            (
                "decoder",
                replace(json!({"String": "a"}), &"y".repeat(300_000)),
                "the decoder",
            ),
            ("decoder", sequence("decoders", &doubling, 60), "the decoder"),
            (
                "model.max_input_chars_per_word",
                json!(1_000_000_000_000_000_u64),
                "max_input_chars_per_word",
            ),
            (
                "model.vocab",
                json!({"[UNK]": 0, long.as_str(): 1}),
                "a token of the vocabulary",
            ),
        ] {
            let error = with(part, &value).unwrap_err();
            assert!(error.contains(named) && error.len() < 300, "{part}: {error}");
        }
        let template = |pieces: Vec<Value>, ids: usize| {
            json!({"type": "TemplateProcessing", "single": pieces, "pair": [],
                "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": vec![1; ids], "tokens": vec!["a"; ids]}}})
        };
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let token = json!({"SpecialToken": {"id": "[CLS]", "type_id": 0}});
        with("post_processor", &template(vec![token.clone(), text.clone()], 1)).unwrap();
        for (pieces, ids) in [
            (vec![text.clone(); 5], 1),
            (vec![token.clone(), text.clone()], 1000),
            (vec![token; 300], 1),
        ] {
            let error = with("post_processor", &template(pieces, ids)).unwrap_err();
            assert!(error.contains("the post-processor"), "{error}");
        }
    }

    #[test]
    fn the_normalizer_is_checked_before_it_is_applied_to_added_tokens() {
        let doubling = replace(json!({"String": "a"}), "aa");
        let json = json!({
            "normalizer": {"type": "Sequence", "normalizers": vec![doubling; 60]},
            "added_tokens": [{"id": 2, "content": "aaaa", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": true, "special": false}],
        });
        let error = check_normalizer(json.to_string().as_bytes()).unwrap_err();
        assert!(error.contains("the normalizer"), "{error}");
        check_normalizer(b"{\"normalizer\": null}").unwrap();
    }

    /// A table that maps q to `replacement`.
    fn charsmap(replacement: &str) -> String {
        // The root's child q lies at 'q', and its leaf at 1: its offset is 'q' ^ 1.
        let mut units = vec![0_u32; 256];
        let q = usize::from(b'q');
        units[q] = (((q ^ 1) as u32) << 10) | (1 << 8) | u32::from(b'q');
        units[1] = 1 << 31;
        let trie: Vec<u8> = units.into_iter().flat_map(u32::to_le_bytes).collect();
        let table = [
            &(trie.len() as u32).to_le_bytes()[..],
            &trie,
            replacement.as_bytes(),
            b"\0",
        ]
        .concat();
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let groups = table.chunks(3).map(|chunk| {
            let bits = chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
            let digits = (0..=chunk.len()).map(|i| DIGITS[(bits >> (18 - 6 * i) & 63) as usize] as char);
            digits
                .chain(std::iter::repeat_n('=', 3 - chunk.len()))
                .collect::<String>()
        });
        groups.collect()
    }

    #[test]
    fn a_sentencepiece_table_that_multiplies_a_text_is_refused() {
        for (bytes, factor) in [(1, 1.0), (40, 40.0), (1 << 20, f64::from(1 << 20))] {
            let charsmap = charsmap(&"x".repeat(bytes));
            assert_eq!(precompiled_factor(&charsmap), factor);
            let rule = json!({"type": "Precompiled", "precompiled_charsmap": charsmap});
            let tokenizer = with("normalizer", &rule);
            assert_eq!(tokenizer.is_ok(), bytes <= 40, "{tokenizer:?}");
        }
    }

    #[test]
    fn the_rules_of_usual_tokenizers_are_far_below_the_limits() {
        let normalizer = json!({"type": "Sequence", "normalizers": [
            replace(json!({"String": "``"}), "\""), replace(json!({"String": "''"}), "\""),
            {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
            {"type": "Precompiled", "precompiled_charsmap": charsmap(&"x".repeat(11))},
            replace(json!({"Regex": " {2,}"}), " ")]});
        let normalizer: NormalizerWrapper = serde_json::from_value(normalizer).unwrap();
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        let pre_tokenizer: PreTokenizerWrapper = serde_json::from_value(metaspace.clone()).unwrap();
        let decoder: DecoderWrapper = serde_json::from_value(metaspace).unwrap();
        let post_processor = json!({"type": "BertProcessing", "sep": ["[SEP]", 1], "cls": ["[CLS]", 0]});
        let post_processor: PostProcessorWrapper = serde_json::from_value(post_processor).unwrap();
        let mut tokenizer = Tokenizer::from_bytes(include_bytes!("../../../model/tokenizer.json")).unwrap();
        check(&tokenizer).unwrap();
        tokenizer.with_normalizer(Some(normalizer)).unwrap();
        tokenizer
            .with_pre_tokenizer(Some(pre_tokenizer))
            .with_decoder(Some(decoder));
        tokenizer.with_post_processor(Some(post_processor));
        check(&tokenizer).unwrap();
    }
}
