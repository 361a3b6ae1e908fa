//! Replays every input of `fuzz/corpus` through its target, without libFuzzer, in some seconds. `fuzz/run.sh` finds new
//! inputs.

use std::path::Path;

use cloze_fuzz_targets as targets;

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() > 5, "{} holds {} inputs", folder.display(), inputs.len());
    for input in inputs {
        let bytes = std::fs::read(&input).unwrap();
        // The last line that a failing test prints names its input.
        println!("{}", input.display());
        target(&bytes);
    }
}

#[test]
fn request() {
    replay("request", targets::request);
}

#[test]
fn infer() {
    replay("infer", targets::infer);
}

#[test]
fn config() {
    replay("config", targets::config);
}

#[test]
fn tokenizer() {
    replay("tokenizer", targets::tokenizer);
}

#[test]
fn vocab() {
    replay("vocab", targets::vocab);
}

#[test]
fn weights() {
    replay("weights", targets::weights);
}

#[test]
fn pytorch() {
    replay("pytorch", targets::pytorch);
}
