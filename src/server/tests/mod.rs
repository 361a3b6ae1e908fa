//! The service without a socket, over a model that each test controls.

mod access;
mod connections;
mod counts;
mod operations;
mod tasks;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use futures_util::FutureExt;
use poem::http::{Method, StatusCode};
use poem::test::TestClient;

use super::{App, Settings, service};
use crate::api::ErrorBody;
use crate::backend::Precision;
use crate::engine::Limits;
use crate::lm::{Batch, LoadedModel, MaskedLm, ModelError, PretrainedModel, Scores, Select, TokenScore};
use crate::{Cloze, WarmUpExtent};

/// Calls a function of the test for each batch, then gives every token the same score.
struct FakeModel<F>(F);

impl<F: FnMut(&Batch) + Send> MaskedLm for FakeModel<F> {
    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
        (self.0)(&batch);
        let score = |token| TokenScore {
            token,
            log_prob: 0.25_f32.ln(),
        };
        let scores = batch.readouts().map(|(rows, select)| {
            let of_row: Vec<TokenScore> = match select {
                Select::TopK(k) => (0..*k as u32).map(score).collect(),
                Select::Tokens(tokens) => tokens.iter().copied().map(score).collect(),
                Select::Pool(_) => {
                    let weight = |token| TokenScore { token, log_prob: 0.5 };
                    return vec![vec![weight(3), weight(7)]];
                }
            };
            vec![of_row; rows.len()]
        });
        Ok(scores.collect())
    }
}

pub(super) fn app(model: impl FnMut(&Batch) + Send + 'static, queue_size: usize, timeout: Duration) -> Arc<App> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/uncased-tied");
    let files = PretrainedModel::open(&folder).unwrap();
    let limits = Limits {
        batch_tokens_max: 256,
        batch_size_max: 1,
        batch_delay: Duration::ZERO,
        queue_size,
    };
    let model = LoadedModel::custom("a <test>", Precision::F32, vec![Box::new(FakeModel(model))]);
    let builder = Cloze::builder().limits(limits).warm_up(WarmUpExtent::Skip);
    let cloze = builder.tokens_max(256).start(files, model).unwrap();
    let mut app = cloze.into_app(Settings {
        model_name: Some("tiny".to_owned()),
        request_timeout: timeout,
        body_bytes_max: 10_000,
        ..Settings::default()
    });
    app.about.hub_name = Some("acme/tiny-bert".to_owned());
    Arc::new(app)
}

pub(super) const MINUTE: Duration = Duration::from_secs(60);

pub(super) async fn expect_error(response: poem::test::TestResponse, status: StatusCode, error_type: &str) -> String {
    response.assert_status(status);
    response.assert_content_type("application/json; charset=utf-8");
    let body: ErrorBody = response.json().await.value().deserialize();
    assert_eq!(body.error_type, error_type, "{body:?}");
    assert!(body.error.ends_with('.'), "not a sentence: {body:?}");
    body.error
}

#[tokio::test]
async fn a_query_is_refused_where_parameters_belong_in_the_body() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    for row in super::service::table(&super::Options::default()) {
        let path = row.path().replace(":name", "tiny").replace(":version", "1");
        let posts = row.methods().any(|(method, _)| method == Method::POST);
        let reads = row.methods().any(|(method, _)| method == Method::GET);
        for (query, name) in [
            ("top_k=3&x", "top_k"),
            ("anything", "anything"),
            ("=", ""),
            ("a%20b=1", "a%20b"),
        ] {
            let response = client.post(format!("{path}?{query}")).body("a [MASK]").send().await;
            if posts {
                let sentence = expect_error(response, StatusCode::BAD_REQUEST, "bad_request").await;
                assert!(sentence.contains(&format!("query parameter {name:?}")), "{sentence}");
            } else {
                expect_error(response, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed").await;
            }
            if reads {
                client.get(format!("{path}?{query}")).send().await.assert_status_is_ok();
            }
        }
    }
    let long = client
        .post(format!("/?{}", "x".repeat(10_000)))
        .body("a [MASK]")
        .send()
        .await;
    assert!(expect_error(long, StatusCode::BAD_REQUEST, "bad_request").await.len() < 300);
    client.post("/?").body("a [MASK]").send().await.assert_status_is_ok();
}

