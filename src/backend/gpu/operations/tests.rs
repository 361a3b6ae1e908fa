//! The kernels against plain Burn operations, over odd sizes, on whatever adapter there is.

use burn::tensor::{Int, TensorData};

use super::*;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::{GpuDevice, open};
use crate::backend::plain;
use crate::backend::summary::{STATISTICS, row_len};

fn device() -> GpuDevice {
    open(None).unwrap()
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
        false => &[Precision::F32],
    }
}

/// `x` as it is in a precision, and the same numbers in f32 for the oracle.
fn in_precision(x: Tensor<Gpu, 2>, precision: Precision) -> (Tensor<Gpu, 2>, Tensor<Gpu, 2>) {
    let x = rounded(x, dtype(precision));
    (x.clone(), rounded(x, DType::F32))
}

/// Hidden states in a precision, as what they are, and what products see of them.
struct Hidden {
    states: Tensor<Gpu, 2>,
    exact: Tensor<Gpu, 2>,
    seen: Tensor<Gpu, 2>,
}

fn hidden(gpu: &GpuDevice, rows: usize, columns: usize, seed: u32, precision: Precision) -> Hidden {
    let exact = matrix(gpu, rows, columns, seed);
    Hidden {
        states: match precision {
            Precision::F16 => tensor(halves::split(primitive(exact.clone()))),
            _ => exact.clone(),
        },
        seen: in_precision(exact.clone(), precision).1,
        exact,
    }
}

