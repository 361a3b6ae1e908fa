//! The tasks against other programs: transformers, minicons, sentence-transformers.
//!
//! `tests/fixtures/tasks/make.py` makes the expected answers.

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use cloze::Cloze;
use cloze::api::{AnswerJson, Format};
use cloze::pipeline::{Deadline, Pipeline};
use common::fixtures::golden;
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
    let request = Format::Json.parse(body.to_string().as_bytes()).unwrap();
    let scored = block_on(pipeline.run(pipeline.admit().unwrap(), request, Deadline::never()));
    let mut json = Vec::new();
    let mut writer = AnswerJson::new(scored.unwrap().answer);
    writer.write(pipeline.task(), &mut json, usize::MAX).unwrap();
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
