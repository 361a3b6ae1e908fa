//! Normalization, and layers after their attention.

use super::*;

#[test]
fn encoder_tail() {
    let computes = computes();
    // Few rows, which share each layer, and more than several tasks take.
    for rows in [1, 13, 100, 600] {
        for (hidden, inner) in [(5, 3), (33, 70), (64, 600), (48, 3000)] {
            if rows * hidden * inner > 15_000_000 {
                continue;
            }
            for is_gated in [false, true] {
                check_tails(&computes, rows, hidden, inner, is_gated, Activation::Gelu);
            }
        }
    }
    // Without a kernel.
    for is_gated in [false, true] {
        let activation = Activation::Rare(RareActivation::QuickGelu);
        check_tails(&computes, 13, 33, 70, is_gated, activation);
    }
}

/// Compares post-norm and pre-norm layers, with both kinds of normalization, with their layers in plain Burn.
fn check_tails(
    computes: &[Arc<Compute>],
    rows: usize,
    hidden: usize,
    inner: usize,
    is_gated: bool,
    activation: Activation,
) {
    let (attended, residual) = (matrix(rows, hidden, 0), matrix(rows, hidden, 1));
    // So that sums stay around one, as in a model.
    let weight = |outputs: usize, inputs: usize, seed| matrix(outputs, inputs, seed) / (inputs as f64).sqrt();
    let square = (weight(hidden, hidden, 8), vector(hidden, 9));
    let up = (weight(inner, hidden, 2), vector(inner, 4));
    let gate = (weight(inner, hidden, 12), vector(inner, 13));
    let down = (weight(hidden, inner, 3), vector(hidden, 5));
    let plain = |(weight, bias): &(Tensor<Cpu, 2>, Tensor<Cpu, 1>), x: Tensor<Cpu, 2>, activation| {
        reference_linear(weight.clone(), bias.clone()).forward(x, activation)
    };
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
            for context in contexts(computes) {
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
                    let fast = crate::backend::cpu::encoder_tail::encoder_tail(
                        context,
                        attended.clone(),
                        residual.clone(),
                        &tail,
                    );
                    assert_within(fast, expected.clone(), error_max, &case);
                }
            }
        }
    }
}

#[test]
fn layer_norm() {
    let computes = computes();
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
                for context in contexts(&computes) {
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
