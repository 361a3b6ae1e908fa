//! Compares the document with the route table and with real answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use poem::http::{Method, StatusCode, Uri};
use poem::test::{TestClient, TestResponse};
use serde_json::{Value, json};

use super::render;
use crate::server::app::App;
use crate::server::middleware::auth::ApiKey;
use crate::server::options::Options;
use crate::server::service::{service, service_on, table};
use crate::server::tests::{MINUTE, app};
use crate::tasks::fill_mask::{TARGET_BYTES_MAX, TARGETS_MAX};

fn document_and_client() -> (Value, TestClient<impl poem::Endpoint>) {
    let app = app(|_| {}, 8, MINUTE);
    (render(&app), TestClient::new(service(app)))
}

/// The paths of the route table in the notation of the document.
fn served() -> BTreeSet<String> {
    let paths = table(&Options::default()).into_iter().map(|row| row.path());
    // The files of the pages are for browsers alone.
    let documented = paths.filter(|path| ![".css", ".js", ".svg"].iter().any(|end| path.ends_with(end)));
    documented
        .map(|path| {
            let parts = path.split('/').map(|part| match part.strip_prefix(':') {
                Some(name) => format!("{{{name}}}"),
                None => part.to_owned(),
            });
            parts.collect::<Vec<_>>().join("/")
        })
        .collect()
}

#[tokio::test]
async fn the_document_has_exactly_the_routes_and_methods_of_the_table() {
    let (document, client) = document_and_client();
    let paths = document["paths"].as_object().unwrap();
    let documented: BTreeSet<String> = paths.keys().cloned().collect();
    assert_eq!(documented, served());
    for (path, operations) in paths {
        let uri = path.replace("{name}", "tiny").replace("{version}", "1");
        let response = client
            .request(Method::PATCH, uri.parse::<Uri>().unwrap().to_string())
            .send()
            .await;
        response.assert_status(StatusCode::METHOD_NOT_ALLOWED);
        let allow = response.0.headers()["allow"].to_str().unwrap().to_ascii_lowercase();
        let allowed: BTreeSet<&str> = allow.split(", ").filter(|&method| method != "head").collect();
        let documented: BTreeSet<&str> = operations.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(documented, allowed, "{path}");
    }
}

/// With a key the document says which operations need it; without one it names none.
#[tokio::test]
async fn the_document_says_which_operations_need_the_key() {
    let (document, _) = document_and_client();
    assert_eq!(document["security"], json!([]));
    assert!(document["components"]["securitySchemes"].is_null());
    for metrics_without_key in [false, true] {
        let mut app = Arc::into_inner(app(|_| {}, 8, MINUTE)).unwrap();
        app.options.api_key = Some(ApiKey::new("key").unwrap());
        app.options.metrics_without_key = metrics_without_key;
        let document = render(&app);
        assert_eq!(document["security"], json!([{"ApiKey": []}]));
        let client = TestClient::new(service(Arc::new(app)));
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
                let uri = path.replace("{name}", "tiny").replace("{version}", "1");
                let status = client.request(method, uri).send().await.0.status();
                let is_open = operation["security"] == json!([]);
                assert_eq!(status != StatusCode::UNAUTHORIZED, is_open, "{path}");
                let has_401 = !operation["responses"]["401"].is_null();
                assert!(is_open || has_401, "{path}");
            }
        }
    }
}

