//! Parameters and routes beyond the contract of transformers' pipeline.

use std::sync::Arc;

use poem::test::TestClient;
use serde_json::{Value, json};

use super::{MINUTE, app, service};

fn header<'a>(response: &'a poem::test::TestResponse, name: &str) -> Option<&'a str> {
    response.0.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn the_answer_says_how_many_tokens_were_cut() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    let long = format!("a [MASK] {}", "the ".repeat(300));
    for (body, cut) in [
        (json!({"inputs": "a [MASK]"}), None),
        (json!({"inputs": "a [MASK]", "truncate": true}), Some("0")),
        (
            json!({"inputs": [long, "a [MASK]", long], "truncate": true}),
            Some("96"),
        ),
        (
            json!({"inputs": long, "parameters": {"truncation": "around_mask"}}),
            Some("48"),
        ),
    ] {
        let response = client.post("/").body_json(&body).send().await;
        response.assert_status_is_ok();
        assert_eq!(header(&response, "x-truncated-tokens"), cut, "{body}");
    }
}

#[tokio::test]
async fn replaced_targets_are_a_header_in_ascii() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    let send = |targets: Value| {
        let body = json!({"inputs": "a [MASK]", "parameters": {"targets": targets}});
        client.post("/").body_json(&body).send()
    };
    let response = send(json!(["the"])).await;
    assert_eq!(header(&response, "x-replaced-targets"), None);
    let response = send(json!(["the", "The", "\u{1f600}\u{e9}\u{7f}\n\"", " "])).await;
    response.assert_status_is_ok();
    let replaced = header(&response, "x-replaced-targets").unwrap();
    assert!(replaced.is_ascii(), "{replaced}");
    let replaced: Value = serde_json::from_str(replaced).unwrap();
    assert_eq!((&replaced["The"], &replaced[" "]), (&json!("the"), &Value::Null));
    assert_eq!(replaced.as_object().unwrap().len(), 3);
    // As many as headers may hold.
    let many: Vec<String> = (0..900).map(|index| format!("\u{e9}\u{e9}{index}")).collect();
    let response = send(json!(many)).await;
    response.assert_status_is_ok();
    assert!(header(&response, "x-replaced-targets").unwrap().len() < 8000);
    let unlisted: usize = header(&response, "x-replaced-targets-unlisted")
        .unwrap()
        .parse()
        .unwrap();
    assert!(unlisted > 500, "{unlisted}");
}

#[tokio::test]
async fn every_task_has_its_shape_over_http() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    for (path, body, expected) in [
        (
            "/v1/score",
            json!({"inputs": "the cat"}),
            json!({"score": 2.0 * 0.25_f64.ln(), "tokens": 2, "perplexity": 4.0}),
        ),
        (
            "/v1/score",
            json!({"inputs": ["the", "the"], "parameters": {"per_token": true}}),
            json!([{"tokens": 1, "token_scores": [{"token_str": "the"}]}, {"tokens": 1}]),
        ),
        (
            "/",
            json!({"inputs": "the [MASK]", "parameters": {"targets": ["the"], "target_mode": "word"}}),
            json!([{"score": 0.25, "token_str": "the", "log_prob_per_token": 0.25_f64.ln(), "method": "left_to_right"}]),
        ),
        (
            "/",
            json!({"inputs": "the [MASK] [MASK]", "parameters": {"joint": true, "top_k": 1}}),
            json!([{"log_score": 2.0 * 0.25_f64.ln(), "tokens": [0, 0], "order": "left_to_right"}]),
        ),
        (
            "/embed_sparse",
            json!({"inputs": "the a"}),
            json!([[{"index": 3, "value": 0.5}, {"index": 7, "value": 0.5}]]),
        ),
        (
            "/v1/sparse-embeddings",
            json!({"inputs": ["the", "a"], "truncate": true}),
            json!([[{"index": 3}, {"index": 7}], [{"index": 3}, {"index": 7}]]),
        ),
        (
            "/v1/fill-mask",
            json!({"inputs": "the a", "parameters": {"positions": [1], "top_k": 3}}),
            json!([{"position": 1, "start": 4, "end": 5, "score": 0.25}]),
        ),
    ] {
        let response = client.post(path).body_json(&body).send().await;
        response.assert_status_is_ok();
        let answer: Value = response.json().await.value().deserialize();
        assert_contains(&answer, &expected, &body);
    }
    // A text as it is.
    let response = client.post("/v1/score").body("the").send().await;
    let answer: Value = response.json().await.value().deserialize();
    assert_eq!(answer["tokens"], 1);
    let metrics = client
        .get("/metrics")
        .send()
        .await
        .0
        .into_body()
        .into_string()
        .await
        .unwrap();
    for series in [
        // A sequence for each of five tokens, with the special tokens and the readout position.
        "cloze_task_requests_total{task=\"score\"} 3",
        "cloze_task_sequences_total{task=\"score\"} 5",
        "cloze_task_tokens_total{task=\"score\"} 22",
        "cloze_task_requests_total{task=\"sparse\"} 2",
        "cloze_task_texts_total{task=\"sparse\"} 3",
        "cloze_request_seconds_count{task=\"sparse\"} 2",
    ] {
        assert!(
            metrics.lines().any(|line| line == series),
            "{series} is not in {metrics}"
        );
    }
}

