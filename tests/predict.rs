//! `cloze predict` as a user runs it.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::fixtures::golden;
use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloze"));
    command
        .args(["predict", "--model", &golden("uncased-tied")])
        .args(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `cloze predict` over `input` to the end.
fn predict(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = command(arguments).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // The process may end before it has read everything.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    })
}

fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn lines_are_answered_in_order() {
    // More lines than a window, of mixed lengths; the text identifies each line.
    let texts: Vec<String> = (0..2500)
        .map(|i| format!("{}[MASK] {}", "the ".repeat(i * 7 % 13), "a ".repeat(1 + i % 17)))
        .collect();
    let output = predict(&["--top-k", "1"], texts.join("\n").as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    let answers = lines(&output);
    assert_eq!(answers.len(), texts.len());
    for (text, answer) in texts.iter().zip(&answers) {
        assert_eq!(answer.as_array().unwrap().len(), 1, "{answer}");
        let token = answer[0]["token_str"].as_str().unwrap();
        let expected = text.replacen("[MASK]", token, 1);
        let sequence = answer[0]["sequence"].as_str().unwrap();
        // A word piece is joined to the word before it, so spaces are not compared.
        let plain = |text: &str| text.replace([' ', '#'], "");
        assert_eq!(plain(sequence), plain(&expected));
    }
    // A line gets the answer that it gets alone.
    for i in [0, 1, 1023, 1024, 2499] {
        let alone = &lines(&predict(&["--top-k", "1"], texts[i].as_bytes()))[0][0];
        let together = &answers[i][0];
        assert_eq!(alone["token"], together["token"], "line {}", i + 1);
        let difference = alone["score"].as_f64().unwrap() - together["score"].as_f64().unwrap();
        assert!(difference.abs() < 1e-5, "line {}: {alone} became {together}", i + 1);
    }
}

#[test]
fn a_line_has_the_format_of_a_request_body() {
    let input = concat!(
        "\n",
        r#"{"inputs": "a [MASK]"}"#,
        "\r\n",
        r#"{"inputs": ["a [MASK]", "the [MASK] of [MASK]"], "parameters": {"top_k": 3}}"#,
        "\n",
        r#"{"inputs": "a [MASK]", "parameters": {"targets": ["the", "a", "of"], "top_k": 3}}"#,
    );
    let output = predict(&["--top-k", "2", "--targets", "the,a,of"], input.as_bytes());
    // The empty first line is the error.
    assert_eq!(output.status.code(), Some(3), "{}", error(&output));
    let answers = lines(&output);
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[0]["line"], 1);
    assert_eq!(answers[1].as_array().unwrap().len(), 2);
    assert_eq!(answers[2][1][0].as_array().unwrap().len(), 3);
    assert_eq!(answers[3].as_array().unwrap().len(), 3);

    // A line without a brace is text; --format overrides that.
    let text = predict(&[], b"a [MASK]\n{\"inputs\": \"a [MASK]\"}");
    assert_eq!(text.status.code(), Some(0), "{}", error(&text));
    let forced = predict(&["--format", "text"], b"{\"inputs\": \"a [MASK]\"}");
    assert_eq!(forced.status.code(), Some(0), "{}", error(&forced));
    let forced = predict(&["--format", "json"], b"a [MASK]");
    assert_eq!(lines(&forced)[0]["error_type"], "not_json");
}

#[test]
fn a_byte_order_mark_is_skipped_and_lists_and_csv_are_errors() {
    let output = predict(
        &["--top-k", "1"],
        b"\xef\xbb\xbf{\"inputs\": \"a [MASK]\"}\n{\"inputs\": \"the [MASK]\"}",
    );
    assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    let expected = predict(&["--top-k", "1"], b"a [MASK]\nthe [MASK]");
    assert_eq!(lines(&output), lines(&expected));
    for input in [
        "[\"a [MASK]\"]\n[\"the [MASK]\", \"b\"]",
        "[\n\"a [MASK]\",\n\"the [MASK]\"\n]",
        "id,text\n1,a [MASK]\n2,the [MASK]",
        "text\na [MASK]\n\"the [MASK], a\"",
        "1,\"a [MASK]\"\n2,\"the [MASK]\"",
    ] {
        let output = predict(&[], input.as_bytes());
        assert_eq!(output.status.code(), Some(3), "{input}");
        for answer in lines(&output) {
            assert_eq!(answer["error_type"], "bad_line", "{input}: {answer}");
        }
        assert!(error(&output).contains("--format text"), "{}", error(&output));
    }
}

#[test]
fn bad_lines_are_reported_and_do_not_stop_the_rest() {
    let long = "x".repeat((1 << 20) + 1);
    let too_many_tokens = "the ".repeat(2000);
    let cases: Vec<(&[u8], &str)> = vec![
        (b"a [MASK]", ""),
        (b"nothing to fill", "no_mask"),
        (b"", "empty"),
        (b"\xff [MASK]", "not_utf8"),
        (long.as_bytes(), "line_too_long"),
        (too_many_tokens.as_bytes(), "too_many_tokens"),
        (b"the [MASK]", ""),
    ];
    let input: Vec<&[u8]> = cases.iter().map(|(line, _)| *line).collect();
    let output = predict(&[], &input.join(&b'\n'));
    assert_eq!(output.status.code(), Some(3));
    let answers = lines(&output);
    assert_eq!(answers.len(), cases.len());
    for ((number, (_, error_type)), answer) in (1..).zip(&cases).zip(&answers) {
        match *error_type {
            "" => assert!(answer.is_array(), "{answer}"),
            error_type => {
                assert_eq!(answer["error_type"], error_type);
                assert_eq!(answer["line"], number);
                assert!(answer["error"].as_str().unwrap().ends_with('.'), "{answer}");
            }
        }
    }
    let error = error(&output);
    assert!(
        error.contains("5 of 7 lines") && error.contains("line 2: The text has no mask"),
        "{error}"
    );
    let json = predict(
        &[],
        b"{\"inputs\": \"a [MASK]\"}\n{\"inputs\": 3}\n{oops\n{\"inputs\": \"a\", \"topk\": 1}",
    );
    let types: Vec<_> = lines(&json).iter().map(|answer| answer["error_type"].clone()).collect();
    assert_eq!(
        types,
        [
            Value::Null,
            "bad_request".into(),
            "not_json".into(),
            "bad_request".into()
        ]
    );
}

#[test]
fn a_failed_start_gives_its_reason() {
    let file = golden("uncased-tied") + "/config.json";
    for (arguments, code, says) in [
        (&["/no/such/file"][..], 1, "/no/such/file: No such file"),
        (&[env!("CARGO_MANIFEST_DIR")], 1, "is a folder"),
        (&["--top-k", "0"], 1, "top_k is 0"),
        (&["--format", "xml"], 2, "possible values: auto, text, json"),
        (&["--port", "1", &file], 2, "unexpected argument '--port'"),
    ] {
        let output = predict(arguments, b"a [MASK]");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(error(&output).contains(says), "{arguments:?}: {}", error(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_file_and_an_empty_input() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("texts");
    std::fs::write(&path, "a [MASK]\nthe [MASK]\n").unwrap();
    let output = predict(&[path.to_str().unwrap()], b"");
    assert_eq!((output.status.code(), lines(&output).len()), (Some(0), 2));
    let output = predict(&["-"], b"");
    assert_eq!((output.status.code(), lines(&output).len()), (Some(0), 0));
}

#[test]
fn each_typed_line_is_answered_at_once() {
    let mut child = command(&[]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for text in ["a [MASK]", "the [MASK]", "nothing to fill"] {
        writeln!(stdin, "{text}").unwrap();
        let answer = answers.next().unwrap().unwrap();
        assert_eq!(answer.contains("no_mask"), text == "nothing to fill", "{answer}");
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

/// Writes lines until the process closes its input; returns the number of bytes.
fn feed(child: &mut Child) -> std::thread::JoinHandle<usize> {
    let mut stdin = child.stdin.take().unwrap();
    let lines = "the [MASK] of the a\na [MASK]\n".repeat(500);
    std::thread::spawn(move || {
        let mut taken = 0;
        while stdin.write_all(lines.as_bytes()).is_ok() {
            taken += lines.len();
        }
        taken
    })
}

#[test]
#[cfg(unix)]
fn a_closed_output_ends_the_command_quietly() {
    let mut child = command(&[]).spawn().unwrap();
    let feeding = feed(&mut child);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(error(&output), "");
    feeding.join().unwrap();
}

#[test]
#[cfg(unix)]
fn a_signal_ends_the_command_after_a_whole_line() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = command(&[]).spawn().unwrap();
        let feeding = feed(&mut child);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        stdout.read_line(&mut text).unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        stdout.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("}]\n"), "{signal}: a line is cut");
        for line in text.lines() {
            serde_json::from_str::<Value>(line).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        let lines = text.lines().count();
        assert_eq!(
            error(&output),
            format!(
                "cloze: interrupted; {lines} lines are written, line {} is the next\n",
                lines + 1
            )
        );
        feeding.join().unwrap();
    }
}

#[test]
#[cfg(unix)]
fn answers_are_written_while_the_input_goes_on() {
    // With `score` a text of 60 tokens is as many sequences.
    const LINES: usize = 800;
    let mut child = Command::new(env!("CARGO_BIN_EXE_cloze"))
        .arg("score")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = format!("{}\n", "the cat ".repeat(30)).repeat(LINES);
    let feeding = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    stdout.read_line(&mut text).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    stdout.read_to_string(&mut text).unwrap();
    let written = text.lines().count();
    assert!((1..LINES / 2).contains(&written), "{written} lines");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let _ = feeding.join().unwrap();
}

/// Resident memory of a process, in MiB.
#[cfg(target_os = "linux")]
fn resident_mib(child: &Child) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

#[test]
#[cfg(target_os = "linux")]
fn endless_input_uses_bounded_memory() {
    let mut child = command(&["--top-k", "20"]).spawn().unwrap();
    let feeding = feed(&mut child);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut read = |count: usize| {
        for _ in 0..count {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0);
        }
    };
    read(6_000);
    let early = resident_mib(&child);
    read(24_000);
    let late = resident_mib(&child);
    assert!(late < early + 16, "{early} MiB became {late} MiB");

    // Without a reader of its output the process stops reading its input.
    let mut before = usize::MAX;
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(500));
        let now = cpu_ticks(&child);
        if now == before {
            break;
        }
        before = now;
    }
    assert_eq!(cpu_ticks(&child), before, "it computes although its output is not read");
    let stalled = resident_mib(&child);
    assert!(stalled < early + 16, "{early} MiB became {stalled} MiB");
    child.kill().unwrap();
    child.wait().unwrap();
    feeding.join().unwrap();
}

/// CPU time of a process, in clock ticks.
#[cfg(target_os = "linux")]
fn cpu_ticks(child: &Child) -> usize {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    fields[11].parse::<usize>().unwrap() + fields[12].parse::<usize>().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn lines_with_errors_have_exit_code_3_though_standard_error_is_full() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut child = command(&[]).stderr(full).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"no mask\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(3));
}

/// Runs another command over lines.
fn run_lines(command: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cloze"))
        .args([command, "--model", &golden("uncased-tied")])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    })
}

