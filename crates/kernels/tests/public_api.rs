//! Every public function on every instruction set of the CPU, over odd sizes, with one and several threads, against
//! plain loops in f64. Small, so that sanitizers can run it. The tests of the CPU backend
//! compare with Burn.

use cloze_kernels::{
    Activation, ByDistance, Context, DistanceBias, EncoderTail, Heads, Isa, Linear, Norm, NormKind, Pairing, Pool,
    PooledRows, Pooling, Precision, RotaryPositions, Rotation, SelfAttention, Sequence, TailNorms, add, attention,
    attention_by_distance, layer_norm, multiply, summarize_logits,
};
use cloze_test_values::random;

fn pools() -> [Pool; 2] {
    [1, 3].map(|threads| Pool::new(threads).unwrap())
}

fn contexts(pools: &[Pool]) -> impl Iterator<Item = Context<'_>> {
    let isas = Isa::available();
    isas.flat_map(|isa| pools.iter().map(move |pool| Context { pool, isa }))
}

fn assert_close(ours: &[f32], expected: &[f64], error_max: f64, case: &str) {
    assert_eq!(ours.len(), expected.len(), "{case}");
    for (index, (&ours, &expected)) in ours.iter().zip(expected).enumerate() {
        let error = (f64::from(ours) - expected).abs();
        assert!(error <= error_max, "{case}: {ours}, not {expected}, at {index}");
    }
}

fn apply(layer: &Linear, context: Context<'_>, x: &[f32], rows: usize, activation: Option<Activation>) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * layer.outputs()];
    layer.apply(context, x, rows, activation, &mut y);
    y
}

#[test]
fn pooled_dense_layers() {
    let pools = pools();
    let (inputs, outputs) = (101, 70);
    let (weight, bias) = (random(outputs * inputs, 2), random(outputs, 3));
    for rows in [2, 13, 150] {
        let x = random(rows * inputs, 1);
        for context in contexts(&pools) {
            let layer = Linear::new(context.isa, &weight, &bias, inputs, Precision::F32);
            let y = apply(&layer, context, &x, rows, Some(Activation::Relu));
            let columns = |column: usize| y.iter().skip(column).step_by(outputs).map(|&y| f64::from(y));
            let largest = (0..outputs).map(|column| columns(column).take(rows - 1).fold(0.0, f64::max));
            let sums = (0..outputs).map(|column| columns(column).skip(rows - 1).map(f64::ln_1p).sum());
            let expected: Vec<f64> = largest.chain(sums).collect();
            let pool = |rows, to, pooling| PooledRows { rows, to, pooling };
            let of_rows = [
                pool(0..rows - 1, 0, Pooling::Max),
                pool(rows - 1..rows, 1, Pooling::SumLog1p),
            ];
            let mut pooled = vec![0.0; 2 * outputs];
            layer.apply_pooled(context, &x, &of_rows, &mut pooled);
            assert_close(&pooled, &expected, 1e-4, &format!("{} {rows} rows", context.isa));
        }
    }
}

#[test]
fn dense_layers() {
    let pools = pools();
    for rows in [0, 1, 2, 5, 12, 13, 150] {
        for (inputs, outputs) in [(1, 1), (3, 5), (32, 33), (101, 70)] {
            let (x, weight, bias) = (
                random(rows * inputs, 1),
                random(outputs * inputs, 2),
                random(outputs, 3),
            );
            let dot = |row: usize, output: usize| {
                let (x, weight) = (&x[row * inputs..][..inputs], &weight[output * inputs..][..inputs]);
                x.iter()
                    .zip(weight)
                    .map(|(&x, &w)| f64::from(x) * f64::from(w))
                    .sum::<f64>()
                    + f64::from(bias[output])
            };
            let expected: Vec<f64> = (0..rows * outputs)
                .map(|index| dot(index / outputs, index % outputs).max(0.0))
                .collect();
            // The error of a sum of so many products whose operands are rounded to 8 or to 7 bits.
            for (precision, error_max) in [
                (Precision::F32, 1e-4),
                (Precision::Bf16, 0.01 * inputs as f64),
                (Precision::Int8, 0.02 * inputs as f64),
            ] {
                for context in contexts(&pools) {
                    let layer = Linear::new(context.isa, &weight, &bias, inputs, precision);
                    let case = format!("{} {precision:?} {rows} rows, {inputs} to {outputs}", context.isa);
                    let y = apply(&layer, context, &x, rows, Some(Activation::Relu));
                    assert_close(&y, &expected, error_max, &case);
                }
                let layer = Linear::new(Isa::detected(), &weight, &bias, inputs, precision);
                let last = layer.rows(&[outputs as u32 - 1]);
                let stored: Vec<f64> = weight[(outputs - 1) * inputs..]
                    .iter()
                    .copied()
                    .map(f64::from)
                    .collect();
                assert_close(&last, &stored, 0.02, "the last row of the weight");
            }
        }
    }
}

