//! Every input that fuzzing has kept (`fuzz/corpus/`), once more through what it was found with: no libFuzzer, no
//! nightly compiler, some seconds. `fuzz/run.sh` looks for new ones.
#![cfg(feature = "cpu")]

use std::path::Path;

#[path = "../fuzz/targets.rs"]
#[allow(dead_code)] // What libFuzzer alone wants.
mod targets;

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() > 5, "{} holds {} inputs", folder.display(), inputs.len());
    for input in inputs {
        let bytes = std::fs::read(&input).unwrap();
        // A failing test shows what was printed last.
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
