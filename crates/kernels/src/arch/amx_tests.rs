//! Dense layers through AMX, or through its emulator, against f64 and exact integers over odd sizes.

use cloze_amx_emulator as emulator;
use cloze_test_values::random;

use crate::context::Context;
use crate::epilogue::Activation;
use crate::gemm::Gemm;
use crate::isa::Isa;
use crate::kernel::{Block, Operands, Rows};
use crate::layout::{AMX_MR, K_BLOCK, KLayout, Line, NR, Packing, Precision, Tile, panel_element};
use crate::linear::Linear;
use crate::pack;
use crate::pool::Pool;
use crate::pooled::{PooledRows, Pooling};
use crate::rounding::bf16_bits;

const ROWS: [usize; 9] = [1, 2, 15, 16, 17, 31, 33, 65, 100];
/// Inputs and outputs; the last three have several slices of K in some precision or in all.
const SIZES: [(usize, usize); 7] = [(1, 1), (3, 5), (32, 33), (100, 17), (257, 130), (300, 70), (1030, 33)];

/// Makes AMX available, by emulation on a CPU that lacks only that.
fn require_amx() {
    if Isa::detected() == Isa::Avx512Bf16 {
        emulator::install(Isa::assume_amx);
    }
    assert_eq!(Isa::detected(), Isa::Amx, "AMX or AVX-512 with bf16 is required");
}

fn rounded(values: &[f32]) -> Vec<f32> {
    let round = |&value: &f32| f32::from_bits(bf16_bits(value) << 16);
    values.iter().map(round).collect()
}

/// `x · weightᵀ + bias` in f64.
fn reference(x: &[f32], weight: &[f32], bias: &[f32], inputs: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| -> f64 { x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum() };
    let row = |x: &[f32]| -> Vec<f64> {
        let outputs = weight.chunks_exact(inputs).zip(bias);
        outputs.map(|(w, &bias)| dot(x, w) + f64::from(bias)).collect()
    };
    x.chunks_exact(inputs).flat_map(row).collect()
}

/// The norm of the difference, relative to that of `expected`.
fn error(y: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(y.len(), expected.len());
    let difference: f64 = y.iter().zip(expected).map(|(&y, e)| (f64::from(y) - e).powi(2)).sum();
    let norm: f64 = expected.iter().map(|e| e * e).sum();
    (difference / norm).sqrt()
}