#[test]
fn a_layer_computes_on_every_instruction_set_but_amx() {
    let pool = Pool::new(1).unwrap();
    let (rows, inputs, outputs) = (13, 70, 40);
    let (x, weight, bias) = (
        random(rows * inputs, 1),
        random(outputs * inputs, 2),
        random(outputs, 3),
    );
    let isas: Vec<Isa> = Isa::available().filter(|isa| isa.name() != "amx").collect();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for &packed_for in &isas {
            let layer = Linear::new(packed_for, &weight, &bias, inputs, precision);
            for &isa in &isas {
                let context = Context { pool: &pool, isa };
                let y = apply(&layer, context, &x, rows, None);
                let same = apply(
                    &Linear::new(isa, &weight, &bias, inputs, precision),
                    context,
                    &x,
                    rows,
                    None,
                );
                assert_eq!(y, same, "{precision:?}: packed for {packed_for}, computed on {isa}");
            }
        }
    }
}

#[test]
fn attention_within_sequences() {
    let pools = pools();
    for (heads, size) in [(1, 1), (2, 8), (3, 12), (2, 33)] {
        let hidden = heads * size;
        for lengths in [&[1][..], &[2, 1, 5], &[17, 40, 3]] {
            let mut sequences = Vec::new();
            let (mut query_rows, mut tokens) = (0, 0);
            for (index, length) in lengths.iter().enumerate() {
                // All of every other sequence ask, of the rest one row or none.
                let rows = [*length, 1, 0][index % 3];
                sequences.push(Sequence {
                    queries: query_rows..query_rows + rows,
                    tokens: tokens..tokens + length,
                });
                (query_rows, tokens) = (query_rows + rows, tokens + length);
            }
            let (query, key_value) = (random(query_rows * hidden, 4), random(tokens * 2 * hidden, 5));
            let mut expected = vec![0.0; query_rows * hidden];
            for sequence in &sequences {
                for (row, head) in sequence
                    .queries
                    .clone()
                    .flat_map(|row| (0..heads).map(move |head| (row, head)))
                {
                    let columns = head * size..(head + 1) * size;
                    let weights: Vec<f64> = sequence
                        .tokens
                        .clone()
                        .map(|token| {
                            let dot = |column| {
                                f64::from(query[row * hidden + column])
                                    * f64::from(key_value[token * 2 * hidden + column])
                            };
                            (columns.clone().map(dot).sum::<f64>() / (size as f64).sqrt()).exp()
                        })
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    for column in columns {
                        let value = |token: usize| f64::from(key_value[token * 2 * hidden + hidden + column]);
                        let weighted = sequence
                            .tokens
                            .clone()
                            .zip(&weights)
                            .map(|(token, weight)| weight * value(token));
                        expected[row * hidden + column] = weighted.sum::<f64>() / sum;
                    }
                }
            }
            for context in contexts(&pools) {
                for (precision, error_max) in [(Precision::F32, 1e-5), (Precision::Bf16, 0.02)] {
                    let mut y = vec![f32::NAN; query.len()];
                    let all = Heads {
                        count: heads,
                        hidden,
                        precision,
                    };
                    attention(context, all, &query, &key_value, &sequences, &mut y);
                    let case = format!("{} {precision:?} {heads} heads of {size}, {lengths:?}", context.isa);
                    assert_close(&y, &expected, error_max, &case);
                }
            }
        }
    }
}

