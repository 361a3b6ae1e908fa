//! Malformed and oversized bodies: each is answered with a sentence, costs bounded memory, and does not affect later
//! requests.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::common::fixtures::golden;
use crate::common::server::{Server, read_response};

const MAX: usize = 1 << 20;
const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

fn start() -> Server {
    Server::start(&["--model", &golden("uncased-tied")])
}

/// The `error_type` of an answer, after a check that it is an error with a sentence.
fn error_type(status: u16, body: &str) -> String {
    assert!((400..500).contains(&status), "{status}: {body}");
    let error: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{status} without JSON: {body:?}"));
    assert!(
        error["error"].as_str().unwrap().ends_with('.'),
        "not a sentence: {body}"
    );
    error["error_type"].as_str().unwrap().to_owned()
}

impl Server {
    /// Sends a head and a body.
    fn send(&self, head: &str, body: &[u8]) -> (u16, String) {
        read_response(&mut self.begin(head, body))
    }

    /// Sends a head and a part of its body, then closes the sending half.
    fn send_cut(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.begin(head, body);
        stream.shutdown(Shutdown::Write).unwrap();
        read_response(&mut stream)
    }

    fn begin(&self, head: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!("{head}\r\nhost: x\r\nconnection: close\r\n\r\n");
        // A server that refuses a body may close before it has read all of it.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        stream
    }

    /// Sends bytes to a path, with their length and further header lines.
    fn post_bytes(&self, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
        let length = body.len();
        self.send(
            &format!("POST {path} HTTP/1.1\r\n{headers}\r\ncontent-length: {length}"),
            body,
        )
    }

    fn expect_error(&self, content_type: &str, body: &[u8], status: u16, expected: &str) {
        for path in ["/", "/v1/fill-mask"] {
            let (answered, text) = self.post_bytes(path, &format!("content-type: {content_type}"), body);
            assert_eq!(
                (answered, error_type(answered, &text).as_str()),
                (status, expected),
                "{text}"
            );
        }
        self.expect_healthy();
    }

    fn expect_healthy(&self) {
        let (status, body) = self.post(TEXT, "a [MASK]");
        assert_eq!(status, 200, "{body}");
    }

    /// Peak resident memory of the process, in bytes.
    #[cfg(target_os = "linux")]
    fn memory_peak(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }
}

fn chunked(body: &[u8], chunk_bytes: usize) -> Vec<u8> {
    let mut sent = Vec::new();
    for chunk in body.chunks(chunk_bytes) {
        sent.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        sent.extend(chunk);
        sent.extend(b"\r\n");
    }
    sent.extend(b"0\r\n\r\n");
    sent
}

#[test]
fn a_body_of_exactly_the_limit_and_one_byte_more() {
    let server = start();
    let json = r#"{"inputs": "a [MASK]"}"#;
    let fits = json.to_owned() + &" ".repeat(MAX - json.len());
    let longer = fits.clone() + " ";
    assert_eq!(server.post(JSON, &fits).0, 200);
    server.expect_error(JSON, longer.as_bytes(), 413, "body_too_large");
    let head = format!("POST / HTTP/1.1\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked");
    for chunk_bytes in [1000, MAX + 1] {
        assert_eq!(server.send(&head, &chunked(fits.as_bytes(), chunk_bytes)).0, 200);
        let (status, body) = server.send(&head, &chunked(longer.as_bytes(), chunk_bytes));
        assert_eq!((status, error_type(status, &body).as_str()), (413, "body_too_large"));
    }
}

#[test]
fn a_wrong_content_length() {
    let server = start();
    let post = |length: &str| format!("POST / HTTP/1.1\r\ncontent-type: {JSON}\r\n{length}");
    let body = br#"{"inputs": "a [MASK]"}"#;
    // Longer than the body.
    let (status, answer) = server.send_cut(&post("content-length: 1000"), body);
    assert_eq!((status, error_type(status, &answer).as_str()), (400, "bad_body"));
    // Longer than the limit: refused before the body arrives.
    let (status, answer) = server.send(&post("content-length: 99999999999999"), b"");
    assert_eq!((status, error_type(status, &answer).as_str()), (413, "body_too_large"));
    // Shorter than the body: the body is cut off, and the rest is not read as a request.
    let (status, answer) = server.send(&post("content-length: 10"), body);
    assert_eq!((status, error_type(status, &answer).as_str()), (400, "not_json"));
    // Chunks without an end.
    let cut = &chunked(body, 10)[..20];
    let (status, answer) = server.send_cut(&post("transfer-encoding: chunked"), cut);
    assert_eq!((status, error_type(status, &answer).as_str()), (400, "bad_body"));
    // Lengths that HTTP forbids.
    for header in [
        "content-length: -1",
        "content-length: 1e3",
        "content-length: 10\r\ncontent-length: 20",
        "content-length: 99999999999999999999999",
    ] {
        let (status, answer) = server.send(&post(header), body);
        assert_eq!(
            (status, error_type(status, &answer).as_str()),
            (400, "bad_request"),
            "{header}"
        );
    }
    server.expect_healthy();
}