#[tokio::test]
async fn tokens_are_counted_and_named() {
    let app = app(|_| panic!("the model is not asked"), 8, MINUTE);
    let client = TestClient::new(service(Arc::clone(&app)));
    let ask = async |body: Value| -> Value {
        let response = client.post("/v1/tokens").body_json(&body).send().await;
        response.assert_status_is_ok();
        response.json().await.value().deserialize()
    };
    let answer = ask(json!({"inputs": "a [MASK]"})).await;
    let strings: Vec<&str> = answer["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["token_str"].as_str().unwrap())
        .collect();
    assert_eq!(strings, ["[CLS]", "a", "[MASK]", "[SEP]"]);
    assert_eq!((&answer["count"], &answer["max_tokens"]), (&json!(4), &json!(256)));
    // Tokens over the limit are counted alone.
    let answer = ask(json!({"inputs": "a ".repeat(500)})).await;
    assert_eq!(
        (answer["tokens"].as_array().unwrap().len(), &answer["count"]),
        (256, &json!(502))
    );
    // Cut off with a mask, they have no list.
    let answer = ask(json!({"inputs": "a ".repeat(500) + "[MASK]"})).await;
    assert_eq!((&answer["tokens"], &answer["count"]), (&json!([]), &json!(503)));
    let id = ask(json!({"inputs": "a"})).await["tokens"][1]["token"].clone();
    let answer = ask(json!({"ids": [id, 999_999]})).await;
    assert_eq!(
        answer["tokens"],
        json!([{"token": id, "token_str": "a"}, {"token": 999_999, "token_str": null}])
    );
    assert_eq!(app.pipeline.memory().used(), 0);
    assert_eq!(app.pipeline.engine().waiting(), (0, 0));
}

/// Checks that `answer` has what `expected` has; numbers may differ in the last digits.
fn assert_contains(answer: &Value, expected: &Value, body: &Value) {
    match (answer, expected) {
        (Value::Array(answer), Value::Array(expected)) => {
            assert_eq!(answer.len(), expected.len(), "{body}: {answer:?}");
            let pairs = answer.iter().zip(expected);
            pairs.for_each(|(answer, expected)| assert_contains(answer, expected, body));
        }
        (_, Value::Object(expected)) => expected
            .iter()
            .for_each(|(name, expected)| assert_contains(&answer[name], expected, body)),
        (Value::Number(answer), Value::Number(expected)) => {
            let difference = answer.as_f64().unwrap() - expected.as_f64().unwrap();
            assert!(difference.abs() < 1e-5, "{body}: {answer} is not {expected}");
        }
        _ => assert_eq!(answer, expected, "{body}"),
    }
}

#[tokio::test]
async fn expensive_parameters_are_refused_before_anything_is_computed() {
    let client = TestClient::new(service(app(|_| panic!("computed"), 8, MINUTE)));
    let masks = "[MASK] ".repeat(250);
    let words = "the ".repeat(250);
    let targets: Vec<String> = (0..800).map(|index| format!("a{index}")).collect();
    for (path, body, error_type) in [
        (
            "/",
            json!({"inputs": [masks, masks], "parameters": {"joint": {"beam": 64}}}),
            "too_much_work",
        ),
        (
            "/",
            json!({"inputs": vec![&masks; 4], "parameters": {"joint": {"beam": 32, "order": "most_certain_first"}, "top_k": 1000}}),
            "too_much_work",
        ),
        (
            "/",
            json!({"inputs": masks, "parameters": {"targets": targets, "target_mode": "word", "target_method": "pll"}}),
            "too_much_work",
        ),
        (
            "/",
            json!({"inputs": words, "parameters": {"positions": "all", "top_k": 500}}),
            "answer_too_large",
        ),
        (
            "/",
            json!({"inputs": "a [MASK]", "parameters": {"joint": {"beam": 65}}}),
            "bad_joint",
        ),
        (
            "/",
            json!({"inputs": "a [MASK]", "parameters": {"joint": {"beam": 0}}}),
            "bad_joint",
        ),
        (
            "/",
            json!({"inputs": "a [MASK]", "parameters": {"joint": true, "top_k": 1001}}),
            "bad_top_k",
        ),
        (
            "/",
            json!({"inputs": "a [MASK]", "parameters": {"joint": true, "targets": ["a"]}}),
            "bad_parameters",
        ),
        (
            "/",
            json!({"inputs": "a [MASK]", "parameters": {"target_mode": "word"}}),
            "bad_parameters",
        ),
        (
            "/",
            json!({"inputs": "a [MASK]", "parameters": {"target_mode": "word", "targets": ["the ".repeat(40)]}}),
            "bad_targets",
        ),
        (
            "/",
            json!({"inputs": "a the", "parameters": {"positions": [2]}}),
            "bad_positions",
        ),
        (
            "/v1/score",
            json!({"inputs": "a the", "parameters": {"only": [0, 2]}}),
            "bad_positions",
        ),
        (
            "/v1/score",
            json!({"inputs": "a the", "parameters": {"only": []}}),
            "empty",
        ),
        ("/embed_sparse", json!({"inputs": ["a", " "]}), "empty"),
        (
            "/embed_sparse",
            json!({"inputs": "the ".repeat(300)}),
            "too_many_tokens",
        ),
        (
            "/embed_sparse",
            json!({"inputs": "a", "prompt_name": "query"}),
            "bad_parameters",
        ),
        // Names of another type, in each place.
        (
            "/",
            json!({"inputs": "a", "parameters": {"truncation": true}}),
            "bad_request",
        ),
        (
            "/",
            json!({"inputs": "a", "parameters": {"truncation": {"right": null}}}),
            "bad_request",
        ),
        ("/", json!({"inputs": "a", "truncation_direction": 1}), "bad_request"),
        (
            "/",
            json!({"inputs": "a", "parameters": {"target_mode": 1}}),
            "bad_request",
        ),
        (
            "/",
            json!({"inputs": "a", "parameters": {"target_method": []}}),
            "bad_request",
        ),
        (
            "/",
            json!({"inputs": "a", "parameters": {"joint": {"order": true}}}),
            "bad_request",
        ),
        (
            "/",
            json!({"inputs": "a", "parameters": {"positions": {"all": null}}}),
            "bad_request",
        ),
        (
            "/",
            json!({"inputs": "a", "parameters": {"tokenizer_kwargs": {"truncation": {"only_first": null}}}}),
            "bad_request",
        ),
        (
            "/v1/score",
            json!({"inputs": "a", "parameters": {"method": false}}),
            "bad_request",
        ),
        (
            "/v1/score",
            json!({"inputs": "a", "parameters": {"method": {"pll": null}}}),
            "bad_request",
        ),
        (
            "/embed_sparse",
            json!({"inputs": "a", "truncation_direction": false}),
            "bad_request",
        ),
        ("/v1/score", json!({"inputs": " "}), "empty"),
        ("/v1/score", json!({"inputs": "[SEP]"}), "empty"),
        ("/v1/score", json!({"inputs": vec!["the"; 9]}), "too_many_texts"),
    ] {
        let response = client.post(path).body_json(&body).send().await;
        let status = response.0.status();
        let error: Value = response.json().await.value().deserialize();
        assert_eq!(error["error_type"], error_type, "{status} {error} {body}");
        assert!(error["error"].as_str().unwrap().ends_with('.'), "{error}");
    }
}
