//! Dense layers, pooled or not.

use cloze_kernels::{Activation, Context, Isa, Linear, Pool, PooledRows, Pooling, Precision};
use cloze_test_values::random;

use super::{apply, assert_close, contexts, pools};

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
fn layers_of_8_bits_are_the_same_on_every_instruction_set() {
    let pools = pools();
    for rows in [1, 6, 13, 65] {
        for (inputs, outputs) in [(3, 5), (70, 40), (1100, 33)] {
            let (x, weight, bias) = (
                random(rows * inputs, 1),
                random(outputs * inputs, 2),
                random(outputs, 3),
            );
            let mut expected = None;
            for context in contexts(&pools) {
                let layer = Linear::new(context.isa, &weight, &bias, inputs, Precision::Int8);
                let y = apply(&layer, context, &x, rows, None);
                let expected = expected.get_or_insert_with(|| y.clone());
                assert_eq!(y, *expected, "{} {rows} rows, {inputs} to {outputs}", context.isa);
            }
        }
    }
}

#[test]
fn values_that_are_not_numbers_stay_in_their_row() {
    let pools = pools();
    let (rows, inputs, outputs) = (7, 70, 40);
    let (weight, bias) = (random(outputs * inputs, 2), random(outputs, 3));
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for value in [f32::NAN, f32::from_bits(0x7fff_ffff)] {
            for context in contexts(&pools) {
                let mut x = random(rows * inputs, 1);
                x[3 * inputs + 5] = value;
                let layer = Linear::new(context.isa, &weight, &bias, inputs, precision);
                let y = apply(&layer, context, &x, rows, None);
                for (row, y) in y.chunks_exact(outputs).enumerate() {
                    let are_nan = y.iter().filter(|y| y.is_nan()).count();
                    let expected = if row == 3 { outputs } else { 0 };
                    assert_eq!(are_nan, expected, "{} {precision:?} row {row}", context.isa);
                }
            }
        }
    }
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
