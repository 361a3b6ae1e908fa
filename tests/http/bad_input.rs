//! Bodies that nobody should send: each is answered with a sentence, costs bounded memory, and leaves the
//! server as it was.

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

/// The error of an answer, once it is sure that it is one with a sentence.
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

    /// Sends a head and less than the body that it promises, and says that there is no more.
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

    /// Sends bytes, with their length and further header lines, to an address.
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
        self.expect_well();
    }

    fn expect_well(&self) {
        let (status, body) = self.post(TEXT, "a [MASK]");
        assert_eq!(status, 200, "{body}");
    }

    /// The most memory that the process has had, in bytes.
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
fn a_length_that_lies() {
    let server = start();
    let post = |length: &str| format!("POST / HTTP/1.1\r\ncontent-type: {JSON}\r\n{length}");
    let body = br#"{"inputs": "a [MASK]"}"#;
    // More than is sent.
    let (status, answer) = server.send_cut(&post("content-length: 1000"), body);
    assert_eq!((status, error_type(status, &answer).as_str()), (400, "bad_body"));
    // More than is allowed, refused before any of it came.
    let (status, answer) = server.send(&post("content-length: 99999999999999"), b"");
    assert_eq!((status, error_type(status, &answer).as_str()), (413, "body_too_large"));
    // Less than is sent: what is left is no request of its own, and this one is cut off.
    let (status, answer) = server.send(&post("content-length: 10"), body);
    assert_eq!((status, error_type(status, &answer).as_str()), (400, "not_json"));
    // Chunks that end in the middle.
    let cut = &chunked(body, 10)[..20];
    let (status, answer) = server.send_cut(&post("transfer-encoding: chunked"), cut);
    assert_eq!((status, error_type(status, &answer).as_str()), (400, "bad_body"));
    // What HTTP itself forbids is refused below us, without a body.
    for header in [
        "content-length: -1",
        "content-length: 1e3",
        "content-length: 10\r\ncontent-length: 20",
        "content-length: 99999999999999999999999",
    ] {
        assert_eq!(server.send(&post(header), body).0, 400, "{header}");
    }
    server.expect_well();
}

#[test]
fn a_body_that_comes_too_late() {
    let server = Server::start(&["--model", &golden("uncased-tied"), "--request-timeout-ms", "300"]);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8\r\n\r\na [";
    stream.write_all(head.as_bytes()).unwrap();
    let (status, body) = read_response(&mut stream);
    assert_eq!((status, error_type(status, &body).as_str()), (408, "body_timeout"));
    server.expect_well();
}

#[test]
fn a_compressed_body() {
    let server = start();
    for coding in ["gzip", "deflate", "br", "zstd", "identity, gzip"] {
        let (status, body) = server.post_bytes("/", &format!("content-encoding: {coding}"), b"\x1f\x8b\x08\x00");
        assert_eq!((status, error_type(status, &body).as_str()), (415, "content_encoding"));
    }
    server.expect_well();
}

#[test]
fn bytes_that_are_no_text() {
    let server = start();
    server.expect_error(TEXT, b"a [MASK] \xff", 400, "not_utf8");
    // Half of a character, and the UTF-8 of a surrogate.
    server.expect_error(TEXT, b"[MASK] \xe2\x82", 400, "not_utf8");
    server.expect_error(TEXT, b"[MASK] \xed\xa0\x80", 400, "not_utf8");
    server.expect_error(JSON, b"{\"inputs\": \"a [MASK] \xff\"}", 400, "not_json");
    server.expect_error(JSON, br#"{"inputs": "a [MASK] \ud800"}"#, 400, "not_json");
    server.expect_error(JSON, b"{\"inputs\": \"a [MASK] \0\"}", 400, "not_json");
    server.expect_error(TEXT, b"\0\0\0", 400, "no_mask");
    server.expect_error(TEXT, b"", 400, "empty");
    server.expect_error(JSON, b"", 400, "not_json");
    // A NUL is a character; the tokenizer drops it as it does other control characters.
    let (with, without) = (server.post(TEXT, "a\0 [MASK]"), server.post(TEXT, "a [MASK]"));
    assert_eq!(with, without);
    let (escaped, _) = server.post(JSON, r#"{"inputs": "a\u0000 [MASK]"}"#);
    assert_eq!(escaped, 200);
}

#[test]
fn json_that_is_deep_or_odd() {
    let server = start();
    for (open, expected) in [
        ("[", "bad_request"),
        ("{\"inputs\":", "bad_request"),
        ("{\"inputs\":\"a [MASK]\",\"options\":[", "not_json"),
    ] {
        let deep = open.repeat(MAX / open.len());
        server.expect_error(JSON, deep.as_bytes(), 400, expected);
    }
    // What is ignored may be as deep as it likes: nothing recurses into it.
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
fn more_than_can_be_answered() {
    let server = start();
    server.expect_error(TEXT, "[MASK]".repeat(100_000).as_bytes(), 422, "too_many_tokens");
    server.expect_error(TEXT, "a".repeat(MAX - 6).as_bytes(), 400, "no_mask");
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
    // Allowed one by one, too much together.
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

/// Eight at once of each of the largest bodies that are read whole.
#[test]
#[cfg(target_os = "linux")]
fn memory_stays_bounded() {
    let server = start();
    server.expect_well();
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
    // A body, and 24 bytes for each text or target in it, twice while their list grows: 25 MB for each request.
    assert!(grown < 200 << 20, "grown by {} MB", grown >> 20);
    server.expect_well();
}
