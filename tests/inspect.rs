//! `cloze inspect`, `cloze devices`, shell completions and manual pages.

mod common;

use std::process::{Command, Output};

use common::fixtures::golden;
use serde_json::Value;

fn cloze(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cloze"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_valid_model_is_described() {
    let output = cloze(&["inspect"]);
    assert!(output.status.success());
    let shown = text(&output);
    for part in [
        "demo",
        "BERT, ",
        "mask [MASK]",
        "model.safetensors",
        "parameters",
        "Cloze serves it",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let folder = &golden("uncased-tied");
    let report: Value = serde_json::from_slice(&cloze(&["inspect", folder, "--json"]).stdout).unwrap();
    assert_eq!(report["name"], "uncased-tied");
    assert_eq!(report["architecture"]["layers"], 2);
    assert_eq!(report["refusals"], serde_json::json!([]));
    let tensors = report["weights"]["tensors"].as_array().unwrap();
    let used: u64 = tensors
        .iter()
        .filter(|tensor| tensor["used"] == true)
        .flat_map(|tensor| {
            tensor["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|size| size.as_u64().unwrap())
                .reduce(|a, b| a * b)
        })
        .sum();
    assert_eq!(report["architecture"]["parameters"], used);
    assert_eq!(report["architecture"]["weights_bytes"], 4 * used);
    let listed = text(&cloze(&["inspect", folder, "--tensors"]));
    assert_eq!(
        listed.lines().filter(|line| line.starts_with("    F")).count(),
        tensors.len()
    );
}

#[test]
fn all_faults_are_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("uncased-tied")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = folder.path().join("config.json");
    let changed = std::fs::read_to_string(&config).unwrap();
    let changed = changed.replace("\"intermediate_size\": 64", "\"intermediate_size\": 65");
    std::fs::write(
        &config,
        changed.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
    )
    .unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    let output = cloze(&["inspect", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output);
    for part in [
        "Cloze refuses it",
        "tokenizer.json: ",
        "layer.0.intermediate.dense.weight has shape [64, 32]",
        "layer.1.output.dense.weight has shape [32, 64]",
        "layer.2.attention.self.query.weight is missing",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}

#[test]
fn every_field_of_a_config_that_is_refused_is_named() {
    let folder = common::fixtures::golden_copy("uncased-tied");
    let config = folder.path().join("config.json");
    let mut fields: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    fields["hidden_act"] = "prelu".into();
    fields["num_hidden_layers"] = 0.into();
    fields.as_object_mut().unwrap().remove("intermediate_size");
    std::fs::write(&config, fields.to_string()).unwrap();
    let path = folder.path().to_str().unwrap();
    let named = [
        "num_hidden_layers is 0; it must be between 1 and 16777216",
        "hidden_act is \"prelu\"; supported are ",
        "missing field `intermediate_size`",
    ];
    let report: Value = serde_json::from_slice(&cloze(&["inspect", path, "--json"]).stdout).unwrap();
    let refusals = report["refusals"].as_array().unwrap();
    assert_eq!(refusals.len(), 3, "{report}");
    for (refusal, named) in refusals.iter().zip(named) {
        let begin = format!("{}: {named}", config.display());
        assert!(refusal.as_str().unwrap().starts_with(&begin), "{refusal}");
    }
    let output = cloze(&["predict", "--model", path, "Cargo.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains(&format!("config.json: {}. hidden_act", named[0])),
        "{error}"
    );
    assert!(named.iter().all(|named| error.contains(named)), "{error}");
}

#[test]
fn tensors_are_not_called_unused_without_an_architecture() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        let from = std::path::Path::new(&golden("uncased-tied")).join(name);
        std::fs::copy(from, folder.path().join(name)).unwrap();
    }
    for config in ["{", r#"{"model_type": "t5"}"#] {
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let path = folder.path().to_str().unwrap();
        let shown = text(&cloze(&["inspect", path]));
        assert!(!shown.contains("unused") && shown.contains("tensors"), "{shown}");
        // The message has the folder.
        assert!(shown.contains(&format!("    {path}/config.json: ")), "{shown}");
        let report: Value = serde_json::from_slice(&cloze(&["inspect", path, "--json"]).stdout).unwrap();
        assert!(report["weights"]["tensors"][0]["used"].is_null(), "{report}");
    }
}

#[test]
fn a_start_names_the_first_error_of_inspect_and_the_command_that_lists_all() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let from = std::path::Path::new(&golden("uncased-tied")).join(name);
        std::fs::copy(from, folder.path().join(name)).unwrap();
    }
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    // Several tensors reach beyond the end.
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let path = folder.path().to_str().unwrap();
    let shown = text(&cloze(&["inspect", path]));
    let first = shown
        .lines()
        .find(|line| line.contains("reaches beyond the end"))
        .unwrap();
    for _ in 0..4 {
        let output = cloze(&["predict", "--model", path, "Cargo.toml"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            error.trim_end(),
            format!("cloze: {}; all errors: `cloze inspect {path}`", first.trim())
        );
    }
}

#[test]
fn devices_are_listed() {
    let output = cloze(&["devices"]);
    assert!(output.status.success());
    let shown = text(&output);
    assert!(shown.starts_with("cpu  ") && shown.contains("\ngpu  "), "{shown}");
    assert_eq!(
        shown.contains("not in this build"),
        cfg!(not(all(feature = "cpu", feature = "gpu"))),
        "{shown}"
    );
}

#[test]
fn completions_and_manual_pages_are_printed() {
    for (shell, part) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef cloze"),
        ("fish", "complete -c cloze"),
    ] {
        let script = text(&cloze(&["completions", shell]));
        assert!(script.contains(part) && script.contains("predict"), "{shell}");
    }
    let page = text(&cloze(&["man"]));
    assert!(
        page.contains(".TH cloze 1") && page.contains("max\\-batch\\-tokens"),
        "{page}"
    );
    let folder = tempfile::tempdir().unwrap();
    // It is created.
    let folder = folder.path().join("share/man1");
    let output = cloze(&["man", folder.to_str().unwrap()]);
    assert!(output.status.success());
    let said = text(&output);
    assert!(
        said.contains("pages written to ") && said.contains("share/man1"),
        "{said}"
    );
    let page = std::fs::read_to_string(folder.join("cloze-predict.1")).unwrap();
    assert!(page.contains("top\\-k"), "{page}");
    // The name of a command is no folder.
    let printed = text(&cloze(&["man", "predict"]));
    assert_eq!(printed.trim_end(), page.trim_end());
}

