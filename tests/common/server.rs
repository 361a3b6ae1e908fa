//! The `cloze` binary as a child process, and requests as bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; killed when dropped.
pub struct Server {
    pub child: Child,
    /// `host:port`.
    pub address: String,
    pub banner: String,
}

impl Server {
    /// Starts the binary on a free port and waits for its start-up block.
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut command(arguments))
    }

    /// Starts `command` and waits for its start-up block.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut banner = String::new();
        let address = loop {
            let line = lines
                .next()
                .expect("the server ended before its start-up block did")
                .unwrap();
            banner += &line;
            banner.push('\n');
            // The last line of the block shows a request to try.
            if let Some((_, url)) = line.split_once("\" http") {
                let (_, address) = url.split_once("://").unwrap();
                break address.trim_end_matches('/').to_owned();
            }
        };
        Self { child, address, banner }
    }

    /// Sends a body to `POST /` as curl does; returns status and body.
    pub fn post(&self, content_type: &str, body: &str) -> (u16, String) {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.exchange(&(head + body))
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    }

    pub fn exchange(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // A server that refuses a body may close before it has read all of it.
        let _ = stream.write_all(request.as_bytes());
        read_response(&mut stream)
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits until the process ends, for ten seconds at most.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloze"));
    command.args(["--port", "0"]).args(arguments).stderr(Stdio::null());
    command
}

pub fn read_response(stream: &mut TcpStream) -> (u16, String) {
    let mut response = Vec::new();
    // A server that refuses a body may close before it has read all of it, which can look like an error here.
    let end = stream.read_to_end(&mut response);
    let response = String::from_utf8(response).unwrap();
    let (head, body) = response
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no whole response, {end:?}: {response:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Runs a start that must fail and returns its error output.
pub fn failure(command: &mut Command) -> String {
    // With a backtrace a panic cannot pass for a sentence.
    let command = command.env("RUST_BACKTRACE", "1").stderr(Stdio::piped());
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "the server started: {error}");
    assert!(output.status.code().is_some(), "a signal ended it: {error}");
    assert!(
        !error.contains("panicked") && !error.contains("stack backtrace"),
        "{error}"
    );
    // The start-up block must not have been printed before.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    error
}
