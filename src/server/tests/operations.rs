//! Request ids, timing headers, metrics and readiness.

use std::sync::Arc;
use std::time::Duration;

use poem::http::{Method, StatusCode};
use poem::test::TestClient;

use super::{MINUTE, app, expect_error};
use crate::lm::Batch;
use crate::pipeline::{MemoryLimit, Reservation};
use crate::server::metrics::definition::ALL;
use crate::server::route::RouteRow;
use crate::server::service;
use crate::server::service::table;

#[tokio::test]
async fn answers_carry_an_id_and_their_cost() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
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

#[tokio::test]
async fn a_long_answer_comes_in_pieces() {
    let app = app(|_| {}, 8, MINUTE);
    let client = TestClient::new(service(Arc::clone(&app)));
    let ask = |top_k: usize| {
        let body = format!(r#"{{"inputs": "a [MASK] and a [MASK]", "parameters": {{"top_k": {top_k}}}}}"#);
        client.post("/").content_type("application/json").body(body).send()
    };
    let short = ask(5).await;
    assert!(short.0.headers().contains_key("x-tokens"));
    short.assert_status_is_ok();
    drop(short);
    let vocab_size = app.pipeline.model().vocab_size();
    let long = ask(vocab_size).await;
    long.assert_status_is_ok();
    let used = app.pipeline.memory().used();
    assert!(used < 400_000, "{used} bytes for an answer that is not read");
    let json = long.json().await;
    let masks = json.value().array();
    let predictions: Vec<usize> = masks.iter().map(|mask| mask.array().len()).collect();
    assert_eq!(predictions, [vocab_size; 2]);
    assert_eq!(app.pipeline.memory().used(), 0);
    assert_eq!(app.state.metrics.unread_answers(), 0);
    // A client that leaves in the middle.
    drop(ask(vocab_size).await);
    assert_eq!(app.state.metrics.unread_answers(), 1);
    assert_eq!(app.pipeline.memory().used(), 0);
}

#[tokio::test]
async fn a_body_of_very_many_tiny_chunks_is_refused() {
    let app = app(|_| {}, 8, MINUTE);
    let client = TestClient::new(service(Arc::clone(&app)));
    let ask = |chunk: &'static [u8], count: usize| {
        let chunks = futures_util::stream::iter((0..count).map(move |_| Ok::<_, std::io::Error>(chunk.to_vec())));
        client.post("/").body(poem::Body::from_bytes_stream(chunks)).send()
    };
    // The limit on bodies is 10,000 bytes here, and the chunks of any size are as many.
    expect_error(ask(b" ", 10_000).await, StatusCode::BAD_REQUEST, "empty").await;
    let error = expect_error(ask(b"", 10_001).await, StatusCode::BAD_REQUEST, "bad_body").await;
    assert!(error.contains("chunks"), "{error}");
}

/// Reserves all but `left` bytes, small amounts each.
fn fill(memory: &MemoryLimit, left: usize) -> Vec<Reservation> {
    let mut reservations = Vec::new();
    while let free = memory.max() - memory.used()
        && free > left
    {
        reservations.push(memory.reserve((free - left).min(1 << 16)).unwrap());
    }
    reservations
}

#[tokio::test]
async fn bodies_and_answers_share_a_limit() {
    let app = app(|_| {}, 8, MINUTE);
    let client = TestClient::new(service(Arc::clone(&app)));
    let ask = |body: &'static str| client.post("/").body(body).send();
    let memory = app.pipeline.memory();
    // A large body or answer leaves a part to small ones.
    let large = memory.reserve(memory.max() / 4 * 3).unwrap();
    assert!(memory.reserve(1 << 17).is_err());
    ask("a [MASK]").await.assert_status_is_ok();
    drop(large);
    let others = fill(memory, 4);
    let error = ask("a [MASK]").await;
    error.assert_header("retry-after", "1");
    expect_error(error, StatusCode::SERVICE_UNAVAILABLE, "memory_full").await;
    drop(others);
    // Enough for the body, not for the answer.
    let others = fill(memory, 200);
    expect_error(ask("a [MASK]").await, StatusCode::SERVICE_UNAVAILABLE, "memory_full").await;
    drop(others);
    ask("a [MASK]").await.assert_status_is_ok();
    assert_eq!(memory.used(), 0);
    assert_eq!(app.pipeline.engine().waiting(), (0, 0));
}

