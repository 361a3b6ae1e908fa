//! The kernels against plain Burn operations, over odd sizes, on whatever adapter there is.

use burn::tensor::TensorData;

use super::*;
use crate::backend::gpu::{GpuDevice, open};
use crate::backend::plain::PlainLinear;

fn device() -> Option<GpuDevice> {
    match open(None) {
        Ok(gpu) => Some(gpu),
        Err(reason) => {
            eprintln!("SKIPPED: {reason}");
            None
        }
    }
}

/// Repeatable values in -1..1 (a linear congruential generator, Numerical Recipes' constants).
fn matrix(gpu: &GpuDevice, rows: usize, columns: usize, seed: u32) -> Tensor<Gpu, 2> {
    let mut state = seed;
    let values: Vec<f32> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(rows * columns)
    .collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), &gpu.device)
}

fn vector(gpu: &GpuDevice, size: usize, seed: u32) -> Tensor<Gpu, 1> {
    matrix(gpu, 1, size, seed).reshape([size])
}

fn assert_close(gpu: &GpuDevice, fast: Tensor<Gpu, 2>, plain: Tensor<Gpu, 2>, case: &str) {
    assert_eq!(fast.dims(), plain.dims(), "{case}");
    let (fast, plain) = (fast.into_data(), plain.into_data());
    assert_eq!(gpu.fault(), None, "{case}");
    let (fast, plain) = (fast.as_slice::<f32>().unwrap(), plain.as_slice::<f32>().unwrap());
    let scale = plain.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (f, p)) in fast.iter().zip(plain).enumerate() {
        let error = (f - p).abs() / scale;
        assert!(error < 4e-6, "{case}: value {i} is {f}, expected {p}");
    }
}

#[test]
fn attention_is_the_plain_one_for_any_segments() {
    let Some(gpu) = device() else { return };
    // Heads, size of a head, and for each segment its queries and tokens.
    type Sizes = (usize, usize);
    let cases: [(usize, usize, &[Sizes]); 4] = [
        (1, 8, &[(1, 1)]),
        (3, 8, &[(5, 5), (1, 1), (33, 33), (64, 64)]),
        (2, 8, &[(1, 7), (0, 3), (2, 130)]),
        (2, 64, &[(40, 40), (3, 70)]),
    ];
    for (heads, head_size, segments) in cases {
        let ends = |of: fn(&(usize, usize)) -> usize| -> Vec<usize> {
            let mut end = 0;
            let ends = segments.iter().map(|segment| {
                end += of(segment);
                end
            });
            std::iter::once(0).chain(ends).collect()
        };
        let spans = Spans {
            queries: ends(|segment| segment.0),
            tokens: ends(|segment| segment.1),
        };
        let hidden = heads * head_size;
        let (queries, tokens) = (*spans.queries.last().unwrap(), *spans.tokens.last().unwrap());
        // Far apart, so that the softmax is not flat.
        let query = matrix(&gpu, queries, hidden, 1) * 4.0;
        let key_value = matrix(&gpu, tokens, 2 * hidden, 2) * 2.0;
        let fast = Gpu::segment_attention(query.clone(), key_value.clone(), &spans, heads);
        let expected = plain::attention(query, key_value, &spans, heads);
        assert_close(
            &gpu,
            fast,
            expected,
            &format!("{heads} heads of {head_size}, {segments:?}"),
        );
    }
}

#[test]
fn layer_norm_is_the_plain_one() {
    let Some(gpu) = device() else { return };
    for (rows, hidden) in [(1, 1), (1, 32), (7, 96), (3, 257)] {
        let norm = LayerNorm {
            gamma: vector(&gpu, hidden, 3),
            beta: vector(&gpu, hidden, 4),
            eps: 1e-12,
        };
        // One feature alone has no variance: what remains of it is beta.
        let norm = if hidden == 1 {
            LayerNorm { eps: 1.0, ..norm }
        } else {
            norm
        };
        let (x, residual) = (matrix(&gpu, rows, hidden, 5) + 3.0, matrix(&gpu, rows, hidden, 6));
        for residual in [None, Some(residual)] {
            let case = format!("[{rows}, {hidden}], residual {}", residual.is_some());
            let fast = Gpu::residual_layer_norm(x.clone(), residual.clone(), &norm);
            assert_close(&gpu, fast, plain::layer_norm(x.clone(), residual, &norm), &case);
        }
    }
}

#[test]
fn dense_layers_are_the_plain_ones() {
    let Some(gpu) = device() else { return };
    let activations = [
        None,
        Some(Activation::Gelu),
        Some(Activation::GeluTanh),
        Some(Activation::Relu),
        Some(Activation::Silu),
    ];
    for (rows, inputs, outputs) in [(1, 8, 3), (5, 32, 70)] {
        let weight = matrix(&gpu, outputs, inputs, 7);
        let bias = vector(&gpu, outputs, 8);
        let x = matrix(&gpu, rows, inputs, 9);
        let fast = GpuLinear::prepare(weight.clone(), bias.clone(), Precision::F32);
        let expected = PlainLinear::prepare(weight, bias, Precision::F32);
        for activation in activations {
            let case = format!("[{rows}, {inputs}] to {outputs}, {activation:?}");
            let (fast, expected) = (
                fast.forward(x.clone(), activation),
                expected.forward(x.clone(), activation),
            );
            assert_close(&gpu, fast, expected, &case);
        }
    }
}
