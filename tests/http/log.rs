//! The log: its lines, what they must not have, and a log that is not read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::fixtures::golden;
use crate::common::server::{Server, command};

const KEY: &str = "a-very-secret-key-1";

#[test]
fn a_request_is_one_json_line_without_its_text_and_key() {
    // The level at which libraries log the most.
    let mut command = command(&["--log", "trace", "--log-format", "json", "--api-key", KEY]);
    // A file: a pipe is not read before the end, and a full pipe would block the server.
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut server = Server::spawn(command.stderr(log.reopen().unwrap()));
    assert!(!server.banner.contains(KEY), "{}", server.banner);
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 13\r\nx-request-id: id-7\r\n";
    let secret = "secret [MASK]";
    let (status, body) = server.exchange(&format!("{head}authorization: Bearer {KEY}\r\n\r\n{secret}"));
    assert_eq!(status, 200, "{body}");
    // Wrong keys that contain the right one: too long, in another case, with another scheme, or beside a second header.
    for wrong in [
        format!("Bearer {KEY}x"),
        format!("Bearer {}", KEY.to_uppercase()),
        format!("Basic {KEY}"),
        format!("Bearer wrong-secret\r\nauthorization: Bearer {KEY}"),
    ] {
        let (status, body) = server.exchange(&format!("{head}authorization: {wrong}\r\n\r\n{secret}"));
        assert_eq!(status, 401, "{wrong}: {body}");
        assert!(!body.to_lowercase().contains(KEY), "{body}");
    }
    // The server survives a header of one megabyte.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let _ = stream.write_all(format!("{head}authorization: Bearer {}\r\n\r\n", "x".repeat(1 << 20)).as_bytes());
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(server.get("/health/live").0, 200);
    server.signal("-TERM");
    assert!(server.wait().success());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.to_lowercase().contains(KEY) && !log.contains("secret"), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_answer = |line: &&Value| line["message"] == "answered" && line["level"] == "INFO";
    let answered: Vec<&Value> = lines.iter().filter(is_answer).collect();
    assert_eq!(answered.len(), 1, "{log}");
    for (field, value) in [("id", "id-7"), ("route", "/"), ("method", "POST")] {
        assert_eq!(answered[0][field], value, "{log}");
    }
    assert_eq!(
        (&answered[0]["status"], &answered[0]["texts"]),
        (&200.into(), &1.into()),
        "{log}"
    );
}

#[test]
fn refusals_do_not_flood_the_log() {
    let mut command = command(&["--queue-size", "1", "--batch-delay-ms", "60000", "--log-format", "json"]);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut server = Server::spawn(command.stderr(log.reopen().unwrap()));
    let mut first = TcpStream::connect(&server.address).unwrap();
    let request = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8\r\n\r\na [MASK]";
    first.write_all(request.as_bytes()).unwrap();
    while !server.get("/metrics").1.contains("\ncloze_queue_texts 1\n") {
        std::thread::sleep(Duration::from_millis(20));
    }
    let begun = Instant::now();
    let refused = std::iter::repeat_with(|| server.post("text/plain", "a [MASK]").0);
    assert_eq!(refused.take(100).filter(|&status| status == 503).count(), 100);
    // The first has a line; every other is in a count or has the line of its count.
    let counted = || {
        let log = std::fs::read_to_string(&log).unwrap();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let counts = lines.filter_map(|line| {
            let is_count = line["message"].as_str()?.starts_with("requests refused with 503 since");
            line["count"].as_u64().filter(|_| is_count)
        });
        counts.sum::<u64>()
    };
    // One second later.
    while counted() < 99 && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!((99..=100).contains(&counted()), "{} counted", counted());
    // At the stop.
    for _ in 0..3 {
        assert_eq!(server.post("text/plain", "a [MASK]").0, 503);
    }
    let lines_max = 2 + begun.elapsed().as_secs() as usize;
    drop(first);
    server.signal("-TERM");
    assert!(server.wait().success());
    assert!((102..=103).contains(&counted()), "{} counted", counted());
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged = lines.iter().filter(|line| line["status"] == 503).count();
    assert!(
        (1..=lines_max).contains(&logged),
        "{logged} lines for a hundred refusals: {log}"
    );
}

