//! The kernels against their reference in plain Burn, over odd sizes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Tensor, TensorData};

use cloze_kernels::{Context, Isa, Pool};

use super::{Cpu, CpuLinear, TOP_K_MAX, buffers, normalize, read_logits, rotate, slice, tensor, values};
use crate::backend::pooling::pool_logits;
use crate::backend::readout::{LogitsRow, STATISTICS, row_len};
use crate::backend::reference::{self, ReferenceLinear};
use crate::backend::{
    Activation, AttentionOptions, EncoderBackend, EncoderTail, ForwardInputs, IndexList, LayerNorm, LinearOp, NormKind,
    PooledRows, Pooling, Precision, QueryRows, ReadoutSpec, RelativeBias, Rotary, RotaryPairing, SelfAttention,
    SequenceOffsets, TailNorms,
};

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

fn largest(matrix: &Tensor<Cpu, 2>) -> f32 {
    matrix.clone().abs().max().into_scalar()
}

fn assert_close(fast: Tensor<Cpu, 2>, plain: Tensor<Cpu, 2>, case: &str) {
    assert_within(fast, plain, 4e-6, case);
}

fn assert_within(fast: Tensor<Cpu, 2>, plain: Tensor<Cpu, 2>, error_max: f32, case: &str) {
    assert_eq!(fast.dims(), plain.dims(), "{case}");
    let (fast, plain) = (fast.into_data(), plain.into_data());
    let (fast, plain) = (fast.as_slice::<f32>().unwrap(), plain.as_slice::<f32>().unwrap());
    let scale = plain.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
    for (i, (f, p)) in fast.iter().zip(plain).enumerate() {
        let error = (f - p).abs() / scale;
        assert!(error < error_max, "{case}: value {i} is {f}, expected {p}");
    }
}

/// Every way that this CPU can compute, on one thread and on several.
fn contexts(pools: &[Pool]) -> impl Iterator<Item = Context<'_>> {
    let isas = || Isa::available();
    pools
        .iter()
        .flat_map(move |pool| isas().map(move |isa| Context { pool, isa }))
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

fn pools() -> [Pool; 2] {
    [1, 3].map(|threads| Pool::new(threads).expect("threads start"))
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

#[test]
fn pooled_outputs_are_those_of_the_default_body() {
    for (rows, inputs, outputs) in [(3, 1, 1), (16, 33, 300), (150, 70, 257)] {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let layer = CpuLinear::prepare(matrix(outputs, inputs, 2), vector(outputs, 3), precision).unwrap();
            let x = matrix(rows, inputs, 1);
            let pools = [
                (0..1, 2, Pooling::Sum),
                (1..rows - 1, 0, Pooling::Max),
                (rows - 1..rows, 1, Pooling::Sum),
            ];
            let pools = pools.map(|(rows, to, pooling)| PooledRows { rows, to, pooling });
            let stored = layer.forward(x.clone(), None);
            let zeros = || Tensor::zeros([3, outputs], &Default::default());
            let first = layer.forward_pooled(x.clone(), &pools, zeros());
            let plain = pool_logits(&stored, &pools, zeros());
            let case = format!("{precision:?} {rows} rows, {inputs} to {outputs}");
            assert_close(first.clone(), plain.clone(), &case);
            let second = layer.forward_pooled(x, &pools, first);
            assert_close(second, pool_logits(&stored, &pools, plain), &format!("{case}, added"));
        }
    }
}

#[test]
fn the_default_body_of_pooling_keeps_values_that_are_not_finite() {
    for pooling in [Pooling::Max, Pooling::Sum] {
        let pooled = |values: &[f32]| {
            let logits = Tensor::<Cpu, 1>::from_floats(values, &Default::default()).unsqueeze_dim(1);
            let pools = [PooledRows {
                rows: 0..values.len(),
                to: 0,
                pooling,
            }];
            pool_logits(&logits, &pools, Tensor::zeros([1, 1], &Default::default())).into_scalar()
        };
        assert_eq!(pooled(&[-1.0, -0.0, f32::NEG_INFINITY]), 0.0, "{pooling:?}");
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(!pooled(&[2.0, bad, 5.0]).is_finite(), "{pooling:?} {bad}");
        }
    }
}

