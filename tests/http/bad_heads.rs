//! Request heads that are not valid HTTP/1.1: each is answered with JSON and an id, logged and counted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::common::fixtures::golden;
use crate::common::server::{Server, command};

/// Sends `head` and returns the whole answer.
fn answer(server: &Server, head: &[u8]) -> String {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(head).unwrap();
    let mut answer = Vec::new();
    // The server closes the connection, which can look like an error after the answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// Checks that `answer` is a complete error in JSON with an id, and returns its error type.
fn error_type(answer: &str) -> String {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let value = lines.find(|(field, _)| field.eq_ignore_ascii_case(name));
        value.unwrap_or_else(|| panic!("no {name} in {head}")).1
    };
    assert_eq!(field("content-type"), "application/json; charset=utf-8");
    assert_eq!(field("content-length"), body.len().to_string());
    assert!(
        field("x-request-id").contains('-') && !field("date").is_empty(),
        "{head}"
    );
    let body: Value = serde_json::from_str(body).unwrap();
    assert!(body["error"].as_str().unwrap().ends_with('.'), "{body}");
    body["error_type"].as_str().unwrap().to_owned()
}

#[test]
fn a_bad_head_is_answered_logged_and_counted() {
    let mut command = command(&["--model", &golden("uncased-tied"), "--log-format", "json"]);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut server = Server::spawn(command.stderr(log.reopen().unwrap()));
    let get = |fields: &str| format!("GET /health HTTP/1.1\r\n{fields}\r\n").into_bytes();
    let headers = (0..100).map(|number| format!("x-{number}: x\r\n")).collect::<String>();
    let tls_hello = [&[0x16, 0x03, 0x01, 0x00, 0x2f, 0x01, 0x00][..], &[0; 64]].concat();
    let long_uri = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(65_600));
    let good = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    for (head, status, expected) in [
        (get(&format!("host: x\r\n{headers}")), 431, "head_too_large"),
        (
            get("host: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n"),
            400,
            "bad_request",
        ),
        (get("host: x\r\ncontent-length: -1\r\n"), 400, "bad_request"),
        (get("no colon\r\n"), 400, "bad_request"),
        (get("connection: close\r\n"), 400, "bad_request"),
        (get("host: x\r\nhost: y\r\nconnection: close\r\n"), 400, "bad_request"),
        (tls_hello, 400, "bad_request"),
        (b"anything else\r\n\r\n".to_vec(), 400, "bad_request"),
    ] {
        let text = String::from_utf8_lossy(&head[..head.len().min(80)]).into_owned();
        let answer = answer(&server, &head);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{text}: {answer}");
        assert_eq!(error_type(&answer), expected, "{text}");
    }
    // The URI is longer than the read buffer, or than hyper allows.
    let refused = answer(&server, long_uri.as_bytes());
    assert!(refused.is_empty() || ["uri_too_long", "head_too_large"].contains(&error_type(&refused).as_str()));
    // After a good request on the same connection, and in the same packet.
    let both = answer(&server, format!("{good}no HTTP\r\n\r\n").as_bytes());
    let (first, second) = both.split_at(both.rfind("HTTP/1.1 ").unwrap());
    assert!(first.starts_with("HTTP/1.1 200 "), "{both}");
    assert_eq!(error_type(second), "bad_request");
    // HTTP/1.0 has no Host field.
    assert!(answer(&server, b"GET /health HTTP/1.0\r\n\r\n").contains(" 200 OK\r\n"));
    // HTTP/2 cannot be answered, but is counted.
    assert_eq!(answer(&server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "");
    let metrics = server.get("/metrics").1;
    let count = |status: u16| {
        let series = format!("cloze_http_requests_total{{method=\"other\",route=\"other\",status=\"{status}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&series));
        count.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    assert_eq!(count(400), 9);
    assert!(count(431) + count(414) >= 1);
    server.signal("-TERM");
    assert!(server.wait().success());
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged = lines
        .iter()
        .find(|line| line["message"] == "refused before the service");
    assert!(
        logged.is_some_and(|line| {
            let peer = line["peer"].as_str().unwrap_or_default();
            line["status"] == 431
                && line["reason"] == "TooLarge"
                && line["error_type"] == "head_too_large"
                && peer.starts_with("127.0.0.1:")
        }),
        "{log}"
    );
}
