//! The kernels against plain Burn operations, over odd sizes, on whatever adapter there is.

use burn::tensor::{Int, TensorData};

use super::*;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::{GpuDevice, open};
use crate::backend::plain;
use crate::backend::summary::{STATISTICS, row_len};

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

/// The precisions that the device computes in.
fn precisions(gpu: &GpuDevice) -> &'static [Precision] {
    match has_f16(&gpu.device) {
        true => &[Precision::F32, Precision::F16],
        false => {
            eprintln!("SKIPPED in f16: {} has none", gpu.adapter);
            &[Precision::F32]
        }
    }
}

/// `x` as it is in a precision, and the same numbers in f32 for the oracle.
fn rounded(x: Tensor<Gpu, 2>, precision: Precision) -> (Tensor<Gpu, 2>, Tensor<Gpu, 2>) {
    let rounded = Gpu::table(x, precision);
    (rounded.clone(), Gpu::table(rounded, Precision::F32))
}

/// What is computed in f16 may be rounded to 11 bits twice: as a product and with its bias.
fn assert_close(gpu: &GpuDevice, fast: Tensor<Gpu, 2>, plain: Tensor<Gpu, 2>, case: &str) {
    assert_eq!(fast.dims(), plain.dims(), "{case}");
    let (fast, plain) = (fast.into_data(), plain.into_data());
    assert_eq!(gpu.fault(), None, "{case}");
    let error_max = if fast.dtype == DType::F16 { 1e-3 } else { 4e-6 };
    let (fast, plain) = (fast.iter::<f32>(), plain.to_vec::<f32>().unwrap());
    let scale = plain.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (f, p)) in fast.zip(plain).enumerate() {
        let error = (f - p).abs() / scale;
        assert!(error < error_max, "{case}: value {i} is {f}, expected {p}");
    }
}

/// Rows that each ask for these tokens, and for the `top` likeliest.
fn wanted(top: usize, tokens: &[&[u32]]) -> Wanted<Vec<u32>> {
    let mut end = 0;
    let ends = tokens.iter().map(|tokens| {
        end += tokens.len() as u32;
        end
    });
    Wanted {
        rows: tokens.len(),
        rows_padded: tokens.len(),
        top,
        token_bounds: std::iter::once(0).chain(ends).collect(),
        tokens: tokens.concat(),
        token_count: tokens.concat().len(),
        whole: Vec::new(),
        whole_count: 0,
    }
}

fn uploaded(gpu: &GpuDevice, spans: Spans, wanted: Wanted<Vec<u32>>) -> Lists<Primitive, GpuSegments> {
    let lists = Lists {
        input_ids: vec![7, 5, 6],
        position_ids: vec![],
        mask_rows: vec![2],
        everywhere: spans.clone(),
        masks_only: spans,
        wanted: vec![wanted],
    };
    Gpu::upload(lists, &gpu.device)
}

#[test]
fn every_list_lies_in_its_place() {
    let Some(gpu) = device() else { return };
    let spans = Spans {
        queries: vec![0, 40],
        tokens: vec![0, 50],
    };
    let lists = uploaded(&gpu, spans, wanted(1, &[&[3, 4], &[9]]));
    let read = |rows: &Primitive| {
        let ids = Tensor::<Gpu, 1, Int>::from_primitive(rows.clone());
        ids.into_data().iter::<u32>().collect::<Vec<_>>()
    };
    assert_eq!(read(&lists.input_ids), [7, 5, 6]);
    assert_eq!(read(&lists.position_ids), [0]);
    assert_eq!(read(&lists.mask_rows), [2]);
    assert_eq!(read(&lists.everywhere.tiles), [0, 32, 0, 50, 32, 40, 0, 50]);
    assert_eq!((lists.everywhere.count, lists.masks_only.count), (2, 2));
    assert_eq!(read(&lists.wanted[0].tokens), [3, 4, 9]);
    assert_eq!(read(&lists.wanted[0].token_bounds), [0, 2, 3]);
    for columns in [1, 3, 300] {
        for &precision in precisions(&gpu) {
            let (table, plain_table) = rounded(matrix(&gpu, 8, columns, 1), precision);
            let chosen = Gpu::select_rows(&table, &lists.input_ids);
            let expected = plain::select_rows(&plain_table, &[7, 5, 6]);
            assert_close(&gpu, chosen, expected, &format!("rows of {columns} in {precision}"));
        }
    }
}

#[test]
fn summaries_are_the_plain_ones() {
    let Some(gpu) = device() else { return };
    let none = Spans {
        queries: vec![0],
        tokens: vec![0],
    };
    let nothing: &[u32] = &[];
    let cases: [(usize, usize, &[&[u32]]); 5] = [
        (1, 1, &[nothing]),
        (3, 2, &[&[2, 0], nothing, &[1]]),
        (127, 5, &[nothing, nothing]),
        (129, 64, &[&[128, 5, 128]]),
        (1000, 1, &[nothing, &[999], nothing, &[0, 1, 2]]),
    ];
    for (columns, top, tokens) in cases {
        let case = format!("{} rows of {columns}, the best {top}", tokens.len());
        let host = wanted(top, tokens);
        // A row more than is asked.
        let logits = matrix(&gpu, host.rows + 1, columns, 11) * 9.0;
        let lists = uploaded(&gpu, none.clone(), host.clone());
        let fast = Gpu::summarize(logits.clone(), &lists.wanted[0]);
        let expected = plain::summarize(logits, &host);
        assert_close(&gpu, fast.unsqueeze(), expected.unsqueeze(), &case);
    }
}

