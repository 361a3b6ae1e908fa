//! Attention and rotary position embeddings.

use super::*;

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
    let computes = computes();
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
                for context in contexts(&computes) {
                    for (precision, error_max) in [(Precision::F32, 4e-6), (Precision::Bf16, 0.02)] {
                        let (query, key_value) = (query.clone(), key_value.clone());
                        let options = AttentionOptions::new(heads, precision);
                        let rows = QueryRows::ReadoutOnly;
                        assert_within(
                            crate::backend::cpu::attention::attention(
                                context, query, key_value, &inputs, rows, options, None,
                            ),
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

/// The options of attention beside its sizes.
#[derive(Clone, Copy, Debug)]
struct Options {
    pairing: Option<RotaryPairing>,
    window: Option<usize>,
    has_bias: bool,
}

#[test]
fn self_attention() {
    let computes = computes();
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
        let weight = |outputs: usize, seed| matrix(outputs, hidden, seed) / (hidden as f64).sqrt();
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
                    for context in contexts(&computes) {
                        for (precision, error_max) in
                            [(Precision::F32, 1e-5), (Precision::Bf16, 0.03), (Precision::Int8, 0.06)]
                        {
                            let layer = SelfAttention {
                                query: layer(context, &query, &query_bias, precision),
                                key_value: layer(context, &key_value, &key_value_bias, precision),
                                joined: None,
                                options: attention(precision),
                                rotary: rotary.clone(),
                                bias: bias.clone(),
                            };
                            let (query_states, all) = (query_states.clone(), all.clone());
                            let fast = crate::backend::cpu::attention::self_attention(
                                context,
                                query_states,
                                all,
                                &layer,
                                &inputs,
                                rows,
                            );
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
fn attention_by_distance() {
    let computes = computes();
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
                    for context in contexts(&computes) {
                        for (precision, error_max) in [(Precision::F32, 4e-6), (Precision::Bf16, 0.02)] {
                            let (query, key_value) = (query.clone(), key_value.clone());
                            let options = options(precision);
                            let fast = crate::backend::cpu::attention::attention(
                                context, query, key_value, &inputs, rows, options, bias,
                            );
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
    let computes = computes();
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
                for context in contexts(&computes) {
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
        assert_eq!(turned.into_vec().unwrap(), expected);
        let still = reference::rotate(x(), &quarter(pairing), 1, &[0]);
        assert_eq!(still.into_vec().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    }
}