/// Runs `check(context, rows, inputs, outputs)` for all sizes, on one thread and on several.
fn over_sizes(mut check: impl FnMut(Context<'_>, usize, usize, usize)) {
    for threads in [1, 3] {
        let pool = Pool::new(threads).unwrap();
        let context = Context {
            pool: &pool,
            isa: Isa::Amx,
        };
        for rows in ROWS {
            for (inputs, outputs) in SIZES {
                check(context, rows, inputs, outputs);
            }
        }
        // No thread keeps its tiles configured.
        pool.run(50, |_| assert_ne!(emulator::tiles_are_configured(), Some(true)));
    }
}

fn check_against_f64(precision: Precision, operands: impl Fn(&[f32]) -> Vec<f32>, error_max: f64) {
    require_amx();
    let mut largest: f64 = 0.0;
    over_sizes(|context, rows, inputs, outputs| {
        let (x, weight, bias) = (
            random(rows * inputs, 1),
            random(outputs * inputs, 2),
            random(outputs, 3),
        );
        let layer = Linear::new(context.isa, &weight, &bias, inputs, precision);
        let y = apply(&layer, context, &x, rows, None);
        let error = error(&y, &reference(&operands(&x), &operands(&weight), &bias, inputs));
        assert!(error < error_max, "{rows} rows, {inputs} to {outputs}: {error:e}");
        largest = largest.max(error);
    });
    eprintln!("{precision:?}: relative error up to {largest:.1e}");
}

#[test]
#[ignore = "needs AVX-512 with bf16"]
fn f32_to_five_digits() {
    check_against_f64(Precision::F32, <[f32]>::to_vec, 1e-5);
}

#[test]
#[ignore = "needs AVX-512 with bf16"]
fn bf16_is_exact_but_for_the_sums() {
    check_against_f64(Precision::Bf16, rounded, 1e-6);
}

#[test]
#[ignore = "needs AVX-512 with bf16"]
fn int8_sums_are_exact() {
    require_amx();
    for rows in [1, 15, 16, 17, 32] {
        for inputs in [1, 63, 64, 65, 300] {
            let (x, weight) = (random(rows * inputs, 4), random(NR * inputs, 5));
            let layout = KLayout::new(Precision::Int8, Packing::AmxTiles, inputs, AMX_MR);
            let (panel, _) = pack::panels_int8(&weight, NR, inputs, layout.panel_lines() / 2);
            let stored = layout.stored_rows(rows);
            let mut block = vec![0; layout.elements(rows)];
            let scales = &mut vec![0.0; rows];
            let all = Rows {
                x: &x,
                stride: inputs,
                inputs,
                count: rows,
                stored,
            };
            let gemm = Gemm::new(Isa::Amx, Precision::Int8);
            gemm.pack_rows(all, &mut block, scales);
            let mut sums = Tile::ZERO;
            // Once from zero, once more onto those sums.
            for (accumulate, times) in [(false, 1), (true, 2)] {
                let operands = Operands {
                    block: Block::Rows { elements: &block, rows },
                    panel: &panel,
                    prefetch: &[],
                    accumulate,
                };
                gemm.sums(&operands, &mut sums);
                for row in 0..rows {
                    for column in 0..NR {
                        let sum = int8_sum(&block, &panel, stored, row, column);
                        let what = format!("{rows} rows, {inputs} inputs: {row}, {column}, {times} times");
                        assert_eq!(i64::from(sums[row][column] as i32), times * sum, "{what}");
                    }
                }
            }
        }
    }
}

fn apply(layer: &Linear, context: Context<'_>, x: &[f32], rows: usize, activation: Option<Activation>) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * layer.outputs()];
    layer.apply(context, x, rows, activation, &mut y);
    y
}

/// A sum computed from the documented positions of the bytes.
fn int8_sum(block: &[u32], panel: &[Line], stored_rows: usize, row: usize, column: usize) -> i64 {
    let mut sum = 0;
    for step in 0..panel.len() / 2 {
        let activations = block[(step / K_BLOCK * stored_rows + row) * K_BLOCK + step % K_BLOCK].to_le_bytes();
        let weights = panel_element(panel, step, column).to_le_bytes();
        for (activation, weight) in activations.into_iter().zip(weights) {
            sum += i64::from(activation) * i64::from(weight as i8);
        }
    }
    sum
}

#[test]
#[ignore = "needs AVX-512 with bf16"]
fn int8_layers_are_those_of_avx512() {
    require_amx();
    over_sizes(|context, rows, inputs, outputs| {
        let (x, weight, bias) = (
            random(rows * inputs, 6),
            random(outputs * inputs, 7),
            random(outputs, 8),
        );
        let at = |isa| {
            let layer = Linear::new(isa, &weight, &bias, inputs, Precision::Int8);
            apply(&layer, Context { isa, ..context }, &x, rows, Some(Activation::Gelu))
        };
        assert_eq!(at(Isa::Amx), at(Isa::Avx512Bf16), "{rows} rows, {inputs} to {outputs}");
    });
}

#[test]
#[ignore = "needs AVX-512 with bf16"]
fn activations_and_bad_values_are_those_of_avx512() {
    require_amx();
    let pool = Pool::new(2).unwrap();
    let (rows, inputs, outputs) = (33, 70, 40);
    let (weight, bias) = (random(outputs * inputs, 9), random(outputs, 10));
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let layers = [Isa::Amx, Isa::Avx512Bf16].map(|isa| {
            let layer = Linear::new(isa, &weight, &bias, inputs, precision);
            (layer, Context { pool: &pool, isa })
        });
        let outcomes = |x: &[f32], activation| {
            layers
                .each_ref()
                .map(|(layer, context)| apply(layer, *context, x, rows, activation))
        };
        let x = random(rows * inputs, 11);
        for activation in [
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Relu,
            Activation::Silu,
        ] {
            let [tiles, expected] = outcomes(&x, Some(activation));
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            let error = error(&tiles, &expected);
            assert!(error < 1e-5, "{precision:?} {activation:?}: {error:e}");
        }
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = x.clone();
            x[17 * inputs + 5] = bad;
            for y in outcomes(&x, None) {
                for (row, y) in y.chunks_exact(outputs).enumerate() {
                    assert!(
                        y.iter().all(|y| y.is_finite() == (row != 17)),
                        "{precision:?}, {bad}: row {row}"
                    );
                }
            }
        }
    }
}

