//! Requests in the queue: deadlines, clients that disconnect, and a stop of the server.
//!
//! A long batch delay keeps requests in the queue; counters show what the model computed.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::fixtures::golden;
use crate::common::server::{Server, read_response};

const QUESTION: &str = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\na [MASK]";

fn start(flags: &[&str]) -> Server {
    Server::start(&[&["--model", &golden("uncased-tied")], flags].concat())
}

fn send(server: &Server, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

impl Server {
    /// The value of a series without labels.
    fn metric(&self, name: &str) -> f64 {
        let (status, metrics) = self.get("/metrics");
        assert_eq!(status, 200);
        let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        value
            .unwrap_or_else(|| panic!("{name} is not in {metrics}"))
            .parse()
            .unwrap()
    }

    fn assert_queue_is_empty(&self) {
        for gauge in ["cloze_queue_texts", "cloze_queue_tokens"] {
            assert_eq!(self.metric(gauge), 0.0, "{gauge}");
        }
    }
}

#[test]
fn a_deadline_in_the_queue_gives_504_without_a_forward_pass() {
    let server = start(&["--batch-delay-ms", "1500", "--request-timeout-ms", "200"]);
    let (status, body) = server.post("text/plain", "a [MASK]");
    assert!(status == 504 && body.contains("200 ms"), "{status}: {body}");
    server.assert_queue_is_empty();
    // Until after the batch would have run.
    std::thread::sleep(Duration::from_millis(1700));
    assert_eq!(server.metric("cloze_expired_requests_total"), 1.0);
    assert_eq!(server.metric("cloze_batch_texts_count"), 0.0);
}

#[test]
fn texts_of_disconnected_clients_are_dropped_and_others_answered() {
    let server = start(&["--batch-delay-ms", "3000"]);
    let mut stay: Vec<_> = (0..12).map(|_| send(&server, QUESTION)).collect();
    let leave = stay.split_off(6);
    while server.metric("cloze_queue_texts") < 12.0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(leave);
    for stream in &mut stay {
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }
    server.assert_queue_is_empty();
    assert_eq!(server.metric("cloze_abandoned_texts_total"), 6.0);
    assert_eq!(server.metric("cloze_batch_texts_sum"), 6.0);
}

#[test]
fn a_half_closed_connection_counts_as_disconnected() {
    // The server cannot tell it from a client that closed both halves: TCP reports the same.
    let server = start(&["--batch-delay-ms", "2000"]);
    let mut half = send(&server, QUESTION);
    let mut whole = send(&server, QUESTION);
    while server.metric("cloze_queue_texts") < 2.0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "", "closed without an answer");
    assert_eq!(read_response(&mut whole).0, 200);
    assert_eq!(server.metric("cloze_abandoned_texts_total"), 1.0);
    assert_eq!(server.metric("cloze_batch_texts_sum"), 1.0);
}

#[test]
#[cfg(unix)]
fn a_stop_answers_accepted_requests_and_closes_idle_connections() {
    let mut server = start(&["--batch-delay-ms", "2000", "--shutdown-timeout-ms", "20000"]);
    let health = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let idle: Vec<_> = (0..5).map(|_| send(&server, health)).collect();
    let silent: Vec<_> = (0..5).map(|_| send(&server, "")).collect();
    let asked: Vec<_> = (0..8).map(|_| send(&server, QUESTION)).collect();
    while server.metric("cloze_queue_texts") < 8.0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (first, rest) = QUESTION.split_at(QUESTION.len() - 4);
    let (head, rest_of_head) = QUESTION.split_at(30);
    let mut half_a_body = send(&server, first);
    let mut half_a_head = send(&server, head);
    let mut probe = send(&server, "GET /health/ready HTTP/1.1\r\nhost: x\r\n");
    std::thread::sleep(Duration::from_millis(200));
    server.signal("-TERM");
    // Connections without a request are closed at once; the server waits for the others.
    for mut stream in idle.into_iter().chain(silent) {
        match stream.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    assert!(server.child.try_wait().unwrap().is_none(), "the server did not wait");
    probe.write_all(b"\r\n").unwrap();
    let (status, body) = read_response(&mut probe);
    assert_eq!(status, 503, "ready during a stop: {body}");
    half_a_body.write_all(rest.as_bytes()).unwrap();
    half_a_head.write_all(rest_of_head.as_bytes()).unwrap();
    for mut stream in asked.into_iter().chain([half_a_body, half_a_head]) {
        let (status, body) = read_response(&mut stream);
        assert_eq!(status, 200, "{body}");
    }
    assert!(server.wait().success());
}