#[tokio::test]
async fn every_client_error_has_its_status_and_sentence() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    let json = "application/json";
    let long = "word ".repeat(300) + "[MASK]";
    let many = format!("{{\"inputs\": [{}]}}", ["\"a [MASK]\""; 9].join(","));
    for (content_type, body, status, error_type, says) in [
        ("text/plain", "no mask here", 400, "no_mask", "[MASK]"),
        ("text/plain", " \n", 400, "empty", "[MASK]"),
        ("text/plain", long.as_str(), 422, "too_many_tokens", "256"),
        (json, "{\"inputs\": ", 400, "not_json", "line 1"),
        (
            json,
            "{\"inputs\": \"a [MASK]\", \"top_k\": 1}",
            400,
            "bad_request",
            "top_k",
        ),
        (
            json,
            "{\"inputs\": \"a [MASK]\", \"parameters\": {\"k\": 1}}",
            400,
            "bad_request",
            "`k`",
        ),
        (
            json,
            "{\"inputs\": \"a [MASK]\", \"parameters\": {\"top_k\": 0}}",
            400,
            "bad_top_k",
            "between 1",
        ),
        (
            json,
            "{\"inputs\": \"a [MASK]\", \"parameters\": {\"top_k\": 99999}}",
            400,
            "bad_top_k",
            "99999",
        ),
        (
            json,
            "{\"inputs\": \"a [MASK]\", \"parameters\": {\"targets\": []}}",
            400,
            "bad_targets",
            "targets",
        ),
        (
            json,
            "{\"inputs\": \"a [MASK]\", \"parameters\": {\"targets\": [\" \"]}}",
            400,
            "bad_targets",
            "targets",
        ),
        (json, "{\"inputs\": [\"a [MASK]\", \"b\"]}", 400, "no_mask", "[MASK]"),
        (json, "{\"inputs\": [\"a [MASK]\", \"b\"]}", 400, "no_mask", "index 1"),
        ("text/plain", "{\"inputs\": \"no\"}", 400, "no_mask", "[MASK]"),
        ("multipart/form-data", "a [MASK]", 415, "content_type", "multipart"),
        (json, "{\"inputs\": []}", 400, "empty", "inputs"),
        (json, many.as_str(), 422, "too_many_texts", "9 texts"),
    ] {
        let response = client
            .post("/")
            .content_type(content_type)
            .body(body.to_owned())
            .send()
            .await;
        let error = expect_error(response, StatusCode::from_u16(status).unwrap(), error_type).await;
        assert!(error.contains(says), "{body}: {error}");
    }
    let response = client.post("/").body(vec![b'a', 0xff]).send().await;
    let error = expect_error(response, StatusCode::BAD_REQUEST, "not_utf8").await;
    assert!(error.contains("byte 1"), "{error}");
}

#[tokio::test]
async fn a_body_is_bounded_with_and_without_a_length() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    let fits = format!("{:<10000}", "a [MASK]");
    client.post("/").body(fits.clone()).send().await.assert_status_is_ok();
    let response = client.post("/").body(fits.clone() + " ").send().await;
    expect_error(response, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large").await;
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'a'; 1000]));
    let response = client
        .post("/")
        .body(poem::Body::from_bytes_stream(endless))
        .send()
        .await;
    expect_error(response, StatusCode::PAYLOAD_TOO_LARGE, "body_too_large").await;
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    expect_error(client.get("/nothing").send().await, StatusCode::NOT_FOUND, "not_found").await;
    for (path, allow, advice) in [
        ("/v1/fill-mask", "POST", "; use POST."),
        ("/health", "GET, HEAD", "; use GET or HEAD."),
        ("/", "GET, HEAD, POST", "; use GET, HEAD or POST."),
    ] {
        let response = client.put(path).send().await;
        response.assert_header("allow", allow);
        let error = expect_error(response, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed").await;
        assert!(error.ends_with(advice), "{error}");
    }
    client.get("/health").send().await.assert_status_is_ok();
    client.head("/health").send().await.assert_status_is_ok();
}

#[tokio::test]
async fn slashes_at_the_end_of_a_path_are_ignored() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    for path in ["//", "/health/", "/info//", "/v2/", "/v2/models/tiny/", "/docs/?a=b"] {
        client.get(path).send().await.assert_status_is_ok();
    }
    for path in ["/v1/fill-mask/", "/v1/fill-mask//"] {
        client.post(path).body("a [MASK]").send().await.assert_status_is_ok();
        let response = client.get(path).send().await;
        expect_error(response, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed").await;
    }
}