#[test]
#[ignore = "needs AVX-512 with bf16"]
fn pooled_outputs_are_those_of_the_stored_ones() {
    require_amx();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        over_sizes(|context, rows, inputs, outputs| {
            let (x, weight, bias) = (
                random(rows * inputs, 13),
                random(outputs * inputs, 14),
                random(outputs, 15),
            );
            let layer = Linear::new(context.isa, &weight, &bias, inputs, precision);
            let mut expected = vec![0.0f32; 2 * outputs];
            let half = rows / 2;
            for (row, y) in apply(&layer, context, &x, rows, None).chunks_exact(outputs).enumerate() {
                let of_row = &mut expected[usize::from(row >= half) * outputs..][..outputs];
                of_row
                    .iter_mut()
                    .zip(y)
                    .for_each(|(largest, &y)| *largest = largest.max(y));
            }
            let pool = |rows, to| PooledRows {
                rows,
                to,
                pooling: Pooling::Max,
            };
            let mut pooled = vec![0.0; 2 * outputs];
            layer.apply_pooled(context, &x, &[pool(0..half, 0), pool(half..rows, 1)], &mut pooled);
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            let largest = expected.iter().fold(0.0f64, |a, &b| a.max(b));
            for (ours, expected) in pooled.iter().zip(expected) {
                assert!(
                    (f64::from(*ours) - expected).abs() <= 1e-5 * largest,
                    "{precision:?} {rows} rows, {inputs} to {outputs}"
                );
            }
        });
    }
}

#[test]
#[ignore = "needs AVX-512 with bf16"]
fn weight_rows_come_back() {
    require_amx();
    let (inputs, outputs) = (75, 70);
    let weight = random(outputs * inputs, 12);
    for (precision, error_max) in [(Precision::F32, 4e-6), (Precision::Bf16, 3e-3), (Precision::Int8, 1e-2)] {
        let layer = Linear::new(Isa::Amx, &weight, &vec![0.0; outputs], inputs, precision);
        let ids = [69, 0, 31, 32, 0];
        let expected: Vec<f64> = ids
            .iter()
            .flat_map(|&id| &weight[id as usize * inputs..][..inputs])
            .map(|&value| f64::from(value))
            .collect();
        let error = error(&layer.rows(&ids), &expected);
        assert!(error < error_max, "{precision:?}: {error:e}");
    }
}

#[test]
#[ignore = "needs AVX-512 with bf16"]
fn amx_is_detected_and_smaller_instruction_sets_can_be_chosen() {
    require_amx();
    let names: Vec<&str> = Isa::available().map(Isa::name).collect();
    assert_eq!(
        names,
        ["portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"]
    );
    for name in names {
        assert_eq!(Isa::named(name).map(Isa::name), Ok(name));
    }
}

#[test]
#[should_panic(expected = "packed for another instruction set")]
fn a_layer_packed_for_another_instruction_set_is_refused() {
    let pool = Pool::new(1).unwrap();
    let layer = Linear::new(Isa::Amx, &[1.0], &[0.0], 1, Precision::F32);
    let context = Context {
        pool: &pool,
        isa: Isa::Portable,
    };
    apply(&layer, context, &[1.0], 1, None);
}