/// Hidden states in f32 again.
fn whole(gpu: &GpuDevice, states: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
    let rows: Vec<u32> = (0..states.dims()[0] as u32).collect();
    let ids = Tensor::<Gpu, 1, Int>::from_data(TensorData::new(rows.clone(), [rows.len()]), &gpu.device);
    Gpu::select_rows(&states, &ids.into_primitive())
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
#[ignore = "needs a GPU adapter"]
fn every_list_lies_in_its_place() {
    let gpu = device();
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
            // Neither hidden states nor a table that is multiplied with too lose anything.
            let Hidden { states, exact, .. } = hidden(&gpu, 8, columns, 1, precision);
            let table = GpuLinear::prepare_exact(exact.clone(), vector(&gpu, 8, 2), precision);
            let expected = plain::select_rows(&exact, &[7, 5, 6]);
            let case = format!("rows of {columns} in {precision}");
            let chosen = Gpu::select_rows(&states, &lists.input_ids);
            assert_close(&gpu, chosen, expected.clone(), &case);
            assert_close(&gpu, table.weight_rows(&lists.input_ids), expected, &case);
            let plain_table = GpuLinear::prepare(exact.clone(), vector(&gpu, 8, 2), precision);
            let expected = plain::select_rows(&in_precision(exact, precision).1, &[7, 5, 6]);
            assert_close(&gpu, plain_table.weight_rows(&lists.input_ids), expected, &case);
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn summaries_are_the_plain_ones() {
    let gpu = device();
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
#[ignore = "needs a GPU adapter"]
fn of_equal_logits_the_lower_token_comes_first_and_what_is_no_number_is_told() {
    let gpu = device();
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
#[ignore = "needs a GPU adapter"]
fn attention_is_the_plain_one_for_any_segments() {
    let gpu = device();
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
            let (query, plain_query) = in_precision(matrix(&gpu, queries, hidden, 1) * 4.0, precision);
            let (key_value, plain_key_value) = in_precision(matrix(&gpu, tokens, 2 * hidden, 2) * 2.0, precision);
            let fast = Gpu::segment_attention(query, key_value, &segments, heads, precision);
            let expected = plain::attention(plain_query, plain_key_value, &spans, heads);
            let case = format!("{heads} heads of {head_size}, {segments:?}, {precision}");
            assert_eq!(fast.dtype(), dtype(precision), "{case}");
            assert_close(&gpu, fast, expected, &case);
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn attention_with_the_dense_layers_before_it_is_the_plain_one() {
    let gpu = device();
    let (heads, width) = (2, 16);
    let spans = Spans {
        queries: vec![0, 3, 5],
        tokens: vec![0, 3, 9],
    };
    let segments = uploaded(&gpu, spans.clone(), wanted(0, &[])).everywhere;
    for &precision in precisions(&gpu) {
        let of_weights = |outputs, seed| in_precision(matrix(&gpu, outputs, width, seed), precision).1;
        let (query_weight, key_value_weight) = (of_weights(width, 1), of_weights(2 * width, 2));
        let (query_bias, key_value_bias) = (vector(&gpu, width, 3), vector(&gpu, 2 * width, 4));
        let query = GpuLinear::prepare(query_weight.clone(), query_bias.clone(), precision);
        let key_value = GpuLinear::prepare(key_value_weight.clone(), key_value_bias.clone(), precision);
        let (asking, all) = (
            hidden(&gpu, 5, width, 5, precision),
            hidden(&gpu, 9, width, 6, precision),
        );
        let expected = |asking: Tensor<Gpu, 2>, all: Tensor<Gpu, 2>| {
            let query = asking.matmul(query_weight.clone().transpose()) + query_bias.clone().unsqueeze();
            let key_value = all.matmul(key_value_weight.clone().transpose());
            plain::attention(query, key_value + key_value_bias.clone().unsqueeze(), &spans, heads)
        };
        // As in the first layer, in those that follow, and in the last.
        let first = (
            asking.exact.clone(),
            &asking.exact,
            all.exact.clone(),
            &all.exact,
            precision,
        );
        let layer = (asking.states, &asking.seen, all.states.clone(), &all.seen, precision);
        let last = (
            asking.exact.clone(),
            &asking.exact,
            all.states,
            &all.seen,
            Precision::F32,
        );
        for (index, (asking, asking_seen, all, all_seen, of_context)) in [first, layer, last].into_iter().enumerate() {
            let context = Gpu::attend(asking, all, &query, &key_value, &segments, heads, of_context);
            assert_eq!(context.dtype(), dtype(of_context));
            let expected = expected(asking_seen.clone(), all_seen.clone());
            assert_close(&gpu, context, expected, &format!("{precision}, layer {index}"));
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn layer_norm_is_the_plain_one() {
    let gpu = device();
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
#[ignore = "needs a GPU adapter"]
fn a_dense_layer_with_what_comes_after_it_is_the_plain_one() {
    let gpu = device();
    for (rows, inputs, outputs) in [(1, 8, 3), (5, 32, 130)] {
        let (bias, gamma, beta) = (
            vector(&gpu, outputs, 8),
            vector(&gpu, outputs, 3),
            vector(&gpu, outputs, 4),
        );
        let norm = LayerNorm { gamma, beta, eps: 1e-5 };
        for &precision in precisions(&gpu) {
            let (_, weight) = in_precision(matrix(&gpu, outputs, inputs, 7), precision);
            let layer = GpuLinear::prepare(weight.clone(), bias.clone(), precision);
            let x = matrix(&gpu, rows, inputs, 9);
            let residual = hidden(&gpu, rows, outputs, 6, precision);
            let expected = |x: Tensor<Gpu, 2>| {
                let product = x.matmul(weight.clone().transpose()) + bias.clone().unsqueeze();
                plain::layer_norm(product, Some(residual.exact.clone()), &norm)
            };
            let case = format!("[{rows}, {inputs}] to {outputs} in {precision}");
            // As in all layers but the last: what comes out are hidden states again.
            let (half, half_plain) = in_precision(x.clone(), precision);
            let y = layer.forward_normalized(half, residual.states.clone(), &norm);
            assert_eq!(y.dtype(), dtype(precision), "{case}");
            assert_close(&gpu, whole(&gpu, y), expected(half_plain), &case);
            // As in the last, where only the weight is rounded.
            let y = layer.forward_normalized(x.clone(), residual.exact.clone(), &norm);
            assert_eq!(y.dtype(), DType::F32, "{case}");
            assert_close(&gpu, y, expected(x), &case);
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn dense_layers_are_the_plain_ones() {
    let gpu = device();
    let activations = [
        None,
        Some(Activation::Gelu),
        Some(Activation::GeluTanh),
        Some(Activation::Relu),
        Some(Activation::Silu),
    ];
    for (rows, inputs, outputs) in [(1, 8, 3), (5, 32, 70)] {
        let bias = vector(&gpu, outputs, 8);
        for &precision in precisions(&gpu) {
            let (_, weight) = in_precision(matrix(&gpu, outputs, inputs, 7), precision);
            let fast = GpuLinear::prepare(weight.clone(), bias.clone(), precision);
            let x = hidden(&gpu, rows, inputs, 9, precision);
            // Hidden states, what comes out of an activation, and f32, which loses nothing to the weight's precision.
            let inputs_of = [
                (x.states, x.seen.clone(), dtype(precision)),
                (rounded(x.seen.clone(), dtype(precision)), x.seen, dtype(precision)),
                (x.exact.clone(), x.exact, DType::F32),
            ];
            for ((x, plain_x, of_output), activation) in
                inputs_of.iter().flat_map(|x| activations.map(|kind| (x, kind)))
            {
                let case = format!(
                    "[{rows}, {inputs}] {:?} to {outputs} {precision}, {activation:?}",
                    x.dims()
                );
                let product = plain_x.clone().matmul(weight.clone().transpose()) + bias.clone().unsqueeze();
                let expected = match activation {
                    Some(activation) => plain::activate(product, activation),
                    None => product,
                };
                let y = fast.forward(x.clone(), activation);
                assert_eq!(y.dtype(), *of_output, "{case}");
                assert_close(&gpu, y, expected, &case);
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn a_dense_layer_that_is_to_be_exact_loses_nothing_to_half_precision() {
    let gpu = device();
    let (rows, inputs, outputs) = (3, 40, 70);
    let (x, weight) = (matrix(&gpu, rows, inputs, 9), matrix(&gpu, outputs, inputs, 7));
    let bias = vector(&gpu, outputs, 8);
    for &precision in precisions(&gpu) {
        let layer = GpuLinear::prepare_exact(weight.clone(), bias.clone(), precision);
        let expected = x.clone().matmul(weight.clone().transpose()) + bias.clone().unsqueeze();
        assert_close(&gpu, layer.forward(x.clone(), None), expected, &precision.to_string());
    }
}
