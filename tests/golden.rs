//! Cloze against transformers itself: the same tokens and strings, the same scores.
//!
//! `tests/fixtures/golden/` holds small random-weight checkpoints and what transformers' fill-mask pipeline said of
//! them (`make.py` there made both); `model/golden.json` is the same for the demo model.

mod common;

use cloze::backend::Precision;
use cloze::checkpoint::BackendKind;
use common::golden::{check_cases, check_one_batch};

#[test]
fn answers_are_those_of_transformers_on_ndarray() {
    check_cases(BackendKind::Cpu, Precision::F32, 1);
}

#[test]
fn answers_are_those_of_transformers_on_wgpu() {
    // One by one they take minutes on a software driver; the batch below has them all.
    check_cases(BackendKind::Gpu, Precision::F32, 8);
}

#[test]
fn a_text_in_a_batch_is_answered_as_if_alone_on_ndarray() {
    check_one_batch(BackendKind::Cpu, Precision::F32);
}

#[test]
fn a_text_in_a_batch_is_answered_as_if_alone_on_wgpu() {
    check_one_batch(BackendKind::Gpu, Precision::F32);
}

#[test]
fn answers_are_those_of_transformers_on_wgpu_in_f16() {
    check_cases(BackendKind::Gpu, Precision::F16, 8);
}

#[test]
fn a_text_in_a_batch_is_answered_as_if_alone_on_wgpu_in_f16() {
    check_one_batch(BackendKind::Gpu, Precision::F16);
}
