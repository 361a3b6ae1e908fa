//! The whole model computed with AMX, or with its emulator where the CPU lacks it, against transformers and against the
//! same model without AMX.

mod common;

use std::process::Command;

use cloze::backend::Precision;
use cloze::backend::cpu::{Compute, Cpu, FEATURES_VARIABLE};
use cloze::lm::{BackendKind, Batch, Placement, PretrainedModel, Select, Sequence, TokenScore};
use cloze_kernels::Isa;
use common::golden;
use common::harness::{self, Requirement};

harness::main! {
    amx() => [answers_equal_transformers, hidden_states_equal_those_without_amx],
}

/// Names the file that a process without AMX writes its states to. The test that compares them starts that process.
const STATES_FILE: &str = "CLOZE_TEST_STATES_FILE";

fn compute() -> std::sync::Arc<Compute> {
    Compute::new(2).expect("threads start")
}

/// AMX, by emulation on a CPU that lacks only that.
fn amx() -> Requirement {
    if std::env::var_os(FEATURES_VARIABLE).is_some() {
        // The process without AMX, too, is to run its test.
        return match std::env::var_os(STATES_FILE) {
            Some(_) => Ok(()),
            None => Err(format!("{FEATURES_VARIABLE} is set")),
        };
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if Isa::detected().name() == "avx512_bf16" {
        cloze_amx_emulator::install(Isa::assume_amx);
    }
    match Isa::detected().name() {
        "amx" => Ok(()),
        _ => Err("needs AMX, or AVX-512 with bf16 for its emulation".to_owned()),
    }
}

fn answers_equal_transformers() {
    assert_eq!(compute().features(), "amx");
    // An emulated instruction takes microseconds; the batch has all cases.
    golden::check_cases(BackendKind::Cpu, Precision::F32, 10);
    golden::check_one_batch(BackendKind::Cpu, Precision::F32);
}

/// The demo model's hidden states in f32, and its scores of 300 tokens in each precision, at every position of three
/// texts.
fn states() -> Vec<Vec<f32>> {
    let mut checkpoint = PretrainedModel::embedded().expect("the demo model opens");
    let tokens = Select::Tokens((0..300).map(|i| 31 * i).collect());
    let mut batch = Batch::default();
    for length in [3, 17, 40] {
        let ids: Vec<u32> = (0..length).map(|i| 1000 + 271 * i).collect();
        let everywhere: Vec<usize> = (0..ids.len()).collect();
        batch.push(&Sequence::new(ids, everywhere, tokens.clone()));
    }
    let model = checkpoint
        .load_on::<Cpu>(&Default::default(), Precision::F32)
        .expect("the demo model loads");
    let hidden = model.readout_states(batch.clone());
    let mut states = vec![hidden.into_vec().expect("they are read")];
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let placement = Placement {
            precision: Some(precision),
            ..Placement::new(BackendKind::Cpu, 2)
        };
        let mut loaded = checkpoint.load(&placement).expect("the demo model loads");
        let scores = loaded.workers[0]
            .predict(batch.clone())
            .expect("the demo model answers");
        let tokens = scores.iter().flatten().flatten();
        states.push(tokens.map(TokenScore::probability).collect());
    }
    states
}

fn hidden_states_equal_those_without_amx() {
    if let Some(file) = std::env::var_os(STATES_FILE) {
        assert_eq!(compute().features(), "avx512_bf16");
        std::fs::write(file, serde_json::to_vec(&states()).expect("numbers")).expect("a temporary file");
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let output = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "hidden_states_equal_those_without_amx"])
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
    let cases = [
        ("states in f32", 1e-4),
        ("scores in f32", 1e-4),
        ("scores in bf16", 1e-2),
        // The products of dense layers are the same integers. But below f32, AMX computes attention in bf16, where
        // AVX-512 on Intel's CPUs computes it in f32, and a value that is rounded to another 8-bit integer is off by 1 %.
        ("scores in int8", 0.1),
    ];
    for ((what, error_max), error) in cases.into_iter().zip(errors) {
        eprintln!("{what}: off by {error:.1e}");
        assert!(error <= error_max, "{what}: off by {error:e}");
    }
}

/// The norm of the difference relative to the norm of `expected`.
fn error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |value: f32| f64::from(value).powi(2);
    let difference: f64 = got.iter().zip(expected).map(|(g, e)| square(g - e)).sum();
    (difference / expected.iter().map(|&e| square(e)).sum::<f64>()).sqrt()
}
