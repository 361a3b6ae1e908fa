//! The tasks against other programs: transformers, minicons, sentence-transformers.
//!
//! `tests/fixtures/tasks/make.py` makes the expected answers.

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use cloze::Cloze;
use cloze::api::{AnswerJson, Format, TaskKind};
use cloze::backend::cpu::Compute;
use cloze::pipeline::{Deadline, Pipeline};
use common::fixtures::{golden, golden_copy};
use serde_json::{Value, json};

/// The expected answers of every checkpoint, with its pipeline.
fn subjects() -> Vec<(String, Arc<Pipeline>, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let json = std::fs::read(folder.join("tests/fixtures/tasks/expected.json")).unwrap();
    let expected: serde_json::Map<String, Value> = serde_json::from_slice(&json).unwrap();
    let subject = |(name, expected): (String, Value)| {
        let cloze = match name.as_str() {
            "demo" => Cloze::demo(),
            name => Cloze::open(golden(name)),
        };
        (name, Arc::clone(cloze.unwrap().pipeline()), expected)
    };
    expected.into_iter().map(subject).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}

/// The answer to a body of `POST /`.
fn fill_mask(pipeline: &Arc<Pipeline>, body: &Value) -> Value {
    answer(pipeline, TaskKind::FillMask, body)
}

/// The answer to a body of a task's route.
fn answer(pipeline: &Arc<Pipeline>, kind: TaskKind, body: &Value) -> Value {
    let request = Format::Json.parse_task(kind, body.to_string().as_bytes()).unwrap();
    let scored = block_on(pipeline.run(pipeline.admit().unwrap(), request, Deadline::never()));
    let mut json = Vec::new();
    let mut writer = AnswerJson::new(scored.unwrap().answer);
    writer.write(pipeline.model(), &mut json, usize::MAX).unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn cases<'a>(expected: &'a Value, task: &str) -> impl Iterator<Item = &'a Value> {
    expected[task].as_array().into_iter().flatten()
}

/// Compares answers; numbers may differ by `tolerance`.
fn assert_close(answer: &Value, expected: &Value, tolerance: f64, what: &str) {
    match (answer, expected) {
        (Value::Number(answer), Value::Number(expected)) => {
            let difference = answer.as_f64().unwrap() - expected.as_f64().unwrap();
            assert!(difference.abs() <= tolerance, "{what}: {answer} is not {expected}");
        }
        (Value::Array(answer), Value::Array(expected)) => {
            assert_eq!(answer.len(), expected.len(), "{what}");
            for (answer, expected) in answer.iter().zip(expected) {
                assert_close(answer, expected, tolerance, what);
            }
        }
        (Value::Object(answer), Value::Object(expected)) => {
            assert!(answer.keys().eq(expected.keys()), "{what}");
            for (answer, expected) in answer.values().zip(expected.values()) {
                assert_close(answer, expected, tolerance, what);
            }
        }
        _ => assert_eq!(answer, expected, "{what}"),
    }
}

#[test]
fn truncation_equals_transformers() {
    let mut count = 0;
    for (name, pipeline, expected) in subjects() {
        for case in cases(&expected, "truncation") {
            let body = json!({"inputs": case["inputs"], "parameters": {"top_k": 2, "tokenizer_kwargs": case["tokenizer_kwargs"]}});
            let answer = fill_mask(&pipeline, &body);
            assert_close(&answer, &case["answer"], 1e-5, &format!("{name}: {body}"));
            count += 1;
        }
    }
    assert!(count >= 10, "{count} cases");
}

#[test]
fn a_tokenizer_states_the_side_and_the_length_of_truncation() {
    let copy = golden_copy("uncased-tied");
    let path = copy.path().join("tokenizer_config.json");
    let mut settings: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    settings["truncation_side"] = json!("left");
    settings["model_max_length"] = json!(9);
    std::fs::write(path, settings.to_string()).unwrap();
    let pipeline = Arc::clone(Cloze::open(copy.path()).unwrap().pipeline());
    let (_, _, expected) = subjects()
        .into_iter()
        .find(|(name, ..)| name == "uncased-tied")
        .unwrap();
    let mut count = 0;
    for case in cases(&expected, "truncation_settings") {
        let body =
            json!({"inputs": case["inputs"], "parameters": {"top_k": 2, "tokenizer_kwargs": case["tokenizer_kwargs"]}});
        assert_close(&fill_mask(&pipeline, &body), &case["answer"], 1e-5, &body.to_string());
        count += 1;
    }
    assert_eq!(count, 2);
}