/// Checks that the document describes a response of its operation.
async fn check(document: &Value, method: &str, path: &str, response: TestResponse) {
    let status = response.0.status().as_u16().to_string();
    let what = format!("{method} {path} {status}");
    let responses = &document["paths"][path][method]["responses"];
    let mut described = match &responses[&status] {
        Value::Null if status.starts_with('4') => &responses["4XX"],
        described => described,
    };
    assert!(described.is_object(), "{what} is not in the document");
    if let Some(reference) = described["$ref"].as_str() {
        described = document.pointer(&reference[1..]).unwrap();
    }
    for (name, header) in described["headers"].as_object().into_iter().flatten() {
        let optional = name == "Inference-Header-Content-Length" || name.starts_with("x-");
        assert!(
            optional || response.0.headers().contains_key(name.as_str()),
            "{what}: no {name}, {header}"
        );
    }
    let content_type = response.0.content_type().unwrap_or_default().to_owned();
    let essence = content_type.split(';').next().unwrap();
    let media = &described["content"][essence];
    assert!(media.is_object(), "{what}: {content_type} is not in the document");
    if essence != "application/json" {
        return;
    }
    let body: Value = response.json().await.value().deserialize();
    let schema = json!({"allOf": [media["schema"]], "components": document["components"]});
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{what}: {errors:?} in {body}");
}

#[tokio::test]
async fn every_operation_documents_refusals_before_its_route() {
    let app = app(|_| {}, 8, MINUTE);
    let document = render(&app);
    let client = TestClient::new(service_on(app, true));
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let uri = path.replace("{name}", "tiny").replace("{version}", "1");
            let name = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
            let response = client.request(name, uri).header("host", "rebound.example").send().await;
            response.assert_status(StatusCode::MISDIRECTED_REQUEST);
            check(&document, method, path, response).await;
        }
    }
}

