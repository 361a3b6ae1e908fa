//! Connections: how long each may take its time, how many there may be, and what happens when the system has no more.
//!
//! Timers are set to fractions of a second; what they are by default is `tools/stress`' to see.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::fixtures::golden;
use crate::common::server::Server;

/// Longer than any timer in these tests, however busy the machine.
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

/// Sends a request on a connection that stays open, and gives the answer's status and head.
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

/// Sends `bytes` again and again, one at a time, until the server has closed the connection. Gives what it said.
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
fn a_head_that_comes_a_byte_at_a_time_is_given_up_and_others_are_served() {
    let server = start(&["--head-timeout-ms", "500", "--idle-timeout-ms", "60000"]);
    std::thread::scope(|scope| {
        for number in 0..40 {
            let mut stream = connect(&server);
            scope.spawn(move || {
                // On half of the connections it is the second request.
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
    // Nothing at all is no head either.
    assert_eq!(connect(&server).read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_idle_connection_has_a_time_of_its_own() {
    let server = start(&["--head-timeout-ms", "300", "--idle-timeout-ms", "60000"]);
    let mut stream = connect(&server);
    assert_eq!(ask(&mut stream, QUESTION).0, 200);
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(ask(&mut stream, QUESTION).0, 200, "idle is not slow");

    let server = start(&["--head-timeout-ms", "60000", "--idle-timeout-ms", "300"]);
    let mut stream = connect(&server);
    assert_eq!(ask(&mut stream, QUESTION).0, 200);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed, and nothing is said");
}

#[test]
fn a_body_that_comes_a_byte_at_a_time_has_its_requests_deadline() {
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
fn a_client_that_does_not_read_its_answers_is_left() {
    let server = start(&["--write-timeout-ms", "400"]);
    let mut stream = connect(&server);
    stream.set_nonblocking(true).unwrap();
    let request = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let begun = Instant::now();
    // More and more, until the system's buffers are full in both directions, and then until the server has closed.
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
fn more_connections_than_allowed_wait_for_a_place() {
    let server = start(&["--max-connections", "2", "--idle-timeout-ms", "60000"]);
    let (mut first, second) = (connect(&server), connect(&server));
    // The first half of a request keeps its place.
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
    assert!(head.contains(closes), "it keeps its place while others wait: {head}");
    let (status, head) = ask(&mut fourth, "");
    assert!(status == 200 && !head.contains(closes), "nobody waits: {head}");
    // That somebody waited before is no reason to close it while it is idle.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ask(&mut fourth, LIVE).0, 200);
}

#[test]
fn a_head_is_bounded_in_length() {
    let server = start(&["--head-timeout-ms", "120000"]);
    let mut stream = connect(&server);
    // The server may have closed before it has read all of it.
    let _ = stream.write_all(HEAD.as_bytes());
    let _ = stream.write_all(format!("x-long: {}", "x".repeat(400_000)).as_bytes());
    let mut said = Vec::new();
    if let Err(error) = stream.read_to_end(&mut said) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it reads on and on");
    }
    let said = String::from_utf8(said).unwrap();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
    assert_eq!(server.get("/health/live").0, 200);
}

#[test]
fn who_is_idle_longest_makes_room_for_the_next() {
    let server = start(&["--max-connections", "3", "--idle-timeout-ms", "60000"]);
    let mut idle: Vec<_> = (0..3).map(|_| connect(&server)).collect();
    // Its turn comes last, though it was the first to come.
    for number in [1, 2, 0] {
        assert_eq!(ask(&mut idle[number], LIVE).0, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    // All places are taken for a minute, and yet a probe is answered, as Kubernetes sends it on a connection of its own.
    let mut probes = Vec::new();
    for _ in 0..2 {
        let mut probe = connect(&server);
        assert_eq!(ask(&mut probe, LIVE).0, 200);
        probes.push(probe);
    }
    for number in [1, 2] {
        assert_eq!(
            idle[number].read(&mut [0]).unwrap(),
            0,
            "{number} should have made room"
        );
    }
    // Who is in the middle of something keeps its place, in the middle of a head too.
    idle[0].write_all(&QUESTION.as_bytes()[..20]).unwrap();
    probes[0].write_all(&QUESTION.as_bytes()[..20]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut third = connect(&server);
    assert_eq!(ask(&mut third, LIVE).0, 200);
    assert_eq!(probes[1].read(&mut [0]).unwrap(), 0, "it alone was idle");
    for stream in [&mut idle[0], &mut probes[0]] {
        assert_eq!(ask(stream, &QUESTION[20..]).0, 200);
    }
}

/// Starts the binary with a shell's limits on open files.
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
    /// Processor time that it has taken since it started, in hundredths of a second.
    fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, after_name) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = after_name.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

#[test]
#[cfg(target_os = "linux")]
fn without_descriptors_it_neither_spins_nor_stays_deaf() {
    let server = start_with_files("ulimit -n 40");
    let mut streams: Vec<_> = (0..80).map(|_| connect(&server)).collect();
    std::thread::sleep(Duration::from_millis(200));
    let before = server.cpu_ticks();
    std::thread::sleep(Duration::from_millis(1500));
    let spent = server.cpu_ticks() - before;
    assert!(spent < 30, "{spent} hundredths of a second of 150 for doing nothing");
    // Who was accepted is served meanwhile; it is the first that came.
    assert_eq!(ask(&mut streams[0], QUESTION).0, 200);
    streams.clear();
    assert_eq!(server.post("text/plain", "a [MASK]").0, 200);
}

#[test]
#[cfg(target_os = "linux")]
fn it_takes_all_the_descriptors_that_it_may_have() {
    let server = start_with_files("ulimit -Sn 64 && ulimit -Hn 512");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("512"), "{line}");
}
