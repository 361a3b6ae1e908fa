//! The kernels against plain Burn operations, over odd sizes.

use burn::tensor::{Tensor, TensorData};

use super::Cpu;
use crate::backend::plain::{self, PlainLinear};
use crate::backend::{Activation, BertBackend, LayerNorm, LinearOp, Spans};

/// Repeatable values in -1..1 (a linear congruential generator, Numerical Recipes' constants).
fn random(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(count)
    .collect()
}

fn matrix(rows: usize, columns: usize, seed: u32) -> Tensor<Cpu, 2> {
    let data = TensorData::new(random(rows * columns, seed), [rows, columns]);
    Tensor::from_data(data, &Default::default())
}

fn vector(size: usize, seed: u32) -> Tensor<Cpu, 1> {
    matrix(1, size, seed).reshape([size])
}

fn assert_close(fast: Tensor<Cpu, 2>, plain: Tensor<Cpu, 2>, case: &str) {
    assert_eq!(fast.dims(), plain.dims(), "{case}");
    let (fast, plain) = (fast.into_data(), plain.into_data());
    let (fast, plain) = (fast.as_slice::<f32>().unwrap(), plain.as_slice::<f32>().unwrap());
    let scale = plain.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (f, p)) in fast.iter().zip(plain).enumerate() {
        let error = (f - p).abs() / scale;
        assert!(error < 4e-6, "{case}: value {i} is {f}, expected {p}");
    }
}

#[test]
fn linear() {
    let activations = [
        None,
        Some(Activation::Gelu),
        Some(Activation::GeluTanh),
        Some(Activation::Relu),
        Some(Activation::Silu),
    ];
    // Both sides of the number of rows where dot products give way to a packed product.
    for rows in [1, 2, 3, 4, 7, 32, 33, 65] {
        for (inputs, outputs) in [(1, 1), (3, 5), (32, 33), (100, 17), (257, 130)] {
            let x = matrix(rows, inputs, 1);
            let weight = matrix(outputs, inputs, 2);
            let bias = vector(outputs, 3);
            let fast = <Cpu as BertBackend>::Linear::prepare(weight.clone(), bias.clone());
            let plain = PlainLinear::prepare(weight, bias);
            for activation in activations {
                assert_close(
                    fast.forward(x.clone(), activation),
                    plain.forward(x.clone(), activation),
                    &format!("{rows} rows, {inputs} to {outputs}, {activation:?}"),
                );
            }
            let last = outputs as u32 - 1;
            let ids = [last, 0, last / 2, 0];
            assert_close(fast.weight_rows(&ids), plain.weight_rows(&ids), "weight rows");
        }
    }
}

#[test]
fn attention() {
    for (heads, size) in [(1, 1), (2, 8), (3, 12), (4, 33)] {
        let hidden = heads * size;
        for lengths in [vec![1], vec![2, 1, 5], vec![17, 64, 3], vec![130]] {
            let boundaries: Vec<usize> = std::iter::once(0)
                .chain(lengths.iter().scan(0, |end, len| {
                    *end += len;
                    Some(*end)
                }))
                .collect();
            let tokens = *boundaries.last().unwrap();
            // All rows ask; the first sequence alone asks; one row of each asks.
            let first_only = std::iter::once(0).chain(std::iter::repeat_n(1, lengths.len()));
            for queries in [boundaries.clone(), first_only.collect(), (0..=lengths.len()).collect()] {
                let spans = Spans {
                    queries,
                    tokens: boundaries.clone(),
                };
                let query = matrix(*spans.queries.last().unwrap(), hidden, 4);
                let key_value = matrix(tokens, 2 * hidden, 5);
                assert_close(
                    Cpu::segment_attention(query.clone(), key_value.clone(), &spans, heads),
                    plain::attention(query, key_value, &spans, heads),
                    &format!("{heads} heads of {size}, {spans:?}"),
                );
            }
        }
    }
}

#[test]
fn layer_norm() {
    for rows in [1, 2, 31, 33, 100] {
        for hidden in [2, 3, 15, 16, 17, 100, 257] {
            let x = matrix(rows, hidden, 6);
            let residual = matrix(rows, hidden, 7);
            let norm = LayerNorm {
                gamma: vector(hidden, 8),
                beta: vector(hidden, 9),
                eps: 1e-12,
            };
            for residual in [Some(residual), None] {
                assert_close(
                    Cpu::residual_layer_norm(x.clone(), residual.clone(), &norm),
                    plain::layer_norm(x.clone(), residual, &norm),
                    &format!("{rows} rows of {hidden}"),
                );
            }
        }
    }
}
