//! Parameters and routes beyond the contract of transformers' pipeline.

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
