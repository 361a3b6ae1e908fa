//! Starts that must fail: broken checkpoints, unavailable ports, invalid flags. Each ends with one sentence that names
//! the file, the tensor or the flag, and with an exit code other than zero.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::fixtures::golden_copy;
use crate::common::server::{command, failure};

const WEIGHTS: &str = "model.safetensors";

/// The error of a start that must fail, which must be one line.
pub fn sentence(arguments: &[&str]) -> String {
    let error = failure(&mut command(arguments));
    assert_eq!(error.lines().count(), 1, "{arguments:?}: one sentence, not {error}");
    error
}

type Break = Box<dyn Fn(&Path)>;

/// Changes the bytes of a file.
fn edit(name: &'static str, change: impl Fn(&mut Vec<u8>) + 'static) -> Break {
    Box::new(move |folder| {
        let path = folder.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let before = bytes.clone();
        change(&mut bytes);
        assert_ne!(bytes, before, "{name} is unchanged");
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
        // Weights: missing, truncated, not a file.
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
        // flips many more.
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
        // A flipped bit in the data is detected if it makes a value infinite or NaN; the format has no checksum.
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
            header(|header| {
                header[DENSE]["dtype"] = json!("C64");
                header[DENSE]["shape"] = json!([32, 32]);
            }),
            &[DENSE, "is of type C64", "F64, F32, F16, BF16"],
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
            &["config.json: it is in UTF-16"],
        ),
        (
            "uncased-tied",
            write("config.json", b"\xff"),
            &["config.json: expected value"],
        ),
        (
            "uncased-tied",
            write("config.json", b"<!DOCTYPE html><title>Login</title>"),
            &["config.json: it is a web page"],
        ),
        (
            "uncased-tied",
            replace("config.json", "\"model_type\": \"bert\"", "\"model_type\": \"t5\""),
            &["config.json: model_type is \"t5\""],
        ),
        // The vocabulary: missing, broken, another model's.
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
            replace("vocab.txt", "[MASK]", "[MASX]"),
            &["vocab.txt: the mask token [MASK] is not in the vocabulary"],
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
        let copy = golden_copy(name);
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
fn a_pipe_in_place_of_a_file_is_refused() {
    let copy = golden_copy("uncased-tied");
    let path = copy.path().join("tokenizer.json");
    std::fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = sentence(&["--model", copy.path().to_str().unwrap()]);
    assert!(error.contains("tokenizer.json: not a regular file"), "{error}");
}

#[test]
fn a_failed_start_gives_its_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    // The second --port wins.
    let error = failure(Command::new(env!("CARGO_BIN_EXE_cloze")).args(["--port", &port]));
    assert!(error.contains("in use") && error.contains("--port"), "{error}");

    for (arguments, says) in [
        (&["--model", "/does/not/exist"][..], "/does/not/exist"),
        (&["--model", env!("CARGO_MANIFEST_DIR")], "has no config.json"),
        (
            &["--model", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")],
            "is a file",
        ),
        // An address reserved for documentation.
        (&["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0"),
        (
            &["--max-batch-tokens", "8", "--max-input-tokens", "9"],
            "lower --max-input-tokens",
        ),
        (&["--log", "a=b=c"], "--log"),
        (
            &["--workers", "3", "--threads", "2"],
            "3 workers need a thread each, and there are 2; lower --workers",
        ),
        (&["--served-model-name", "a/b"], "--served-model-name"),
        (&["--cors-origin", "here"], "--cors-origin"),
    ] {
        let error = sentence(arguments);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
    // clap's errors have more lines: they explain the flag.
    for (arguments, says) in [
        (&["--backend", "tpu"], "possible values: cpu, gpu"),
        (&["--max-batch-tokens", "0"], "--max-batch-tokens"),
        (&["--port", "65536"], "--port"),
    ] {
        let error = failure(&mut command(arguments));
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}
