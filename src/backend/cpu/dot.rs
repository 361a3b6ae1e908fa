//! Dense layers over few rows: dot products of rows of `x` with rows of the weight, as the checkpoint has it.
//!
//! A matrix product over many rows is worth packing its operands first, as `gemm` does at every call. Over few
//! rows the packing costs more than the product: there each weight should cross memory once and be used at
//! once. Both operands are read along their rows, so nothing is packed and a tied decoder stays an embedding
//! table.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Rows of `x` in a tile; with [`TILE_OUTPUTS`] the accumulators fill 12 of AVX2's 16 registers.
const TILE_ROWS: usize = 4;
/// Rows of the weight in a tile.
const TILE_OUTPUTS: usize = 3;

/// `weight · xᵀ` as `[outputs, rows]`: `x` is `[rows, inputs]`, `weight` `[outputs, inputs]`.
pub fn dot_products(x: &[f32], weight: &[f32], inputs: usize, rows: usize) -> Vec<f32> {
    let outputs = weight.len() / inputs;
    let mut y = vec![0.0; outputs * rows];
    // A few tasks a thread, so that one that is late does not hold the others long.
    let tasks = 4 * rayon::current_num_threads();
    let chunk = outputs.div_ceil(tasks).next_multiple_of(TILE_OUTPUTS);
    let arch = pulp::Arch::new();
    y.par_chunks_mut(chunk * rows)
        .zip(weight.par_chunks(chunk * inputs))
        .for_each(|(y, weight)| {
            arch.dispatch(Dots {
                x,
                weight,
                inputs,
                rows,
                y,
            });
        });
    y
}

/// One task: all rows of `x` with some rows of the weight.
struct Dots<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    inputs: usize,
    rows: usize,
    y: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            x,
            weight,
            inputs,
            rows,
            y,
        } = self;
        let groups = y
            .chunks_mut(TILE_OUTPUTS * rows)
            .zip(weight.chunks(TILE_OUTPUTS * inputs));
        for (y, weight) in groups {
            match weight.len() / inputs {
                3 => rows_with::<S, 3>(simd, x, weight, inputs, rows, y),
                2 => rows_with::<S, 2>(simd, x, weight, inputs, rows, y),
                _ => rows_with::<S, 1>(simd, x, weight, inputs, rows, y),
            }
        }
    }
}

/// All rows of `x` with `N` rows of the weight, into `y` `[N, rows]`.
#[inline(always)]
fn rows_with<S: Simd, const N: usize>(simd: S, x: &[f32], weight: &[f32], inputs: usize, rows: usize, y: &mut [f32]) {
    for (index, x) in x.chunks(TILE_ROWS * inputs).enumerate() {
        let first = index * TILE_ROWS;
        match x.len() / inputs {
            4 => store::<4, N>(tile(simd, x, weight, inputs), first, rows, y),
            3 => store::<3, N>(tile(simd, x, weight, inputs), first, rows, y),
            2 => store::<2, N>(tile(simd, x, weight, inputs), first, rows, y),
            _ => store::<1, N>(tile(simd, x, weight, inputs), first, rows, y),
        }
    }
}

/// The dot products of `M` rows of `x` with `N` rows of the weight.
#[inline(always)]
fn tile<S: Simd, const M: usize, const N: usize>(simd: S, x: &[f32], weight: &[f32], inputs: usize) -> [[f32; N]; M] {
    let x: [(&[S::f32s], &[f32]); M] = std::array::from_fn(|m| S::as_simd_f32s(&x[m * inputs..][..inputs]));
    let weight: [(&[S::f32s], &[f32]); N] = std::array::from_fn(|n| S::as_simd_f32s(&weight[n * inputs..][..inputs]));
    let mut sums = [[simd.splat_f32s(0.0); N]; M];
    // The same length for all, told once, so that the loop below checks no bounds.
    let steps = weight[0].0.len();
    let x_heads: [&[S::f32s]; M] = std::array::from_fn(|m| &x[m].0[..steps]);
    let weight_heads: [&[S::f32s]; N] = std::array::from_fn(|n| &weight[n].0[..steps]);
    for k in 0..steps {
        let w: [S::f32s; N] = std::array::from_fn(|n| weight_heads[n][k]);
        for m in 0..M {
            let value = x_heads[m][k];
            for n in 0..N {
                sums[m][n] = simd.mul_add_e_f32s(value, w[n], sums[m][n]);
            }
        }
    }
    std::array::from_fn(|m| {
        std::array::from_fn(|n| {
            let tail = x[m].1.iter().zip(weight[n].1).map(|(a, b)| a * b).sum::<f32>();
            simd.reduce_sum_f32s(sums[m][n]) + tail
        })
    })
}

#[inline(always)]
fn store<const M: usize, const N: usize>(tile: [[f32; N]; M], first: usize, rows: usize, y: &mut [f32]) {
    for (m, row) in tile.iter().enumerate() {
        for (n, value) in row.iter().enumerate() {
            y[n * rows + first + m] = *value;
        }
    }
}
