//! The whole model through AMX, or through its emulator where the CPU lacks it, against transformers and against the same
//! model without AMX.

#![cfg(all(feature = "cpu", target_arch = "x86_64", target_os = "linux"))]

mod common;

use std::process::Command;

use cloze::backend::Precision;
use cloze::backend::cpu::{Compute, Cpu, FEATURES_VARIABLE};
use cloze::bert::{PackedBatch, Selection};
use cloze::checkpoint::{BackendKind, Checkpoint, Placement};
use common::golden;

/// Where a process that computes without AMX leaves its states; the same test makes it and reads them.
const STATES_FILE: &str = "CLOZE_TEST_STATES_FILE";

fn compute() -> std::sync::Arc<Compute> {
    Compute::new(2).expect("threads start")
}

/// Whether AMX is in use from now on; says so where it is not.
fn has_amx() -> bool {
    let has = cloze_kernels::emulator::install() && std::env::var_os(FEATURES_VARIABLE).is_none();
    if has {
        assert_eq!(compute().features(), "amx");
    } else {
        eprintln!(
            "SKIPPED: neither AMX nor the AVX-512 that its emulator needs beside it, or {FEATURES_VARIABLE} is set"
        );
    }
    has
}

#[test]
fn answers_are_those_of_transformers() {
    if has_amx() {
        // Every emulated instruction takes microseconds; the batch has all cases.
        golden::check_cases(BackendKind::Cpu, Precision::F32, 10);
        golden::check_one_batch(BackendKind::Cpu, Precision::F32);
    }
}

/// The demo model's hidden states in f32, and its scores of some tokens in each precision, at every position of some texts.
fn states() -> Vec<Vec<f32>> {
    let mut checkpoint = Checkpoint::embedded().expect("the demo model opens");
    let tokens = Selection::Tokens((0..300).map(|i| 31 * i).collect());
    let mut batch = PackedBatch::default();
    for length in [3, 17, 40] {
        let ids: Vec<u32> = (0..length).map(|i| 1000 + 271 * i).collect();
        let everywhere: Vec<usize> = (0..ids.len()).collect();
        batch.push(&ids, &everywhere, &tokens);
    }
    let model = checkpoint
        .load::<Cpu>(&Default::default())
        .expect("the demo model loads");
    let hidden = model.mask_states(&batch);
    let mut states = vec![hidden.into_data().to_vec().expect("f32")];
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let placement = Placement {
            precision: Some(precision),
            ..Placement::new(BackendKind::Cpu, 2)
        };
        let mut loaded = checkpoint.load_on(&placement).expect("the demo model loads");
        let scores = loaded.model.predict(&batch).expect("the demo model answers");
        states.push(scores.into_iter().flatten().map(|token| token.score).collect());
    }
    states
}

#[test]
fn hidden_states_are_those_without_amx() {
    if let Some(file) = std::env::var_os(STATES_FILE) {
        assert_eq!(compute().features(), "avx512_bf16");
        std::fs::write(file, serde_json::to_vec(&states()).expect("numbers")).expect("a temporary file");
        return;
    }
    if !has_amx() {
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let output = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "hidden_states_are_those_without_amx"])
        .env(FEATURES_VARIABLE, "avx512_bf16")
        .env(STATES_FILE, file.path())
        .output()
        .expect("this test runs again");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let written = std::fs::read(file.path()).expect("a temporary file");
    let expected: Vec<Vec<f32>> = serde_json::from_slice(&written).expect("numbers");
    let errors: Vec<f64> = states()
        .iter()
        .zip(&expected)
        .map(|(got, expected)| error(got, expected))
        .collect();
    // In 8 bits the states come from sums of the same integers; the decoder is kept in bf16.
    let cases = [
        ("states in f32", 1e-4),
        ("scores in f32", 1e-4),
        ("scores in bf16", 1e-2),
        // Products of 8 bits are the same integers, but the head's transform is in f32, which AMX splits, and its output
        // is rounded to bf16 for the decoder: a last bit there is 2e-3 of a value.
        ("scores in 8 bits", 2e-3),
    ];
    for ((what, error_max), error) in cases.into_iter().zip(errors) {
        eprintln!("{what}: off by {error:.1e}");
        assert!(error <= error_max, "{what}: off by {error:e}");
    }
}

/// The norm of the difference, relative to that of what is expected.
fn error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |value: f32| f64::from(value).powi(2);
    let difference: f64 = got.iter().zip(expected).map(|(g, e)| square(g - e)).sum();
    (difference / expected.iter().map(|&e| square(e)).sum::<f64>()).sqrt()
}
