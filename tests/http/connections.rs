//! Connections: their timeouts, their number, and the limit on file descriptors.
//!
//! Timeouts are fractions of a second here; `tools/stress` tests the defaults.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::fixtures::golden;
use crate::common::server::Server;

/// Longer than any timeout in these tests on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const HEAD: &str = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n";
const QUESTION: &str = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\na [MASK]";
const LIVE: &str = "GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n";

fn start(flags: &[&str]) -> Server {
    Server::start(&[&["--model", &golden("uncased-tied")], flags].concat())
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request on a connection that stays open; returns the status and the head of the answer.
fn ask(stream: &mut TcpStream, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "the connection closed");
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    stream
        .read_exact(&mut vec![0; length.unwrap().parse().unwrap()])
        .unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
}

/// Repeats `bytes`, one at a time, until the server closes the connection; returns everything that the server sent.
fn trickle(stream: &mut TcpStream, bytes: &[u8]) -> String {
    let begun = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    for byte in bytes.iter().cycle() {
        assert!(begun.elapsed() < PATIENCE, "the connection is still open");
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn a_head_sent_byte_by_byte_times_out_while_others_are_served() {
    let server = start(&["--head-timeout-ms", "500", "--idle-timeout-ms", "60000"]);
    std::thread::scope(|scope| {
        for number in 0..40 {
            let mut stream = connect(&server);
            scope.spawn(move || {
                // On half of the connections the slow request is the second one.
                if number % 2 == 0 {
                    assert_eq!(ask(&mut stream, LIVE).0, 200);
                }
                stream.write_all(HEAD.as_bytes()).unwrap();
                trickle(&mut stream, b"x-header: and so on\r\n");
            });
        }
        for _ in 0..10 {
            assert_eq!(server.post("text/plain", "a [MASK]").0, 200);
        }
    });
    // A client that sends nothing is closed too.
    assert_eq!(connect(&server).read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_idle_connection_has_its_own_timeout() {
    let server = start(&["--head-timeout-ms", "300", "--idle-timeout-ms", "60000"]);
    let mut stream = connect(&server);
    assert_eq!(ask(&mut stream, QUESTION).0, 200);
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(
        ask(&mut stream, QUESTION).0,
        200,
        "an idle connection is not a slow one"
    );

    let server = start(&["--head-timeout-ms", "60000", "--idle-timeout-ms", "300"]);
    let mut stream = connect(&server);
    assert_eq!(ask(&mut stream, QUESTION).0, 200);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed without an answer");
}

#[test]
fn a_body_sent_byte_by_byte_has_the_deadline_of_its_request() {
    let server = start(&["--request-timeout-ms", "400"]);
    let mut stream = connect(&server);
    let (head, body) = ("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n", b"a ");
    stream.write_all(head.as_bytes()).unwrap();
    let answer = trickle(&mut stream, body);
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("body_timeout"),
        "{answer}"
    );
}

#[test]
fn a_client_that_does_not_read_is_disconnected() {
    let server = start(&["--write-timeout-ms", "400"]);
    let mut stream = connect(&server);
    stream.set_nonblocking(true).unwrap();
    let request = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let begun = Instant::now();
    // Writes until the buffers are full in both directions, and then until the server closes the connection.
    let error = loop {
        match stream.write(request.as_bytes()) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => break error,
        }
        assert!(begun.elapsed() < 3 * PATIENCE, "the connection is still open");
    };
    assert!(
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{error}"
    );
    assert_eq!(server.get("/health/live").0, 200);
}

#[test]
fn connections_beyond_the_limit_wait_for_a_slot() {
    let server = start(&["--max-connections", "2", "--idle-timeout-ms", "60000"]);
    let (mut first, second) = (connect(&server), connect(&server));
    // A connection with half a request is not idle.
    first.write_all(&QUESTION.as_bytes()[..20]).unwrap();
    let mut third = connect(&server);
    third.write_all(QUESTION.as_bytes()).unwrap();
    third.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let error = third.read(&mut [0]).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
    let mut fourth = connect(&server);
    fourth.write_all(LIVE.as_bytes()).unwrap();
    drop(second);
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    let (status, head) = ask(&mut third, "");
    assert_eq!(status, 200);
    let closes = "\r\nconnection: close\r\n";
    assert!(
        head.contains(closes),
        "the connection stays open while others wait: {head}"
    );
    let (status, head) = ask(&mut fourth, "");
    assert!(status == 200 && !head.contains(closes), "no connection waits: {head}");
    // An idle connection stays open if no other connection waits now.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ask(&mut fourth, LIVE).0, 200);
}

#[test]
fn the_length_of_a_head_is_limited() {
    let server = start(&["--head-timeout-ms", "120000"]);
    let mut stream = connect(&server);
    // The server may have closed before it has read all of it.
    let _ = stream.write_all(HEAD.as_bytes());
    let _ = stream.write_all(format!("x-long: {}", "x".repeat(400_000)).as_bytes());
    let mut said = Vec::new();
    if let Err(error) = stream.read_to_end(&mut said) {
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionReset,
            "the server reads without a limit"
        );
    }
    let said = String::from_utf8(said).unwrap();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
    assert_eq!(server.get("/health/live").0, 200);
}

#[test]
fn the_longest_idle_connection_gives_up_its_slot() {
    let server = start(&["--max-connections", "3", "--idle-timeout-ms", "60000"]);
    let mut idle: Vec<_> = (0..3).map(|_| connect(&server)).collect();
    // The first connection is used last, so it is closed last.
    for number in [1, 2, 0] {
        assert_eq!(ask(&mut idle[number], LIVE).0, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    // All slots are taken for a minute, but a probe on a new connection, as Kubernetes sends it, is answered.
    let mut probes = Vec::new();
    for _ in 0..2 {
        let mut probe = connect(&server);
        assert_eq!(ask(&mut probe, LIVE).0, 200);
        probes.push(probe);
    }
    for number in [1, 2] {
        assert_eq!(idle[number].read(&mut [0]).unwrap(), 0, "connection {number} is open");
    }
    // A connection in the middle of a request head keeps its slot.
    idle[0].write_all(&QUESTION.as_bytes()[..20]).unwrap();
    probes[0].write_all(&QUESTION.as_bytes()[..20]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut third = connect(&server);
    assert_eq!(ask(&mut third, LIVE).0, 200);
    assert_eq!(probes[1].read(&mut [0]).unwrap(), 0, "the only idle connection is open");
    for stream in [&mut idle[0], &mut probes[0]] {
        assert_eq!(ask(stream, &QUESTION[20..]).0, 200);
    }
}

#[test]
fn slow_heads_give_up_their_slots_when_others_need_them() {
    let server = start(&["--max-connections", "2", "--head-timeout-ms", "60000"]);
    let (mut half, silent) = (connect(&server), connect(&server));
    half.write_all(&QUESTION.as_bytes()[..20]).unwrap();
    let since = Instant::now();
    for _ in 0..3 {
        assert_eq!(ask(&mut connect(&server), QUESTION).0, 200);
    }
    assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    // One slot was enough for those who followed.
    let closed = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        stream.read(&mut [0]).is_ok()
    };
    assert!(closed(half) || closed(silent), "both heads keep their slots");
}

/// Starts the binary under limits on open files, set by a shell.
#[cfg(target_os = "linux")]
fn start_with_files(limits: &str) -> Server {
    use std::process::{Command, Stdio};
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_cloze"))
        .args(["--port", "0", "--model", &golden("uncased-tied")])
        .stderr(Stdio::null());
    Server::spawn(&mut command)
}

#[cfg(target_os = "linux")]
impl Server {
    /// CPU time of the process, in hundredths of a second.
    fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, after_name) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = after_name.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_accept_loop_recovers_without_spinning_when_descriptors_run_out() {
    let server = start_with_files("ulimit -n 40");
    let mut streams: Vec<_> = (0..80).map(|_| connect(&server)).collect();
    std::thread::sleep(Duration::from_millis(200));
    let before = server.cpu_ticks();
    std::thread::sleep(Duration::from_millis(1500));
    let spent = server.cpu_ticks() - before;
    assert!(spent < 30, "an idle server used {spent} of 150 hundredths of a second");
    // Accepted connections are served meanwhile; the first one was accepted.
    assert_eq!(ask(&mut streams[0], QUESTION).0, 200);
    streams.clear();
    assert_eq!(server.post("text/plain", "a [MASK]").0, 200);
}

#[test]
fn idle_connections_end_when_descriptors_run_out() {
    let server = start_with_files("ulimit -n 40");
    let mut idle = Vec::new();
    for _ in 0..80 {
        let mut stream = connect(&server);
        assert_eq!(ask(&mut stream, LIVE).0, 200);
        idle.push(stream);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_limit_on_descriptors_is_raised_to_the_hard_limit() {
    let server = start_with_files("ulimit -Sn 64 && ulimit -Hn 512");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("512"), "{line}");
}
