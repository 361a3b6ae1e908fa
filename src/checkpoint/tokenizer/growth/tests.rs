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
        assert_eq!(charsmap::factor(&charsmap), factor);
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
    let mut tokenizer = Tokenizer::from_bytes(include_bytes!("../../../../model/tokenizer.json")).unwrap();
    check(&tokenizer).unwrap();
    tokenizer.with_normalizer(Some(normalizer)).unwrap();
    tokenizer
        .with_pre_tokenizer(Some(pre_tokenizer))
        .with_decoder(Some(decoder));
    tokenizer.with_post_processor(Some(post_processor));
    check(&tokenizer).unwrap();
}