#[test]
fn lines_are_scored_in_order() {
    let texts: Vec<String> = (0..300).map(|i| "the cat ".repeat(1 + i * 7 % 5)).collect();
    let output = run_lines("score", &["--per-token"], texts.join("\n").as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    let scores = lines(&output);
    assert_eq!(scores.len(), texts.len());
    for (text, score) in texts.iter().zip(&scores) {
        let tokens = score["token_scores"].as_array().unwrap();
        assert_eq!(score["tokens"].as_u64().unwrap() as usize, tokens.len());
        assert!(tokens.len() >= text.split_whitespace().count(), "{text}: {score}");
        let sum: f64 = tokens.iter().map(|token| token["log_prob"].as_f64().unwrap()).sum();
        assert!((score["score"].as_f64().unwrap() - sum).abs() < 1e-3, "{score}");
    }
    let input = concat!(
        r#"{"inputs": ["the", "a"], "parameters": {"method": "pll"}}"#,
        "\n",
        r#"{"inputs": "the", "parameters": {"per_token": true}}"#,
        "\n",
        r#"{"inputs": "", "parameters": {}}"#,
        "\n",
    );
    let output = run_lines("score", &["--method", "pll"], input.as_bytes());
    assert_eq!(output.status.code(), Some(3), "{}", error(&output));
    let scores = lines(&output);
    assert_eq!(scores[0].as_array().unwrap().len(), 2);
    assert_eq!(scores[1]["token_scores"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&scores[2]["error_type"], &scores[2]["line"]),
        (&"empty".into(), &3.into())
    );
}

#[test]
fn lines_become_sparse_vectors() {
    let long = "the ".repeat(2000);
    let input = format!("the cat\n{long}\n");
    let output = run_lines("sparse", &["--truncate"], input.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    for vectors in lines(&output) {
        assert_eq!(vectors.as_array().unwrap().len(), 1);
        let entries = vectors[0].as_array().unwrap();
        assert!(!entries.is_empty() && entries.iter().all(|entry| entry["value"].as_f64().unwrap() > 0.0));
        assert!(entries.is_sorted_by(|a, b| a["index"].as_u64() < b["index"].as_u64()));
    }
    let output = run_lines("sparse", &[], input.as_bytes());
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(lines(&output)[1]["error_type"], "too_many_tokens");
}
