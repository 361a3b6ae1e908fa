//! Starts that must fail: a broken checkpoint, a port that cannot be had, flags that make no sense. Each ends with
//! one sentence that names the file, the tensor or the flag, and with an exit code that is not zero.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::fixtures::golden;
use crate::common::server::command;

const WEIGHTS: &str = "model.safetensors";

/// Runs a start that must fail, and gives what it says.
pub fn failure(command: &mut Command) -> String {
    // A panic would show itself whole.
    let command = command.env("RUST_BACKTRACE", "1").stderr(Stdio::piped());
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "it started: {error}");
    assert!(output.status.code().is_some(), "a signal ended it: {error}");
    assert!(
        !error.contains("panicked") && !error.contains("stack backtrace"),
        "{error}"
    );
    // It has not promised anything before.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    error
}

/// The same with flags; all must be said in one line.
pub fn sentence(arguments: &[&str]) -> String {
    let error = failure(&mut command(arguments));
    assert_eq!(error.lines().count(), 1, "{arguments:?}: one sentence, not {error}");
    error
}

/// A copy of a golden checkpoint that a test may break.
fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

type Break = Box<dyn Fn(&Path)>;

/// Does something to the bytes of a file.
fn edit(name: &'static str, change: impl Fn(&mut Vec<u8>) + 'static) -> Break {
    Box::new(move |folder| {
        let path = folder.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let before = bytes.clone();
        change(&mut bytes);
        assert_ne!(bytes, before, "{name} is as it was");
        std::fs::write(path, bytes).unwrap();
    })
}

/// Replaces a part of a text file.
fn replace(name: &'static str, from: &'static str, to: &'static str) -> Break {
    edit(name, move |bytes| {
        let text = String::from_utf8(std::mem::take(bytes)).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        *bytes = text.replace(from, to).into_bytes();
    })
}

/// Changes the header of the weights.
fn header(change: impl Fn(&mut Value) + 'static) -> Break {
    edit(WEIGHTS, move |bytes| {
        let end = 8 + header_length(bytes);
        let mut header = serde_json::from_slice(&bytes[8..end]).unwrap();
        change(&mut header);
        let header = header.to_string().into_bytes();
        let data = bytes.split_off(end);
        *bytes = [&(header.len() as u64).to_le_bytes(), header.as_slice(), &data].concat();
    })
}

