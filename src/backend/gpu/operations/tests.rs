//! The kernels against their reference in plain Burn, over odd sizes, on the best adapter.

use burn::backend::ops::IntTensorOps;
use burn::backend::read_sync;
use burn::tensor::TensorData;
use burn_wgpu::Wgpu;
use cloze_test_values::random;

use super::linear::rounded;
use super::*;
use crate::backend::gpu::kernels::attention::TILE_FIELDS;
use crate::backend::gpu::kernels::pooling::pool_logits;
use crate::backend::gpu::kernels::split_f16;
use crate::backend::gpu::{GpuDevice, open};
use crate::backend::pooling::pool_logits as pool_plainly;
use crate::backend::readout::{STATISTICS, row_len};
use crate::backend::{
    Activation, NormKind, PooledRows, Pooling, RareActivation, ReadoutSpec, SequenceOffsets, reference,
};

fn device() -> GpuDevice {
    open(None).unwrap()
}

fn matrix(gpu: &GpuDevice, rows: usize, columns: usize, seed: u32) -> Tensor<Gpu, 2> {
    let data = TensorData::new(random(rows * columns, seed), [rows, columns]);
    Tensor::from_data(data, &gpu.device)
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

/// `x` rounded to a precision, and the same values in f32 for the reference.
fn in_precision(x: Tensor<Gpu, 2>, precision: Precision) -> (Tensor<Gpu, 2>, Tensor<Gpu, 2>) {
    let x = rounded(x, dtype(precision).unwrap());
    (x.clone(), rounded(x, DType::F32))
}

/// Hidden states as a layer of some precision passes them on.
struct Hidden {
    states: Tensor<Gpu, 2>,
    /// In f32.
    exact: Tensor<Gpu, 2>,
    /// In f32, with the digits that products read.
    seen: Tensor<Gpu, 2>,
}

fn hidden(gpu: &GpuDevice, rows: usize, columns: usize, seed: u32, precision: Precision) -> Hidden {
    let exact = matrix(gpu, rows, columns, seed);
    Hidden {
        states: match precision {
            Precision::F16 => tensor(split_f16::split(primitive(exact.clone()))),
            _ => exact.clone(),
        },
        seen: in_precision(exact.clone(), precision).1,
        exact,
    }
}

/// Hidden states in f32.
fn joined(gpu: &GpuDevice, states: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
    let inputs = ForwardInputs {
        token_ids: (0..states.dims()[0] as u32).collect(),
        ..ForwardInputs::default()
    };
    Gpu::select_rows(&states, &Gpu::upload(inputs, &gpu.device), IndexList::TokenIds)
}

/// A result in f16 may be rounded to 11 bits twice: as a product and with its bias.
fn assert_close(gpu: &GpuDevice, fast: Tensor<Gpu, 2>, plain: Tensor<Gpu, 2>, case: &str) {
    assert_eq!(fast.dims(), plain.dims(), "{case}");
    let error_max = if fast.dtype() == DType::F16 { 1e-3 } else { 4e-6 };
    let (fast, plain) = (fast.into_vec().unwrap(), plain.into_vec().unwrap());
    assert_eq!(gpu.fault(), None, "{case}");
    let scale = plain.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (f, p)) in fast.into_iter().zip(plain).enumerate() {
        let error = (f - p).abs() / scale;
        assert!(error < error_max, "{case}: value {i} is {f}, expected {p}");
    }
}

/// A readout of `top_k` tokens and the tokens in `tokens` of each row.
fn spec(top_k: usize, tokens: &[&[u32]]) -> ReadoutSpec {
    let mut end = 0;
    let ends = tokens.iter().map(|tokens| {
        end += tokens.len() as u32;
        end
    });
    ReadoutSpec {
        rows: tokens.len(),
        padded_rows: tokens.len(),
        top_k,
        row_offsets: std::iter::once(0).chain(ends).collect(),
        token_ids: tokens.concat(),
        full_rows: Vec::new(),
    }
}

