//! Dense layers whose outputs are pooled, against the stored outputs.

use cloze_kernels::{Context, Isa, Linear, Pool, PooledRows, Pooling, Precision};
use cloze_test_values::random;

/// The outputs of the layer, then the pooling in f64.
fn plain(y: &[f32], outputs: usize, pools: &[PooledRows], pooled: &mut [f64]) {
    for PooledRows { rows, to, pooling } in pools {
        for row in rows.clone() {
            for column in 0..outputs {
                let value = f64::from(y[row * outputs + column]).max(0.0);
                let pooled = &mut pooled[to * outputs + column];
                *pooled = match pooling {
                    Pooling::Max => value.max(*pooled),
                    Pooling::SumLog1p => *pooled + value.ln_1p(),
                };
            }
        }
    }
}

fn pools(lengths: &[usize], gap: usize) -> Vec<PooledRows> {
    let mut end = 0;
    let pools = lengths.iter().enumerate().map(|(index, length)| {
        let start = end + gap;
        end = start + length;
        PooledRows {
            rows: start..end,
            // In any order.
            to: (index + 1) % lengths.len(),
            pooling: [Pooling::Max, Pooling::SumLog1p][index % 2],
        }
    });
    pools.collect()
}

#[test]
fn outputs_are_pooled_as_the_stored_ones_are() {
    let threads = [1, 3].map(|threads| Pool::new(threads).unwrap());
    let lengths: [&[usize]; 6] = [
        &[1],
        &[5, 0, 7],
        &[12, 1, 11],
        &[13, 40, 2],
        &[145, 3],
        &[33, 300, 1, 1, 64],
    ];
    for (inputs, outputs) in [(1, 1), (5, 31), (32, 33), (100, 17), (257, 130)] {
        let (weight, bias) = (random(outputs * inputs, 2), random(outputs, 3));
        for (lengths, gap) in lengths.into_iter().flat_map(|lengths| [(lengths, 0), (lengths, 3)]) {
            let pools = pools(lengths, gap);
            let rows = pools.last().unwrap().rows.end + gap;
            let x = random(rows * inputs, 1);
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                for (pool, isa) in threads
                    .iter()
                    .flat_map(|pool| Isa::available().map(move |isa| (pool, isa)))
                {
                    let case = format!("{isa} {precision:?}: {inputs} to {outputs}, {lengths:?}, {gap}");
                    let context = Context { pool, isa };
                    let layer = Linear::new(isa, &weight, &bias, inputs, precision);
                    let mut y = vec![0.0; rows * outputs];
                    layer.apply(context, &x, rows, None, &mut y);
                    let mut expected = vec![0.0; lengths.len() * outputs];
                    let mut pooled = vec![0.0; lengths.len() * outputs];
                    // A second call adds to the first.
                    for _ in 0..2 {
                        layer.apply_pooled(context, &x, &pools, &mut pooled);
                        plain(&y, outputs, &pools, &mut expected);
                    }
                    for (at, (&ours, &expected)) in pooled.iter().zip(&expected).enumerate() {
                        let error = (f64::from(ours) - expected).abs();
                        assert!(
                            error <= 2e-6 * expected.max(1.0),
                            "{case}: {ours}, not {expected}, at {at}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_stay() {
    let pool = Pool::new(1).unwrap();
    for (isa, pooling) in Isa::available().flat_map(|isa| [(isa, Pooling::Max), (isa, Pooling::SumLog1p)]) {
        let context = Context { pool: &pool, isa };
        let layer = Linear::new(isa, &[1.0], &[0.0], 1, Precision::F32);
        let pooled = |x: &[f32]| {
            let pools = [PooledRows {
                rows: 0..x.len(),
                to: 0,
                pooling,
            }];
            let mut pooled = [0.0];
            layer.apply_pooled(context, x, &pools, &mut pooled);
            pooled[0]
        };
        assert_eq!(pooled(&[-1.0, -0.0]).to_bits(), 0, "{isa} {pooling:?}");
        for nan in [f32::NAN, -f32::NAN] {
            assert!(pooled(&[2.0, nan, 5.0]).is_nan(), "{isa} {pooling:?}");
        }
        // AMX computes with pairs of bf16, whose second part is NaN then.
        if isa.to_string() != "amx" {
            assert_eq!(pooled(&[2.0, f32::INFINITY, 5.0]), f32::INFINITY, "{isa} {pooling:?}");
            assert_eq!(pooled(&[-1.0, f32::NEG_INFINITY]).to_bits(), 0, "{isa} {pooling:?}");
        }
    }
}

#[test]
#[should_panic(expected = "is_sorted_by")]
fn rows_that_overlap_are_refused() {
    let pool = Pool::new(1).unwrap();
    let isa = Isa::detected();
    let layer = Linear::new(isa, &[1.0], &[0.0], 1, Precision::F32);
    let rows = |rows| PooledRows {
        rows,
        to: 0,
        pooling: Pooling::Max,
    };
    layer.apply_pooled(
        Context { pool: &pool, isa },
        &[1.0; 4],
        &[rows(0..3), rows(2..4)],
        &mut [0.0],
    );
}