/// The scores of minicons and of a plain computation in float64.
#[test]
fn scores_of_texts_equal_minicons() {
    // AMX computes f32 as pairs of bf16, with 16 bits.
    let has_amx = Compute::new(1).unwrap().features() == "amx";
    let error_max = if has_amx { 2e-4 } else { 1e-4 };
    let mut count = 0;
    for (name, pipeline, expected) in subjects() {
        for case in cases(&expected, "score") {
            let body = json!({"inputs": case["inputs"], "parameters": {"method": case["method"], "per_token": true}});
            let answer = answer(&pipeline, TaskKind::Score, &body);
            let what = format!("{name}: {body}");
            let scores = answer["token_scores"].as_array().unwrap();
            let field = |name: &str| Value::from_iter(scores.iter().map(|score| score[name].clone()));
            assert_eq!(field("token"), case["tokens"], "{what}");
            assert_close(&field("log_prob"), &case["log_probs"], error_max, &what);
            let sum: f64 = case["log_probs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|log_prob| log_prob.as_f64().unwrap())
                .sum();
            assert_close(&answer["score"], &json!(sum), 1e-3, &what);
            let tokens = scores.len() as f64;
            assert_eq!(answer["tokens"], json!(scores.len()), "{what}");
            let perplexity = answer["perplexity"].as_f64().unwrap();
            assert!((perplexity.ln() + sum / tokens).abs() < 1e-3, "{what}");
            // Some tokens of it, in any order.
            let mut body = body;
            body["parameters"]["only"] = json!([2, 0, 2]);
            let some = self::answer(&pipeline, TaskKind::Score, &body);
            assert_close(&some["token_scores"], &json!([scores[0], scores[2]]), 1e-5, &what);
            count += 1;
        }
    }
    assert_eq!(count, 24);
}

#[test]
fn a_text_of_a_list_has_the_score_that_it_has_alone() {
    let (_, pipeline, expected) = subjects().remove(0);
    let texts: Vec<&Value> = cases(&expected, "score").map(|case| &case["inputs"]).collect();
    let together = answer(&pipeline, TaskKind::Score, &json!({"inputs": texts}));
    for (text, together) in texts.iter().zip(together.as_array().unwrap()) {
        let alone = answer(&pipeline, TaskKind::Score, &json!({"inputs": [text]}));
        assert_close(&alone[0], together, 1e-3, &text.to_string());
    }
}

/// Pairs of sentences of everyday grammar, of which the first is right.
#[test]
fn the_demo_model_prefers_right_grammar() {
    let pairs: Vec<[String; 2]> = serde_json::from_str(include_str!("fixtures/tasks/minimal_pairs.json")).unwrap();
    let pipeline = Arc::clone(Cloze::demo().unwrap().pipeline());
    let texts: Vec<&String> = pairs.iter().flatten().collect();
    let answer = answer(&pipeline, TaskKind::Score, &json!({"inputs": texts}));
    let scores: Vec<f64> = answer
        .as_array()
        .unwrap()
        .iter()
        .map(|score| score["score"].as_f64().unwrap())
        .collect();
    let wrong: Vec<&[String; 2]> = pairs
        .iter()
        .zip(scores.as_chunks::<2>().0)
        .filter(|(_, [right, wrong])| right <= wrong)
        .map(|(pair, _)| pair)
        .collect();
    assert!(
        wrong.len() * 5 <= pairs.len(),
        "{} of {}: {wrong:?}",
        wrong.len(),
        pairs.len()
    );
}

/// A plain computation in float64, one forward pass for each token of a word.
#[test]
fn scores_of_whole_words_equal_a_plain_computation() {
    for (name, pipeline, expected) in subjects() {
        for case in cases(&expected, "words") {
            let targets = case["targets"].as_array().unwrap();
            let words: Vec<&Value> = targets.iter().map(|target| &target["target"]).collect();
            let parameters =
                json!({"targets": words, "target_mode": "word", "target_method": case["method"], "top_k": words.len()});
            let body = json!({"inputs": case["inputs"], "parameters": parameters});
            let what = format!("{name}: {body}");
            let answer = fill_mask(&pipeline, &body);
            let answer = answer.as_array().unwrap();
            assert_eq!(answer.len(), targets.len(), "{what}");
            assert!(
                answer.is_sorted_by(|a, b| a["log_prob"].as_f64() >= b["log_prob"].as_f64()),
                "{what}"
            );
            for target in targets {
                let word = answer.iter().find(|word| word["tokens"] == target["tokens"]);
                let word = word.unwrap_or_else(|| panic!("{what}: {target}"));
                assert_close(&word["log_prob"], &target["log_prob"], 1e-3, &what);
                assert_eq!(word["method"], case["method"]);
            }
        }
    }
}

#[test]
fn a_word_of_one_token_has_the_score_of_the_token() {
    let pipeline = Arc::clone(Cloze::demo().unwrap().pipeline());
    let body = |mode: &str| json!({"inputs": ["She [MASK] born in London.", "The [MASK] of [MASK]."], "parameters": {"targets": ["was", "is", "city"], "target_mode": mode}});
    let (tokens, words) = (
        fill_mask(&pipeline, &body("token")),
        fill_mask(&pipeline, &body("word")),
    );
    let flat = |answer: &Value| -> Vec<Value> {
        let lists = [&answer[0], &answer[1][0], &answer[1][1]];
        lists
            .into_iter()
            .flat_map(|list| list.as_array().unwrap().clone())
            .collect()
    };
    for (token, word) in flat(&tokens).into_iter().zip(flat(&words)) {
        for field in ["score", "token", "token_str", "sequence"] {
            assert_close(&word[field], &token[field], 1e-5, field);
        }
    }
}

#[test]
fn joint_fillings_are_sums_over_their_masks() {
    let pipeline = Arc::clone(Cloze::demo().unwrap().pipeline());
    let body =
        |joint: Value| json!({"inputs": "The [MASK] of [MASK] is Paris.", "parameters": {"top_k": 3, "joint": joint}});
    for (joint, order) in [
        (json!(true), "left_to_right"),
        (json!({"beam": 4, "order": "most_certain_first"}), "most_certain_first"),
    ] {
        let answer = fill_mask(&pipeline, &body(joint));
        let fillings = answer.as_array().unwrap();
        assert_eq!(fillings.len(), 3, "{answer}");
        assert_eq!(fillings[0]["order"], order);
        assert!(fillings.is_sorted_by(|a, b| a["log_score"].as_f64() >= b["log_score"].as_f64()));
        // The sum is that of the masks one after the other.
        if order == "left_to_right" {
            for filling in fillings {
                let words = filling["token_strs"].as_array().unwrap();
                let [first, second] = [0, 1].map(|word| words[word].as_str().unwrap());
                let one = |text: &str, token: &str| {
                    let body = json!({"inputs": text, "parameters": {"targets": token}});
                    let answer = fill_mask(&pipeline, &body);
                    let score = answer.pointer("/0/0/score").or_else(|| answer.pointer("/0/score"));
                    score.unwrap().as_f64().unwrap().ln()
                };
                let sum = one("The [MASK] of [MASK] is Paris.", first)
                    + one(&format!("The {first} of [MASK] is Paris."), second);
                assert_close(&filling["log_score"], &json!(sum), 1e-3, &filling.to_string());
            }
        }
    }
}

#[test]
fn positions_of_the_unmasked_text_have_their_bytes_and_scores() {
    for name in ["demo", "roberta", "xlm-roberta"] {
        let (_, pipeline, _) = subjects().into_iter().find(|(other, ..)| other == name).unwrap();
        let text = "The caf\u{e9}s  are unthinkably small.";
        let all = fill_mask(
            &pipeline,
            &json!({"inputs": text, "parameters": {"positions": "all", "top_k": 2}}),
        );
        let rows = all.as_array().unwrap();
        let (mut start, mut end) = (0, 0);
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(row["position"], json!(index), "{name}: {row}");
            let bytes = [&row["start"], &row["end"]].map(|byte| byte.as_u64().unwrap() as usize);
            assert!(
                bytes[0] >= start && bytes[1] >= bytes[0] && text.get(bytes[0]..bytes[1]).is_some(),
                "{name}: {row}"
            );
            [start, end] = bytes;
            let predictions = row["predictions"].as_array().unwrap();
            assert_eq!(predictions.len(), 2, "{name}: {row}");
            // The token that is there is one of the predictions, or less probable than all.
            let there = predictions
                .iter()
                .find(|prediction| prediction["token"] == row["token"]);
            match there {
                Some(there) => assert_close(&there["score"], &row["score"], 1e-6, name),
                None => assert!(
                    row["score"].as_f64() <= predictions[1]["score"].as_f64(),
                    "{name}: {row}"
                ),
            }
        }
        assert_eq!(end, text.len(), "{name}");
        assert_eq!(text.get(0..3), Some("The"));
        let some = fill_mask(
            &pipeline,
            &json!({"inputs": [text, text], "parameters": {"positions": [3, 1], "top_k": 2}}),
        );
        for of_text in some.as_array().unwrap() {
            assert_close(of_text, &json!([rows[1], rows[3]]), 1e-5, name);
        }
    }
}