#[test]
fn self_attention_is_attention_over_its_projections() {
    let pools = pools();
    let (heads, hidden) = (3, 96);
    let weight = random(3 * hidden * hidden, 1);
    let bias = random(3 * hidden, 2);
    let (query, key_value) = weight.split_at(hidden * hidden);
    let (query_bias, key_value_bias) = bias.split_at(hidden);
    let sequence = |queries, tokens| Sequence { queries, tokens };
    // Of one task for each head, and of several; in the second, not all rows ask.
    for (sequences, rows, query_rows) in [
        (vec![sequence(0..5, 0..5), sequence(5..18, 5..18)], 18, 18),
        (
            vec![sequence(0..0, 0..1), sequence(0..1, 1..140), sequence(1..3, 140..150)],
            150,
            3,
        ),
    ] {
        let all = random(rows * hidden, 3);
        let query_states = if query_rows == rows {
            all.clone()
        } else {
            random(query_rows * hidden, 4)
        };
        for context in contexts(&pools) {
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                let query = Linear::new(context.isa, query, query_bias, hidden, precision);
                let key_value = Linear::new(context.isa, key_value, key_value_bias, hidden, precision);
                let joint = SelfAttention {
                    query: &query,
                    key_value: &key_value,
                    heads,
                    rotary: None,
                    distance: None,
                };
                if !joint.is_worthwhile(context, &sequences) {
                    // With AMX, whose blocks are others.
                    assert!(matches!(context.isa, Isa::Amx { .. }), "{}", context.isa);
                    continue;
                }
                let mut expected = vec![0.0; query_rows * hidden];
                let (apart, known) = (
                    apply(&query, context, &query_states, query_rows, None),
                    apply(&key_value, context, &all, rows, None),
                );
                let count = Heads {
                    count: heads,
                    hidden,
                    precision,
                };
                attention(context, count, &apart, &known, &sequences, &mut expected);
                let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
                let query_states = if query_rows == rows { &all } else { &query_states };
                let mut y = vec![f32::NAN; query_rows * hidden];
                joint.apply(context, query_states, &all, &sequences, &mut y);
                assert_close(&y, &expected, 1e-6, &format!("{} {precision:?}", context.isa));
            }
        }
    }
}

#[test]
fn the_encoder_tail_is_its_layers() {
    let pools = pools();
    let (hidden, inner) = (33, 1000);
    let square = random(hidden * hidden, 0);
    let (up, down) = (random(inner * hidden, 1), random(hidden * inner, 2));
    let gate = random(inner * hidden, 7);
    let (wide, narrow) = (random(inner, 3), random(hidden, 4));
    for rows in [1, 40, 700] {
        let (attended, residual) = (random(rows * hidden, 5), random(rows * hidden, 6));
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            for context in contexts(&pools) {
                let output = Linear::new(context.isa, &square, &narrow, hidden, precision);
                let up = Linear::new(context.isa, &up, &wide, hidden, precision);
                let down = Linear::new(context.isa, &down, &narrow, inner, precision);
                let gate = Linear::new(context.isa, &gate, &wide, hidden, precision);
                let norm = |gamma, eps| Norm {
                    kind: NormKind::Layer,
                    gamma,
                    beta: &narrow,
                    eps,
                };
                let (first, second) = (norm(&wide[..hidden], 1e-3), norm(&narrow, 1e-5));
                let activation = Some(Activation::Gelu);
                for (gate, norms) in [
                    (None, TailNorms::Post { first, second }),
                    (Some(&gate), TailNorms::Post { first, second }),
                    (None, TailNorms::Pre(first)),
                    (Some(&gate), TailNorms::Pre(first)),
                ] {
                    let layers = EncoderTail {
                        output: &output,
                        gate,
                        up: &up,
                        activation,
                        down: &down,
                        norms,
                    };
                    let mut y = attended.clone();
                    layers.apply(context, &mut y, &residual);
                    let mut x = apply(&output, context, &attended, rows, None);
                    let mut input = match norms {
                        TailNorms::Post { .. } => {
                            layer_norm(context, &mut x, Some(&residual), first);
                            x.clone()
                        }
                        TailNorms::Pre(_) => {
                            add(context, &mut x, &residual);
                            x.clone()
                        }
                    };
                    if let TailNorms::Pre(norm) = norms {
                        layer_norm(context, &mut input, None, norm);
                    }
                    let mut between = apply(&up, context, &input, rows, activation.filter(|_| gate.is_none()));
                    if let Some(gate) = gate {
                        multiply(context, &mut between, &apply(gate, context, &input, rows, activation));
                    }
                    let mut expected = apply(&down, context, &between, rows, None);
                    match norms {
                        TailNorms::Post { second, .. } => layer_norm(context, &mut expected, Some(&x), second),
                        TailNorms::Pre(_) => add(context, &mut expected, &x),
                    }
                    let is_gated = gate.is_some();
                    assert!(
                        y == expected,
                        "{} {precision:?} {rows} rows, gated {is_gated}",
                        context.isa
                    );
                }
            }
        }
    }
}

