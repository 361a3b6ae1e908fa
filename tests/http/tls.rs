//! HTTPS: certificates from files, reloaded on SIGHUP, and the errors for unusable files.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::common::fixtures::{golden, tls as file};
use crate::common::server::{Server, command, failure};

fn start(flags: &[&str]) -> Server {
    let model = golden("uncased-tied");
    let (certificate, key) = (file("server.pem"), file("server-key.pem"));
    let files = ["--tls-cert", &certificate, "--tls-key", &key];
    Server::start(&[&["--model", &model][..], &files, flags].concat())
}

/// A connection to a server whose certificate for `localhost` is verified.
fn connect(server: &Server, protocols: &[&str]) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    handshake(TcpStream::connect(&server.address)?, protocols)
}

fn handshake(socket: TcpStream, protocols: &[&str]) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(file("authority.pem")).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let session = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = StreamOwned::new(session, socket);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream)
}

fn ask(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> String {
    let request = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8\r\n\r\na [MASK]";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    // A connection that closes without close_notify gives an error here.
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The certificate that the server presents.
fn shown(server: &Server) -> Vec<u8> {
    let stream = connect(server, &[]).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

fn der(name: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(file(name)).unwrap().to_vec()
}

#[test]
fn requests_are_answered_over_tls() {
    let mut server = start(&[]);
    assert!(
        server.banner.contains("address  https://127.0.0.1:"),
        "{}",
        server.banner
    );
    let mut stream = connect(&server, &["h2", "http/1.1"]).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    let answer = ask(&mut stream);
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"score\""),
        "{answer}"
    );
    // A client without HTTP/1.1 is refused in the handshake.
    connect(&server, &["h2"]).unwrap_err();
    // A request without TLS gets no answer.
    let mut plain = TcpStream::connect(&server.address).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    // A connection without a handshake does not delay the stop.
    let silent = TcpStream::connect(&server.address).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    server.signal("-TERM");
    assert!(server.wait().success());
    drop(silent);
}

#[test]
fn a_handshake_has_a_timeout() {
    let server = start(&["--head-timeout-ms", "300"]);
    let mut silent = TcpStream::connect(&server.address).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The beginning of a handshake message.
    silent.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).unwrap();
    match silent.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("still open: {other:?}"),
    }
}

#[test]
fn handshake_and_first_head_share_one_deadline() {
    let server = start(&["--head-timeout-ms", "3000"]);
    let accepted_at = Instant::now();
    let socket = TcpStream::connect(&server.address).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let mut stream = handshake(socket, &["http/1.1"]).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: ").unwrap();
    // The end of the connection, with or without an error.
    let _ = stream.read(&mut [0]);
    let elapsed = accepted_at.elapsed();
    assert!(elapsed < Duration::from_millis(4500), "closed after {elapsed:?}");
}

#[test]
fn slow_handshakes_give_up_their_slots_when_others_need_them() {
    let server = start(&["--max-connections", "2", "--head-timeout-ms", "60000"]);
    let silent: Vec<_> = (0..2).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    for _ in 0..2 {
        let socket = TcpStream::connect(&server.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut stream = handshake(socket, &["http/1.1"]).unwrap();
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    drop(silent);
}

#[test]
#[cfg(unix)]
fn sighup_loads_a_new_certificate_and_keeps_the_old_one_if_it_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let put = |name: &str| {
        std::fs::copy(file(&format!("{name}.pem")), &certificate).unwrap();
        std::fs::copy(file(&format!("{name}-key.pem")), &key).unwrap();
    };
    put("server");
    let files = [
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    let model = golden("uncased-tied");
    let server = Server::start(&[&["--model", &model][..], &files].concat());
    assert_eq!(shown(&server), der("server.pem"));
    put("other");
    server.signal("-HUP");
    let mut tries = 0;
    while shown(&server) != der("other.pem") {
        tries += 1;
        assert!(tries < 200, "the new certificate is not in use");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::write(&certificate, "nothing").unwrap();
    server.signal("-HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(shown(&server), der("other.pem"), "the old certificate stays in use");
}

/// A named pipe in place of a file system that hangs: opening it blocks.
#[test]
#[cfg(unix)]
fn a_certificate_that_blocks_at_sighup_stops_neither_requests_nor_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("cert.pem");
    std::fs::copy(file("server.pem"), &certificate).unwrap();
    let (certificate, key, model) = (
        certificate.to_str().unwrap(),
        file("server-key.pem"),
        golden("uncased-tied"),
    );
    let mut server = Server::start(&["--model", &model, "--tls-cert", certificate, "--tls-key", &key]);
    std::fs::remove_file(certificate).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(certificate)
            .status()
            .unwrap()
            .success()
    );
    // More than the runtime has threads.
    for _ in 0..4 * std::thread::available_parallelism().unwrap().get() {
        server.signal("-HUP");
        std::thread::sleep(Duration::from_millis(20));
    }
    let answer = ask(&mut connect(&server, &[]).unwrap());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.signal("-TERM");
    assert!(server.wait().success());
}

#[test]
fn unusable_files_are_named_with_their_flag() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.pem");
    std::fs::write(
        &garbage,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let garbage = garbage.to_str().unwrap().to_owned();
    let (good, key) = (file("server.pem"), file("server-key.pem"));
    for (certificate, key, says) in [
        (
            "/does/not/exist.pem",
            &key[..],
            &["--tls-cert: /does/not/exist.pem", "No such file"][..],
        ),
        (
            &good,
            "/does/not/exist.pem",
            &["--tls-key: /does/not/exist.pem", "No such file"],
        ),
        (&key, &key, &["--tls-cert: ", "server-key.pem holds no certificate"]),
        (&good, &good, &["--tls-key: ", "server.pem holds no private key"]),
        (&garbage, &key, &["--tls-cert: ", "garbage.pem", "cannot be used"]),
        (
            &good,
            &file("other-key.pem"),
            &["--tls-key: ", "other-key.pem is not the key", "server.pem"],
        ),
    ] {
        let error = super::faults::sentence(&["--tls-cert", certificate, "--tls-key", key]);
        for part in says {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = failure(&mut command(&["--tls-cert", &good]));
    assert!(error.contains("--tls-key"), "{error}");
}

/// In debug builds graviola lets a variable hide a feature of the CPU.
#[test]
#[cfg(all(target_arch = "x86_64", debug_assertions))]
fn a_cpu_without_the_features_for_tls_is_refused() {
    let output = command(&["--tls-cert", &file("server.pem"), "--tls-key", &file("server-key.pem")])
        .env("GRAVIOLA_CPU_DISABLE_avx2", "1")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains("--tls-cert: this processor lacks"), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}