/// The value of a header in milliseconds.
fn milliseconds(response: &poem::test::TestResponse, name: &str) -> f64 {
    response.0.headers()[name].to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn times_in_the_queue_and_in_the_model_are_measured() {
    let pass = Duration::from_millis(40);
    // A batch is one text here, so the second request waits for the first.
    let model = move |_: &Batch| std::thread::sleep(pass);
    let client = Arc::new(TestClient::new(service(app(model, 8, MINUTE))));
    let ask = || {
        let client = Arc::clone(&client);
        tokio::spawn(async move { client.post("/").body("a [MASK]").send().await })
    };
    let (first, second) = (ask(), ask());
    let mut waited = Vec::new();
    for response in [first.await.unwrap(), second.await.unwrap()] {
        assert!(milliseconds(&response, "x-inference-time-ms") >= 40.0);
        waited.push(milliseconds(&response, "x-queue-time-ms"));
    }
    // One of them found the model idle; its own short wait depends on the machine.
    assert!(waited[0].max(waited[1]) >= 20.0, "{waited:?}");
    client.get("/info").send().await.assert_status_is_ok();
    client
        .post("/nothing")
        .send()
        .await
        .assert_status(StatusCode::NOT_FOUND);
    let text = scrape(&client).await;
    for line in [
        // Inference requests only, and only answered ones.
        r#"cloze_request_seconds_count{task="fill_mask"} 2"#,
        r#"cloze_tokenizing_seconds_count{task="fill_mask"} 2"#,
        r#"cloze_queue_seconds_count{task="fill_mask"} 2"#,
        r#"cloze_inference_seconds_count{task="fill_mask"} 2"#,
        r#"cloze_inference_seconds_bucket{task="fill_mask",le="0.032"} 0"#,
        r#"cloze_request_seconds_bucket{task="fill_mask",le="0.032"} 0"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    let sum = |name: &str| {
        let start = format!("cloze_{name}_seconds_sum{{task=\"fill_mask\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
        value.parse::<f64>().unwrap()
    };
    assert!((sum("queue") * 1e3 - waited.iter().sum::<f64>()).abs() < 0.01, "{text}");
    assert!(
        sum("request") > sum("inference") && sum("inference") >= 0.08 && sum("tokenizing") > 0.0,
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_contain_the_counters_of_the_engine() {
    let ((begun, has_begun), (may_end, wait)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<bool>());
    let model = move |_: &Batch| {
        begun.send(()).unwrap();
        assert!(wait.recv().unwrap(), "fails on purpose");
    };
    let app = app(model, 2, MINUTE);
    let client = Arc::new(TestClient::new(service(Arc::clone(&app))));
    let ask = |timeout: &'static str, body: &'static str| {
        let client = Arc::clone(&client);
        tokio::spawn(async move {
            let request = client.post("/").header("x-request-timeout-ms", timeout);
            request.content_type("application/json").body(body).send().await
        })
    };
    let expect = |name: &'static str, text: &str, value: usize| {
        let line = format!("cloze_{name} {value}");
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    };
    let running = ask("60000", r#"{"inputs": "a [MASK]"}"#);
    tokio::task::block_in_place(|| has_begun.recv().unwrap());
    let waiting = ask("60000", r#"{"inputs": ["a [MASK]", "a a [MASK]"]}"#);
    while app.pipeline.engine().waiting().0 < 2 {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        ask("60000", r#"{"inputs": "a [MASK]"}"#)
            .await
            .unwrap()
            .assert_status(StatusCode::SERVICE_UNAVAILABLE);
    }
    let text = scrape(&client).await;
    expect("queue_texts", &text, 2);
    expect("queue_tokens", &text, 9);
    expect("queue_texts_max", &text, 2);
    expect("rejected_requests_total", &text, 3);
    expect("failed_texts_total", &text, 0);
    // The first request fails; the client of the other two texts has left.
    waiting.abort();
    assert!(waiting.await.is_err());
    may_end.send(false).unwrap();
    running.await.unwrap().assert_status(StatusCode::INTERNAL_SERVER_ERROR);
    let running = ask("60000", r#"{"inputs": "a [MASK]"}"#);
    tokio::task::block_in_place(|| has_begun.recv().unwrap());
    ask("20", r#"{"inputs": "a [MASK]"}"#)
        .await
        .unwrap()
        .assert_status(StatusCode::GATEWAY_TIMEOUT);
    may_end.send(true).unwrap();
    running.await.unwrap().assert_status_is_ok();
    tokio::task::spawn_blocking({
        let app = Arc::clone(&app);
        move || app.pipeline.engine().stop()
    })
    .await
    .unwrap();
    let text = scrape(&client).await;
    expect("queue_texts", &text, 0);
    expect("rejected_requests_total", &text, 3);
    expect("failed_texts_total", &text, 1);
    expect("expired_requests_total", &text, 1);
    // Two of the client that left, one whose deadline passed.
    expect("abandoned_texts_total", &text, 3);
    expect("batch_texts_count", &text, 2);
    expect("ready", &text, 0);
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let build = text.lines().find(|line| line.starts_with("cloze_build_info{")).unwrap();
    for part in [&version, "model=\"tiny\"", "device=\"a <test>\""] {
        assert!(build.contains(part), "{build}");
    }
    if cfg!(target_os = "linux") {
        let memory = text
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        let memory: u64 = memory.unwrap().parse().unwrap();
        assert!((1 << 20..1 << 36).contains(&memory), "{memory}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_shortens_the_deadline() {
    let (leave, wait) = std::sync::mpsc::channel::<()>();
    let model = move |_: &Batch| {
        // Fails once the test drops the sender.
        let _ = wait.recv();
    };
    let app = app(model, 8, MINUTE);
    let client = TestClient::new(service(app));
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

/// The labels of the series of a metric.
fn series(text: &str, name: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// Random paths and methods, as a hostile client would send them.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // A linear congruential generator: MMIX's constants.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len() as u64) as usize]
    }

    /// Up to 20 random bytes, percent-encoded.
    fn segment(&mut self) -> String {
        let bytes = (0..self.roll(20)).map(|_| self.roll(256) as u8).collect::<Vec<_>>();
        let written = bytes.into_iter().map(|byte| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02x}"),
        });
        written.collect()
    }

    fn path(&mut self) -> String {
        let start = self.pick(&[
            "/",
            "/v1/",
            "/v1/fill-mask",
            "/health/",
            "/health",
            "/metrics",
            "/v2/models/",
            "/v2/models/tiny/versions/",
        ]);
        let mut path = start.to_owned() + &self.segment();
        for _ in 0..self.roll(3) {
            path = path + "/" + &self.segment();
        }
        path + self.pick(&["", "/infer", "/ready", "?a=b", "/", "//"])
    }

    fn method(&mut self) -> Method {
        let known = self.pick(&[
            "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "",
        ]);
        let name = match known {
            "" => format!("M{}", self.roll(1 << 31)),
            known => known.to_owned(),
        };
        Method::from_bytes(name.as_bytes()).unwrap()
    }
}

#[tokio::test]
async fn clients_cannot_create_series() {
    let app = app(|_| {}, 8, Duration::from_secs(5));
    let client = TestClient::new(service(Arc::clone(&app)));
    client.post("/").body("a [MASK]").send().await.assert_status_is_ok();
    client
        .post("/")
        .body("a")
        .send()
        .await
        .assert_status(StatusCode::BAD_REQUEST);
    let mut dice = Dice(1);
    let mut answers = std::collections::BTreeMap::new();
    for _ in 0..100_000 {
        let (method, path) = (dice.method(), dice.path());
        let status = client.request(method, path).send().await.0.status();
        *answers.entry(status.as_u16()).or_insert(0) += 1;
    }
    for (method, path) in [(Method::GET, "/nowhere"), (Method::PUT, "/health")] {
        client.request(method, path).send().await;
    }
    let text = scrape(&client).await;
    let routes: Vec<&str> = table(&app.options)
        .iter()
        .map(RouteRow::path)
        .chain(["other"])
        .collect();
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
    let mut requests = Vec::new();
    for labels in series(&text, "cloze_http_requests_total") {
        let value = |label: &str| {
            let (_, rest) = labels.split_once(&format!("{label}=\"")).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        assert!(
            methods.contains(&value("method").as_str()) && routes.contains(&value("route").as_str()),
            "{labels}"
        );
        requests.push((value("method"), value("route"), value("status").parse::<u16>().unwrap()));
    }
    assert!(requests.is_sorted() && requests.len() > 20, "{requests:?}");
    assert!(
        series(&text, "cloze_http_errors_total")
            .contains(&r#"{method="POST",route="/",error_type="no_mask"}"#.to_owned())
    );
    // The requests were refused for several reasons, and the counters agree with the answers.
    assert!(answers[&404] > 10_000 && answers[&405] > 1_000, "{answers:?}");
    for (status, count) in &answers {
        let labelled = format!("status=\"{status}\"}} ");
        let lines = text
            .lines()
            .filter(|line| line.starts_with("cloze_http_requests_total{"));
        let counts = lines.filter_map(|line| line.split_once(&labelled)?.1.parse::<u64>().ok());
        let counted: u64 = counts.sum();
        // Up to three requests outside the loop.
        assert!(
            (*count..=count + 3).contains(&counted),
            "{status}: {counted} of {count} in {text}"
        );
    }
    for line in [
        "cloze_queue_texts 0",
        r#"cloze_inference_seconds_count{task="fill_mask"} 1"#,
        "cloze_batch_texts_count 1",
        r#"cloze_batch_tokens_bucket{le="4"} 1"#,
        "cloze_ready 1",
        "cloze_workers 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn a_scraper_gets_the_format_that_it_accepts() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    client.post("/").body("a [MASK]").send().await.assert_status_is_ok();
    let text = scrape(&client).await;
    for part in [
        "# TYPE cloze_http_requests_total counter\n",
        "# TYPE cloze_build_info gauge\n",
        "# TYPE process_cpu_seconds_total counter\n",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("# EOF"));
    let request = client
        .get("/metrics")
        .header("accept", "application/openmetrics-text; version=1.0.0");
    let response = request.send().await;
    response.assert_content_type("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.assert_header("vary", "accept");
    let text = response.0.into_body().into_string().await.unwrap();
    for part in [
        "# TYPE cloze_http_requests counter\n",
        "# TYPE cloze_build info\n",
        "# UNIT cloze_queue_seconds seconds\n",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

/// Each metric of the table without labels is in every scrape, and no other.
#[tokio::test]
async fn a_scrape_has_the_metrics_of_the_table_in_its_order() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
    client.post("/").body("a [MASK]").send().await.assert_status_is_ok();
    client
        .post("/")
        .body("a")
        .send()
        .await
        .assert_status(StatusCode::BAD_REQUEST);
    let text = scrape(&client).await;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<&str> = types.map(|line| line.split(' ').next().unwrap()).collect();
    let defined = ALL.iter().filter(|metric| {
        let is_reported = cfg!(target_os = "linux") || !metric.name.starts_with("process_");
        // No connection ended early.
        is_reported && metric.name != "cloze_closed_connections_total"
    });
    assert_eq!(names, defined.map(|metric| metric.name).collect::<Vec<_>>());
}

#[tokio::test]
async fn draining_shows_in_the_readiness_probe() {
    let app = app(|_| {}, 8, MINUTE);
    let client = TestClient::new(service(Arc::clone(&app)));
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
async fn info_names_the_model_and_the_limits() {
    let client = TestClient::new(service(app(|_| {}, 8, MINUTE)));
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
