//! The traces that the binary sends to an OpenTelemetry collector, and its behaviour without a collector.
#![cfg(all(feature = "otel", unix))]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use common::fixtures::tls as file;

/// A field of a protobuf message, decoded without the crate that encoded it.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message with their numbers, in their order.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                fields.push((key >> 3, Field::Number(varint(&mut bytes))));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("protobuf has no wire type {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        bytes = rest;
        fields.push((key >> 3, Field::Bytes(value)));
    }
    fields
}

/// All messages or strings with this number.
fn all(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).into_iter().filter_map(move |field| match field {
        (n, Field::Bytes(bytes)) if n == number => Some(bytes),
        _ => None,
    })
}

fn number(message: &[u8], number: u64) -> Option<u64> {
    fields(message).into_iter().find_map(|field| match field {
        (n, Field::Number(value)) if n == number => Some(value),
        _ => None,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A list of `KeyValue`, values as text.
fn attributes(message: &[u8], field: u64) -> HashMap<String, String> {
    let pairs = all(message, field).map(|pair| {
        let value = all(pair, 2).next().unwrap();
        let string = all(value, 1).next().map(text);
        let value = string.or_else(|| number(value, 3).map(|int| int.to_string()));
        (text(all(pair, 1).next().unwrap()), value.unwrap_or_default())
    });
    pairs.collect()
}

#[derive(Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: u64,
    attributes: HashMap<String, String>,
    /// Ids of spans.
    links: Vec<String>,
    status: u64,
    service: String,
}

/// The spans of an export request. Field numbers are those of
/// `opentelemetry/proto/collector/trace/v1/trace_service.proto` and `trace/v1/trace.proto`.
fn spans(request: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource_spans in all(request, 1) {
        let resource = all(resource_spans, 1).next().unwrap();
        let service = attributes(resource, 1).remove("service.name").unwrap();
        for span in all(resource_spans, 2).flat_map(|scope| all(scope, 2)) {
            spans.push(Span {
                trace: hex(all(span, 1).next().unwrap()),
                id: hex(all(span, 2).next().unwrap()),
                parent: all(span, 4).next().map(hex).unwrap_or_default(),
                name: text(all(span, 5).next().unwrap()),
                kind: number(span, 6).unwrap_or(0),
                attributes: attributes(span, 9),
                links: all(span, 13).map(|link| hex(all(link, 2).next().unwrap())).collect(),
                status: all(span, 15).next().and_then(|status| number(status, 3)).unwrap_or(0),
                service: service.clone(),
            });
        }
    }
    spans
}

/// Head and body of a request. `None` if the client disconnects, for example over a certificate that it does not trust.
fn read_request(stream: impl Read + Write) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(reader.read_line(&mut head), Ok(1..)) {
            return None;
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.split_once("content-length: ").unwrap().1;
    let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    reader
        .into_inner()
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .unwrap();
    Some((head, body))
}

fn tls() -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(file("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server-key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    Arc::new(
        config
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap(),
    )
}

/// Starts a collector; returns its address and the requests that it receives.
fn collector(tls: Option<Arc<ServerConfig>>) -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let address = format!("{scheme}://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let request = match &tls {
                None => read_request(stream),
                Some(config) => {
                    let session = ServerConnection::new(Arc::clone(config)).unwrap();
                    read_request(StreamOwned::new(session, stream))
                }
            };
            if request.is_some_and(|request| sender.send(request).is_err()) {
                return;
            }
        }
    });
    (address, receiver)
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cloze"))
            .args(["--port", "0"])
            .envs(variables.iter().copied())
            .env("OTEL_BSP_SCHEDULE_DELAY", "100")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| Some(line.unwrap().split_once("address  http://")?.1.to_owned()));
        let address = address.expect("the server ended before its start-up block did");
        let server = Self { child, address };
        // The rest is read, so that the pipe does not block the server.
        std::thread::spawn(move || lines.count());
        server
    }

    fn ask(&self, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let request = format!("{head}host: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Stops the server; returns how long that took.
    fn stop(mut self) -> Duration {
        let begun = Instant::now();
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
        begun.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

#[test]
fn a_request_is_a_part_of_its_clients_trace() {
    let (endpoint, received) = collector(None);
    let server = Server::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_SERVICE_NAME", "masks"),
    ]);
    let head = format!("POST /v1/fill-mask HTTP/1.1\r\ntraceparent: 00-{TRACE}-{CALLER}-01\r\nx-request-id: id-7\r\n");
    let answer = server.ask(&head, "test [MASK]");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        server
            .ask("GET /health/ready HTTP/1.1\r\n", "")
            .starts_with("HTTP/1.1 200")
    );
    server.stop();
    // The server sent all spans before it ended.
    let requests: Vec<(String, Vec<u8>)> = received.try_iter().collect();
    for (head, _) in &requests {
        assert!(head.starts_with("POST /v1/traces "), "{head}");
        assert!(
            head.to_ascii_lowercase()
                .contains("content-type: application/x-protobuf"),
            "{head}"
        );
    }
    let spans: Vec<Span> = requests.iter().flat_map(|(_, body)| spans(body)).collect();
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "POST /v1/fill-mask",
        "batch",
        "inference",
        "queue",
        "render",
        "tokenize",
    ];
    assert_eq!(names, expected, "{spans:#?}");
    let by_name: HashMap<&str, &Span> = spans.iter().map(|span| (span.name.as_str(), span)).collect();
    let request = by_name["POST /v1/fill-mask"];
    assert_eq!((request.trace.as_str(), request.parent.as_str()), (TRACE, CALLER));
    assert_eq!(
        (request.kind, request.status, request.service.as_str()),
        (2, 0, "masks")
    );
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/fill-mask"),
        ("http.response.status_code", "200"),
        ("id", "id-7"),
    ] {
        assert_eq!(
            request.attributes.get(key).map(String::as_str),
            Some(value),
            "{request:#?}"
        );
    }
    for name in ["tokenize", "queue", "inference", "render"] {
        let child = by_name[name];
        assert_eq!(
            (child.trace.as_str(), &child.parent),
            (TRACE, &request.id),
            "{child:#?}"
        );
    }
    for (key, value) in [("texts", "1"), ("tokens", "4")] {
        for name in ["tokenize", "batch"] {
            assert_eq!(
                by_name[name].attributes.get(key).map(String::as_str),
                Some(value),
                "{name} {key}"
            );
        }
    }
    let batch = by_name["batch"];
    assert!(batch.parent.is_empty() && batch.trace != TRACE, "{batch:#?}");
    assert_eq!(batch.links, [request.id.as_str()]);
    assert_eq!(by_name["inference"].links, [batch.id.as_str()]);
}

#[test]
fn traces_are_sent_over_tls_if_the_certificate_is_trusted() {
    for trusted in [false, true] {
        let (endpoint, received) = collector(Some(tls()));
        let authority = file(if trusted { "authority.pem" } else { "other.pem" });
        let server = Server::start(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("SSL_CERT_FILE", &authority),
        ]);
        let answer = server.ask("POST / HTTP/1.1\r\n", "test [MASK]");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.stop();
        let spans: Vec<Span> = received.try_iter().flat_map(|(_, body)| spans(&body)).collect();
        assert_eq!(spans.iter().any(|span| span.name == "POST /"), trusted, "{spans:#?}");
    }
}

#[test]
fn a_missing_or_silent_collector_delays_no_request() {
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [refused, silent.local_addr().unwrap()] {
        let server = Server::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))]);
        for _ in 0..3 {
            let answer = server.ask("POST / HTTP/1.1\r\n", "test [MASK]");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            // Long enough for the exporter to start.
            std::thread::sleep(Duration::from_millis(150));
        }
        let took = server.stop();
        // Without a timeout the exporter would wait ten seconds or longer.
        assert!(took < Duration::from_secs(8), "the stop took {took:?}");
    }
}
