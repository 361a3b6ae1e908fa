//! Cloze against transformers: the same tokens and strings, the same scores.
//!
//! `tests/fixtures/golden/` holds small checkpoints with random weights and the answers of transformers' fill-mask
//! pipeline (`make.py` there makes both); `model/golden.json` holds the answers for the demo model.

mod common;

use cloze::backend::Precision;
use cloze::lm::BackendKind;
use common::golden::{check_cases, check_low_precision, check_one_batch};
use common::harness;
use common::machine::{adapter, cpu, f16};

harness::main! {
    cpu() => [
        answers_equal_transformers_on_cpu,
        answers_in_one_batch_equal_transformers_on_cpu,
        low_precision_answers_are_close_to_transformers_on_cpu,
    ],
    adapter() => [answers_equal_transformers_on_gpu, answers_in_one_batch_equal_transformers_on_gpu],
    f16() => [answers_equal_transformers_on_gpu_in_f16, answers_in_one_batch_equal_transformers_on_gpu_in_f16],
}

fn answers_equal_transformers_on_cpu() {
    check_cases(BackendKind::Cpu, Precision::F32, 1);
}

fn low_precision_answers_are_close_to_transformers_on_cpu() {
    check_low_precision(Precision::Bf16, 0.01);
    check_low_precision(Precision::Int8, 0.03);
}

fn answers_equal_transformers_on_gpu() {
    // One by one they take minutes on a software driver; the batch below has all of them.
    check_cases(BackendKind::Gpu, Precision::F32, 8);
}

fn answers_in_one_batch_equal_transformers_on_cpu() {
    check_one_batch(BackendKind::Cpu, Precision::F32);
}

fn answers_in_one_batch_equal_transformers_on_gpu() {
    check_one_batch(BackendKind::Gpu, Precision::F32);
}

fn answers_equal_transformers_on_gpu_in_f16() {
    check_cases(BackendKind::Gpu, Precision::F16, 8);
}

fn answers_in_one_batch_equal_transformers_on_gpu_in_f16() {
    check_one_batch(BackendKind::Gpu, Precision::F16);
}
