//! Dense layers, embedding look-ups, and pooling.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

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
            let logits = Tensor::<Cpu, 1>::from_data(values, &Default::default()).unsqueeze_dim(1);
            let pools = [PooledRows {
                rows: 0..values.len(),
                to: 0,
                pooling,
            }];
            pool_logits(&logits, &pools, Tensor::zeros([1, 1], &Default::default()))
                .into_vec()
                .unwrap()[0]
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
    let computes = computes();
    // Every size of a block of rows, and both sides of where weights stop being streamed.
    for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 65, 144, 145] {
        for (inputs, outputs) in [(1, 1), (3, 5), (32, 33), (100, 17), (257, 130)] {
            let x = random(rows * inputs, 1);
            let weight = random(outputs * inputs, 2);
            let bias = random(outputs, 3);
            for precision in [F32, Bf16, Int8] {
                // The product of the rounded operands in plain f32.
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
                for context in contexts(&computes) {
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
            // The memory that they are written to has other values.
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
    let computes = computes();
    for precision in [F32, Bf16, Int8] {
        let (weight, bias) = (random(5 * 20, 1), random(5, 2));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = random(2 * 20, 3);
            x[27] = bad;
            for context in contexts(&computes) {
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

#[test]
fn f16_is_refused() {
    let error = CpuLinear::prepare(matrix(2, 3, 1), vector(2, 2), Precision::F16).err();
    assert_eq!(
        error.map(|error| error.to_string()).as_deref(),
        Some("the backend cannot compute in f16; it can in f32, bf16 and int8")
    );
}