/// Vectors of sentence-transformers' SparseEncoder.
#[test]
fn sparse_vectors_equal_sentence_transformers() {
    let mut count = 0;
    for (name, _, expected) in subjects() {
        for pooling in ["max", "sum"] {
            let pipeline = sparse_pipeline(&name, pooling);
            for case in cases(&expected, "sparse").filter(|case| case["pooling"] == pooling) {
                let what = format!("{name} {pooling}: {}", case["inputs"]);
                let answer = answer(
                    &pipeline,
                    TaskKind::Sparse,
                    &json!({"inputs": [case["inputs"], case["inputs"]]}),
                );
                let [first, second] = [0, 1].map(|text| answer[text].as_array().unwrap());
                let index = |entry: &Value| entry["index"].as_u64().unwrap();
                assert!(first.is_sorted_by(|a, b| index(a) < index(b)), "{what}");
                assert_close(&json!(first), &json!(second), 1e-5, &what);
                let value = |of: u64| {
                    let found = first.binary_search_by_key(&of, index);
                    found.map_or(0.0, |at| first[at]["value"].as_f64().unwrap())
                };
                for best in case["best"].as_array().unwrap() {
                    let expected = best[1].as_f64().unwrap();
                    let difference = value(best[0].as_u64().unwrap()) - expected;
                    assert!(
                        difference.abs() < 1e-4 * expected.max(1.0),
                        "{what}: {best} by {difference}"
                    );
                }
                // An entry may be 0 there and next to it here.
                let entries = case["entries"].as_f64().unwrap();
                assert!(
                    (first.len() as f64 - entries).abs() <= 2.0,
                    "{what}: {} entries",
                    first.len()
                );
                let sum: f64 = first.iter().map(|entry| entry["value"].as_f64().unwrap()).sum();
                let expected = case["sum"].as_f64().unwrap();
                assert!(
                    (sum - expected).abs() < 1e-4 * expected,
                    "{what}: {sum} is not {expected}"
                );
                count += 1;
            }
        }
    }
    assert_eq!(count, 16);
}

/// The pipeline of a checkpoint with this pooling.
fn sparse_pipeline(name: &str, pooling: &str) -> Arc<Pipeline> {
    let copy = match name {
        "demo" => {
            let copy = tempfile::tempdir().unwrap();
            let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("model");
            for file in [
                "config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "model.safetensors",
            ] {
                std::fs::copy(model.join(file), copy.path().join(file)).unwrap();
            }
            copy
        }
        name => golden_copy(name),
    };
    let folder = copy.path().join("1_SpladePooling");
    std::fs::create_dir(&folder).unwrap();
    let config = json!({"pooling_strategy": pooling});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    Arc::clone(Cloze::open(copy.path()).unwrap().pipeline())
}