#[test]
fn layer_normalization() {
    let pools = pools();
    for rows in [0, 1, 31, 33, 70] {
        for hidden in [2, 3, 15, 16, 17, 100] {
            let (x, residual) = (random(rows * hidden, 6), random(rows * hidden, 7));
            let (gamma, beta) = (random(hidden, 8), random(hidden, 9));
            let mut expected = Vec::new();
            for (x, residual) in x.chunks_exact(hidden).zip(residual.chunks_exact(hidden)) {
                let sums: Vec<f64> = x.iter().zip(residual).map(|(&x, &r)| f64::from(x + r)).collect();
                let mean = sums.iter().sum::<f64>() / hidden as f64;
                let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / hidden as f64;
                let normal = sums.iter().map(|x| (x - mean) / (variance + 1e-5).sqrt());
                expected.extend(
                    normal
                        .zip(&gamma)
                        .zip(&beta)
                        .map(|((x, &g), &b)| x * f64::from(g) + f64::from(b)),
                );
            }
            for context in contexts(&pools) {
                let mut y = x.clone();
                let norm = Norm {
                    kind: NormKind::Layer,
                    gamma: &gamma,
                    beta: &beta,
                    eps: 1e-5,
                };
                layer_norm(context, &mut y, Some(&residual), norm);
                assert_close(&y, &expected, 1e-4, &format!("{} {rows} rows of {hidden}", context.isa));
            }
        }
    }
}

#[test]
fn summaries_of_logits() {
    let pools = pools();
    for (rows, columns) in [
        (0, 5),
        (1, 1),
        (4, 15),
        (4, 16),
        (5, 64),
        (4, 65),
        (1, 300),
        (3, 1000),
        (2, 30_522),
    ] {
        // Few values, so that many are equal.
        let mut logits = random(rows * columns, 10);
        logits
            .iter_mut()
            .for_each(|logit| *logit = (*logit * 100.0).round() / 8.0);
        for top in [0, 1, 5, 64, 300] {
            let top = columns.min(top);
            let mut expected = Vec::new();
            for row in logits.chunks_exact(columns) {
                let mut sorted: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
                // Stable: of equal ones the first stays first.
                sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
                let largest = sorted[0].1;
                let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
                let pairs = sorted[..top].iter().flat_map(|&(index, logit)| [logit, index as f32]);
                expected.push((largest, sum, pairs.collect::<Vec<f32>>()));
            }
            let len = 4 + 2 * top;
            for context in contexts(&pools) {
                let case = format!("{} {rows} rows of {columns}, the {top} largest", context.isa);
                let mut summaries = vec![f32::NAN; rows * len];
                summarize_logits(context, &logits, columns, top, &mut summaries);
                for (summary, (largest, sum, pairs)) in summaries.chunks_exact(len).zip(&expected) {
                    assert_eq!((summary[0], summary[3]), (*largest, 0.0), "{case}");
                    assert_eq!(&summary[4..], pairs, "{case}");
                    let ours = f64::from(summary[1]) + f64::from(summary[2]);
                    assert!((ours / sum - 1.0).abs() < 5e-7, "{case}: {ours}, not {sum}");
                }
            }
        }
    }
}