#[test]
fn a_late_body() {
    let server = Server::start(&["--model", &golden("uncased-tied"), "--request-timeout-ms", "300"]);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8\r\n\r\na [";
    stream.write_all(head.as_bytes()).unwrap();
    let (status, body) = read_response(&mut stream);
    assert_eq!((status, error_type(status, &body).as_str()), (408, "body_timeout"));
    server.expect_healthy();
}

#[test]
fn a_compressed_body() {
    let server = start();
    for coding in ["gzip", "deflate", "br", "zstd", "identity, gzip"] {
        let (status, body) = server.post_bytes("/", &format!("content-encoding: {coding}"), b"\x1f\x8b\x08\x00");
        assert_eq!((status, error_type(status, &body).as_str()), (415, "content_encoding"));
    }
    server.expect_healthy();
}

#[test]
fn bytes_that_are_not_utf8() {
    let server = start();
    server.expect_error(TEXT, b"a [MASK] \xff", 400, "not_utf8");
    // Half of a character, and a surrogate encoded as UTF-8.
    server.expect_error(TEXT, b"[MASK] \xe2\x82", 400, "not_utf8");
    server.expect_error(TEXT, b"[MASK] \xed\xa0\x80", 400, "not_utf8");
    server.expect_error(JSON, b"{\"inputs\": \"a [MASK] \xff\"}", 400, "not_json");
    server.expect_error(JSON, br#"{"inputs": "a [MASK] \ud800"}"#, 400, "not_json");
    server.expect_error(JSON, b"{\"inputs\": \"a [MASK] \0\"}", 400, "not_json");
    server.expect_error(TEXT, b"\0\0\0", 400, "no_mask");
    server.expect_error(TEXT, b"", 400, "empty");
    server.expect_error(JSON, b"", 400, "not_json");
    // NUL is a character; the tokenizer removes it like other control characters.
    let (with, without) = (server.post(TEXT, "a\0 [MASK]"), server.post(TEXT, "a [MASK]"));
    assert_eq!(with, without);
    let (escaped, _) = server.post(JSON, r#"{"inputs": "a\u0000 [MASK]"}"#);
    assert_eq!(escaped, 200);
}

#[test]
fn deep_and_unexpected_json() {
    let server = start();
    for (open, expected) in [
        ("[", "bad_request"),
        ("{\"inputs\":", "bad_request"),
        ("{\"inputs\":\"a [MASK]\",\"options\":[", "not_json"),
    ] {
        let deep = open.repeat(MAX / open.len());
        server.expect_error(JSON, deep.as_bytes(), 400, expected);
    }
    // Ignored fields may have any depth: they are not parsed recursively.
    let (open, close) = ("[".repeat(300_000), "]".repeat(300_000));
    let ignored = format!("{{\"inputs\": \"a [MASK]\", \"options\": {open}{close}}}");
    assert_eq!(server.post(JSON, &ignored).0, 200);
    let nested =
        format!(r#"{{"inputs": [{{"name": "text", "shape": [1], "datatype": "BYTES", "data": {open}{close}}}]}}"#);
    let (status, body) = server.post_bytes("/v2/models/uncased-tied/infer", "x: y", nested.as_bytes());
    assert_eq!(error_type(status, &body), "not_json");
    for body in [
        r#"{"inputs": "a [MASK]", "inputs": "b [MASK]"}"#,
        r#"{"inputs": "a [MASK]", "parameters": []}"#,
        r#"{"inputs": {"text": "a [MASK]"}}"#,
        r#"{"inputs": null}"#,
        "\"a [MASK]\"",
        "null",
    ] {
        server.expect_error(JSON, body.as_bytes(), 400, "bad_request");
    }
}

#[test]
fn requests_beyond_the_limits() {
    let server = start();
    server.expect_error(TEXT, "[MASK]".repeat(100_000).as_bytes(), 422, "too_many_tokens");
    server.expect_error(TEXT, "a".repeat(60_000).as_bytes(), 400, "no_mask");
    server.expect_error(TEXT, "a".repeat(MAX - 6).as_bytes(), 422, "too_many_tokens");
    let texts = vec!["\"a [MASK]\""; 90_000].join(",");
    server.expect_error(
        JSON,
        format!("{{\"inputs\": [{texts}]}}").as_bytes(),
        422,
        "too_many_texts",
    );
    for (top_k, expected) in [
        ("0", "bad_top_k"),
        ("-9223372036854775808", "bad_top_k"),
        ("100000", "bad_top_k"),
        ("9223372036854775807", "bad_top_k"),
        ("18446744073709551616", "bad_request"),
        ("1e308", "bad_request"),
        ("2.5", "bad_request"),
        ("\"5\"", "bad_request"),
    ] {
        let body = format!("{{\"inputs\": \"a [MASK]\", \"parameters\": {{\"top_k\": {top_k}}}}}");
        server.expect_error(JSON, body.as_bytes(), 400, expected);
    }
    // Each text is within the limits; together they are not.
    let texts = vec!["\"a [MASK]\""; 500].join(",");
    let body = format!("{{\"inputs\": [{texts}], \"parameters\": {{\"top_k\": 101}}}}");
    server.expect_error(JSON, body.as_bytes(), 422, "answer_too_large");
    for targets in [
        vec!["\"the\""; 150_000].join(","),
        format!("\"{}\"", "a".repeat(900_000)),
        format!("\"{}\"", "a ".repeat(450_000)),
    ] {
        let body = format!("{{\"inputs\": \"a [MASK]\", \"parameters\": {{\"targets\": [{targets}]}}}}");
        server.expect_error(JSON, body.as_bytes(), 400, "bad_targets");
    }
}

/// Eight requests at once with each of the largest bodies.
#[test]
#[cfg(target_os = "linux")]
fn memory_stays_bounded() {
    let server = start();
    server.expect_healthy();
    let before = server.memory_peak();
    let bodies = [
        format!("{{\"inputs\": [{}]}}", vec!["\"\""; 340_000].join(",")),
        format!("{{\"inputs\": \"{}\"}}", "[MASK]".repeat(170_000)),
        format!("{{\"inputs\": \"{}\"}}", "!".repeat(1_000_000)),
        format!(
            "{{\"inputs\": \"a\", \"options\": [{}]}}",
            vec!["[]"; 340_000].join(",")
        ),
        format!(
            "{{\"inputs\": \"a [MASK]\", \"parameters\": {{\"targets\": [{}]}}}}",
            vec!["\"\""; 330_000].join(",")
        ),
    ];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for body in &bodies {
                    let (status, body) = server.post(JSON, body);
                    error_type(status, &body);
                }
            });
        }
    });
    let grown = server.memory_peak() - before;
    // Per request: the body, and 24 bytes for each text or target, twice while the list grows: 25 MB.
    assert!(grown < 200 << 20, "grown by {} MB", grown >> 20);
    server.expect_healthy();
}

/// Sparse vectors need the logits of every token. They are pooled without being stored: for these texts they would take
/// 200 MB.
#[test]
#[cfg(target_os = "linux")]
fn memory_of_sparse_vectors_does_not_grow_with_tokens_and_vocabulary() {
    let server = start();
    // As many tokens as the model takes, in as many texts as one piece has.
    let text = "garden ".repeat(254);
    let body = |key: &str, value: &str| {
        format!(
            "{{\"inputs\": [{}]{key}{value}}}",
            vec![format!("{text:?}"); 16].join(",")
        )
    };
    let ask = |path: &str, body: &str| {
        let (status, answer) = server.post_bytes(path, &format!("content-type: {JSON}"), body.as_bytes());
        assert_eq!(status, 200, "{answer}");
    };
    // The encoder takes as much memory for the same tokens.
    ask("/", &body(", \"parameters\": ", "{\"positions\": [0], \"top_k\": 1}"));
    let before = server.memory_peak();
    ask("/embed_sparse", &body("", ""));
    let grown = server.memory_peak().saturating_sub(before);
    assert!(grown < 60 << 20, "grown by {} MB", grown >> 20);
}
