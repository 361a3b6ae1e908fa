//! First requests, concurrent clients, several workers, and a clean stop.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::common::fixtures::golden;
use crate::common::server::{Server, read_response};

#[test]
fn the_first_minute_of_a_new_user() {
    let server = Server::start(&[]);
    for part in ["demo", "cpu (ndarray)", "queue", &server.address] {
        assert!(server.banner.contains(part), "{part} is not in {}", server.banner);
    }
    // The content type that curl -d sends.
    let (status, body) = server.post("application/x-www-form-urlencoded", "test [MASK]");
    assert_eq!(status, 200, "{body}");
    let answer: Vec<Value> = serde_json::from_str(&body).unwrap();
    assert_eq!(answer.len(), 5, "{body}");
    let scores: Vec<f64> = answer
        .iter()
        .map(|prediction| prediction["score"].as_f64().unwrap())
        .collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores[0] > 0.0, "{body}");
    assert!(answer[0]["sequence"].as_str().unwrap().starts_with("test"), "{body}");
    let (status, body) = server.get("/health");
    assert_eq!((status, body.as_str()), (200, r#"{"status":"ok"}"#));
}

#[test]
fn json_over_http() {
    let server = Server::start(&["--model", &golden("uncased-tied"), "--max-body-bytes", "1000"]);
    let (status, body) = server.post(
        "application/json",
        r#"{"inputs": ["a [MASK]", "the [MASK] of [MASK]"], "parameters": {"top_k": 2}}"#,
    );
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer[0].as_array().unwrap().len(), 2);
    assert_eq!(answer[1][1].as_array().unwrap().len(), 2);
    for (body, expected) in [("no mask", 400), (&"a".repeat(1001), 413)] {
        let (status, body) = server.post("text/plain", body);
        assert_eq!(status, expected, "{body}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert!(error["error"].is_string() && error["error_type"].is_string(), "{body}");
    }
    // The same in chunks, without a length.
    let chunk = format!("3e8\r\n{}\r\n", "a".repeat(1000));
    let head = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let (status, body) = server.exchange(&(head.to_owned() + &chunk.repeat(2) + "0\r\n\r\n"));
    assert_eq!(status, 413, "{body}");
    assert_eq!(server.get("/nothing").0, 404);
    assert_eq!(server.get("/").0, 200);
    assert_eq!(server.get("/v1/fill-mask").0, 405);
}

#[test]
fn many_clients_at_once_get_their_own_answers() {
    let server = Server::start(&["--model", &golden("uncased-tied")]);
    let texts: Vec<String> = (1..=24).map(|words| "the ".repeat(words) + "[MASK]").collect();
    let alone: Vec<String> = texts.iter().map(|text| server.post("text/plain", text).1).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = texts
            .iter()
            .map(|text| scope.spawn(|| server.post("text/plain", text).1))
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for (alone, together) in alone.iter().zip(&together) {
        let (alone, together): (Vec<Value>, Vec<Value>) = (
            serde_json::from_str(alone).unwrap(),
            serde_json::from_str(together).unwrap(),
        );
        for (a, b) in alone.iter().zip(&together) {
            let difference = a["score"].as_f64().unwrap() - b["score"].as_f64().unwrap();
            assert!(difference.abs() < 1e-5, "{a} became {b}");
            assert_eq!(a["sequence"], b["sequence"]);
        }
    }
}

#[test]
#[cfg(unix)]
fn a_signal_ends_the_server_after_the_current_request() {
    for name in ["-TERM", "-INT"] {
        let mut server = Server::start(&["--model", &golden("uncased-tied"), "--batch-delay-ms", "700"]);
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let request = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\na [MASK]";
        stream.write_all(request.as_bytes()).unwrap();
        // Long enough to be accepted, and shorter than the batch delay.
        std::thread::sleep(Duration::from_millis(250));
        server.signal(name);
        let (status, body) = read_response(&mut stream);
        assert_eq!(status, 200, "{name}: {body}");
        assert!(server.wait().success(), "{name}");
    }
}

#[test]
#[cfg(unix)]
fn several_workers_are_reported_and_drained() {
    let mut server = Server::start(&["--workers", "2", "--threads", "2"]);
    assert!(server.banner.contains("2 workers over 2 threads"), "{}", server.banner);
    assert!(server.get("/info").1.contains("\"workers\":2"));
    assert!(server.get("/metrics").1.contains("cloze_workers 2"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let (status, body) = server.post("text/plain", "She [MASK] born in London.");
                    assert_eq!(status, 200, "{body}");
                    assert!(body.contains("\"token_str\":\"was\""), "{body}");
                }
            });
        }
    });
    server.signal("-TERM");
    assert!(server.wait().success());
}

#[test]
#[cfg(unix)]
fn an_idle_connection_does_not_delay_a_stop() {
    let mut server = Server::start(&["--model", &golden("uncased-tied"), "--shutdown-timeout-ms", "500"]);
    let idle = TcpStream::connect(&server.address).unwrap();
    let mut half = TcpStream::connect(&server.address).unwrap();
    half.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-le").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    server.signal("-TERM");
    assert!(server.wait().success());
    drop((idle, half));
}
