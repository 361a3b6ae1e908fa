//! The kernels against their reference in plain Burn, over odd sizes.

mod attention;
mod layers;
mod linear;
mod readout;

use std::sync::Arc;

use burn::tensor::TensorData;

use cloze_kernels::{Context, Isa};
use cloze_test_values::random;

use super::compute::Compute;
use super::layer_norm::normalize;
use super::precision::kernel_precision;
use super::readout::read_logits;
use super::rotary::rotate;
use super::tensors::{slice, tensor, values};
use super::{Cpu, CpuLinear, TOP_K_MAX, buffers};
use crate::backend::pooling::pool_logits;
use crate::backend::readout::{LogitsRow, STATISTICS, row_len};
use crate::backend::reference::{self, ReferenceLinear};
use crate::backend::{
    Activation, AttentionOptions, EncoderBackend, EncoderTail, ForwardInputs, IndexList, LayerNorm, LinearOp, NormKind,
    PooledRows, Pooling, Precision, QueryRows, RareActivation, ReadoutSpec, RelativeBias, Rotary, RotaryPairing,
    SelfAttention, SequenceOffsets, TailNorms, Tensor,
};

fn matrix(rows: usize, columns: usize, seed: u32) -> Tensor<Cpu, 2> {
    let data = TensorData::new(random(rows * columns, seed), [rows, columns]);
    Tensor::from_data(data, &Default::default())
}

fn vector(size: usize, seed: u32) -> Tensor<Cpu, 1> {
    matrix(1, size, seed).reshape([size])
}

fn largest(matrix: &Tensor<Cpu, 2>) -> f32 {
    let values = matrix.clone().into_vec().unwrap();
    values.into_iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn assert_close(fast: Tensor<Cpu, 2>, plain: Tensor<Cpu, 2>, case: &str) {
    assert_within(fast, plain, 4e-6, case);
}

fn assert_within(fast: Tensor<Cpu, 2>, plain: Tensor<Cpu, 2>, error_max: f32, case: &str) {
    assert_eq!(fast.dims(), plain.dims(), "{case}");
    let (fast, plain) = (fast.into_vec().unwrap(), plain.into_vec().unwrap());
    let scale = plain.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (f, p)) in fast.iter().zip(plain).enumerate() {
        let error = (f - p).abs() / scale;
        assert!(error < error_max, "{case}: value {i} is {f}, expected {p}");
    }
}

/// Every way that this CPU can compute, on one thread and on several.
fn computes() -> Vec<Arc<Compute>> {
    let of_isa = |isa| [1, 3].map(|threads| Compute::with_isa(threads, isa).expect("threads start"));
    Isa::available().flat_map(of_isa).collect()
}

/// The contexts, one after the other; operations of Burn use the last one.
fn contexts(computes: &[Arc<Compute>]) -> impl Iterator<Item = Context<'_>> {
    computes.iter().map(Compute::enter)
}

/// A dense layer in plain Burn.
fn reference_linear(weight: Tensor<Cpu, 2>, bias: Tensor<Cpu, 1>) -> ReferenceLinear<Cpu> {
    ReferenceLinear::prepare(weight, bias, Precision::F32).expect("f32 is computed by every backend")
}

fn with_tokens(token_ids: &[u32]) -> ForwardInputs {
    ForwardInputs {
        token_ids: token_ids.to_vec(),
        ..ForwardInputs::default()
    }
}

/// `values` as they are after a way through `precision`, row by row.
fn rounded(values: &[f32], columns: usize, precision: cloze_kernels::Precision) -> Vec<f32> {
    let round_row = |row: &[f32]| -> Vec<f32> {
        let largest = row.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let unit = if largest > 0.0 { largest / 127.0 } else { 1.0 };
        let round = |&x: &f32| match precision {
            cloze_kernels::Precision::F32 => x,
            cloze_kernels::Precision::Bf16 => half::bf16::from_f32(x).to_f32(),
            cloze_kernels::Precision::Int8 => (x / unit).round_ties_even() * unit,
        };
        row.iter().map(round).collect()
    };
    values.chunks_exact(columns).flat_map(round_row).collect()
}

/// A dense layer for the instructions of `context`, which need not be this CPU's best.
fn layer(context: Context<'_>, weight: &Tensor<Cpu, 2>, bias: &Tensor<Cpu, 1>, precision: Precision) -> CpuLinear {
    let inputs = weight.dims()[1];
    let (weight, bias) = (values(weight.clone()), values(bias.clone()));
    let precision = kernel_precision(precision).unwrap();
    let (weight, bias) = (slice(&weight), slice(&bias));
    CpuLinear(cloze_kernels::Linear::new(context.isa, weight, bias, inputs, precision))
}
