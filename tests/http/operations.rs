//! Operation of the binary: API keys, signals, the health command, its output and threads, local names.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::server::{Server, command};

const KEY: &str = "a-very-secret-key-1";

#[test]
fn an_api_key_is_not_printed_and_an_invalid_one_is_refused() {
    let output = command(&["--help"]).env("CLOZE_API_KEY", KEY).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("CLOZE_API_KEY") && !help.contains(KEY), "{help}");
    let output = command(&["--api-key", "two words"])
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("--api-key"), "{error}");
    assert!(!error.contains("two words"), "{error}");
}

#[test]
#[cfg(unix)]
fn during_loading_connections_are_refused_and_a_signal_ends_the_process_cleanly() {
    // A hub that accepts the connection and never answers.
    let hub = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let cache = tempfile::TempDir::new().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let port = free.port().to_string();
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_cloze"))
        .args(["--model", "some/model", "--port", &port])
        .stderr(Stdio::null())
        .env("HF_ENDPOINT", format!("http://{}", hub.local_addr().unwrap()))
        .env("HF_HUB_CACHE", cache.path())
        .env_remove("HF_HUB_OFFLINE")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = Server {
        child,
        address: String::new(),
        banner: String::new(),
    };
    let _asked = hub.accept().unwrap();
    // The port is reserved, but the server does not listen yet.
    assert_eq!(
        TcpStream::connect(free).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_health_command_reports_the_state() {
    let server = Server::start(&[]);
    let ask = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloze"));
        command
            .arg("health")
            .args(arguments)
            .env("HTTP_PROXY", "http://127.0.0.1:1");
        command.output().unwrap()
    };
    let port = server.address.rsplit(':').next().unwrap().to_owned();
    let url = format!("http://{}/", server.address);
    for arguments in [&["--port", &port][..], &["--url", &url], &["--live", "--port", &port]] {
        let output = ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, b"{\"status\":\"ok\"}\n", "{arguments:?}");
    }
    drop(server);
    let output = ask(&["--port", &port]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no response from"), "{error}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&["--shutdown-timeout-ms", "60000"]);
    // An answer of more than ten megabytes that is not read: a stop waits for it.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let text = format!("\"{}[MASK]\"", "understanding ".repeat(50));
    let texts = [text.as_str(); 4].join(",");
    let body = format!(r#"{{"inputs": [{texts}], "parameters": {{"top_k": 12288}}}}"#);
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).unwrap();
    assert_eq!(server.get("/health/ready").0, 200);
    server.signal("-TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.child.try_wait().unwrap().is_none(), "it did not wait");
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(130));
}

/// A program inherits the blocked signals of the one that starts it.
#[test]
#[cfg(target_os = "linux")]
fn signals_that_the_parent_has_blocked_stop_the_server() {
    let mut command = std::process::Command::new("env");
    command
        .args(["--block-signal=TERM,INT,HUP"])
        .arg(env!("CARGO_BIN_EXE_cloze"))
        .args([
            "--port",
            "0",
            "--model",
            &crate::common::fixtures::golden("uncased-tied"),
        ])
        .stderr(Stdio::null());
    let mut server = Server::spawn(&mut command);
    server.signal("-TERM");
    assert!(server.wait().success());
}

#[test]
#[cfg(unix)]
fn without_tls_a_hangup_signal_is_ignored() {
    let mut server = Server::start(&["--model", &crate::common::fixtures::golden("uncased-tied")]);
    server.signal("-HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.child.try_wait().unwrap().is_none(), "the signal ended it");
    assert_eq!(server.post("text/plain", "a [MASK]").0, 200);
    server.signal("-TERM");
    assert!(server.wait().success());
}

/// A writer that always fails with `StorageFull`, and a pipe whose reader is gone.
#[cfg(target_os = "linux")]
fn closed_outputs() -> [Stdio; 2] {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    [full.into(), writer.into()]
}

/// A free port; another process may take it before the server does, which is unlikely.
#[cfg(target_os = "linux")]
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
#[cfg(target_os = "linux")]
fn a_start_up_block_that_cannot_be_printed_stops_nothing() {
    for output in closed_outputs() {
        let port = free_port();
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_cloze"))
            .args(["--model", &crate::common::fixtures::golden("uncased-tied")])
            .args(["--port", &port.to_string()])
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Server {
            child,
            address: format!("127.0.0.1:{port}"),
            banner: String::new(),
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&server.address).is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            assert_eq!(server.child.try_wait().unwrap(), None, "the server ended");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(server.post("text/plain", "a [MASK]").0, 200);
        server.signal("-TERM");
        assert_eq!(server.wait().code(), Some(0));
    }
}

/// A server that started a thread for a request would panic under a limit on threads.
#[test]
#[cfg(target_os = "linux")]
fn requests_start_no_threads() {
    let server = Server::start(&["--model", &crate::common::fixtures::golden("uncased-tied")]);
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
        names.collect::<Vec<_>>()
    };
    // The thread that prints the start-up block ends. A new thread has the name of the program until it takes its own.
    let is_starting = |names: &[String]| {
        names.contains(&"cloze-output\n".to_owned()) || names.iter().filter(|name| *name == "cloze\n").count() > 1
    };
    while is_starting(&threads()) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = threads();
    let long = format!("[MASK] {}", "word ".repeat(100_000));
    let many = format!("{{\"inputs\": [{}]}}", ["\"a [MASK]\""; 500].join(","));
    let large = r#"{"inputs": "[MASK] [MASK] [MASK] [MASK]", "parameters": {"top_k": 60}}"#;
    std::thread::scope(|scope| {
        for (content_type, body) in [
            ("text/plain", "a [MASK]"),
            ("text/plain", long.as_str()),
            ("application/json", many.as_str()),
            ("application/json", large),
        ] {
            for _ in 0..3 {
                let server = &server;
                scope.spawn(move || server.post(content_type, body));
            }
        }
    });
    server.get("/metrics");
    server.signal("-HUP");
    server.get("/health");
    assert_eq!(threads(), before);
}

