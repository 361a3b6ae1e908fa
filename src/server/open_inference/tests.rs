//! The protocol as bytes, over a model that gives every token the same score.

use poem::http::StatusCode;
use poem::test::{TestClient, TestResponse};
use serde_json::{Value, json};

use crate::server::service::service;
use crate::server::tests::{MINUTE, app, expect_error};

const INFER: &str = "/v2/models/tiny/infer";

fn client() -> TestClient<impl poem::Endpoint> {
    TestClient::new(service(app(|_| {}, 8, MINUTE)))
}

/// A request with these texts, and with additional or replaced fields.
fn request(texts: &[&str], more: Value) -> Value {
    let mut request = json!({
        "inputs": [{"name": "text", "shape": [texts.len()], "datatype": "BYTES", "data": texts}]
    });
    let fields = more.as_object().unwrap().clone();
    request.as_object_mut().unwrap().extend(fields);
    request
}

async fn infer(request: &Value) -> TestResponse {
    client().post(INFER).body_json(request).send().await
}

async fn answer(request: &Value) -> Value {
    let response = infer(request).await;
    response.assert_status_is_ok();
    response.assert_content_type("application/json; charset=utf-8");
    response.json().await.value().deserialize()
}

fn output<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let outputs = answer["outputs"].as_array().unwrap();
    outputs.iter().find(|output| output["name"] == name).unwrap()
}