fn header_length(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

/// Overwrites one value of a tensor.
fn value(name: &'static str, value: f32) -> Break {
    edit(WEIGHTS, move |bytes| {
        let end = 8 + header_length(bytes);
        let header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
        let start = end + header[name]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
    })
}

fn remove(name: &'static str) -> Break {
    Box::new(move |folder| std::fs::remove_file(folder.join(name)).unwrap())
}

fn write(name: &'static str, bytes: &'static [u8]) -> Break {
    Box::new(move |folder| std::fs::write(folder.join(name), bytes).unwrap())
}

fn folder_instead(name: &'static str) -> Break {
    Box::new(move |folder| {
        std::fs::remove_file(folder.join(name)).unwrap();
        std::fs::create_dir(folder.join(name)).unwrap();
    })
}

#[test]
fn a_broken_checkpoint_is_refused_by_name() {
    const DENSE: &str = "bert.encoder.layer.0.intermediate.dense.weight";
    let truncated = |keep: fn(usize) -> usize| {
        edit(WEIGHTS, move |bytes| {
            let keep = keep(bytes.len());
            bytes.truncate(keep);
        })
    };
    let cases: Vec<(&str, Break, &[&str])> = vec![
        // Weights: absent, cut off, no file.
        (
            "uncased-tied",
            remove(WEIGHTS),
            &["has no weights in safetensors format", "model.safetensors.index.json"],
        ),
        (
            "sharded",
            remove("model-00002-of-00003.safetensors"),
            &["model-00002-of-00003.safetensors: No such file"],
        ),
        (
            "uncased-tied",
            truncated(|_| 0),
            &["model.safetensors is not a whole", "shorter than eight bytes"],
        ),
        (
            "uncased-tied",
            truncated(|_| 7),
            &["model.safetensors is not a whole", "shorter than eight bytes"],
        ),
        (
            "uncased-tied",
            truncated(|_| 200),
            &["model.safetensors is not a whole", "header is longer"],
        ),
        (
            "uncased-tied",
            truncated(|all| all - 1),
            &["model.safetensors is not a whole", "beyond the end"],
        ),
        (
            "uncased-tied",
            edit(WEIGHTS, |bytes| bytes.push(0)),
            &["model.safetensors is not a whole", "behind its last"],
        ),
        (
            "uncased-tied",
            folder_instead(WEIGHTS),
            &["model.safetensors: not a regular file"],
        ),
        // A flipped bit in the header: in its length, its JSON, a name. `a_flipped_bit_of_a_header_is_seen`
        // tries many more.
        (
            "uncased-tied",
            edit(WEIGHTS, |bytes| bytes[6] ^= 1),
            &["model.safetensors is not a whole", "header is longer"],
        ),
        (
            "uncased-tied",
            edit(WEIGHTS, |bytes| bytes[8] ^= 1),
            &["model.safetensors is not a whole", "column 1"],
        ),
        (
            "uncased-tied",
            header(|header| rename(header, DENSE, "bert.encoder.layer.0.intermediate.dense.weighu")),
            &[
                "bert.encoder.layer.0.intermediate.dense.weight is missing from",
                "model.safetensors",
            ],
        ),
        // A flipped bit in the data is seen where it makes a value infinite or none; else the format has no way to tell.
        (
            "uncased-tied",
            value(DENSE, f32::NAN),
            &["model.safetensors: tensor", DENSE, "not a finite number"],
        ),
        (
            "uncased-tied",
            value(DENSE, f32::NEG_INFINITY),
            &["model.safetensors: tensor", DENSE, "not a finite number"],
        ),
        // Another shape, another type.
        (
            "uncased-tied",
            replace("config.json", "\"intermediate_size\": 64", "\"intermediate_size\": 65"),
            &[
                "model.safetensors: tensor",
                "intermediate.dense.weight has shape [64, 32]",
                "[65, 32]",
            ],
        ),
        (
            "uncased-tied",
            header(|header| header[DENSE]["shape"] = json!([32, 64])),
            &[DENSE, "has shape [32, 64]", "[64, 32]"],
        ),
        (
            "uncased-tied",
            header(|header| header[DENSE]["shape"] = json!([64, 33])),
            &["model.safetensors is not a whole"],
        ),
        (
            "uncased-tied",
            header(|header| header[DENSE]["dtype"] = json!("I32")),
            &[DENSE, "is of type I32", "F32, F16 and BF16"],
        ),
        (
            "uncased-tied",
            header(|header| header[DENSE]["dtype"] = json!("F31")),
            &["model.safetensors is not a whole", "F31"],
        ),
        (
            "uncased-tied",
            replace("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
            &["bert.encoder.layer.2.attention.self.query.weight is missing"],
        ),
        // config.json
        ("uncased-tied", remove("config.json"), &["has no config.json"]),
        (
            "uncased-tied",
            folder_instead("config.json"),
            &["config.json: not a regular file"],
        ),
        (
            "uncased-tied",
            write("config.json", b"{\"model_type\": \"bert\""),
            &["config.json: EOF"],
        ),
        (
            "uncased-tied",
            write("config.json", b"\xff\xfe"),
            &["config.json: expected value"],
        ),
        (
            "uncased-tied",
            replace(
                "config.json",
                "\"model_type\": \"bert\"",
                "\"model_type\": \"distilbert\"",
            ),
            &["config.json: model_type is \"distilbert\""],
        ),
        // The vocabulary: absent, broken, another model's.
        (
            "uncased-tied",
            remove("tokenizer.json"),
            &["has neither tokenizer.json nor vocab.txt"],
        ),
        (
            "uncased-tied",
            folder_instead("tokenizer.json"),
            &["tokenizer.json: not a regular file"],
        ),
        ("uncased-tied", write("tokenizer.json", b"{}"), &["tokenizer.json: "]),
        (
            "uncased-tied",
            edit("tokenizer.json", |bytes| bytes.truncate(5000)),
            &["tokenizer.json: EOF"],
        ),
        (
            "uncased-tied",
            write("tokenizer_config.json", b"{"),
            &["tokenizer_config.json: EOF"],
        ),
        (
            "uncased-tied",
            write("tokenizer_config.json", br#"{"mask_token": "<mask>"}"#),
            &["<mask> is not in the vocabulary"],
        ),
        (
            "uncased-old-names",
            write("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n"),
            &["vocab.txt: the special token [MASK]"],
        ),
        (
            "uncased-old-names",
            write("vocab.txt", b"[PAD]\n\xff\n"),
            &["vocab.txt: invalid utf-8"],
        ),
        (
            "uncased-old-names",
            edit("vocab.txt", |bytes| bytes.extend(b"one\nmore\nthan\nthere\nare\n")),
            &["vocab.txt", "vocab_size in config.json", "belongs to another model"],
        ),
    ];
    for (number, (name, breaks, says)) in cases.into_iter().enumerate() {
        let copy = copy(name);
        breaks(copy.path());
        let error = sentence(&["--model", copy.path().to_str().unwrap()]);
        for part in says {
            assert!(error.contains(part), "case {number}: \"{part}\" is not in: {error}");
        }
    }
}

fn rename(header: &mut Value, from: &str, to: &str) {
    let tensor = header.as_object_mut().unwrap().remove(from).unwrap();
    header[to] = tensor;
}

#[test]
#[cfg(unix)]
fn a_pipe_is_not_waited_for() {
    let copy = copy("uncased-tied");
    let path = copy.path().join("tokenizer.json");
    std::fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = sentence(&["--model", copy.path().to_str().unwrap()]);
    assert!(error.contains("tokenizer.json: not a regular file"), "{error}");
}

#[test]
fn a_start_that_cannot_be_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    // Of the two --port the later counts.
    let error = failure(Command::new(env!("CARGO_BIN_EXE_cloze")).args(["--port", &port]));
    assert!(error.contains("in use") && error.contains("--port"), "{error}");

    for (arguments, says) in [
        (&["--model", "/does/not/exist"][..], "/does/not/exist"),
        (&["--model", env!("CARGO_MANIFEST_DIR")], "has no config.json"),
        (
            &["--model", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")],
            "is a file",
        ),
        // An address of nobody's machine.
        (&["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0"),
        (
            &["--max-batch-tokens", "8", "--max-input-tokens", "9"],
            "--max-input-tokens is 9",
        ),
        (&["--log", "a=b=c"], "--log"),
        (
            &["--workers", "3", "--threads", "2"],
            "--workers 3 needs a thread for each, and there are 2",
        ),
        (&["--served-model-name", "a/b"], "--served-model-name"),
        (&["--cors-origin", "here"], "--cors-origin"),
    ] {
        let error = sentence(arguments);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    // clap adds how the flag is used.
    for (arguments, says) in [
        (&["--backend", "tpu"], "possible values: cpu, gpu"),
        (&["--max-batch-tokens", "0"], "--max-batch-tokens"),
        (&["--port", "65536"], "--port"),
    ] {
        let error = failure(&mut command(arguments));
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}

/// The rest needs a user who may not do everything; root can become one.
#[cfg(unix)]
mod rights {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;

    use super::*;

    const NOBODY: u32 = 65534;

    /// Cloze as somebody who is not root, in a place where that somebody may run it.
    fn as_nobody(place: &Path) -> Command {
        let mut permissions = std::fs::metadata(place).unwrap().permissions();
        if std::fs::metadata(place).unwrap().uid() != 0 {
            return Command::new(env!("CARGO_BIN_EXE_cloze"));
        }
        permissions.set_mode(0o755);
        std::fs::set_permissions(place, permissions).unwrap();
        let binary = place.join("cloze");
        std::fs::copy(env!("CARGO_BIN_EXE_cloze"), &binary).unwrap();
        let mut command = Command::new(binary);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    }

    fn allow(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_may_not_be_read_is_named() {
        let place = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json", WEIGHTS] {
            let copy = copy("uncased-tied");
            allow(copy.path(), 0o755);
            for entry in std::fs::read_dir(copy.path()).unwrap() {
                allow(&entry.unwrap().path(), 0o644);
            }
            allow(&copy.path().join(name), 0);
            let error = failure(as_nobody(place.path()).arg("--model").arg(copy.path()));
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(error.contains(&format!("{name}: Permission denied")), "{error}");
        }
        let closed = copy("uncased-tied");
        allow(closed.path(), 0);
        let error = failure(as_nobody(place.path()).arg("--model").arg(closed.path()));
        allow(closed.path(), 0o755);
        assert!(
            error.contains("Permission denied") && error.lines().count() == 1,
            "{error}"
        );
    }

    #[test]
    fn a_port_without_the_right_to_it_is_told() {
        let first_free = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        if first_free.is_ok_and(|port| port.trim().parse::<u32>().is_ok_and(|port| port <= 7)) {
            println!("SKIPPED: this system gives every port to everybody");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let error = failure(as_nobody(place.path()).args(["--port", "7"]));
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains("127.0.0.1:7") && error.contains("--port"), "{error}");
    }
}