#[test]
fn linear() {
    use cloze_kernels::Precision::{Bf16, F32, Int8};
    let activations = [
        (None, None),
        (Some(Activation::Gelu), Some(cloze_kernels::Activation::Gelu)),
        (Some(Activation::GeluTanh), Some(cloze_kernels::Activation::GeluTanh)),
        (Some(Activation::Relu), Some(cloze_kernels::Activation::Relu)),
        (Some(Activation::Silu), Some(cloze_kernels::Activation::Silu)),
    ];
    let pools = pools();
    // Every size of a block of rows, and both sides of where weights stop being streamed.
    for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 65, 144, 145] {
        for (inputs, outputs) in [(1, 1), (3, 5), (32, 33), (100, 17), (257, 130)] {
            let x = random(rows * inputs, 1);
            let weight = random(outputs * inputs, 2);
            let bias = random(outputs, 3);
            for precision in [F32, Bf16, Int8] {
                // What the rounded operands give in plain f32.
                let plain = reference_linear(
                    tensor(rounded(&weight, inputs, precision), outputs, inputs),
                    tensor(bias.clone(), 1, outputs).reshape([outputs]),
                );
                let rounded_x = tensor(rounded(&x, inputs, precision), rows, inputs);
                let last = outputs as u32 - 1;
                let ids = vec![last, 0, last / 2, 0];
                let expected_rows = plain.embedding_lookup(&with_tokens(&ids));
                let expected = activations.map(|(activation, _)| plain.forward(rounded_x.clone(), activation));
                let before_activation = &expected[0];
                for context in contexts(&pools) {
                    let (isa, threads) = (context.isa, context.pool.threads());
                    let layer = cloze_kernels::Linear::new(isa, &weight, &bias, inputs, precision);
                    // Where f32 is two bf16, it has 16 bits.
                    let error_max = if matches!(isa, Isa::Amx { .. }) && precision == F32 {
                        2e-5
                    } else {
                        4e-6
                    };
                    for ((activation, kernel_activation), expected) in activations.into_iter().zip(&expected) {
                        let mut y = vec![f32::NAN; rows * outputs];
                        layer.apply(context, &x, rows, kernel_activation, &mut y);
                        let coarse_max = match activation {
                            // Off by so much of the larger of 1 and what comes into it.
                            Some(Activation::Gelu) if precision != F32 => {
                                2e-5 * largest(before_activation).max(1.0) / largest(expected).max(1e-3)
                            }
                            _ => 0.0,
                        };
                        assert_within(
                            tensor(y, rows, outputs),
                            expected.clone(),
                            error_max + coarse_max,
                            &format!(
                                "{isa} x{threads} {precision:?}: {rows} rows, {inputs} to {outputs}, {activation:?}"
                            ),
                        );
                    }
                    assert_close(
                        tensor(layer.rows(&ids), ids.len(), inputs),
                        expected_rows.clone(),
                        &format!("{isa} {precision:?} weight rows"),
                    );
                }
            }
        }
    }
}

