use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::checkpoint::names::VOCAB;

const VOCAB_LINES: [&str; 12] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "café", "cafe", "The", "研", "<mask>",
];

/// A folder with `vocab.txt` or a `tokenizer.json` of the same vocabulary, and other files.
fn folder(with_json: bool, files: &[(&str, Value)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    match with_json {
        false => std::fs::write(folder.path().join(VOCAB), VOCAB_LINES.join("\n")).unwrap(),
        true => write(
            folder.path(),
            TOKENIZER,
            &tokenizer_json(&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]),
        ),
    }
    for (name, value) in files {
        write(folder.path(), name, value);
    }
    folder
}

fn write(folder: &Path, name: &str, value: &Value) {
    std::fs::write(folder.join(name), value.to_string()).unwrap();
}

/// Lower case, accents stripped, and these added tokens.
fn tokenizer_json(added: &[&str]) -> Value {
    let vocab: serde_json::Map<String, Value> = VOCAB_LINES
        .iter()
        .zip(0..)
        .map(|(&token, id)| (token.to_owned(), json!(id)))
        .collect();
    let added: Vec<Value> = added
        .iter()
        .map(|token| {
            json!({"id": vocab[*token], "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    })
}

fn open(folder: &TempDir) -> Result<TokenizerFiles, String> {
    read(&Files::folder(folder.path()).unwrap()).map_err(|e| e.to_string())
}

fn tokens(tokenizer: &TokenizerFiles, text: &str) -> String {
    let encoding = tokenizer.tokenizer.encode(text, true).unwrap();
    // A token with `lstrip` includes the space before it.
    let tokens: Vec<&str> = encoding.get_tokens().iter().map(|token| token.trim()).collect();
    tokens.join(" ")
}

#[test]
fn settings_of_berts_classes_override_tokenizer_json() {
    for (config, text, expected) in [
        (json!({"do_lower_case": false}), "The cat", "[CLS] The cat [SEP]"),
        (json!({"do_lower_case": true}), "The cat", "[CLS] the cat [SEP]"),
        (json!({}), "The café", "[CLS] the cafe [SEP]"),
        (json!({"strip_accents": false}), "The café", "[CLS] the café [SEP]"),
        (json!({"tokenize_chinese_chars": false}), "研研", "[CLS] [UNK] [SEP]"),
        (json!({"tokenize_chinese_chars": true}), "研研", "[CLS] 研 研 [SEP]"),
        (
            json!({"tokenizer_class": "BertTokenizerFast", "do_lower_case": false}),
            "The",
            "[CLS] The [SEP]",
        ),
        (
            json!({"tokenizer_class": "DistilBertTokenizer", "do_lower_case": false}),
            "The",
            "[CLS] The [SEP]",
        ),
        // Generic classes take tokenizer.json as it is.
        (
            json!({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": false}),
            "The café",
            "[CLS] the cafe [SEP]",
        ),
        (
            json!({"tokenizer_class": "TokenizersBackend", "strip_accents": false}),
            "The café",
            "[CLS] the cafe [SEP]",
        ),
    ] {
        let tokenizer = open(&folder(true, &[(TOKENIZER_CONFIG, config.clone())])).unwrap();
        assert_eq!(tokens(&tokenizer, text), expected, "{config}");
    }
}

#[test]
fn the_class_may_stand_in_the_model_config() {
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
    let files = [
        ("config.json", config),
        (TOKENIZER_CONFIG, json!({"do_lower_case": false})),
    ];
    let tokenizer = open(&folder(true, &files)).unwrap();
    assert_eq!(tokens(&tokenizer, "The"), "[CLS] the [SEP]");
}

#[test]
fn classes_that_are_not_supported_are_named() {
    for (with_json, class) in [
        (true, "BertweetTokenizer"),
        (false, "BertweetTokenizer"),
        (false, "XLNetTokenizer"),
    ] {
        let config = json!({"tokenizer_class": class});
        let error = open(&folder(with_json, &[(TOKENIZER_CONFIG, config)])).err().unwrap();
        let expected = format!("tokenizer_class is \"{class}\", which is not supported");
        assert!(
            error.contains("tokenizer_config.json: ") && error.contains(&expected),
            "{error}"
        );
    }
}

#[test]
fn japanese_words_without_a_dictionary() {
    let vocab = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "研", "##究", "研究", "を", "##て", "A", "。", "株", "究", "が",
    ];
    let built = |settings: Value| {
        let mut config = json!({"tokenizer_class": "BertJapaneseTokenizer"});
        config
            .as_object_mut()
            .unwrap()
            .extend(settings.as_object().unwrap().clone());
        let folder = folder(false, &[(TOKENIZER_CONFIG, config)]);
        std::fs::write(folder.path().join(VOCAB), vocab.join("\n")).unwrap();
        open(&folder)
    };
    // Expected: transformers 5.24.0.
    for (settings, text, expected) in [
        (json!({}), "研究[MASK] 研研究。A", "[CLS] 研究 [MASK] [UNK] 。 A [SEP]"),
        (json!({}), "研究て a　が", "[CLS] 研究 ##て [UNK] が [SEP]"),
        (json!({}), "か\u{3099} が", "[CLS] が が [SEP]"),
        (
            json!({"subword_tokenizer_type": "character"}),
            "研究て。 Ａ㈱ [MASK]が\u{a8}",
            "[CLS] 研 究 [UNK] 。 A [UNK] 株 [UNK] [MASK] が [UNK] [UNK] [SEP]",
        ),
    ] {
        let tokenizer = built(settings.clone()).unwrap();
        assert_eq!(tokens(&tokenizer, text), expected, "{settings}: {text}");
    }
    let tokenizer = built(json!({})).unwrap().tokenizer;
    let ids = tokenizer.encode("研究て。 [MASK]", true).unwrap();
    // No white space is cleaned up.
    assert_eq!(
        tokenizer.decode(ids.get_ids(), false).unwrap(),
        "[CLS] 研究て 。 [MASK] [SEP]"
    );
    for (settings, named) in [
        (
            json!({"word_tokenizer_type": "mecab"}),
            "word_tokenizer_type is \"mecab\"",
        ),
        (
            json!({"word_tokenizer_type": "sudachi"}),
            "word_tokenizer_type is \"sudachi\"",
        ),
        (
            json!({"subword_tokenizer_type": "sentencepiece"}),
            "subword_tokenizer_type is \"sentencepiece\"",
        ),
        (json!({"do_word_tokenize": false}), "do_word_tokenize"),
        (json!({"word_tokenizer_type": 3}), "word_tokenizer_type is not a text"),
    ] {
        let error = built(settings).err().unwrap();
        let named = format!("tokenizer_config.json: {named}");
        assert!(error.contains(&named) && !error.contains('\n'), "{error}");
    }
}

/// As transformers: its classes in Python have a text for an id of a padded vocabulary, the others have none.
#[test]
fn an_id_without_a_token_is_unknown_to_classes_in_python() {
    for (config, expected) in [
        (json!({"tokenizer_class": "BertJapaneseTokenizer"}), "cat [UNK] the"),
        (
            json!({"tokenizer_class": "BertJapaneseTokenizer", "unk_token": "cafe"}),
            "cat cafe the",
        ),
        (
            json!({"tokenizer_class": "EsmTokenizer", "unk_token": "[UNK]", "cls_token": "[CLS]", "eos_token": "[SEP]",
                "mask_token": "[MASK]"}),
            "cat [UNK] the",
        ),
        (json!({"tokenizer_class": "BertTokenizer"}), "cat the"),
    ] {
        let tokenizer = open(&folder(false, &[(TOKENIZER_CONFIG, config.clone())])).unwrap();
        let unknown = tokenizer.unknown.as_deref();
        for skip_special_tokens in [false, true] {
            let text = decode(&tokenizer.tokenizer, &[6, 999, 5], skip_special_tokens, unknown);
            assert_eq!(text.unwrap(), expected, "{config}");
        }
    }
}

#[test]
fn added_tokens_come_from_either_file() {
    let zork = |normalized: bool| json!({"12": {"content": "zork", "normalized": normalized, "special": false}});
    for files in [
        vec![("added_tokens.json", json!({"zork": 12, "blip": 13}))],
        vec![(TOKENIZER_CONFIG, json!({"added_tokens_decoder": zork(true)}))],
        vec![(TOKENIZER_CONFIG, json!({"added_tokens_decoder": zork(false)}))],
        vec![
            (TOKENIZER_CONFIG, json!({})),
            ("added_tokens.json", json!({"zork": 12})),
        ],
    ] {
        for with_json in [false, true] {
            let tokenizer = open(&folder(with_json, &files)).unwrap();
            assert_eq!(
                tokens(&tokenizer, "the zork [MASK]"),
                "[CLS] the zork [MASK] [SEP]",
                "{files:?}"
            );
            assert_eq!(tokenizer.tokenizer.token_to_id("zork"), Some(12), "{files:?}");
        }
    }
    let files = [("added_tokens.json", json!({"zork": "x"}))];
    assert!(
        open(&folder(false, &files))
            .err()
            .unwrap()
            .contains("added_tokens.json")
    );
}

#[test]
fn special_tokens_come_from_either_file() {
    let map = json!({"mask_token": "<mask>"});
    let object = json!({"mask_token": {"content": "<mask>", "lstrip": true, "normalized": false}});
    for files in [
        vec![("special_tokens_map.json", map.clone())],
        vec![("special_tokens_map.json", object.clone())],
        vec![(TOKENIZER_CONFIG, map.clone())],
        vec![(TOKENIZER_CONFIG, object)],
        // The map takes precedence over the configuration,
        vec![
            (TOKENIZER_CONFIG, json!({"mask_token": "[MASK]"})),
            ("special_tokens_map.json", map.clone()),
        ],
        // but not if the configuration lists the added tokens.
        vec![
            (
                TOKENIZER_CONFIG,
                json!({"mask_token": "<mask>", "added_tokens_decoder": {"11": {"content": "<mask>", "special": true}}}),
            ),
            ("special_tokens_map.json", json!({"mask_token": "[MASK]"})),
        ],
    ] {
        for with_json in [false, true] {
            let tokenizer = open(&folder(with_json, &files)).unwrap();
            assert_eq!(
                (tokenizer.mask_token.as_str(), tokenizer.mask_id),
                ("<mask>", 11),
                "{files:?}"
            );
            assert_eq!(tokens(&tokenizer, "the <mask>"), "[CLS] the <mask> [SEP]", "{files:?}");
        }
    }
}

#[test]
fn a_mask_token_that_is_not_an_added_token_is_recognized() {
    for class in ["BertTokenizer", "PreTrainedTokenizerFast"] {
        for added in [&[][..], &["[CLS]"], &["[MASK]"]] {
            let files = [
                (TOKENIZER, tokenizer_json(added)),
                (TOKENIZER_CONFIG, json!({"tokenizer_class": class})),
            ];
            let tokenizer = open(&folder(true, &files)).unwrap();
            assert_eq!(
                tokens(&tokenizer, "the [MASK]"),
                "[CLS] the [MASK] [SEP]",
                "{class} {added:?}"
            );
        }
    }
}

#[test]
fn rembert_drops_options_of_special_tokens_that_no_file_names() {
    let pieces = ["<pad>", "x", "<unk>", "[CLS]", "[SEP]", "[MASK]", "▁", "▁a", "[Z]"];
    let pieces = pieces.map(|piece| json!([piece, if piece == "▁" { -9.0 } else { 0.0 }]));
    let added = [
        (0, "<pad>"),
        (2, "<unk>"),
        (3, "[CLS]"),
        (4, "[SEP]"),
        (5, "[MASK]"),
        (8, "[Z]"),
    ]
    .map(|(id, content)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": true, "rstrip": false,
            "normalized": false, "special": true})
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": false},
    });
    for (config, mask, z) in [
        (json!({}), "▁ [MASK]", "[Z]"),
        (json!({"do_lower_case": false}), "▁ [MASK]", "[Z]"),
        (json!({"mask_token": "[MASK]"}), "[MASK]", "[Z]"),
        (
            json!({"mask_token": "[MASK]", "extra_special_tokens": ["[Z]"]}),
            "[MASK]",
            "▁ [Z]",
        ),
        (json!({"extra_special_tokens": ["[Z]"]}), "▁ [MASK]", "▁ [Z]"),
    ] {
        let folder = folder(
            false,
            &[
                ("config.json", json!({"model_type": "rembert"})),
                (TOKENIZER, tokenizer.clone()),
                (TOKENIZER_CONFIG, config.clone()),
            ],
        );
        let opened = open(&folder).unwrap();
        assert_eq!(
            tokens(&opened, "a [MASK]a [Z]"),
            format!("▁a {mask} ▁a {z}"),
            "{config}"
        );
    }
}

#[test]
fn null_tokens_are_absent() {
    for name in ["pad_token", "unk_token", "bos_token", "sep_token"] {
        for with_json in [false, true] {
            let tokenizer = open(&folder(with_json, &[(TOKENIZER_CONFIG, json!({name: null}))])).unwrap();
            assert_eq!(tokens(&tokenizer, "the [MASK]"), "[CLS] the [MASK] [SEP]", "{name}");
            assert_eq!(tokenizer.pad_id, (name != "pad_token").then_some(0), "{name}");
        }
    }
    let error = open(&folder(true, &[(TOKENIZER_CONFIG, json!({"mask_token": null}))]));
    assert!(
        error
            .err()
            .unwrap()
            .contains("tokenizer_config.json: mask_token is null")
    );
    let map = json!({"mask_token": null});
    let error = open(&folder(true, &[("special_tokens_map.json", map)])).err().unwrap();
    assert!(error.contains("special_tokens_map.json: mask_token is null"), "{error}");
}

#[test]
fn blank_lines_at_the_end_of_a_vocabulary_are_no_tokens() {
    for end in ["", "\n", "\n\n\n", "\r\n\r\n", "\n \n\t\n"] {
        let folder = folder(false, &[]);
        std::fs::write(folder.path().join(VOCAB), VOCAB_LINES.join("\n") + end).unwrap();
        let tokenizer = open(&folder).unwrap();
        assert_eq!(tokenizer.tokenizer.get_vocab_size(true), 12, "{end:?}");
    }
    // Between others they count, so that the following ids are right.
    let folder = folder(false, &[]);
    std::fs::write(folder.path().join(VOCAB), format!("\n\n{}\n\n", VOCAB_LINES.join("\n"))).unwrap();
    assert_eq!(open(&folder).unwrap().mask_id, 6);
}

#[test]
fn the_post_processor_of_berts_classes_is_berts() {
    let mut without = tokenizer_json(&["[MASK]"]);
    without["post_processor"] = Value::Null;
    for (class, expected) in [
        ("BertTokenizer", "[CLS] the [MASK] [SEP]"),
        ("PreTrainedTokenizerFast", "the [MASK]"),
    ] {
        let files = [
            (TOKENIZER, without.clone()),
            (TOKENIZER_CONFIG, json!({"tokenizer_class": class})),
        ];
        let tokenizer = open(&folder(true, &files)).unwrap();
        assert_eq!(tokens(&tokenizer, "the [MASK]"), expected);
    }
}

#[test]
fn settings_of_the_wrong_type_are_named() {
    for (config, named) in [
        (
            json!({"do_lower_case": "yes"}),
            "do_lower_case is neither true nor false",
        ),
        (json!({"mask_token": 7}), "mask_token is neither a text nor an object"),
        (json!({"mask_token": {}}), "mask_token has no content"),
        (
            json!({"added_tokens_decoder": {"x": {"content": "a"}}}),
            "\"x\" is not an id",
        ),
    ] {
        let error = open(&folder(true, &[(TOKENIZER_CONFIG, config)])).err().unwrap();
        assert!(
            error.contains("tokenizer_config.json: ") && error.contains(named),
            "{error}"
        );
    }
}
