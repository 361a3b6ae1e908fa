//! Authentication and CORS.

use std::sync::Arc;

use poem::http::{Method, StatusCode};
use poem::test::TestClient;

use super::{MINUTE, app, expect_error};
use crate::server::route::Access;
use crate::server::service::table;
use crate::server::{ApiKey, App, Options, Origins, service};

fn with_options(options: Options) -> Arc<App> {
    let mut app = app(|_| {}, 8, MINUTE);
    Arc::get_mut(&mut app).unwrap().options = options;
    app
}

#[tokio::test]
async fn each_method_has_the_access_rule_of_the_route_table() {
    let options = || Options {
        api_key: Some(ApiKey::new("Right-1").unwrap()),
        ..Options::default()
    };
    let client = TestClient::new(service(with_options(options())));
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
    for row in table(&options()) {
        let path = row.path().replace(":name", "tiny").replace(":version", "1");
        let methods: Vec<_> = row.methods().collect();
        for (method, access) in &methods {
            let response = client.request(method.clone(), &path).send().await;
            match access {
                Access::Open => response.assert_status_is_ok(),
                Access::Key => response.assert_status(StatusCode::UNAUTHORIZED),
            }
        }
        // A method that the row does not have needs the key, whatever its other methods need.
        for method in [Method::POST, Method::PUT, Method::OPTIONS] {
            if methods.iter().any(|(in_row, _)| *in_row == method) {
                continue;
            }
            let response = client.request(method, &path).send().await;
            expect_error(response, StatusCode::UNAUTHORIZED, "unauthorized").await;
        }
    }
    client.get("/health/").send().await.assert_status_is_ok();
    // So does a path that is not in the table.
    for path in [
        "/info/",
        "/v2/models/acme/tiny-bert",
        "/v2/models/a/b",
        "//health",
        "/info?/health",
        "/health/../info",
        "/%68ealth",
    ] {
        let response = client.get(path).send().await;
        expect_error(response, StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
    let open_metrics = Options {
        metrics_without_key: true,
        ..options()
    };
    let client = TestClient::new(service(with_options(open_metrics)));
    client.get("/metrics").send().await.assert_status_is_ok();
    client.get("/info").send().await.assert_status(StatusCode::UNAUTHORIZED);
}

#[test]
fn open_methods_neither_run_the_model_nor_describe_it() {
    let open = table(&Options::default()).into_iter().flat_map(|row| {
        let methods: Vec<_> = row.methods().collect();
        methods
            .into_iter()
            .map(move |(method, access)| (row.path(), method, access))
    });
    let open: Vec<_> = open.filter(|(_, _, access)| *access == Access::Open).collect();
    assert!(open.len() > 10, "{open:?}");
    for (path, method, _) in open {
        assert_ne!(method, Method::POST, "{path}");
        assert!(
            !["/info", "/metrics", "/v2"].contains(&path) && !path.starts_with("/v2/models"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn listed_origins_get_cors_headers() {
    let options = Options {
        api_key: Some(ApiKey::new("key").unwrap()),
        cors_origins: Origins::new(&["https://a.example".to_owned(), "https://c.example:8080".to_owned()]).unwrap(),
        ..Options::default()
    };
    let client = TestClient::new(service(with_options(options)));
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
    // Not a preflight request, so it needs the key as any other.
    let response = client.options("/").header("origin", "https://a.example").send().await;
    expect_error(response, StatusCode::UNAUTHORIZED, "unauthorized").await;
    // Every answer and its cost headers can be read by pages of a listed site, and by those of no other site.
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
async fn any_origin_or_none() {
    let any = Options {
        cors_origins: Origins::Any,
        ..Options::default()
    };
    for (options, expected) in [(any, Some("*")), (Options::default(), None)] {
        let client = TestClient::new(service(with_options(options)));
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
