//! Attention, normalization, and whole parts of an encoder layer.

use cloze_kernels::{
    Activation, EncoderTail, Heads, Isa, Linear, Norm, NormKind, Precision, SelfAttention, Sequence, TailNorms, add,
    attention, layer_norm, multiply,
};
use cloze_test_values::random;

use super::{apply, assert_close, contexts, pools};

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