/// A user without other processes, so that the limit is that of the server alone.
#[test]
#[cfg(target_os = "linux")]
#[ignore = "needs root, setpriv and prlimit"]
fn a_limit_on_threads_is_one_sentence_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("cloze");
    std::fs::copy(env!("CARGO_BIN_EXE_cloze"), &binary).unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut served = false;
    for threads in 1..=40 {
        let mut server = std::process::Command::new("setpriv")
            .args(["--reuid=54321", "--regid=54321", "--clear-groups"])
            .args(["prlimit", &format!("--nproc={threads}")])
            .arg(&binary)
            .args(["--port", "0", "--log", "error"])
            .current_dir("/")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(server.stdout.take().unwrap()).lines();
        served = output.any(|line| line.unwrap().contains("curl"));
        if served {
            server.kill().unwrap();
        }
        let ended = server.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            served || ended.status.code() == Some(1),
            "{threads}: {} {said}",
            ended.status
        );
        assert!(
            served || said.lines().count() == 1 && said.contains("thread"),
            "{threads}: {said}"
        );
        if served {
            break;
        }
    }
    assert!(served);
}

#[test]
#[cfg(target_os = "linux")]
fn an_error_that_cannot_be_printed_keeps_its_exit_code() {
    let run = |arguments: &[&str], stdout: Stdio, stderr: Stdio| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloze"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        command.status().unwrap().code()
    };
    for stderr in closed_outputs() {
        assert_eq!(run(&["--model", "/does/not/exist"], Stdio::null(), stderr), Some(1));
    }
    for stderr in closed_outputs() {
        assert_eq!(run(&["--port", "99999"], Stdio::null(), stderr), Some(2));
    }
    for command in ["devices", "inspect", "man"] {
        let [full, closed] = closed_outputs();
        assert_eq!(run(&[command], full, Stdio::null()), Some(1), "{command}");
        assert_eq!(run(&[command], closed, Stdio::null()), Some(0), "{command}");
    }
}

#[test]
fn a_flag_beyond_its_range_is_refused_with_the_range() {
    for (flag, value, range) in [
        ("--batch-delay-ms", "18446744073709551615", "from 0 to 60000"),
        ("--threads", "99999999", "from 1 to 1024"),
        ("--workers", "0", "from 1 to 1024"),
        ("--max-batch-tokens", "9999999999", "from 1 to 1048576"),
    ] {
        let error = crate::common::server::failure(&mut command(&[flag, value]));
        assert!(error.contains(flag) && error.contains(range), "{error}");
    }
}

#[test]
fn a_loopback_server_answers_to_local_names_and_to_its_own_pages() {
    let model = crate::common::fixtures::golden("uncased-tied");
    let server = Server::start(&[
        "--model",
        &model,
        "--allowed-host",
        "cloze.example.org",
        "--cors-origin",
        "https://a.example",
    ]);
    let post = |headers: &str| {
        let (status, body) = server.exchange(&format!(
            "POST / HTTP/1.1\r\n{headers}\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 8\r\n\r\na [MASK]"
        ));
        if status != 200 {
            let error: Value = serde_json::from_str(&body).unwrap();
            assert!(error["error"].as_str().unwrap().ends_with('.'), "{body}");
        }
        status
    };
    for (headers, status) in [
        ("host: localhost:8000", 200),
        (
            "host: 127.0.0.1:8000\r\norigin: http://127.0.0.1:8000\r\nsec-fetch-site: same-origin",
            200,
        ),
        ("host: cloze.example.org", 200),
        (
            "host: localhost\r\norigin: https://a.example\r\nsec-fetch-site: cross-site",
            200,
        ),
        ("host: rebound.example:8000", 421),
        (
            "host: localhost\r\norigin: https://evil.example\r\nsec-fetch-site: cross-site",
            403,
        ),
        ("host: localhost\r\norigin: https://evil.example", 403),
        ("host: localhost\r\norigin: null", 403),
    ] {
        assert_eq!(post(headers), status, "{headers}");
    }
    let metrics = server.get("/metrics").1;
    for counted in [
        r#"method="POST",route="/",status="421"} 1"#,
        r#"method="POST",route="/",status="403"} 3"#,
    ] {
        let line = format!("cloze_http_requests_total{{{counted}");
        assert!(metrics.lines().any(|found| found == line), "{line}");
    }
    // Other machines reach other addresses under any name.
    let open = Server::start(&["--model", &model, "--host", "0.0.0.0"]);
    let request = "GET /health HTTP/1.1\r\nhost: any.example\r\nconnection: close\r\n\r\n";
    let port = open.address.rsplit(':').next().unwrap();
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(crate::common::server::read_response(&mut stream).0, 200);
    let error = crate::common::server::failure(&mut crate::common::server::command(&["--allowed-host", "http://a"]));
    assert!(error.contains("--allowed-host"), "{error}");
}