/// Sends requests until `count` were answered; none may wait for the log.
#[cfg(unix)]
fn answer_many(server: &Server, count: usize) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Each is logged in a line of some 150 bytes.
    let request = "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n";
    for number in 0..count {
        stream.write_all(request.as_bytes()).unwrap();
        let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
        while !answer.ends_with(b"}") {
            match stream.read(&mut buffer) {
                Ok(read @ 1..) => answer.extend_from_slice(&buffer[..read]),
                other => panic!("request {number} was not answered: {other:?}"),
            }
        }
    }
}

#[test]
#[cfg(unix)]
fn a_log_that_is_not_read_stops_neither_requests_nor_the_end() {
    let mut command = command(&["--model", &golden("uncased-tied")]);
    // A pipe of 64 KiB that this test does not read.
    let mut server = Server::spawn(command.stderr(Stdio::piped()));
    answer_many(&server, 2000);
    assert_eq!(server.post("text/plain", "a [MASK]").0, 200);
    server.signal("-TERM");
    assert!(server.wait().success());
}

/// The system ends a process that writes beyond the limit, unless the process ignores the signal.
#[test]
#[cfg(target_os = "linux")]
fn a_limit_on_the_size_of_the_log_file_ends_no_server() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "ulimit -f 0 && exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_cloze"))
        .args(["--port", "0", "--model", &golden("uncased-tied")])
        .stderr(log.reopen().unwrap());
    let mut server = Server::spawn(&mut command);
    answer_many(&server, 3);
    assert_eq!(server.post("text/plain", "a [MASK]").0, 200);
    server.signal("-TERM");
    assert!(server.wait().success());
    assert_eq!(log.as_file().metadata().unwrap().len(), 0);
}

#[test]
#[cfg(unix)]
fn dropped_log_lines_are_counted() {
    let mut command = command(&["--model", &golden("uncased-tied"), "--log-format", "json"]);
    let mut server = Server::spawn(command.stderr(Stdio::piped()));
    let mut log = server.child.stderr.take().unwrap();
    // More than the pipe and the queue of a MiB hold.
    answer_many(&server, 8_000);
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    });
    // The report follows the lines that were in the queue.
    std::thread::sleep(Duration::from_millis(500));
    server.signal("-TERM");
    assert!(server.wait().success());
    let text = reader.join().unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let refused = lines.iter().filter(|line| line["status"] == 404).count() as u64;
    let dropped: u64 = lines.iter().filter_map(|line| line["dropped"].as_u64()).sum();
    assert!(dropped > 0, "{refused} lines and none dropped");
    assert_eq!(refused + dropped, 8_000);
}