#[test]
fn rows_of_tables_and_weights() {
    for (entries, columns) in [(1, 1), (5, 3), (40, 33)] {
        let (table, bias) = (matrix(entries, columns, 1), vector(entries, 2));
        let fast = CpuLinear::prepare(table.clone(), bias, Precision::F32).unwrap();
        for count in [1, 2, 15, 16, 17, 100] {
            let rows: Vec<u32> = (0..count).map(|i| (i * 7 % entries) as u32).collect();
            // Whatever was in the memory that they are written to.
            buffers::give_back(values(matrix(1, count * columns + 9, 3)));
            let expected = reference::select_rows(&table, &rows);
            let inputs = with_tokens(&rows);
            let case = format!("{count} rows of {entries} by {columns}");
            let selected = Cpu::select_rows(&table, &inputs, IndexList::TokenIds);
            assert_within(selected, expected.clone(), 1e-9, &case);
            buffers::give_back(values(matrix(1, count * columns + 9, 3)));
            // Where f32 is two bf16, it has 16 bits.
            assert_within(fast.embedding_lookup(&inputs), expected, 2e-5, &case);
        }
        let beyond = with_tokens(&[0, entries as u32]);
        let select = AssertUnwindSafe(|| Cpu::select_rows(&table, &beyond, IndexList::TokenIds));
        assert!(catch_unwind(select).is_err());
    }
}

#[test]
fn a_value_that_is_not_a_number_stays_one() {
    use cloze_kernels::Precision::{Bf16, F32, Int8};
    let pools = pools();
    for precision in [F32, Bf16, Int8] {
        let (weight, bias) = (random(5 * 20, 1), random(5, 2));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = random(2 * 20, 3);
            x[27] = bad;
            for context in contexts(&pools) {
                let layer = cloze_kernels::Linear::new(context.isa, &weight, &bias, 20, precision);
                let mut y = vec![0.0; 2 * 5];
                layer.apply(context, &x, 2, None, &mut y);
                let (good, broken) = y.split_at(5);
                assert!(good.iter().all(|y| y.is_finite()), "{precision:?}: {y:?}");
                assert!(broken.iter().all(|y| !y.is_finite()), "{precision:?}: {y:?}");
            }
        }
    }
}

/// The inputs of sequences between the offsets `tokens`, with readout rows between the offsets `queries`.
fn packed(tokens: &[usize], queries: &[usize], readout_rows: &[u32]) -> ForwardInputs {
    let lengths = tokens.windows(2).map(|bounds| (bounds[1] - bounds[0]) as u32);
    ForwardInputs {
        token_ids: vec![0; *tokens.last().unwrap()],
        position_ids: lengths.flat_map(|length| 0..length).collect(),
        readout_rows: readout_rows.to_vec(),
        token_offsets: tokens.to_vec(),
        readout_offsets: queries.to_vec(),
        readouts: Vec::new(),
    }
}

#[test]
fn attention() {
    let pools = pools();
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
            // Queries of all rows, of the first sequence alone, of one row of each.
            let first_only = std::iter::once(0).chain(std::iter::repeat_n(1, lengths.len()));
            for queries in [boundaries.clone(), first_only.collect(), (0..=lengths.len()).collect()] {
                let offsets = SequenceOffsets {
                    queries: &queries,
                    keys: &boundaries,
                };
                let inputs = packed(&boundaries, &queries, &[]);
                let query = matrix(*queries.last().unwrap(), hidden, 4);
                let key_value = matrix(tokens, 2 * hidden, 5);
                let expected = reference::attention(query.clone(), key_value.clone(), offsets, heads);
                for context in contexts(&pools) {
                    for (precision, error_max) in [(Precision::F32, 4e-6), (Precision::Bf16, 0.02)] {
                        let (query, key_value) = (query.clone(), key_value.clone());
                        let options = AttentionOptions::new(heads, precision);
                        let rows = QueryRows::ReadoutOnly;
                        assert_within(
                            super::attention(context, query, key_value, &inputs, rows, options, None),
                            expected.clone(),
                            error_max,
                            &format!("{} {precision:?} {heads} heads of {size}, {offsets:?}", context.isa),
                        );
                    }
                }
            }
        }
    }
}

/// A dense layer for the instructions of `context`, which need not be this CPU's best.
fn layer(context: Context<'_>, weight: &Tensor<Cpu, 2>, bias: &Tensor<Cpu, 1>, precision: Precision) -> CpuLinear {
    let inputs = weight.dims()[1];
    let (weight, bias) = (values(weight.clone()), values(bias.clone()));
    let precision = super::kernel_precision(precision).unwrap();
    let (weight, bias) = (slice(&weight), slice(&bias));
    CpuLinear(cloze_kernels::Linear::new(context.isa, weight, bias, inputs, precision))
}