#[test]
fn of_equal_logits_the_lower_token_comes_first_and_what_is_no_number_is_told() {
    let Some(gpu) = device() else { return };
    let none = Spans {
        queries: vec![0],
        tokens: vec![0],
    };
    let mut logits = [0.5f32; 3 * 300];
    // Two units' tokens, a pair in each of them.
    for token in [7, 135, 200, 290] {
        logits[token] = 2.0;
    }
    logits[300 + 250] = f32::NAN;
    logits[600] = f32::NEG_INFINITY;
    let logits = Tensor::from_data(TensorData::new(logits.to_vec(), [3, 300]), &gpu.device);
    let host = wanted(5, &[&[], &[], &[]]);
    let lists = uploaded(&gpu, none, host);
    let summary = Gpu::summarize(logits, &lists.wanted[0])
        .into_data()
        .to_vec::<f32>()
        .unwrap();
    let row = |row: usize| &summary[row * row_len(5)..(row + 1) * row_len(5)];
    let tokens: Vec<f32> = row(0)[STATISTICS..].chunks(2).map(|pair| pair[1]).collect();
    assert_eq!(tokens, [7.0, 135.0, 200.0, 290.0, 0.0]);
    assert_eq!([0, 1, 2].map(|at| row(at)[3]), [0.0, 1.0, 0.0]);
    assert_eq!(row(2)[STATISTICS..STATISTICS + 2], [0.5, 1.0]);
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
        let segments = uploaded(&gpu, spans.clone(), wanted(0, &[])).everywhere;
        for &precision in precisions(&gpu) {
            // Far apart, so that the softmax is not flat.
            let (query, plain_query) = rounded(matrix(&gpu, queries, hidden, 1) * 4.0, precision);
            let (key_value, plain_key_value) = rounded(matrix(&gpu, tokens, 2 * hidden, 2) * 2.0, precision);
            let fast = Gpu::segment_attention(query, key_value, &segments, heads, precision);
            let expected = plain::attention(plain_query, plain_key_value, &spans, heads);
            let case = format!("{heads} heads of {head_size}, {segments:?}, {precision}");
            assert_close(&gpu, fast, expected, &case);
        }
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
        for &precision in precisions(&gpu) {
            let (x, plain_x) = rounded(matrix(&gpu, rows, hidden, 5) + 3.0, precision);
            let (residual, plain_residual) = rounded(matrix(&gpu, rows, hidden, 6), precision);
            for (residual, plain_residual) in [(None, None), (Some(residual), Some(plain_residual))] {
                let case = format!("[{rows}, {hidden}], residual {}, {precision}", residual.is_some());
                let fast = Gpu::residual_layer_norm(x.clone(), residual, &norm);
                let expected = plain::layer_norm(plain_x.clone(), plain_residual, &norm);
                assert_close(&gpu, fast, expected, &case);
            }
        }
    }
}

#[test]
fn a_dense_layer_with_what_comes_after_it_is_the_plain_one() {
    let Some(gpu) = device() else { return };
    for (rows, inputs, outputs) in [(1, 8, 3), (5, 32, 130)] {
        let (bias, gamma, beta) = (
            vector(&gpu, outputs, 8),
            vector(&gpu, outputs, 3),
            vector(&gpu, outputs, 4),
        );
        let norm = LayerNorm { gamma, beta, eps: 1e-5 };
        for &precision in precisions(&gpu) {
            let (x, plain_x) = rounded(matrix(&gpu, rows, inputs, 9), precision);
            let (residual, plain_residual) = rounded(matrix(&gpu, rows, outputs, 6), precision);
            let (_, weight) = rounded(matrix(&gpu, outputs, inputs, 7), precision);
            let layer = GpuLinear::prepare(weight.clone(), bias.clone(), precision);
            let y = layer.forward_normalized(x, residual, &norm);
            let product = plain_x.matmul(weight.transpose()) + bias.clone().unsqueeze();
            let expected = plain::layer_norm(product, Some(plain_residual), &norm);
            let case = format!("[{rows}, {inputs}] to {outputs} in {precision}");
            assert_eq!(y.dtype(), dtype(precision), "{case}");
            assert_close(&gpu, y, expected, &case);
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
        let bias = vector(&gpu, outputs, 8);
        let precisions = precisions(&gpu);
        // The input may be in another precision than the weight, as at both ends of the head's transform.
        let pairs = precisions
            .iter()
            .flat_map(|&x| precisions.iter().map(move |&weight| (x, weight)));
        for (of_input, of_weight) in pairs {
            let (x, plain_x) = rounded(matrix(&gpu, rows, inputs, 9), of_input);
            let (_, plain_x) = rounded(plain_x, of_weight);
            let (_, weight) = rounded(matrix(&gpu, outputs, inputs, 7), of_weight);
            let fast = GpuLinear::prepare(weight.clone(), bias.clone(), of_weight);
            let is_half = (of_input, of_weight) == (Precision::F16, Precision::F16);
            for activation in activations {
                let case = format!("[{rows}, {inputs}] {of_input} to {outputs} {of_weight}, {activation:?}");
                let product = plain_x.clone().matmul(weight.clone().transpose()) + bias.clone().unsqueeze();
                let expected = match activation {
                    Some(activation) => plain::activate(product, activation),
                    None => product,
                };
                let y = fast.forward(x.clone(), activation);
                assert_eq!(y.dtype(), if is_half { DType::F16 } else { DType::F32 }, "{case}");
                assert_close(&gpu, y, expected, &case);
            }
        }
    }
}