#[test]
fn logits_that_are_not_finite_are_counted() {
    let pools = pools();
    for context in contexts(&pools) {
        for (bad, count) in [
            (f32::NAN, 2.0),
            (-f32::NAN, 2.0),
            (f32::INFINITY, 2.0),
            (f32::NEG_INFINITY, 0.0),
        ] {
            for top in [0, 3] {
                let mut logits = random(2 * 100, 11);
                (logits[7], logits[99]) = (bad, bad);
                let mut summaries = vec![0.0; 2 * (4 + 2 * top)];
                summarize_logits(context, &logits, 100, top, &mut summaries);
                let (first, second) = summaries.split_at(4 + 2 * top);
                assert_eq!((first[3], second[3]), (count, 0.0), "{} {bad}", context.isa);
                assert_eq!(first[1].is_finite(), count == 0.0, "{} {bad}: {first:?}", context.isa);
                assert!(second.iter().all(|number| number.is_finite()));
            }
        }
    }
}

/// The sizes that unsafe code relies on are checked.
#[test]
fn sizes_that_do_not_fit_are_refused() {
    let pools = pools();
    let context = contexts(&pools).last().unwrap();
    let refused = |case: &str, call: &dyn Fn()| {
        let call = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        assert!(call.is_err(), "{case} was not refused");
    };
    refused("a weight of another size", &|| {
        drop(Linear::new(context.isa, &[0.0; 5], &[0.0; 2], 3, Precision::F32))
    });
    let layer = Linear::new(context.isa, &[0.0; 6], &[0.0; 2], 3, Precision::F32);
    refused("an input of another size", &|| {
        drop(apply(&layer, context, &[0.0; 5], 2, None))
    });
    refused("an output of another size", &|| {
        layer.apply(context, &[0.0; 6], 2, None, &mut [0.0; 5])
    });
    refused("a row that is not there", &|| drop(layer.rows(&[2])));
    let attend = |sequences: &[Sequence], heads: usize| {
        let y = &mut [0.0; 4 * 6];
        let heads = Heads {
            count: heads,
            hidden: 6,
            precision: Precision::F32,
        };
        attention(context, heads, &[0.0; 4 * 6], &[0.0; 4 * 12], sequences, y);
    };
    let sequence = |queries, tokens| Sequence { queries, tokens };
    attend(&[sequence(0..2, 0..2), sequence(2..4, 2..4)], 2);
    refused("queries of two sequences", &|| {
        attend(&[sequence(0..3, 0..2), sequence(2..4, 2..4)], 2)
    });
    refused("sequences out of order", &|| {
        attend(&[sequence(2..4, 0..2), sequence(0..2, 2..4)], 2)
    });
    refused("queries that are not there", &|| attend(&[sequence(0..5, 0..2)], 2));
    refused("tokens that are not there", &|| attend(&[sequence(0..2, 0..5)], 2));
    refused("heads that do not divide", &|| attend(&[sequence(0..2, 0..2)], 4));
    let near = |query_tokens: &[u32], bias: Option<(&[f32], usize)>| {
        let heads = Heads {
            count: 2,
            hidden: 6,
            precision: Precision::F32,
        };
        let distance = ByDistance {
            query_tokens,
            window: Some(1),
            bias: bias.map(|(values, span)| DistanceBias { values, span }),
        };
        let sequences = [sequence(0..2, 0..2), sequence(2..4, 2..4)];
        let y = &mut [0.0; 4 * 6];
        attention_by_distance(context, heads, distance, &[0.0; 4 * 6], &[0.0; 4 * 12], &sequences, y);
    };
    near(&[0, 1, 2, 3], Some((&[0.0; 2 * 3], 2)));
    refused("a query of another sequence", &|| near(&[0, 1, 1, 3], None));
    refused("biases of too few distances", &|| {
        near(&[0, 1, 2, 3], Some((&[0.0; 2], 1)))
    });
    refused("biases of one head", &|| near(&[0, 1, 2, 3], Some((&[0.0; 3], 2))));
    let square = Linear::new(context.isa, &[0.0; 32 * 32], &[0.0; 32], 32, Precision::F32);
    let double = Linear::new(context.isa, &[0.0; 64 * 32], &[0.0; 64], 32, Precision::F32);
    let alone = Context {
        pool: &pools[0],
        isa: context.isa,
    };
    let attend = |key_value: &Linear, sequences: &[Sequence], rows: usize| {
        let joint = SelfAttention {
            query: &square,
            key_value,
            heads: 1,
            rotary: None,
            distance: None,
        };
        let x = vec![0.0; rows * 32];
        joint.apply(alone, &x, &x, sequences, &mut vec![0.0; rows * 32]);
    };
    if !matches!(context.isa, Isa::Amx { .. }) {
        attend(&double, &[sequence(0..2, 0..2)], 2);
    }
    let rotate = |positions: &[u32], size: usize| {
        let rotation = Rotation {
            pairing: Pairing::Halves,
            head_size: size,
            cos: &[1.0; 2 * 16],
            sin: &[0.0; 2 * 16],
        };
        let joint = SelfAttention {
            query: &square,
            key_value: &double,
            heads: 1,
            rotary: Some(RotaryPositions {
                rotation,
                queries: positions,
                tokens: positions,
            }),
            distance: None,
        };
        joint.apply(alone, &[0.0; 64], &[0.0; 64], &[sequence(0..2, 0..2)], &mut [0.0; 64]);
    };
    if !matches!(context.isa, Isa::Amx { .. }) {
        rotate(&[0, 1], 32);
    }
    refused("positions of too few rows", &|| rotate(&[0], 32));
    refused("a position beyond the table", &|| rotate(&[0, 2], 32));
    refused("a rotation of other heads", &|| rotate(&[0, 1], 16));
    refused("keys without values", &|| attend(&square, &[sequence(0..2, 0..2)], 2));
    refused("rows of no sequence", &|| attend(&double, &[sequence(0..2, 0..2)], 3));
    refused("a gap between sequences", &|| {
        attend(&double, &[sequence(0..1, 0..1), sequence(1..3, 2..3)], 3)
    });
    let norm = |width: usize, rest: usize| {
        let (gamma, beta) = (vec![1.0; width], vec![0.0; width]);
        let norm = Norm {
            kind: NormKind::Layer,
            gamma: &gamma,
            beta: &beta,
            eps: 0.1,
        };
        layer_norm(context, &mut [0.0; 12], Some(&vec![0.0; rest]), norm);
    };
    norm(4, 12);
    refused("rows of another width", &|| norm(5, 12));
    refused("a residual of another size", &|| norm(4, 8));
    let summarize = |columns: usize, top: usize, numbers: usize| {
        summarize_logits(context, &[0.0; 12], columns, top, &mut vec![0.0; numbers]);
    };
    summarize(6, 2, 16);
    refused("logits of another width", &|| summarize(5, 2, 16));
    refused("summaries of another size", &|| summarize(6, 2, 17));
    refused("more tokens than there are", &|| summarize(6, 7, 36));
}

#[test]
fn many_callers_share_a_pool() {
    let pools = pools();
    let isa = Isa::detected();
    let layer = Linear::new(isa, &random(40 * 70, 1), &random(70, 2), 40, Precision::F32);
    let x = random(13 * 40, 3);
    let alone = apply(&layer, Context { pool: &pools[0], isa }, &x, 13, None);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let y = apply(&layer, Context { pool: &pools[1], isa }, &x, 13, None);
                    assert_eq!(y, alone);
                }
            });
        }
    });
}