/// The options of attention beside its sizes.
#[derive(Clone, Copy, Debug)]
struct Options {
    pairing: Option<RotaryPairing>,
    window: Option<usize>,
    has_bias: bool,
}

#[test]
fn self_attention() {
    let pools = pools();
    let option = |pairing, window, has_bias| Options {
        pairing,
        window,
        has_bias,
    };
    let all_options = [
        option(None, None, false),
        option(Some(RotaryPairing::Halves), None, false),
        option(Some(RotaryPairing::Neighbours), Some(9), false),
        option(None, None, true),
        option(Some(RotaryPairing::Halves), Some(40), true),
    ];
    // Heads of whole panels, which are computed where their projections are, and of others.
    for (heads, size) in [(3, 32), (2, 64), (2, 24)] {
        let hidden = heads * size;
        let weight = |outputs: usize, seed| matrix(outputs, hidden, seed) / (hidden as f32).sqrt();
        let (query, key_value) = (weight(hidden, 2), weight(2 * hidden, 3));
        let (query_bias, key_value_bias) = (vector(hidden, 4), vector(2 * hidden, 5));
        // One task for each head; several, of texts of one and of several.
        for tokens in [vec![0, 1], vec![0, 2, 3, 8], vec![0, 17, 81, 84, 184, 185]] {
            let all = matrix(*tokens.last().unwrap(), hidden, 1);
            // Queries of all rows, and of the last row of each sequence but the first.
            for rows in [QueryRows::All, QueryRows::ReadoutOnly] {
                let queries: Vec<usize> = (0..tokens.len()).map(|i| i.saturating_sub(1)).collect();
                let readout_rows: Vec<u32> = tokens[2..].iter().map(|&end| end as u32 - 1).collect();
                let inputs = packed(&tokens, &queries, &readout_rows);
                let query_states = match (rows, readout_rows.len()) {
                    (QueryRows::All, _) => all.clone(),
                    (_, 0) => continue,
                    (_, count) => matrix(count, hidden, 6),
                };
                for options in all_options {
                    let rotary = options.pairing.map(|pairing| Rotary {
                        pairing,
                        cos: matrix(100, size / 2, 7),
                        sin: matrix(100, size / 2, 8),
                    });
                    let bias = options.has_bias.then(|| RelativeBias {
                        table: matrix(61, heads, 9) * 3.0,
                    });
                    let attention = |precision| AttentionOptions {
                        window: options.window,
                        ..AttentionOptions::new(heads, precision)
                    };
                    let plain = |weight: &Tensor<Cpu, 2>, bias: &Tensor<Cpu, 1>, x: &Tensor<Cpu, 2>, rows| {
                        let x = reference_linear(weight.clone(), bias.clone()).forward(x.clone(), None);
                        match &rotary {
                            Some(rotary) => reference::rotate(x, rotary, heads, &inputs.positions(rows)),
                            None => x,
                        }
                    };
                    let expected = reference::sequence_attention(
                        plain(&query, &query_bias, &query_states, rows),
                        plain(&key_value, &key_value_bias, &all, QueryRows::All),
                        &inputs,
                        rows,
                        attention(Precision::F32),
                        bias.as_ref(),
                    );
                    for context in contexts(&pools) {
                        for (precision, error_max) in
                            [(Precision::F32, 1e-5), (Precision::Bf16, 0.03), (Precision::Int8, 0.06)]
                        {
                            let layer = SelfAttention {
                                query: layer(context, &query, &query_bias, precision),
                                key_value: layer(context, &key_value, &key_value_bias, precision),
                                options: attention(precision),
                                rotary: rotary.clone(),
                                bias: bias.clone(),
                            };
                            let (query_states, all) = (query_states.clone(), all.clone());
                            let fast = super::self_attention(context, query_states, all, &layer, &inputs, rows);
                            let (isa, threads) = (context.isa, context.pool.threads());
                            let case = format!(
                                "{isa} x{threads} {precision:?} {heads} heads of {size}, {tokens:?} {rows:?}, {options:?}"
                            );
                            assert_within(fast, expected.clone(), error_max, &case);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn encoder_tail() {
    let pools = pools();
    // Few rows, which share each layer, and more than several tasks take.
    for rows in [1, 13, 100, 600] {
        for (hidden, inner) in [(5, 3), (33, 70), (64, 600), (48, 3000)] {
            if rows * hidden * inner > 15_000_000 {
                continue;
            }
            for is_gated in [false, true] {
                check_tails(&pools, rows, hidden, inner, is_gated);
            }
        }
    }
}

/// Compares post-norm and pre-norm layers, with both kinds of normalization, with their layers in plain Burn.
fn check_tails(pools: &[Pool], rows: usize, hidden: usize, inner: usize, is_gated: bool) {
    let (attended, residual) = (matrix(rows, hidden, 0), matrix(rows, hidden, 1));
    // So that sums stay around one, as in a model.
    let weight = |outputs: usize, inputs: usize, seed| matrix(outputs, inputs, seed) / (inputs as f32).sqrt();
    let square = (weight(hidden, hidden, 8), vector(hidden, 9));
    let up = (weight(inner, hidden, 2), vector(inner, 4));
    let gate = (weight(inner, hidden, 12), vector(inner, 13));
    let down = (weight(hidden, inner, 3), vector(hidden, 5));
    let plain = |(weight, bias): &(Tensor<Cpu, 2>, Tensor<Cpu, 1>), x: Tensor<Cpu, 2>, activation| {
        reference_linear(weight.clone(), bias.clone()).forward(x, activation)
    };
    let activation = Activation::Gelu;
    let plain_inner = |x: Tensor<Cpu, 2>| match is_gated {
        true => plain(&gate, x.clone(), Some(activation)) * plain(&up, x, None),
        false => plain(&up, x, Some(activation)),
    };
    for kind in [NormKind::Layer, NormKind::RootMeanSquare] {
        for is_pre in [false, true] {
            let norm = |seed| LayerNorm {
                kind,
                gamma: vector(hidden, seed),
                beta: vector(hidden, seed + 1),
                eps: 1e-12,
            };
            let sums = plain(&square, attended.clone(), None);
            let expected = match is_pre {
                false => {
                    let x = reference::layer_norm(sums, Some(residual.clone()), &norm(10));
                    reference::layer_norm(plain(&down, plain_inner(x.clone()), None), Some(x), &norm(6))
                }
                true => {
                    let x = sums + residual.clone();
                    plain(
                        &down,
                        plain_inner(reference::layer_norm(x.clone(), None, &norm(10))),
                        None,
                    ) + x
                }
            };
            for context in contexts(pools) {
                for (precision, error_max) in [(Precision::F32, 1e-5), (Precision::Bf16, 0.03), (Precision::Int8, 0.05)]
                {
                    let layer =
                        |(weight, bias): &(Tensor<Cpu, 2>, Tensor<Cpu, 1>)| layer(context, weight, bias, precision);
                    let tail = EncoderTail {
                        attention_output: layer(&square),
                        gate: is_gated.then(|| layer(&gate)),
                        up: layer(&up),
                        activation,
                        down: layer(&down),
                        norms: match is_pre {
                            false => TailNorms::Post {
                                attention: norm(10),
                                output: norm(6),
                            },
                            true => TailNorms::Pre(norm(10)),
                        },
                    };
                    let isa = context.isa;
                    let case = format!(
                        "{isa} {precision:?} {rows} rows of {hidden}, {inner} between, gated {is_gated}, pre {is_pre}, \
                         {kind:?}"
                    );
                    let fast = super::encoder_tail(context, attended.clone(), residual.clone(), &tail);
                    assert_within(fast, expected.clone(), error_max, &case);
                }
            }
        }
    }
}

#[test]
fn layer_norm() {
    let pools = pools();
    for rows in [1, 2, 31, 33, 100] {
        for hidden in [2, 3, 15, 16, 17, 100, 257] {
            let x = matrix(rows, hidden, 6);
            let residual = matrix(rows, hidden, 7);
            let kinds = [NormKind::Layer, NormKind::RootMeanSquare];
            for (residual, kind) in [Some(residual), None]
                .into_iter()
                .flat_map(|x| kinds.map(|kind| (x.clone(), kind)))
            {
                let norm = LayerNorm {
                    kind,
                    gamma: vector(hidden, 8),
                    beta: vector(hidden, 9),
                    eps: 1e-12,
                };
                let expected = reference::layer_norm(x.clone(), residual.clone(), &norm);
                for context in contexts(&pools) {
                    assert_close(
                        normalize(context, x.clone(), residual.clone(), &norm),
                        expected.clone(),
                        &format!("{} {rows} rows of {hidden}, {kind:?}", context.isa),
                    );
                }
            }
        }
    }
}

/// A readout of `top_k` tokens of each row, and of as many given tokens as the row's index says, spread over the
/// vocabulary.
fn spec(rows: usize, vocab: usize, top_k: usize) -> ReadoutSpec {
    let of_row = |row: usize| (0..row).map(move |index| (index * (vocab - 1) / row.max(2).next_multiple_of(2)) as u32);
    let offsets = (0..=rows).map(|row| (0..row).sum::<usize>() as u32);
    ReadoutSpec {
        rows,
        padded_rows: rows,
        top_k,
        token_ids: (0..rows).flat_map(of_row).collect(),
        row_offsets: offsets.collect(),
        full_rows: Vec::new(),
    }
}

#[test]
fn readout_of_logits() {
    let pools = pools();
    for vocab in [1, 2, 15, 17, 63, 64, 65, 100, 257, 1000, 30_522] {
        for rows in [1, 2, 5] {
            // A softmax that is almost even and one that is not.
            for spread in [1.0, 40.0] {
                let logits = matrix(rows, vocab, 10) * spread;
                for top_k in [0, 1, 5, TOP_K_MAX] {
                    let spec = spec(rows, vocab, top_k.min(vocab));
                    let expected = reference::read_logits(logits.clone(), &spec).into_data();
                    let expected = expected.as_slice::<f32>().unwrap();
                    for context in contexts(&pools) {
                        let case = format!("{} {rows} rows of {vocab}, times {spread}, {top_k}", context.isa);
                        let readout = read_logits(context, logits.clone(), &spec).into_data();
                        let readout = readout.as_slice::<f32>().unwrap();
                        assert_eq!(readout.len(), expected.len(), "{case}");
                        let len = row_len(spec.top_k);
                        let (ours, tokens) = readout.split_at(rows * len);
                        let (plain, tokens_plain) = expected.split_at(rows * len);
                        for (row, (ours, plain)) in ours.chunks(len).zip(plain.chunks(len)).enumerate() {
                            assert_eq!((ours[0], ours[3]), (plain[0], plain[3]), "{case}, row {row}");
                            let (sum, sum_plain) = (ours[1] + ours[2], plain[1] + plain[2]);
                            // Plain Burn sums in f32; the kernel's own tests compare its sum with one in f64.
                            assert!((sum / sum_plain - 1.0).abs() < 2e-5, "{case}: {sum}, not {sum_plain}");
                            assert_eq!(ours[STATISTICS..], plain[STATISTICS..], "{case}, row {row}");
                        }
                        assert_eq!(tokens, tokens_plain, "{case}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_with_a_logit_that_is_not_finite_is_known_and_no_other() {
    let pools = pools();
    for vocab in [1, 16, 70, 1000] {
        let spec = spec(3, vocab, 1);
        // A value in the row between two good ones; a single -infinity is a token of probability 0.
        for (bad, everywhere) in [
            (f32::NAN, false),
            (f32::NAN, true),
            (f32::INFINITY, false),
            (f32::INFINITY, true),
            (f32::NEG_INFINITY, true),
            (f32::NEG_INFINITY, false),
        ] {
            for place in [0, vocab / 2, vocab - 1] {
                let mut logits = random(3 * vocab, 11);
                match everywhere {
                    true => logits[vocab..2 * vocab].fill(bad),
                    false => logits[vocab + place] = bad,
                }
                let logits = tensor(logits, 3, vocab);
                let are_finite = |readout: Tensor<Cpu, 1>| {
                    let readout = readout.into_data();
                    let readout = readout.as_slice::<f32>().unwrap();
                    [0, 1, 2].map(|row| LogitsRow::new(readout, &spec, row).is_finite())
                };
                let is_possible = bad == f32::NEG_INFINITY && !everywhere && vocab > 1;
                let expected = [true, is_possible, true];
                let case = format!("{bad} of {vocab}, everywhere {everywhere}, at {place}");
                assert_eq!(
                    are_finite(reference::read_logits(logits.clone(), &spec)),
                    expected,
                    "reference: {case}"
                );
                for context in contexts(&pools) {
                    let ours = are_finite(read_logits(context, logits.clone(), &spec));
                    assert_eq!(ours, expected, "{}: {case}", context.isa);
                }
            }
        }
    }
}

#[test]
fn f16_is_refused() {
    let error = CpuLinear::prepare(matrix(2, 3, 1), vector(2, 2), Precision::F16).err();
    assert_eq!(
        error.map(|error| error.to_string()).as_deref(),
        Some("the backend cannot compute in f16; it can in f32, bf16 and int8")
    );
}

#[test]
fn attention_by_distance() {
    let pools = pools();
    for (heads, size) in [(1, 3), (2, 8), (3, 33)] {
        let hidden = heads * size;
        for lengths in [vec![1, 2], vec![17, 64, 3], vec![131], vec![40, 300]] {
            let boundaries = offsets_of(&lengths);
            let tokens = *boundaries.last().unwrap();
            // Every third token, as a readout has them.
            let some = |bounds: &[usize]| (bounds[0]..bounds[1]).step_by(3).map(|row| row as u32);
            let readout: Vec<u32> = boundaries.windows(2).flat_map(some).collect();
            let counts: Vec<usize> = lengths.iter().map(|length| length.div_ceil(3)).collect();
            let inputs = packed(&boundaries, &offsets_of(&counts), &readout);
            for rows in [QueryRows::All, QueryRows::ReadoutOnly] {
                let query = matrix(inputs.query_rows(rows).len(), hidden, 4);
                let key_value = matrix(tokens, 2 * hidden, 5);
                let bias = RelativeBias {
                    table: matrix(257, heads, 6) * 4.0,
                };
                let windows = [0, 1, 8, 65, usize::MAX / 4].map(|window| (Some(window), None));
                for (window, bias) in windows
                    .into_iter()
                    .chain([(None, Some(&bias)), (Some(20), Some(&bias))])
                {
                    let options = |precision| AttentionOptions {
                        window,
                        ..AttentionOptions::new(heads, precision)
                    };
                    let expected = match window {
                        Some(window) if window > tokens && bias.is_none() => {
                            reference::attention(query.clone(), key_value.clone(), inputs.offsets(rows), heads)
                        }
                        _ => {
                            let (query, key_value) = (query.clone(), key_value.clone());
                            reference::sequence_attention(
                                query,
                                key_value,
                                &inputs,
                                rows,
                                options(Precision::F32),
                                bias,
                            )
                        }
                    };
                    for context in contexts(&pools) {
                        for (precision, error_max) in [(Precision::F32, 4e-6), (Precision::Bf16, 0.02)] {
                            let (query, key_value) = (query.clone(), key_value.clone());
                            let options = options(precision);
                            let fast = super::attention(context, query, key_value, &inputs, rows, options, bias);
                            let (isa, has_bias) = (context.isa, bias.is_some());
                            let case = format!(
                                "{isa} {precision:?} {heads} heads of {size}, {lengths:?} {rows:?}, window {window:?}, \
                                 bias {has_bias}"
                            );
                            assert_within(fast, expected.clone(), error_max, &case);
                        }
                    }
                }
            }
        }
    }
}

fn offsets_of(lengths: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0];
    offsets.extend(lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    }));
    offsets
}

#[test]
fn rotation() {
    let pools = pools();
    let positions: Vec<u32> = (0..40).map(|row| row * 5 % 7).collect();
    for (heads, size) in [(1, 2), (3, 4), (2, 10), (2, 64)] {
        let rotated = heads * size;
        for columns in [rotated, 2 * rotated] {
            for pairing in [RotaryPairing::Halves, RotaryPairing::Neighbours] {
                let rotary = Rotary {
                    pairing,
                    cos: matrix(7, size / 2, 1),
                    sin: matrix(7, size / 2, 2),
                };
                let x = matrix(positions.len(), columns, 3);
                let plain = reference::rotate(x.clone(), &rotary, heads, &positions);
                for context in contexts(&pools) {
                    let fast = rotate(context, x.clone(), &rotary, heads, &positions);
                    let case = format!(
                        "{} {heads} heads of {size} in {columns} columns, {pairing:?}",
                        context.isa
                    );
                    assert_close(fast, plain.clone(), &case);
                }
            }
        }
    }
}

#[test]
fn a_pair_is_turned_by_its_angle() {
    let quarter = |pairing| Rotary {
        pairing,
        cos: Tensor::from_data([[1.0, 1.0], [0.0, 0.0]], &Default::default()),
        sin: Tensor::from_data([[0.0, 0.0], [1.0, 1.0]], &Default::default()),
    };
    let x = || Tensor::<Cpu, 2>::from_data([[1.0, 2.0, 3.0, 4.0]], &Default::default());
    for (pairing, expected) in [
        (RotaryPairing::Halves, [-3.0, -4.0, 1.0, 2.0]),
        (RotaryPairing::Neighbours, [-2.0, 1.0, -4.0, 3.0]),
    ] {
        let turned = reference::rotate(x(), &quarter(pairing), 1, &[1]);
        assert_eq!(turned.into_data().to_vec::<f32>().unwrap(), expected);
        let still = reference::rotate(x(), &quarter(pairing), 1, &[0]);
        assert_eq!(still.into_data().to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    }
}

#[test]
fn sums_and_products() {
    for (rows, columns) in [(1, 1), (3, 7), (130, 70)] {
        let (x, y) = (matrix(rows, columns, 1), matrix(rows, columns, 2));
        let case = format!("{rows}x{columns}");
        assert_close(Cpu::add(x.clone(), y.clone()), x.clone() + y.clone(), &case);
        assert_close(Cpu::multiply(x.clone(), y.clone()), x.clone() * y.clone(), &case);
    }
}

#[test]
fn root_mean_square_normalization() {
    let norm = LayerNorm {
        kind: NormKind::RootMeanSquare,
        gamma: Tensor::from_data([1.0, 2.0], &Default::default()),
        beta: Tensor::zeros([2], &Default::default()),
        eps: 0.0,
    };
    let x = Tensor::<Cpu, 2>::from_data([[1.0, 7.0], [-3.0, 3.0]], &Default::default());
    let expected = Tensor::from_data([[0.2, 2.8], [-1.0, 2.0]], &Default::default());
    assert_close(Cpu::residual_layer_norm(x, None, &norm), expected, "by hand");
}