#[test]
#[cfg(unix)]
fn a_refusal_in_the_log_has_its_error_type_route_and_peer() {
    let model = golden("uncased-tied");
    let mut command = command(&[
        "--model",
        &model,
        "--log-format",
        "json",
        "--cors-origin",
        "https://a.example",
    ]);
    command.env("CLOZE_API_KEY", KEY);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut server = Server::spawn(command.stderr(log.reopen().unwrap()));
    let key = format!("authorization: Bearer {KEY}\r\n");
    let json = format!("{key}content-type: application/json\r\n");
    for (method, path, headers, body) in [
        ("POST", "/", "", ""),
        ("OPTIONS", "/v1/fill-mask/", "", ""),
        ("POST", "/v2/models/none/infer", key.as_str(), "{}"),
        ("GET", "/v1/completions?prompt=secret", key.as_str(), ""),
        ("POST", "/", key.as_str(), "a secret text"),
        (
            "POST",
            "/",
            json.as_str(),
            r#"{"inputs": "a secret [MASK]", "secret": 1}"#,
        ),
    ] {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n"
        );
        server.exchange(&(head + body));
    }
    server.signal("-TERM");
    assert!(server.wait().success());
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let refusals: Vec<&Value> = lines.iter().filter(|line| line["message"] == "refused").collect();
    let text = |line: &Value, field: &str| line[field].as_str().map(str::to_owned);
    let required = Some("This server requires an API key");
    // A sentence that repeats a part of the request is not logged.
    let expected = [
        ("POST", "/", "unauthorized", required, None),
        ("OPTIONS", "/v1/fill-mask", "unauthorized", required, None),
        ("POST", "/v2/models/:name/infer", "model_not_found", None, None),
        (
            "GET",
            "other",
            "not_found",
            Some("There is nothing at this path"),
            Some("\"/v1/completions\""),
        ),
        ("POST", "/", "no_mask", Some("The text has no mask; write [MASK]"), None),
        ("POST", "/", "bad_request", None, None),
    ];
    assert_eq!(refusals.len(), expected.len(), "{log}");
    for (line, (method, route, error_type, sentence, path)) in refusals.into_iter().zip(expected) {
        match sentence {
            Some(begin) => assert!(text(line, "error").unwrap().starts_with(begin), "{line}"),
            None => assert_eq!(text(line, "error"), None, "{line}"),
        }
        assert_eq!(text(line, "method").as_deref(), Some(method), "{line}");
        assert_eq!(text(line, "route").as_deref(), Some(route), "{line}");
        assert_eq!(text(line, "error_type").as_deref(), Some(error_type), "{line}");
        assert_eq!(text(line, "path").as_deref(), path, "{line}");
        assert!(text(line, "peer").unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    assert!(!log.contains("secret") && !log.contains(KEY), "{log}");
}

#[test]
fn the_start_is_an_event_in_the_log_and_a_server_without_a_key_a_warning() {
    let model = golden("uncased-tied");
    for (flags, warns) in [
        (&["--host", "0.0.0.0"][..], true),
        (&["--host", "localhost"], false),
        (&["--host", "0.0.0.0", "--api-key", "key-of-a-test"], false),
        (&[], false),
    ] {
        let mut command = command(&["--model", &model, "--log-format", "json"]);
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut server = Server::spawn(command.args(flags).stderr(log.reopen().unwrap()));
        assert!(server.banner.contains(", mask [MASK]\n"), "{}", server.banner);
        let has_key = flags.contains(&"--api-key");
        assert_eq!(
            server.banner.contains("\n  key      required"),
            has_key,
            "{}",
            server.banner
        );
        server.signal("-TERM");
        assert!(server.wait().success());
        let log = std::fs::read_to_string(log).unwrap();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let warnings: Vec<&Value> = lines.iter().filter(|line| line["level"] == "WARN").collect();
        assert_eq!(warnings.len(), usize::from(warns), "{flags:?}: {log}");
        let sentence = "--host 0.0.0.0 without --api-key: every machine that reaches this port can send requests";
        assert!(warnings.iter().all(|line| line["message"] == sentence), "{log}");
        let started = lines.iter().find(|line| line["message"] == "started").expect(&log);
        for (field, value) in [("model", "uncased-tied"), ("backend", "cpu"), ("dtype", "f32")] {
            assert_eq!(started[field], value, "{started}");
        }
        assert!(
            server.banner.contains(started["address"].as_str().unwrap()),
            "{started}"
        );
    }
}

#[test]
fn lines_of_text_have_their_module_from_the_level_debug_on() {
    for (level, has_modules) in [("info", false), ("warn,cloze=debug", true)] {
        let mut command = command(&["--model", &golden("uncased-tied"), "--log", level]);
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut server = Server::spawn(command.stderr(log.reopen().unwrap()));
        server.signal("-TERM");
        assert!(server.wait().success());
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("started") && log.contains(" INFO "), "{log}");
        assert_eq!(log.contains("cloze::"), has_modules, "{log}");
    }
}
