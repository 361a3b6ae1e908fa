//! What surrounds a request: ids, times, metrics, keys, other sites, the end.

use std::sync::Arc;
use std::time::Duration;

use poem::http::{Method, StatusCode};
use poem::test::TestClient;

use super::tests::{MINUTE, app, expect_error};
use super::{ApiKey, App, Options, Origins, routes};
use crate::bert::PackedBatch;

fn with_options(options: Options) -> Arc<App> {
    let mut app = app(|_| {}, 8, MINUTE);
    Arc::get_mut(&mut app).unwrap().options = options;
    app
}

#[tokio::test]
async fn answers_say_what_they_took() {
    let client = TestClient::new(routes(app(|_| {}, 8, MINUTE)));
    let response = client
        .post("/")
        .header("x-request-id", "mine-1")
        .body("a [MASK]")
        .send()
        .await;
    response.assert_header("x-request-id", "mine-1");
    // [CLS] a [MASK] [SEP]
    response.assert_header("x-tokens", "4");
    for name in ["x-queue-time-ms", "x-inference-time-ms"] {
        let value: f64 = response.0.headers()[name].to_str().unwrap().parse().unwrap();
        assert!((0.0..60_000.0).contains(&value), "{name}: {value}");
    }
    for bad in ["", "two words", &"x".repeat(129)] {
        let request = client.get("/nothing").header("x-request-id", bad);
        let response = request.send().await;
        let id = response.0.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert!(!id.is_empty() && id != bad, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shortens_its_deadline() {
    let (leave, wait) = std::sync::mpsc::channel::<()>();
    let model = move |_: &PackedBatch| {
        // The other end is gone when the test goes on.
        let _ = wait.recv();
    };
    let app = app(model, 8, MINUTE);
    let client = TestClient::new(routes(app));
    let request = client.post("/").header("x-request-timeout-ms", "20");
    let error = expect_error(
        request.body("a [MASK]").send().await,
        StatusCode::GATEWAY_TIMEOUT,
        "timeout",
    )
    .await;
    assert!(error.contains("20 ms"), "{error}");
    drop(leave);
    for bad in ["0", "-1", "1.5", "soon", ""] {
        let request = client.post("/").header("x-request-timeout-ms", bad);
        let response = request.body("a [MASK]").send().await;
        expect_error(response, StatusCode::BAD_REQUEST, "bad_timeout").await;
    }
}

async fn scrape(client: &TestClient<impl poem::Endpoint>) -> String {
    let response = client.get("/metrics").send().await;
    response.assert_status_is_ok();
    response.0.into_body().into_string().await.unwrap()
}

/// The names and labels of all series, without their values.
fn series(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[tokio::test]
async fn no_client_makes_a_series() {
    let client = TestClient::new(routes(app(|_| {}, 8, Duration::from_secs(5))));
    let before = series(&scrape(&client).await);
    client.post("/").body("a [MASK]").send().await.assert_status_is_ok();
    client
        .post("/")
        .body("a")
        .send()
        .await
        .assert_status(StatusCode::BAD_REQUEST);
    for index in 0..3000 {
        let method = Method::from_bytes(format!("M{index}").as_bytes()).unwrap();
        for (method, path) in [
            (Method::GET, format!("/x{index}")),
            (method.clone(), format!("/{index}/y")),
            (method.clone(), "/health".to_owned()),
            (Method::POST, format!("/v2/models/m{index}/infer")),
        ] {
            client.request(method, path).send().await;
        }
    }
    let text = scrape(&client).await;
    assert_eq!(series(&text), before);
    for line in [
        r#"cloze_http_requests_total{route="/",status="200"} 1"#,
        r#"cloze_http_requests_total{route="/",status="400"} 1"#,
        r#"cloze_http_requests_total{route="other",status="404"} 6000"#,
        r#"cloze_http_requests_total{route="/health",status="405"} 3000"#,
        "cloze_queue_texts 0",
        "cloze_inference_seconds_count 1",
        "cloze_batch_texts_count 1",
        r#"cloze_batch_tokens_bucket{le="4.0"} 1"#,
        "cloze_ready 1",
        "cloze_workers 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_key_guards_what_runs_and_nothing_else() {
    let options = || Options {
        api_key: Some(ApiKey::new("Right-1").unwrap()),
        ..Options::default()
    };
    let client = TestClient::new(routes(with_options(options())));
    let long = "x".repeat(1 << 20);
    for wrong in [
        None,
        Some("Bearer wrong"),
        Some("Bearer right-1"),
        Some("Right-1"),
        Some("Basic Right-1"),
        Some("é"),
        Some(&long),
    ] {
        for path in ["/", "/v1/fill-mask", "/v2/models/tiny/infer", "/nothing"] {
            let mut request = client.post(path).body("a [MASK]");
            if let Some(wrong) = wrong {
                request = request.header("authorization", wrong);
            }
            let response = request.send().await;
            response.assert_header("www-authenticate", "Bearer");
            expect_error(response, StatusCode::UNAUTHORIZED, "unauthorized").await;
        }
    }
    for scheme in ["Bearer", "bearer"] {
        let request = client.post("/").header("authorization", format!("{scheme} Right-1"));
        request.body("a [MASK]").send().await.assert_status_is_ok();
    }
    for open in ["/", "/page.js", "/health", "/health/live", "/v2/health/ready"] {
        client.get(open).send().await.assert_status_is_ok();
    }
    for guarded in ["/metrics", "/info", "/v2"] {
        let response = client.get(guarded).send().await;
        expect_error(response, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
    let open_metrics = Options {
        metrics_without_key: true,
        ..options()
    };
    let client = TestClient::new(routes(with_options(open_metrics)));
    client.get("/metrics").send().await.assert_status_is_ok();
}

#[tokio::test]
async fn other_sites_are_told_whether_they_may() {
    let options = Options {
        api_key: Some(ApiKey::new("key").unwrap()),
        cors_origins: Origins::new(&["https://a.example".to_owned()]).unwrap(),
        ..Options::default()
    };
    let client = TestClient::new(routes(with_options(options)));
    let preflight = |origin: &'static str| {
        let request = client.options("/v1/fill-mask").header("origin", origin);
        request.header("access-control-request-method", "POST").send()
    };
    let response = preflight("https://a.example").await;
    response.assert_status(StatusCode::NO_CONTENT);
    response.assert_header("access-control-allow-origin", "https://a.example");
    let response = preflight("https://b.example").await;
    response.assert_header_is_not_exist("access-control-allow-origin");
    response.assert_status(StatusCode::UNAUTHORIZED);
    let request = client.post("/").header("origin", "https://a.example");
    let response = request
        .header("authorization", "Bearer key")
        .body("a [MASK]")
        .send()
        .await;
    response.assert_status_is_ok();
    response.assert_header("access-control-allow-origin", "https://a.example");
    response.assert_header("vary", "origin");
}

#[tokio::test]
async fn the_end_shows_in_readiness_first() {
    let app = app(|_| {}, 8, MINUTE);
    let client = TestClient::new(routes(Arc::clone(&app)));
    client.get("/health/ready").send().await.assert_status_is_ok();
    app.state.drain();
    for path in ["/health", "/health/ready", "/v2/health/ready"] {
        let response = client.get(path).send().await;
        expect_error(response, StatusCode::SERVICE_UNAVAILABLE, "not_ready").await;
    }
    client.get("/health/live").send().await.assert_status_is_ok();
    client.post("/").body("a [MASK]").send().await.assert_status_is_ok();
}

#[tokio::test]
async fn info_tells_what_runs() {
    let client = TestClient::new(routes(app(|_| {}, 8, MINUTE)));
    let response = client.get("/info").send().await;
    let info: serde_json::Value = response.json().await.value().deserialize();
    for (pointer, expected) in [
        ("/model", "tiny".into()),
        ("/mask_token", "[MASK]".into()),
        ("/limits/queue_size", 8.into()),
        ("/limits/request_timeout_ms", 60_000.into()),
    ] {
        assert_eq!(info.pointer(pointer), Some(&expected), "{info}");
    }
}