/// A model whose word embeddings have `rows` rows, all of them zeros.
fn model_with_rows(rows: usize) -> tempfile::TempDir {
    use std::io::Write;
    let folder = common::fixtures::golden_copy("uncased-tied");
    let config = folder.path().join("config.json");
    let mut fields: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    fields["vocab_size"] = rows.into();
    std::fs::write(&config, fields.to_string()).unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for (name, shape) in [
        ("bert.embeddings.word_embeddings.weight", vec![rows, 32]),
        ("cls.predictions.bias", vec![rows]),
    ] {
        assert!(header[name].is_object(), "{name}");
        header[name]["shape"] = shape.into();
    }
    let mut end = 0;
    for (name, tensor) in header.as_object_mut().unwrap() {
        if name != "__metadata__" {
            let shape = tensor["shape"].as_array().unwrap();
            let elements: u64 = shape.iter().map(|size| size.as_u64().unwrap()).product();
            tensor["data_offsets"] = vec![end, end + 4 * elements].into();
            end += 4 * elements;
        }
    }
    let header = header.to_string();
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // Zeros, without space on the disk.
    file.set_len(8 + header.len() as u64 + end).unwrap();
    folder
}

#[test]
fn a_tokenizer_with_few_of_the_models_tokens_is_warned_of() {
    let model = model_with_rows(5_000);
    let folder = model.path().to_str().unwrap();
    let output = cloze(&["inspect", folder]);
    let shown = text(&output);
    assert!(output.status.success(), "{shown}");
    let (_, warning) = shown.split_once("  warning       the tokenizer has ").expect(&shown);
    assert!(
        warning.contains(" of the model's 5000 tokens; predictions of the others have no text"),
        "{shown}"
    );
    assert!(
        shown.contains(" KiB for the weights in f32") && !shown.contains(" 0 MiB"),
        "{shown}"
    );
    let report: Value = serde_json::from_slice(&cloze(&["inspect", folder, "--json"]).stdout).unwrap();
    let warnings = report["warnings"].as_array().unwrap();
    assert!(
        warnings[0].as_str().unwrap().starts_with("the tokenizer has "),
        "{report}"
    );
    let report: Value = serde_json::from_slice(&cloze(&["inspect", "--json"]).stdout).unwrap();
    assert_eq!(report["warnings"], serde_json::json!([]));
}

#[test]
fn the_advice_of_inspect_names_no_flag_that_it_lacks() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let (inspect, serve) = (cloze(&["inspect", file]), cloze(&["--model", file, "--port", "0"]));
    let error = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();
    assert!(error(&inspect).ends_with("; pass the folder\n"), "{}", error(&inspect));
    assert!(
        error(&serve).ends_with("; pass the folder with --model\n"),
        "{}",
        error(&serve)
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_model_larger_than_memory_is_refused_before_it_is_loaded() {
    let model = model_with_rows(12_000_000);
    let folder = model.path().to_str().unwrap();
    for limit in ["-v 1000000", "-v 2500000", "-d 2500000"] {
        for command in ["inspect", "serve --port 0 --model"] {
            let script = format!("ulimit {limit} && exec \"$0\" {command} \"$1\"");
            let output = Command::new("sh")
                .args(["-c", &script, env!("CARGO_BIN_EXE_cloze"), folder])
                .output()
                .unwrap();
            let shown = text(&output) + std::str::from_utf8(&output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{limit} {command}: {shown}");
            let sentence = "of memory at its peak in f32 (";
            assert!(shown.contains(sentence) && shown.contains("the limit on "), "{shown}");
            assert!(shown.contains("--dtype bf16"), "{shown}");
        }
    }
}