/// Inputs in which the readout rows have these offsets.
fn uploaded(gpu: &GpuDevice, queries: &[usize], keys: &[usize], spec: ReadoutSpec) -> GpuInputs {
    let inputs = ForwardInputs {
        token_ids: vec![7, 5, 6],
        position_ids: vec![],
        readout_rows: vec![2],
        token_offsets: keys.to_vec(),
        readout_offsets: queries.to_vec(),
        readouts: vec![spec],
    };
    Gpu::upload(inputs, &gpu.device)
}

#[test]
#[ignore = "needs a GPU adapter"]
fn every_list_lies_in_its_place() {
    let gpu = device();
    let inputs = uploaded(&gpu, &[0, 40], &[0, 50], spec(1, &[&[3, 4], &[9]]));
    let read = |rows: &Primitive| {
        let ids = read_sync(Wgpu::int_into_data(rows.clone())).unwrap();
        ids.iter::<u32>().collect::<Vec<_>>()
    };
    assert_eq!(read(inputs.indices(IndexList::TokenIds)), [7, 5, 6]);
    assert_eq!(read(inputs.indices(IndexList::PositionIds)), [0]);
    assert_eq!(read(inputs.indices(IndexList::ReadoutRows)), [2]);
    let (all, readout_only) = (inputs.tiles(QueryRows::All), inputs.tiles(QueryRows::ReadoutOnly));
    let fields = |tiles: &Tiles| -> Vec<u32> {
        let tiles = read(&tiles.tiles);
        tiles.chunks(TILE_FIELDS).flat_map(|tile| tile[..4].to_vec()).collect()
    };
    assert_eq!(fields(all), [0, 32, 0, 50, 32, 50, 0, 50]);
    assert_eq!(fields(readout_only), [0, 32, 0, 50, 32, 40, 0, 50]);
    let tokens = |tiles: &Tiles| read(&tiles.tiles)[4..8].to_vec();
    assert_eq!(
        (tokens(all), tokens(readout_only)),
        (vec![0, 1, 2, 0], vec![2, 0, 0, 0])
    );
    assert_eq!((all.count, readout_only.count), (2, 2));
    assert_eq!(read(&inputs.readouts[0].token_ids), [3, 4, 9]);
    assert_eq!(read(&inputs.readouts[0].row_offsets), [0, 2, 3]);
    for columns in [1, 3, 300] {
        for &precision in precisions(&gpu) {
            // Neither hidden states nor a table in high precision lose digits.
            let Hidden { states, exact, .. } = hidden(&gpu, 8, columns, 1, precision);
            let table = GpuLinear::prepare_high_precision(exact.clone(), vector(&gpu, 8, 2), precision).unwrap();
            let expected = reference::select_rows(&exact, &[7, 5, 6]);
            let case = format!("rows of {columns} in {precision}");
            let selected = Gpu::select_rows(&states, &inputs, IndexList::TokenIds);
            assert_close(&gpu, selected, expected.clone(), &case);
            assert_close(&gpu, table.embedding_lookup(&inputs), expected, &case);
            let plain_table = GpuLinear::prepare(exact.clone(), vector(&gpu, 8, 2), precision).unwrap();
            let expected = reference::select_rows(&in_precision(exact, precision).1, &[7, 5, 6]);
            assert_close(&gpu, plain_table.embedding_lookup(&inputs), expected, &case);
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn readouts_are_those_of_the_reference() {
    let gpu = device();
    let nothing: &[u32] = &[];
    let cases: [(usize, usize, &[&[u32]]); 5] = [
        (1, 1, &[nothing]),
        (3, 2, &[&[2, 0], nothing, &[1]]),
        (127, 5, &[nothing, nothing]),
        (129, 64, &[&[128, 5, 128]]),
        (1000, 1, &[nothing, &[999], nothing, &[0, 1, 2]]),
    ];
    for (columns, top_k, tokens) in cases {
        let case = format!("{} rows of {columns}, the best {top_k}", tokens.len());
        let spec = spec(top_k, tokens);
        // One row is padding.
        let logits = matrix(&gpu, spec.rows + 1, columns, 11) * 9.0;
        let inputs = uploaded(&gpu, &[0], &[0], spec.clone());
        let fast = Gpu::read_logits(logits.clone(), &inputs, 0);
        let expected = reference::read_logits(logits, &spec);
        assert_close(&gpu, fast.unsqueeze(), expected.unsqueeze(), &case);
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn of_equal_logits_the_lower_token_comes_first_and_logits_that_are_not_finite_are_counted() {
    let gpu = device();
    let mut logits = [0.5f32; 3 * 300];
    // Two units' tokens, a pair in each of them.
    for token in [7, 135, 200, 290] {
        logits[token] = 2.0;
    }
    logits[300 + 250] = f32::NAN;
    logits[600] = f32::NEG_INFINITY;
    let logits = Tensor::from_data(TensorData::new(logits.to_vec(), [3, 300]), &gpu.device);
    let inputs = uploaded(&gpu, &[0], &[0], spec(5, &[&[], &[], &[]]));
    let readout = Gpu::read_logits(logits, &inputs, 0).into_vec().unwrap();
    let row = |row: usize| &readout[row * row_len(5)..(row + 1) * row_len(5)];
    let tokens: Vec<f32> = row(0)[STATISTICS..].chunks(2).map(|pair| pair[1]).collect();
    assert_eq!(tokens, [7.0, 135.0, 200.0, 290.0, 0.0]);
    assert_eq!([0, 1, 2].map(|at| row(at)[3]), [0.0, 1.0, 0.0]);
    assert_eq!(row(2)[STATISTICS..STATISTICS + 2], [0.5, 1.0]);
}

#[test]
#[ignore = "needs a GPU adapter"]
fn pooled_outputs_are_those_of_the_stored_ones() {
    let gpu = device();
    for (rows, inputs, outputs) in [(3, 1, 1), (16, 33, 300), (64, 70, 5000)] {
        for &precision in precisions(&gpu) {
            let weight = matrix(&gpu, outputs, inputs, 21);
            let layer = GpuLinear::prepare_high_precision(weight, vector(&gpu, outputs, 22), precision).unwrap();
            let x = matrix(&gpu, rows, inputs, 23);
            let pools = [
                (0..1, 2, Pooling::Sum),
                (1..rows - 1, 0, Pooling::Max),
                (rows - 1..rows, 1, Pooling::Sum),
            ];
            let pools = pools.map(|(rows, to, pooling)| PooledRows { rows, to, pooling });
            let stored = layer.forward(x.clone(), None);
            let (mut fast, mut plain) = [(); 2].map(|()| Tensor::zeros([3, outputs], &gpu.device)).into();
            // The second call adds to the first.
            for _ in 0..2 {
                fast = layer.forward_pooled(x.clone(), &pools, fast);
                plain = pool_plainly(&stored, &pools, plain);
            }
            assert_close(&gpu, fast, plain, &format!("{precision:?} {rows} {inputs} {outputs}"));
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn pooled_values_that_are_not_finite_stay() {
    let gpu = device();
    for pooling in [Pooling::Max, Pooling::Sum] {
        let pooled = |values: &[f32]| {
            let logits = Tensor::from_data(TensorData::new(values.to_vec(), [values.len(), 1]), &gpu.device);
            let pool = PooledRows {
                rows: 0..values.len(),
                to: 0,
                pooling,
            };
            let zeros = Tensor::<Gpu, 2>::zeros([1, 1], &gpu.device);
            let pooled = tensor::<2>(pool_logits(primitive::<2>(logits), &pool, primitive(zeros)));
            pooled.into_vec().unwrap()[0]
        };
        assert_eq!(pooled(&[-1.0, -0.0, f32::NEG_INFINITY]), 0.0, "{pooling:?}");
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
            assert!(!pooled(&[2.0, bad, 5.0]).is_finite(), "{pooling:?} {bad}");
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn attention_is_that_of_the_reference_for_any_sequences() {
    let gpu = device();
    // Heads, size of a head, and for each sequence its queries and keys.
    type Sizes = (usize, usize);
    let cases: [(usize, usize, &[Sizes]); 4] = [
        (1, 8, &[(1, 1)]),
        (3, 8, &[(5, 5), (1, 1), (33, 33), (64, 64)]),
        (2, 8, &[(1, 7), (0, 3), (2, 130)]),
        (2, 64, &[(40, 40), (3, 70)]),
    ];
    for (heads, head_size, sequences) in cases {
        let ends = |of: fn(&(usize, usize)) -> usize| -> Vec<usize> {
            let mut end = 0;
            let ends = sequences.iter().map(|sequence| {
                end += of(sequence);
                end
            });
            std::iter::once(0).chain(ends).collect()
        };
        let (query_offsets, key_offsets) = (ends(|sequence| sequence.0), ends(|sequence| sequence.1));
        let offsets = SequenceOffsets {
            queries: &query_offsets,
            keys: &key_offsets,
        };
        let hidden = heads * head_size;
        let (queries, tokens) = (*query_offsets.last().unwrap(), *key_offsets.last().unwrap());
        let inputs = uploaded(&gpu, &query_offsets, &key_offsets, spec(0, &[]));
        for &precision in precisions(&gpu) {
            // Far apart, so that the softmax is not flat.
            let (query, plain_query) = in_precision(matrix(&gpu, queries, hidden, 1) * 4.0, precision);
            let (key_value, plain_key_value) = in_precision(matrix(&gpu, tokens, 2 * hidden, 2) * 2.0, precision);
            let options = AttentionOptions::new(heads, precision);
            let fast = Gpu::sequence_attention(query, key_value, &inputs, QueryRows::ReadoutOnly, options, None);
            let expected = reference::attention(plain_query, plain_key_value, offsets, heads);
            let case = format!("{heads} heads of {head_size}, {offsets:?}, {precision}");
            assert_eq!(fast.dtype(), dtype(precision).unwrap(), "{case}");
            assert_close(&gpu, fast, expected, &case);
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn self_attention_is_that_of_the_reference() {
    let gpu = device();
    let (heads, width) = (2, 16);
    let offsets = SequenceOffsets {
        queries: &[0, 3, 5],
        keys: &[0, 3, 9],
    };
    let inputs = uploaded(&gpu, offsets.queries, offsets.keys, spec(0, &[]));
    for &precision in precisions(&gpu) {
        let of_weights = |outputs, seed| in_precision(matrix(&gpu, outputs, width, seed), precision).1;
        let (query_weight, key_value_weight) = (of_weights(width, 1), of_weights(2 * width, 2));
        let (query_bias, key_value_bias) = (vector(&gpu, width, 3), vector(&gpu, 2 * width, 4));
        let layer = |of_context| SelfAttention::<Gpu> {
            query: GpuLinear::prepare(query_weight.clone(), query_bias.clone(), precision).unwrap(),
            key_value: GpuLinear::prepare(key_value_weight.clone(), key_value_bias.clone(), precision).unwrap(),
            joined: None,
            options: AttentionOptions::new(heads, of_context),
            rotary: None,
            bias: None,
        };
        let (queries, keys) = (
            hidden(&gpu, 5, width, 5, precision),
            hidden(&gpu, 9, width, 6, precision),
        );
        let expected = |queries: Tensor<Gpu, 2>, keys: Tensor<Gpu, 2>| {
            let query = queries.matmul(query_weight.clone().transpose()) + query_bias.clone().unsqueeze();
            let key_value = keys.matmul(key_value_weight.clone().transpose());
            reference::attention(query, key_value + key_value_bias.clone().unsqueeze(), offsets, heads)
        };
        // As in the first layer, in those that follow, and in the last.
        let first = (
            queries.exact.clone(),
            &queries.exact,
            keys.exact.clone(),
            &keys.exact,
            precision,
        );
        let middle = (
            queries.states,
            &queries.seen,
            keys.states.clone(),
            &keys.seen,
            precision,
        );
        let last = (
            queries.exact.clone(),
            &queries.exact,
            keys.states,
            &keys.seen,
            Precision::F32,
        );
        for (index, (queries, queries_seen, keys, keys_seen, of_context)) in
            [first, middle, last].into_iter().enumerate()
        {
            let context = Gpu::self_attention(queries, keys, &layer(of_context), &inputs, QueryRows::ReadoutOnly);
            assert_eq!(context.dtype(), dtype(of_context).unwrap());
            let expected = expected(queries_seen.clone(), keys_seen.clone());
            assert_close(&gpu, context, expected, &format!("{precision}, layer {index}"));
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn layer_norm_is_that_of_the_reference() {
    let gpu = device();
    for (rows, hidden) in [(1, 1), (1, 32), (7, 96), (3, 257)] {
        let norm = LayerNorm {
            kind: NormKind::Layer,
            gamma: vector(&gpu, hidden, 3),
            beta: vector(&gpu, hidden, 4),
            eps: 1e-12,
        };
        // A single feature has no variance: the result is beta.
        let norm = if hidden == 1 {
            LayerNorm { eps: 1.0, ..norm }
        } else {
            norm
        };
        let (x, residual) = (matrix(&gpu, rows, hidden, 5) + 3.0, matrix(&gpu, rows, hidden, 6));
        for kind in [NormKind::Layer, NormKind::RootMeanSquare] {
            let norm = LayerNorm { kind, ..norm.clone() };
            for residual in [None, Some(residual.clone())] {
                let case = format!("{kind:?} [{rows}, {hidden}], residual {}", residual.is_some());
                let fast = Gpu::residual_layer_norm(x.clone(), residual.clone(), &norm);
                assert_close(&gpu, fast, reference::layer_norm(x.clone(), residual, &norm), &case);
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn a_dense_layer_with_normalization_is_that_of_the_reference() {
    let gpu = device();
    for (rows, inputs, outputs) in [(1, 8, 3), (5, 32, 130)] {
        let (bias, gamma, beta) = (
            vector(&gpu, outputs, 8),
            vector(&gpu, outputs, 3),
            vector(&gpu, outputs, 4),
        );
        let norm = LayerNorm {
            kind: NormKind::Layer,
            gamma,
            beta,
            eps: 1e-5,
        };
        for &precision in precisions(&gpu) {
            let (_, weight) = in_precision(matrix(&gpu, outputs, inputs, 7), precision);
            let layer = GpuLinear::prepare(weight.clone(), bias.clone(), precision).unwrap();
            let x = matrix(&gpu, rows, inputs, 9);
            let residual = hidden(&gpu, rows, outputs, 6, precision);
            let expected = |x: Tensor<Gpu, 2>| {
                let product = x.matmul(weight.clone().transpose()) + bias.clone().unsqueeze();
                reference::layer_norm(product, Some(residual.exact.clone()), &norm)
            };
            let case = format!("[{rows}, {inputs}] to {outputs} in {precision}");
            // As in all layers but the last: the result are hidden states again.
            let (half, half_plain) = in_precision(x.clone(), precision);
            let y = layer.forward_normalized(half, residual.states.clone(), &norm);
            assert_eq!(y.dtype(), dtype(precision).unwrap(), "{case}");
            assert_close(&gpu, joined(&gpu, y), expected(half_plain), &case);
            // As in the last, where only the weight is rounded.
            let y = layer.forward_normalized(x.clone(), residual.exact.clone(), &norm);
            assert_eq!(y.dtype(), DType::F32, "{case}");
            assert_close(&gpu, y, expected(x), &case);
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn dense_layers_are_those_of_the_reference() {
    let gpu = device();
    let activations = [
        None,
        Some(Activation::Gelu),
        Some(Activation::GeluTanh),
        Some(Activation::Relu),
        Some(Activation::Silu),
        Some(Activation::Rare(RareActivation::QuickGelu)),
        Some(Activation::Rare(RareActivation::Mish)),
    ];
    // A kernel for each activation takes long to compile, so that other sizes have two.
    let sizes: [(usize, usize, usize, &[Option<Activation>]); 3] = [
        (1, 8, 3, &activations),
        (5, 32, 70, &activations[..2]),
        (19, 7, 33, &activations[..2]),
    ];
    for (rows, inputs, outputs, activations) in sizes {
        let bias = vector(&gpu, outputs, 8);
        for &precision in precisions(&gpu) {
            let (_, weight) = in_precision(matrix(&gpu, outputs, inputs, 7), precision);
            let fast = GpuLinear::prepare(weight.clone(), bias.clone(), precision).unwrap();
            let in_memory = dtype(precision).unwrap();
            let x = hidden(&gpu, rows, inputs, 9, precision);
            // Hidden states, the result of an activation, and f32, which loses nothing to the weight's precision.
            let inputs_of = [
                (x.states, x.seen.clone(), in_memory),
                (rounded(x.seen.clone(), in_memory), x.seen, in_memory),
                (x.exact.clone(), x.exact, DType::F32),
            ];
            for ((x, plain_x, of_output), activation) in inputs_of
                .iter()
                .flat_map(|x| activations.iter().map(move |&kind| (x, kind)))
            {
                let case = format!(
                    "[{rows}, {inputs}] {:?} to {outputs} {precision}, {activation:?}",
                    x.dims()
                );
                let product = plain_x.clone().matmul(weight.clone().transpose()) + bias.clone().unsqueeze();
                let expected = match activation {
                    Some(activation) => activation.apply(product),
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
fn a_dense_layer_in_high_precision_loses_nothing_to_f16() {
    let gpu = device();
    for (rows, inputs, outputs) in [(3, 40, 70), (35, 7, 5)] {
        let (x, weight) = (matrix(&gpu, rows, inputs, 9), matrix(&gpu, outputs, inputs, 7));
        let bias = vector(&gpu, outputs, 8);
        for &precision in precisions(&gpu) {
            let layer = GpuLinear::prepare_high_precision(weight.clone(), bias.clone(), precision).unwrap();
            let expected = x.clone().matmul(weight.clone().transpose()) + bias.clone().unsqueeze();
            let case = format!("[{rows}, {inputs}] to {outputs} in {precision}");
            assert_close(&gpu, layer.forward(x.clone(), None), expected, &case);
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn layers_are_not_joined_where_a_part_would_not_begin_at_an_alignment() {
    let gpu = device();
    let layer = |outputs| {
        let weight = matrix(&gpu, outputs, 3, 1);
        GpuLinear::prepare(weight, vector(&gpu, outputs, 2), Precision::F32).unwrap()
    };
    assert!(GpuLinear::join(&mut layer(3), &mut layer(6)).is_none());
}

#[test]
#[ignore = "needs a GPU adapter"]
fn embeddings_in_one_launch_are_those_of_the_reference() {
    let gpu = device();
    let inputs = two_sequences(&gpu);
    for columns in [8, 33] {
        let norm = LayerNorm {
            kind: NormKind::Layer,
            gamma: vector(&gpu, columns, 3),
            beta: vector(&gpu, columns, 4),
            eps: 1e-5,
        };
        let (words, positions) = (matrix(&gpu, 9, columns, 1), matrix(&gpu, 70, columns, 2));
        for &precision in precisions(&gpu) {
            let decoder = GpuLinear::prepare_high_precision(words.clone(), vector(&gpu, 9, 5), precision).unwrap();
            for positions in [None, Some(&positions)] {
                for is_tied in [false, true] {
                    let table = || match is_tied {
                        true => WordTable::Decoder(&decoder),
                        false => WordTable::Table(&words),
                    };
                    let expected = reference::embed(table(), positions, &norm, &inputs);
                    let case = format!("{columns} columns in {precision}, positions {}", positions.is_some());
                    assert_close(&gpu, Gpu::embed(table(), positions, &norm, &inputs), expected, &case);
                }
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn the_last_layer_is_that_of_the_reference() {
    let gpu = device();
    let inputs = two_sequences(&gpu);
    let (heads, width, inner) = (2, 16, 21);
    let norm = |seed| LayerNorm {
        kind: NormKind::Layer,
        gamma: vector(&gpu, width, seed),
        beta: vector(&gpu, width, seed + 1),
        eps: 1e-5,
    };
    for &precision in precisions(&gpu) {
        let dense = |outputs, inputs, seed| {
            let weight = in_precision(matrix(&gpu, outputs, inputs, seed), precision).1;
            GpuLinear::prepare(weight, vector(&gpu, outputs, seed + 1), precision).unwrap()
        };
        let placements = [
            TailNorms::Post {
                attention: norm(20),
                output: norm(22),
            },
            TailNorms::Pre(norm(20)),
        ];
        for (norms, rotary) in placements.into_iter().flat_map(|norms| {
            [
                (norms.clone(), None),
                (norms, Some(rotary(&gpu, 8, RotaryPairing::Halves))),
            ]
        }) {
            let attention = SelfAttention::<Gpu> {
                query: dense(width, width, 1),
                key_value: dense(2 * width, width, 3),
                joined: None,
                options: AttentionOptions::new(heads, Precision::F32),
                rotary,
                bias: None,
            };
            let tail = EncoderTail {
                attention_output: dense(width, width, 5),
                gate: None,
                up: dense(inner, width, 7),
                activation: Activation::Gelu,
                down: dense(width, inner, 9),
                norms,
            };
            let case = format!("{precision}, rotary {}", attention.rotary.is_some());
            let states = hidden(&gpu, 73, width, 11, precision).states;
            let expected = reference::readout_layer(states.clone(), &attention, &tail, &inputs);
            let fast = Gpu::readout_layer(states, &attention, &tail, &inputs);
            assert_close(&gpu, fast, expected, &case);
        }
    }
}

#[test]
fn bf16_and_int8_are_refused() {
    for precision in [Precision::Bf16, Precision::Int8] {
        let error = dtype(precision).unwrap_err().to_string();
        assert!(error.ends_with("it can in f32 and f16"), "{error}");
    }
}

/// Two sequences of 3 and 70 tokens, with 4 readout rows in the second.
fn two_sequences(gpu: &GpuDevice) -> GpuInputs {
    let inputs = ForwardInputs {
        token_ids: vec![0; 73],
        position_ids: (0..3).chain(0..70).collect(),
        readout_rows: vec![3, 10, 40, 72],
        token_offsets: vec![0, 3, 73],
        readout_offsets: vec![0, 0, 4],
        readouts: Vec::new(),
    };
    Gpu::upload(inputs, &gpu.device)
}

fn rotary(gpu: &GpuDevice, size: usize, pairing: RotaryPairing) -> Rotary<Gpu> {
    Rotary {
        pairing,
        cos: matrix(gpu, 70, size / 2, 7),
        sin: matrix(gpu, 70, size / 2, 8),
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn rotation_is_that_of_the_reference() {
    let gpu = device();
    let inputs = two_sequences(&gpu);
    for (heads, size, columns) in [(2, 8, 16), (2, 8, 32), (3, 10, 60)] {
        for pairing in [RotaryPairing::Halves, RotaryPairing::Neighbours] {
            let rotary = rotary(&gpu, size, pairing);
            for rows in [QueryRows::All, QueryRows::ReadoutOnly] {
                let positions = inputs.as_ref().positions(rows);
                let x = matrix(&gpu, positions.len(), columns, 3);
                let expected = reference::rotate(x.clone(), &rotary, heads, &positions);
                let fast = Gpu::rotate(x, &rotary, heads, &inputs, rows);
                let case = format!("{heads} heads of {size} in {columns} columns, {pairing:?}, {rows:?}");
                assert_close(&gpu, fast, expected, &case);
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn attention_by_distance_is_that_of_the_reference() {
    let gpu = device();
    let inputs = two_sequences(&gpu);
    let (heads, size) = (2, 8);
    let hidden = heads * size;
    let bias = RelativeBias {
        table: matrix(&gpu, 41, heads, 9) * 3.0,
    };
    for (window, bias) in [
        (Some(0), None),
        (Some(9), None),
        (Some(1000), None),
        (None, Some(&bias)),
        (Some(33), Some(&bias)),
    ] {
        for rows in [QueryRows::All, QueryRows::ReadoutOnly] {
            let query = matrix(&gpu, inputs.as_ref().query_rows(rows).len(), hidden, 4) * 3.0;
            let key_value = matrix(&gpu, 73, 2 * hidden, 5);
            let options = AttentionOptions {
                window,
                ..AttentionOptions::new(heads, Precision::F32)
            };
            let (q, kv) = (query.clone(), key_value.clone());
            let expected = reference::sequence_attention(q, kv, inputs.as_ref(), rows, options, bias);
            let fast = Gpu::sequence_attention(query, key_value, &inputs, rows, options, bias);
            let case = format!("window {window:?}, bias {}, {rows:?}", bias.is_some());
            assert_close(&gpu, fast, expected, &case);
        }
    }
}

#[test]
#[ignore = "needs a GPU adapter"]
fn rotated_and_biased_self_attention_is_that_of_the_reference() {
    let gpu = device();
    let inputs = two_sequences(&gpu);
    let (heads, width) = (2, 16);
    let bias = RelativeBias {
        table: matrix(&gpu, 41, heads, 9) * 3.0,
    };
    for &precision in precisions(&gpu) {
        for (rotary, bias) in [
            (None, None),
            (Some(rotary(&gpu, 8, RotaryPairing::Halves)), None),
            (None, Some(bias.clone())),
            (Some(rotary(&gpu, 8, RotaryPairing::Neighbours)), Some(bias.clone())),
        ] {
            let weights = |outputs, seed| in_precision(matrix(&gpu, outputs, width, seed), precision).1;
            let mut query = GpuLinear::prepare(weights(width, 1), vector(&gpu, width, 3), precision).unwrap();
            let mut key_value =
                GpuLinear::prepare(weights(2 * width, 2), vector(&gpu, 2 * width, 4), precision).unwrap();
            let joined = GpuLinear::join(&mut query, &mut key_value);
            assert!(joined.is_some());
            let layer = SelfAttention::<Gpu> {
                query,
                key_value,
                joined,
                options: AttentionOptions {
                    window: Some(20),
                    ..AttentionOptions::new(heads, Precision::F32)
                },
                rotary,
                bias,
            };
            let states = matrix(&gpu, 73, width, 5);
            for rows in [QueryRows::All, QueryRows::ReadoutOnly] {
                let queries = reference::select_rows(&states, &inputs.as_ref().query_rows(rows));
                let dense = |x: &Tensor<Gpu, 2>, outputs: usize, seeds: (u32, u32), rows| {
                    let y = x.clone().matmul(weights(outputs, seeds.0).transpose());
                    let y = y + vector(&gpu, outputs, seeds.1).unsqueeze();
                    match &layer.rotary {
                        Some(rotary) => reference::rotate(y, rotary, heads, &inputs.as_ref().positions(rows)),
                        None => y,
                    }
                };
                let expected = reference::sequence_attention(
                    dense(&queries, width, (1, 3), rows),
                    dense(&states, 2 * width, (2, 4), QueryRows::All),
                    inputs.as_ref(),
                    rows,
                    layer.options,
                    layer.bias.as_ref(),
                );
                let fast = Gpu::self_attention(queries, states.clone(), &layer, &inputs, rows);
                let case = format!(
                    "{precision}, rotary {}, bias {}, {rows:?}",
                    layer.rotary.is_some(),
                    layer.bias.is_some()
                );
                assert_close(&gpu, fast, expected, &case);
            }
        }
    }
}