#[tokio::test]
async fn answers_match_their_schemas() {
    let (document, client) = document_and_client();
    for path in served() {
        if !document["paths"][&path]["get"].is_object() {
            continue;
        }
        let uri = path.replace("{name}", "tiny").replace("{version}", "1");
        let response = client.get(uri).send().await;
        response.assert_status_is_ok();
        check(&document, "get", &path, response).await;
    }
    let long = "word ".repeat(300) + "[MASK]";
    let many = vec!["a [MASK]"; 9];
    for (body, status) in [
        (json!({"inputs": "a [MASK]"}), 200),
        (json!({"inputs": "a [MASK] [MASK]", "parameters": {"top_k": 1}}), 200),
        (json!({"inputs": ["a [MASK]", "[MASK]"]}), 200),
        (json!({"inputs": ["a [MASK] [MASK]", "b [MASK]"]}), 200),
        (
            json!({"inputs": "a [MASK]", "parameters": {"targets": "the"}, "options": {"x": 1}}),
            200,
        ),
        (
            json!({"inputs": "a [MASK]", "parameters": {"targets": ["the", "of"], "top_k": 99_999}}),
            200,
        ),
        (
            json!({"inputs": format!("[MASK] {long}"), "parameters": {"truncation": "right"}}),
            422,
        ),
        (
            json!({"inputs": long, "parameters": {"truncation": "around_mask"}}),
            200,
        ),
        (
            json!({"inputs": format!("a [MASK] {}", "word ".repeat(300)), "truncate": true}),
            200,
        ),
        (
            json!({"inputs": "a [MASK]", "parameters": {"tokenizer_kwargs": {"truncation": true, "max_length": 9}}}),
            200,
        ),
        (
            json!({"inputs": "a [MASK]", "parameters": {"targets": ["the", "Of"], "renormalize": true}}),
            200,
        ),
        (json!({"inputs": "a [MASK]", "parameters": {"renormalize": true}}), 400),
        (
            json!({"inputs": "a [MASK]", "truncate": true, "parameters": {"truncation": "left"}}),
            400,
        ),
        (json!({"inputs": "no mask"}), 400),
        (json!({"inputs": ["a [MASK]", "no mask"]}), 400),
        (json!({"inputs": "a [MASK]", "parameters": {"top_k": 0}}), 400),
        (json!({}), 400),
        (json!({"inputs": long}), 422),
        (json!({"inputs": many}), 422),
    ] {
        for path in ["/", "/v1/fill-mask"] {
            let response = client.post(path).body_json(&body).send().await;
            response.assert_status(StatusCode::from_u16(status).unwrap());
            check(&document, "post", path, response).await;
        }
    }
    for (body, status) in [
        (
            json!({"inputs": "a [MASK] [MASK]", "parameters": {"targets": ["the"], "target_mode": "word"}}),
            200,
        ),
        (
            json!({"inputs": ["a [MASK] [MASK]", "[MASK]"], "parameters": {"targets": ["the"], "target_mode": "word"}}),
            200,
        ),
        (
            json!({"inputs": ["a [MASK]", "[MASK]"], "parameters": {"joint": true}}),
            200,
        ),
        (json!({"inputs": "a [MASK]", "parameters": {"joint": {"beam": 2}}}), 200),
        (json!({"inputs": "a b", "parameters": {"positions": "all"}}), 200),
        (json!({"inputs": ["a", "b"], "parameters": {"positions": [0]}}), 200),
        (json!({"inputs": "a b", "parameters": {"positions": [9]}}), 400),
        (
            json!({"inputs": "a [MASK]", "parameters": {"joint": {"beam": 99}}}),
            400,
        ),
    ] {
        let response = client.post("/v1/fill-mask").body_json(&body).send().await;
        response.assert_status(StatusCode::from_u16(status).unwrap());
        check(&document, "post", "/v1/fill-mask", response).await;
    }
    for (body, status) in [
        (json!({"inputs": "a b"}), 200),
        (
            json!({"inputs": ["a b", "c"], "parameters": {"method": "pll", "per_token": true}}),
            200,
        ),
        (json!({"inputs": "a b", "parameters": {"only": [1]}}), 200),
        (json!({"inputs": "a b", "parameters": {"only": [7]}}), 400),
        (json!({"inputs": "a b", "parameters": {"method": "x"}}), 400),
        (json!({"inputs": many}), 422),
    ] {
        let response = client.post("/v1/score").body_json(&body).send().await;
        response.assert_status(StatusCode::from_u16(status).unwrap());
        check(&document, "post", "/v1/score", response).await;
    }
    for (body, status) in [
        (json!({"inputs": "a b"}), 200),
        (json!({"inputs": long}), 200),
        (json!({"ids": [1, 999_999]}), 200),
        (json!({}), 400),
    ] {
        let response = client.post("/v1/tokens").body_json(&body).send().await;
        response.assert_status(StatusCode::from_u16(status).unwrap());
        check(&document, "post", "/v1/tokens", response).await;
    }
    for path in ["/embed_sparse", "/v1/sparse-embeddings"] {
        for (body, status) in [
            (json!({"inputs": "a b"}), 200),
            (
                json!({"inputs": ["a b", "c"], "truncate": true, "truncation_direction": "Left"}),
                200,
            ),
            (json!({"inputs": " "}), 400),
            (json!({"inputs": long}), 422),
        ] {
            let response = client.post(path).body_json(&body).send().await;
            response.assert_status(StatusCode::from_u16(status).unwrap());
            check(&document, "post", path, response).await;
        }
    }
    let input = |text: &str| json!([{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]);
    for (body, status) in [
        (json!({"inputs": input("a [MASK] [MASK]"), "id": "7"}), 200),
        (
            json!({"inputs": input("a [MASK]"), "parameters": {"binary_data_output": true}}),
            200,
        ),
        (json!({"inputs": input("no mask")}), 400),
        (json!({"inputs": input(&long)}), 422),
    ] {
        for path in ["/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"] {
            let uri = path.replace("{name}", "tiny").replace("{version}", "1");
            let response = client.post(uri).body_json(&body).send().await;
            response.assert_status(StatusCode::from_u16(status).unwrap());
            check(&document, "post", path, response).await;
            let response = client.post(path.replace("{name}", "other")).send().await;
            response.assert_status(StatusCode::NOT_FOUND);
            check(&document, "post", path, response).await;
        }
    }
    let response = client.get("/v2/models/other/ready").send().await;
    check(&document, "get", "/v2/models/{name}/ready", response).await;
    let response = client.post("/").header("content-encoding", "gzip").send().await;
    check(&document, "post", "/", response).await;
    let response = client.post("/").content_type("multipart/form-data; boundary=B1");
    let response = response.body("--B1--").send().await;
    response.assert_status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    check(&document, "post", "/", response).await;
    let response = client.post("/").body("a".repeat(10_001)).send().await;
    check(&document, "post", "/", response).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_errors_match_their_schemas() {
    let broken: Arc<App> = app(|_| panic!("on purpose"), 8, MINUTE);
    let document = render(&broken);
    let client = TestClient::new(service(Arc::clone(&broken)));
    for _ in 0..3 {
        let response = client.post("/").body("a [MASK]").send().await;
        response.assert_status(StatusCode::INTERNAL_SERVER_ERROR);
        check(&document, "post", "/", response).await;
    }
    for path in ["/health", "/v2/health/ready", "/v2/models/{name}/ready"] {
        let response = client.get(path.replace("{name}", "tiny")).send().await;
        response.assert_status(StatusCode::SERVICE_UNAVAILABLE);
        check(&document, "get", path, response).await;
    }
    tokio::task::spawn_blocking(move || broken.pipeline.engine().stop())
        .await
        .unwrap();
    let response = client.post("/").body("a [MASK]").send().await;
    response.assert_status(StatusCode::SERVICE_UNAVAILABLE);
    check(&document, "post", "/", response).await;
}

/// Collects every value of `key` in a document, with its JSON pointer.
fn collect<'a>(value: &'a Value, key: &str, at: String, found: &mut BTreeMap<String, &'a Value>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if name == key {
                    found.insert(format!("{at}/{name}"), field);
                }
                collect(field, key, format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, key, format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_example_is_valid_and_every_reference_has_a_target() {
    let app = app(|_| {}, 8, MINUTE);
    let document = render(&app);
    let mut contents = BTreeMap::new();
    collect(&document, "content", String::new(), &mut contents);
    assert!(contents.len() > 20);
    for (place, content) in contents {
        for (media, described) in content.as_object().unwrap() {
            let examples = described["examples"]
                .as_object()
                .into_iter()
                .flat_map(|examples| examples.values());
            let examples = examples.map(|example| &example["value"]);
            for example in examples.chain(described.get("example")) {
                let schema = json!({"allOf": [described["schema"]], "components": document["components"]});
                let validator = jsonschema::validator_for(&schema).unwrap();
                // An example names the demo model, the schema the model of this test.
                assert!(validator.is_valid(example), "{place} {media}: {example}");
            }
        }
    }
    let mut references = BTreeMap::new();
    collect(&document, "$ref", String::new(), &mut references);
    for (place, reference) in references {
        let pointer = &reference.as_str().unwrap()[1..];
        assert!(document.pointer(pointer).is_some(), "{place}: {reference}");
    }
}

#[test]
fn the_limits_are_those_of_the_server() {
    let app = app(|_| {}, 8, MINUTE);
    let document = render(&app);
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["Text"]["pattern"], r"\[MASK\]");
    assert_eq!(schemas["TopK"]["maximum"], app.pipeline.model().vocab_size());
    assert_eq!(
        schemas["FillMaskRequest"]["properties"]["inputs"]["oneOf"][1]["maxItems"],
        8
    );
    assert_eq!(schemas["Targets"]["oneOf"][1]["maxItems"], TARGETS_MAX);
    assert_eq!(schemas["Target"]["maxLength"], TARGET_BYTES_MAX);
    let description = document["info"]["description"].as_str().unwrap();
    for part in ["256 tokens", "8 texts", "10000 bytes", "60000 ms"] {
        assert!(description.contains(part), "{description}");
    }
}
