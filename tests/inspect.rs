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
    assert!(cloze(&["man", folder.path().to_str().unwrap()]).status.success());
    let page = std::fs::read_to_string(folder.path().join("cloze-predict.1")).unwrap();
    assert!(page.contains("top\\-k"), "{page}");
}
