//! Who may ask: keys, and pages of other sites.

use std::sync::Arc;

use poem::http::StatusCode;
use poem::test::TestClient;

use super::{MINUTE, app, expect_error};
use crate::server::{ApiKey, App, Options, Origins, routes, table};

fn with_options(options: Options) -> Arc<App> {
    let mut app = app(|_| {}, 8, MINUTE);
    Arc::get_mut(&mut app).unwrap().options = options;
    app
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
    let open = [
        "/",
        "/page.css",
        "/page.js",
        "/favicon.svg",
        "/docs",
        "/docs.css",
        "/docs.js",
        "/openapi.json",
        "/health",
        "/health/live",
        "/health/ready",
        "/v2/health/live",
        "/v2/health/ready",
    ];
    for path in open {
        client.get(path).send().await.assert_status_is_ok();
        client.head(path).send().await.assert_status_is_ok();
        // Reading alone.
        let response = client.post(path).body("a [MASK]").send().await;
        expect_error(response, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
    let table = table();
    let guarded = table
        .iter()
        .map(|(path, _)| path.as_str())
        .filter(|path| !open.contains(path));
    let guarded: Vec<&str> = guarded.collect();
    assert!(guarded.len() > 5, "{guarded:?}");
    for path in guarded
        .into_iter()
        .chain(["/health/", "//health", "/info?/health", "/health/../info", "/%68ealth"])
    {
        let response = client.get(path).send().await;
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
        cors_origins: Origins::new(&["https://a.example".to_owned(), "https://c.example:8080".to_owned()]).unwrap(),
        ..Options::default()
    };
    let client = TestClient::new(routes(with_options(options)));
    let preflight = |origin: &'static str| {
        let request = client.options("/v1/fill-mask").header("origin", origin);
        request.header("access-control-request-method", "POST").send()
    };
    for origin in ["https://a.example", "https://c.example:8080"] {
        let response = preflight(origin).await;
        response.assert_status(StatusCode::NO_CONTENT);
        response.assert_header("access-control-allow-origin", origin);
        response.assert_header("access-control-allow-methods", "GET, HEAD, POST");
        response.assert_header("access-control-max-age", "7200");
        response.assert_header("vary", "origin");
        let allowed = response.0.headers()["access-control-allow-headers"].to_str().unwrap();
        for name in ["authorization", "content-type", "x-request-id", "x-request-timeout-ms"] {
            assert!(
                allowed.split(", ").any(|allowed| allowed == name),
                "{name} is not in {allowed}"
            );
        }
    }
    for origin in [
        "https://b.example",
        "http://a.example",
        "https://a.example:443",
        "null",
        "*",
    ] {
        let response = preflight(origin).await;
        response.assert_header_is_not_exist("access-control-allow-origin");
        response.assert_header("vary", "origin");
        response.assert_status(StatusCode::UNAUTHORIZED);
    }
    // No browser's question before a request: without a key it is as any other.
    let response = client.options("/").header("origin", "https://a.example").send().await;
    expect_error(response, StatusCode::UNAUTHORIZED, "unauthorized").await;
    // Whatever is answered, a page of the site can read it and what it took, and no other site's page can.
    for (path, key, status) in [
        ("/", "Bearer key", StatusCode::OK),
        ("/", "Bearer lock", StatusCode::UNAUTHORIZED),
        ("/nothing", "Bearer key", StatusCode::NOT_FOUND),
        ("/info", "Bearer key", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        for (origin, allowed) in [("https://a.example", true), ("https://b.example", false)] {
            let request = client.post(path).header("origin", origin).header("authorization", key);
            let response = request.body("a [MASK]").send().await;
            response.assert_status(status);
            response.assert_header("vary", "origin");
            if !allowed {
                response.assert_header_is_not_exist("access-control-allow-origin");
                response.assert_header_is_not_exist("access-control-expose-headers");
                continue;
            }
            response.assert_header("access-control-allow-origin", origin);
            let exposed = response.0.headers()["access-control-expose-headers"].to_str().unwrap();
            for name in [
                "retry-after",
                "x-request-id",
                "x-queue-time-ms",
                "x-inference-time-ms",
                "x-tokens",
            ] {
                assert!(
                    exposed.split(", ").any(|exposed| exposed == name),
                    "{name} is not in {exposed}"
                );
            }
        }
    }
}

#[tokio::test]
async fn all_sites_or_none() {
    let any = Options {
        cors_origins: Origins::Any,
        ..Options::default()
    };
    for (options, expected) in [(any, Some("*")), (Options::default(), None)] {
        let client = TestClient::new(routes(with_options(options)));
        let response = client
            .post("/")
            .header("origin", "https://a.example")
            .body("a [MASK]")
            .send()
            .await;
        response.assert_status_is_ok();
        match expected {
            Some(expected) => response.assert_header("access-control-allow-origin", expected),
            None => {
                response.assert_header_is_not_exist("access-control-allow-origin");
                response.assert_header_is_not_exist("vary");
            }
        }
    }
}