#[tokio::test]
async fn the_versioned_path_gives_the_same_answers() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    for (content_type, body) in [
        ("text/plain", "a [MASK]"),
        (
            "application/json",
            r#"{"inputs": ["a [MASK]", "[MASK] b [MASK]"], "parameters": {"top_k": 2}}"#,
        ),
    ] {
        let mut answers = Vec::new();
        for path in ["/", "/v1/fill-mask"] {
            let response = client.post(path).content_type(content_type).body(body).send().await;
            response.assert_status_is_ok();
            answers.push(response.0.into_body().into_string().await.unwrap());
        }
        assert_eq!(answers[0], answers[1]);
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused_unread() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    for coding in ["gzip", "br", "gzip, identity"] {
        let request = client.post("/").header("content-encoding", coding);
        let response = request.body(vec![0x1f, 0x8b, 8]).send().await;
        response.assert_header("accept-encoding", "identity");
        let error = expect_error(response, StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding").await;
        assert!(error.contains(coding), "{error}");
    }
    let plain = client.post("/").header("content-encoding", "identity");
    plain.body("a [MASK]").send().await.assert_status_is_ok();
}

/// A model that reports the start of each batch and waits for permission to finish it.
fn gated() -> (impl FnMut(&Batch) + Send, Receiver<()>, Sender<()>) {
    let ((begun, has_begun), (may_end, wait)) = (channel(), channel());
    let model = move |_: &Batch| {
        begun.send(()).unwrap();
        // Fails once the test drops the sender.
        let _ = wait.recv();
    };
    (model, has_begun, may_end)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_503_with_retry_after() {
    let (model, begun, may_end) = gated();
    let app = app(model, 1, MINUTE);
    let client = Arc::new(TestClient::new(service(Arc::clone(&app))));
    let send = |client: &Arc<TestClient<_>>| {
        let client = Arc::clone(client);
        tokio::spawn(async move { client.post("/").body("a [MASK]").send().await })
    };
    let running = send(&client);
    tokio::task::block_in_place(|| begun.recv().unwrap());
    let waiting = send(&client);
    while app.pipeline.engine().waiting().0 == 0 {
        tokio::task::yield_now().await;
    }
    let refused = send(&client).await.unwrap();
    refused.assert_header("retry-after", "1");
    expect_error(refused, StatusCode::SERVICE_UNAVAILABLE, "overloaded").await;
    // Refused before its body is parsed.
    let refused = client.post("/").content_type("application/json").body("not json");
    expect_error(refused.send().await, StatusCode::SERVICE_UNAVAILABLE, "overloaded").await;
    may_end.send(()).unwrap();
    may_end.send(()).unwrap();
    running.await.unwrap().assert_status_is_ok();
    waiting.await.unwrap().assert_status_is_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_is_504() {
    let (model, _begun, may_end) = gated();
    let client = TestClient::new(service(app(model, 8, Duration::from_millis(30))));
    let response = client.post("/").body("a [MASK]").send().await;
    let error = expect_error(response, StatusCode::GATEWAY_TIMEOUT, "timeout").await;
    assert!(error.contains("30 ms"), "{error}");
    drop(may_end);
}

/// A body that arrives when the test sends it.
fn body_later(body: &'static str) -> (poem::Body, tokio::sync::oneshot::Sender<()>) {
    let (send, sent) = tokio::sync::oneshot::channel::<()>();
    let stream = futures_util::stream::once(async move {
        // Fails if the test drops the sender.
        let _ = sent.await;
        Ok::<_, std::io::Error>(body.as_bytes().to_vec())
    });
    (poem::Body::from_bytes_stream(stream), send)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_refused_before_its_body_arrives() {
    let app = app(|_| {}, 1, MINUTE);
    let client = TestClient::new(service(Arc::clone(&app)));
    let _place = app.pipeline.admit().unwrap();
    let (body, _never_sent) = body_later("a [MASK]");
    let refused = tokio::time::timeout(MINUTE / 6, client.post("/").body(body).send()).await;
    let refused = refused.expect("the body is not waited for");
    expect_error(refused, StatusCode::SERVICE_UNAVAILABLE, "overloaded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admitted_request_is_answered_although_the_queue_is_full_meanwhile() {
    let (model, begun, may_end) = gated();
    let app = app(model, 3, MINUTE);
    let client = Arc::new(TestClient::new(service(Arc::clone(&app))));
    let first = Arc::clone(&client);
    let running = tokio::spawn(async move { first.post("/").body("a [MASK]").send().await });
    tokio::task::block_in_place(|| begun.recv().unwrap());
    // Two lists are admitted while the queue is empty. Together they fill it, and wait for list places.
    let list = r#"{"inputs": ["a [MASK]", "b [MASK]", "c [MASK]"]}"#;
    let (bodies, sends): (Vec<_>, Vec<_>) = (0..2).map(|_| body_later(list)).unzip();
    let requests = bodies.into_iter().map(|body| {
        let request = client.post("/").content_type("application/json");
        Box::pin(request.body(body).send())
    });
    let mut requests: Vec<_> = requests.collect();
    for request in &mut requests {
        assert!(request.as_mut().now_or_never().is_none(), "answered without its body");
    }
    for send in sends {
        send.send(()).unwrap();
    }
    let release = async {
        while app.pipeline.engine().waiting().0 < 3 {
            tokio::task::yield_now().await;
        }
        drop(may_end);
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(requests), release);
    for answer in answers {
        answer.assert_status_is_ok();
    }
    running.await.unwrap().assert_status_is_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_model_is_500_with_an_id_and_no_details() {
    let app = app(|_| panic!("a secret of the inside"), 8, MINUTE);
    let client = TestClient::new(service(Arc::clone(&app)));
    let mut ids = std::collections::HashSet::new();
    for _ in 0..3 {
        let response = client.post("/").body("a [MASK]").send().await;
        let error = expect_error(response, StatusCode::INTERNAL_SERVER_ERROR, "internal").await;
        assert!(!error.contains("secret"), "{error}");
        ids.insert(error);
    }
    assert_eq!(ids.len(), 3, "each failure has an id of its own");
    // After three failures in a row the server is not ready.
    let response = client.get("/health").send().await;
    expect_error(response, StatusCode::SERVICE_UNAVAILABLE, "not_ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_engine_is_503() {
    let app = app(|_| {}, 8, MINUTE);
    let stopping = Arc::clone(&app);
    tokio::task::spawn_blocking(move || stopping.pipeline.engine().stop())
        .await
        .unwrap();
    let client = TestClient::new(service(app));
    let response = client.post("/").body("a [MASK]").send().await;
    expect_error(response, StatusCode::SERVICE_UNAVAILABLE, "shutting_down").await;
    let response = client.get("/health").send().await;
    expect_error(response, StatusCode::SERVICE_UNAVAILABLE, "not_ready").await;
}

#[tokio::test]
async fn answers_have_the_shapes_of_transformers() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    let ask = async |body: &'static str| -> serde_json::Value {
        let response = client
            .post("/")
            .content_type("application/json")
            .body(body)
            .send()
            .await;
        response.assert_status_is_ok();
        response.json().await.value().deserialize()
    };
    let depth = |value: &serde_json::Value| {
        let mut depth = 0;
        let mut value = value;
        while let Some(inner) = value.get(0) {
            (value, depth) = (inner, depth + 1);
        }
        depth
    };
    for (body, expected_depth, length) in [
        (r#"{"inputs": "a [MASK]"}"#, 1, 5),
        (r#"{"inputs": ["a [MASK]"]}"#, 1, 5),
        (r#"{"inputs": "a [MASK] [MASK]"}"#, 2, 2),
        (r#"{"inputs": ["a [MASK]", "b [MASK]", "c [MASK]"]}"#, 2, 3),
        (r#"{"inputs": ["a [MASK] [MASK]", "b [MASK]"]}"#, 3, 2),
        (r#"{"inputs": "a [MASK]", "parameters": {"top_k": 2}}"#, 1, 2),
    ] {
        let answer = ask(body).await;
        assert_eq!(
            (depth(&answer), answer.as_array().unwrap().len()),
            (expected_depth, length),
            "{body}: {answer}"
        );
    }
    let response = client.post("/").body("a [MASK]").send().await;
    let text = response.0.into_body().into_string().await.unwrap();
    let order: Vec<usize> = ["\"score\"", "\"token\"", "\"token_str\"", "\"sequence\""]
        .iter()
        .map(|key| text.find(key).unwrap())
        .collect();
    assert!(order.is_sorted(), "{text}");
}

#[tokio::test]
async fn the_page_is_complete_and_loads_nothing_from_other_sites() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml"),
    ] {
        let response = client.get(path).send().await;
        response.assert_status_is_ok();
        response.assert_content_type(content_type);
        let policy = response.0.headers()["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
    }
    let response = client.get("/").send().await;
    let page = response.0.into_body().into_string().await.unwrap();
    for part in ["[MASK]", ">tiny<", ">a &lt;test&gt;<"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    for left in ["{mask}", "{model}", "{device}"] {
        assert!(!page.contains(left), "{left} is left in {page}");
    }
}