#[tokio::test]
async fn one_row_per_mask() {
    let texts = ["a [MASK]", "[MASK] b [MASK]", "[MASK]"];
    let answer = answer(&request(&texts, json!({"parameters": {"top_k": 3}, "id": "mine"}))).await;
    assert_eq!(answer["model_name"], "tiny");
    assert_eq!(answer["model_version"], "1");
    assert_eq!(answer["id"], "mine");
    assert_eq!(output(&answer, "text_index")["data"], json!([0, 1, 1, 2]));
    assert_eq!(output(&answer, "mask_index")["data"], json!([0, 0, 1, 0]));
    for (name, datatype) in [
        ("score", "FP32"),
        ("token", "INT32"),
        ("token_str", "BYTES"),
        ("sequence", "BYTES"),
    ] {
        let output = output(&answer, name);
        assert_eq!(
            (&output["datatype"], &output["shape"]),
            (&json!(datatype), &json!([4, 3])),
            "{name}"
        );
        assert_eq!(output["data"].as_array().unwrap().len(), 12, "{name}");
    }
    assert_eq!(
        output(&answer, "token")["data"],
        json!([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    );
    let sequences = output(&answer, "sequence")["data"].as_array().unwrap();
    assert!(sequences[3].as_str().unwrap().contains("[MASK]"), "{sequences:?}");
}

#[tokio::test]
async fn unknown_parameters_are_ignored() {
    for parameters in [
        json!({"top_k": 2, "topk": 3, "priority": 1, "sequence_id": 7}),
        json!({"top_k": 2.0, "temperature": {"a": [1]}}),
    ] {
        let answer = answer(&request(&["a [MASK]"], json!({"parameters": parameters}))).await;
        assert_eq!(output(&answer, "token")["shape"], json!([1, 2]));
    }
}

#[tokio::test]
async fn the_name_on_the_hub_addresses_the_model() {
    let client = client();
    for name in ["acme/tiny-bert", "acme%2Ftiny-bert", "acme%2ftiny-bert"] {
        for path in [
            format!("/v2/models/{name}"),
            format!("/v2/models/{name}/"),
            format!("/v2/models/{name}/versions/1"),
            format!("/v2/models/{name}/config"),
            format!("/v2/models/{name}/ready"),
        ] {
            let response = client.get(&path).send().await;
            response.assert_status_is_ok();
            let body: Value = response.json().await.value().deserialize();
            assert_eq!(body["name"], "tiny", "{path}");
        }
        let path = format!("/v2/models/{name}/infer");
        let response = client.post(path).body_json(&request(&["a [MASK]"], json!({})));
        response.send().await.assert_status_is_ok();
    }
    for path in ["acme/other/infer", "some/tiny-bert/infer", "tiny-bert/infer"] {
        let response = client.post(format!("/v2/models/{path}")).send().await;
        let error = expect_error(response, StatusCode::NOT_FOUND, "model_not_found").await;
        assert!(error.contains("this server has \"tiny\""), "{error}");
    }
    let response = client.get("/v2/models/tiny/other").send().await;
    expect_error(response, StatusCode::NOT_FOUND, "not_found").await;
}

#[tokio::test]
async fn the_configuration_is_that_of_triton() {
    let response = client().get("/v2/models/tiny/config").send().await;
    response.assert_status_is_ok();
    let config: Value = response.json().await.value().deserialize();
    assert_eq!(config["max_batch_size"], 0);
    let text = json!([{"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}]);
    assert_eq!(config["input"], text);
    let outputs: Vec<_> = config["output"].as_array().unwrap().iter().collect();
    assert_eq!(outputs.len(), 6);
    assert_eq!(
        *outputs[2],
        json!({"name": "score", "data_type": "TYPE_FP32", "dims": [-1, -1]})
    );
}

#[tokio::test]
async fn texts_come_flat_or_nested() {
    for (shape, data) in [
        (json!([2]), json!(["a [MASK]", "b [MASK]"])),
        (json!([2, 1]), json!(["a [MASK]", "b [MASK]"])),
        (json!([2, 1]), json!([["a [MASK]"], ["b [MASK]"]])),
    ] {
        let answer = answer(&json!({
            "inputs": [{"name": "text", "shape": shape, "datatype": "BYTES", "data": data}],
            "outputs": [{"name": "token"}, {"name": "text_index"}],
        }))
        .await;
        // Only the requested outputs, in the requested order.
        let outputs = answer["outputs"].as_array().unwrap();
        let names: Vec<_> = outputs.iter().map(|output| output["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["token", "text_index"]);
        assert_eq!(output(&answer, "token")["shape"], json!([2, 5]));
        assert!(answer.get("id").is_none());
    }
}

#[tokio::test]
async fn targets_as_a_list_or_between_commas() {
    let tokens = async |targets: Value| {
        let request = request(&["a [MASK]"], json!({"parameters": {"targets": targets}}));
        output(&answer(&request).await, "token_str")["data"].clone()
    };
    let list = tokens(json!(["the", "of"])).await;
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(tokens(json!("the, of")).await, list);
}

#[tokio::test]
async fn binary_both_ways() {
    let texts = ["a [MASK]", "é [MASK]"];
    let mut data = Vec::new();
    for text in texts {
        data.extend((text.len() as u32).to_le_bytes());
        data.extend(text.as_bytes());
    }
    let json = json!({
        "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": data.len()}}],
        "parameters": {"top_k": 2, "binary_data_output": true},
        "outputs": [{"name": "score"}, {"name": "token", "parameters": {"binary_data": false}}, {"name": "token_str"}],
    })
    .to_string();
    let body = [json.as_bytes(), &data].concat();
    let client = client();
    let request = client.post(INFER).header("inference-header-content-length", json.len());
    let response = request.body(body).send().await;
    response.assert_status_is_ok();
    response.assert_content_type("application/octet-stream");
    let header = &response.0.headers()["inference-header-content-length"];
    let json_length: usize = header.to_str().unwrap().parse().unwrap();
    let body = response.0.into_body().into_vec().await.unwrap();
    let (json, binary) = body.split_at(json_length);
    let answer: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(output(&answer, "token")["data"], json!([0, 1, 0, 1]));
    assert!(output(&answer, "token").get("parameters").is_none());
    assert!(output(&answer, "score").get("data").is_none());
    assert_eq!(output(&answer, "score")["parameters"]["binary_data_size"], 16);
    let (scores, strings) = binary.split_at(16);
    assert_eq!(scores, [0.25f32.to_le_bytes(); 4].concat());
    assert_eq!(
        output(&answer, "token_str")["parameters"]["binary_data_size"],
        strings.len()
    );
    let first = u32::from_le_bytes(strings[..4].try_into().unwrap()) as usize;
    assert_eq!(&strings[4..4 + first], b"[PAD]");
}

#[tokio::test]
async fn an_invalid_request_is_400_with_its_reason() {
    let text = json!({"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a [MASK]"]});
    let with = |field: &str, value: Value| {
        let mut text = text.clone();
        text[field] = value;
        json!({"inputs": [text]})
    };
    for (body, says) in [
        (json!({}), "missing field `inputs`"),
        (json!({"inputs": []}), "there are 0"),
        (json!({"inputs": [text, text]}), "there are 2"),
        (with("name", json!("input_ids")), "\"input_ids\""),
        (with("datatype", json!("INT64")), "BYTES"),
        (with("shape", json!([2])), "2 elements; its data has 1"),
        (with("shape", json!([1, 2])), "[1, 2]"),
        (with("shape", json!([])), "[]"),
        (with("shape", json!([u64::MAX, 1])), "18446744073709551615"),
        (with("shape", json!([-1])), "invalid value"),
        (with("data", json!([3])), "expected strings"),
        (with("data", json!(null)), "has no data"),
        (
            with("parameters", json!({"binary_data_size": 8})),
            "in the JSON and in binary",
        ),
        (
            with("parameters", json!({"shared_memory_region": "x"})),
            "Shared memory is not supported",
        ),
        (
            request(&["a [MASK]"], json!({"outputs": [{"name": "logits"}]})),
            "\"logits\"",
        ),
        (
            request(
                &["a [MASK]"],
                json!({"outputs": [{"name": "score"}, {"name": "score"}]}),
            ),
            "twice",
        ),
        (
            request(
                &["a [MASK]"],
                json!({"outputs": [{"name": "score", "parameters": {"classification": 3}}]}),
            ),
            "top_k",
        ),
        (
            request(&["a [MASK]"], json!({"parameters": {"top_k": 2.5}})),
            "a whole number",
        ),
        (
            request(&["a [MASK]"], json!({"id": "x".repeat(1025)})),
            "longer than 1024 bytes",
        ),
        (
            request(&["a [MASK]"], json!({"parameters": {"targets": 3}})),
            "comma-separated words",
        ),
    ] {
        let error = expect_error(infer(&body).await, StatusCode::BAD_REQUEST, "bad_request").await;
        assert!(error.contains(says), "{body}: {error}");
    }
    for (body, error_type) in [
        (request(&[], json!({})), "empty"),
        (request(&["no mask"], json!({})), "no_mask"),
        (
            request(&["a [MASK]"], json!({"parameters": {"top_k": -1}})),
            "bad_top_k",
        ),
        (
            request(&["a [MASK]"], json!({"parameters": {"targets": " , "}})),
            "bad_targets",
        ),
    ] {
        expect_error(infer(&body).await, StatusCode::BAD_REQUEST, error_type).await;
    }
}

#[tokio::test]
async fn a_binary_body_of_another_length_is_400() {
    let json = |size: usize| {
        json!({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES",
            "parameters": {"binary_data_size": size}}]})
        .to_string()
    };
    let whole = b"\x08\x00\x00\x00a [MASK]";
    let client = client();
    for (json, json_length, binary, says) in [
        (json(12), None, &whole[..], "trailing characters"),
        (json(12), Some("-1"), whole, "not a number"),
        (json(12), Some("9999"), whole, "is 9999, but the body has"),
        (json(12), Some(""), &whole[..11], "there are 11 bytes"),
        (json(12), Some(""), b"\xff\xff\xff\xffa [MASK]", "inside element 0"),
        (json(3), Some(""), b"\x08\x00\x00", "inside element 0"),
        (json(6), Some(""), b"\x02\x00\x00\x00a\xff", "not valid UTF-8 at byte 1"),
        (
            json(24),
            Some(""),
            &[&whole[..], whole].concat(),
            "1 elements; its data has 2",
        ),
    ] {
        let mut request = client.post(INFER);
        if let Some(length) = json_length {
            let length = if length.is_empty() {
                json.len().to_string()
            } else {
                length.to_owned()
            };
            request = request.header("inference-header-content-length", length);
        }
        let response = request.body([json.as_bytes(), binary].concat()).send().await;
        response.assert_status(StatusCode::BAD_REQUEST);
        let text = response.0.into_body().into_string().await.unwrap();
        assert!(text.contains(says), "{says}: {text}");
    }
    // Without the header the position of the binary data is unknown.
    let body: Value = serde_json::from_str(&json(12)).unwrap();
    let error = expect_error(infer(&body).await, StatusCode::BAD_REQUEST, "bad_request").await;
    assert!(error.contains("inference-header-content-length"), "{error}");
}

#[tokio::test]
async fn the_clients_timeout_shortens_ours() {
    let request = request(&["a [MASK]"], json!({"parameters": {"timeout": 1}}));
    let error = expect_error(infer(&request).await, StatusCode::GATEWAY_TIMEOUT, "timeout").await;
    assert!(error.contains("within 1 µs"), "{error}");
}

#[tokio::test]
async fn metadata_and_health() {
    let client = client();
    let get = async |path: &str| -> Value {
        let response = client.get(path).send().await;
        response.assert_status_is_ok();
        response.json().await.value().deserialize()
    };
    let server = get("/v2").await;
    assert_eq!(server["name"], "cloze");
    assert!(
        server["extensions"]
            .as_array()
            .unwrap()
            .contains(&json!("binary_tensor_data"))
    );
    assert_eq!(get("/v2/health/live").await, json!({"live": true}));
    assert_eq!(get("/v2/health/ready").await, json!({"ready": true}));
    for model in ["/v2/models/tiny", "/v2/models/tiny/versions/1"] {
        let metadata = get(model).await;
        assert_eq!(metadata["name"], "tiny");
        assert_eq!(metadata["inputs"][0]["shape"], json!([-1]));
        assert_eq!(metadata["outputs"].as_array().unwrap().len(), 6);
        assert_eq!(
            get(&format!("{model}/ready")).await,
            json!({"name": "tiny", "ready": true})
        );
    }
    for path in [
        "/v2/models/other",
        "/v2/models/other/ready",
        "/v2/models/tiny/versions/2",
        "/v2/models/tiny/versions/2/ready",
        "/v2/models/tiny/versions/%ff",
        "/v2/models/%ff",
    ] {
        expect_error(client.get(path).send().await, StatusCode::NOT_FOUND, "model_not_found").await;
    }
    let response = client.post("/v2/models/other/infer").send().await;
    expect_error(response, StatusCode::NOT_FOUND, "model_not_found").await;
    let response = client.get(INFER).send().await;
    response.assert_header("allow", "POST");
}

/// The body may be a megabyte, and each of these characters is escaped by six.
#[tokio::test]
async fn errors_repeat_a_bounded_part_of_the_input() {
    let long = "\u{80}".repeat(3000);
    let input = |field: &str, value: Value| {
        let mut request = request(&["a [MASK]"], json!({}));
        request["inputs"][0][field] = value;
        request
    };
    let text = |fields: Value| ("/", fields);
    let infer = |fields: Value| (INFER, fields);
    for (path, body) in [
        text(json!({"inputs": "a [MASK]", &long: 1})),
        text(json!({"inputs": "a [MASK]", "parameters": {&long: 1}})),
        text(json!({"inputs": "a [MASK]", "parameters": {"top_k": &long}})),
        infer(input("name", json!(long))),
        infer(input("datatype", json!(long))),
        infer(input("shape", json!(vec![1; 3000]))),
        infer(request(&["a [MASK]"], json!({"outputs": [{"name": &long}]}))),
        infer(request(&["a [MASK]"], json!({"outputs": [{&long: 1}]}))),
        infer(request(&["a [MASK]"], json!({"parameters": {"top_k": &long}}))),
    ] {
        let response = client().post(path).body_json(&body).send().await;
        response.assert_status(StatusCode::BAD_REQUEST);
        let body = response.0.into_body().into_string().await.unwrap();
        assert!(body.len() < 1500, "{} bytes: {body}", body.len());
    }
    for path in [
        format!("/v2/models/{}", "x".repeat(6000)),
        format!("/v2/models/tiny/versions/{}", "x".repeat(6000)),
    ] {
        let error = expect_error(
            client().get(&path).send().await,
            StatusCode::NOT_FOUND,
            "model_not_found",
        )
        .await;
        assert!(error.len() < 300, "{error}");
    }
    let client = client();
    let request = client
        .post("/")
        .header("content-encoding", "x".repeat(6000))
        .body("a [MASK]");
    let error = expect_error(
        request.send().await,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "content_encoding",
    )
    .await;
    assert!(error.len() < 300, "{error}");
}
