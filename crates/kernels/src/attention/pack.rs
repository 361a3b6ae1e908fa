//! Packing of queries, values and probabilities as panels.

use crate::isa::for_each_isa;
use crate::layout::{K_BLOCK, Line, NR, f32_rows_mut, rows_mut};
use crate::rounding::{bf16_bits, bf16_bits_of_number};

/// Transposes a K-block of rows, `[32][16]`, to columns, `[16][32]`.
#[inline(always)]
fn transpose_body(rows: &[u32], columns: &mut [[u32; NR]]) {
    for (lane, row) in rows.chunks_exact(K_BLOCK).enumerate() {
        for (column, element) in columns.iter_mut().zip(row) {
            column[lane] = *element;
        }
    }
}

/// Packs values as a panel of f32: `columns` of each row of `x`, from `start` on.
#[inline(always)]
fn pack_values_f32_body(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) {
    for (row, lines) in x.chunks_exact(stride).zip(f32_rows_mut(lines)) {
        let row = &row[start..start + columns];
        match <&[f32; NR]>::try_from(row) {
            Ok(whole) => *lines = *whole,
            Err(_) => lines[..columns].copy_from_slice(row),
        }
    }
}

/// Packs values as a panel of bf16, two rows a K-step; zeros take the place of a missing second row.
#[inline(always)]
fn pack_values_bf16_body(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) {
    let mut steps = rows_mut(lines).iter_mut();
    for rows in x.chunks(2 * stride) {
        let step = steps.next().expect("a K-step for two rows");
        let mut pair = [[0.0; NR]; 2];
        for (values, row) in pair.iter_mut().zip(rows.chunks_exact(stride)) {
            let row = &row[start..start + columns];
            match <&[f32; NR]>::try_from(row) {
                Ok(whole) => *values = *whole,
                Err(_) => values[..columns].copy_from_slice(row),
            }
        }
        for n in 0..NR {
            step[n] = bf16_bits(pair[0][n]) | bf16_bits(pair[1][n]) << 16;
        }
    }
}

/// Packs rows of non-negative f32 as a panel of bf16, two rows a K-step.
#[inline(always)]
fn pack_scores_bf16_body(rows: &[[f32; NR]], lines: &mut [Line]) {
    for (rows, step) in rows.chunks(2).zip(rows_mut(lines)) {
        let second = rows.get(1).unwrap_or(&[0.0; NR]);
        for n in 0..NR {
            step[n] = bf16_bits_of_number(rows[0][n]) | bf16_bits_of_number(second[n]) << 16;
        }
    }
}

for_each_isa! {
    pub fn transpose(rows: &[u32], columns: &mut [[u32; NR]]) = transpose_body
}
for_each_isa! {
    pub fn pack_values_f32(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) = pack_values_f32_body
}
for_each_isa! {
    pub fn pack_values_bf16(x: &[f32], stride: usize, start: usize, columns: usize, lines: &mut [Line]) = pack_values_bf16_body
}
for_each_isa! {
    pub fn pack_scores_bf16(rows: &[[f32; NR]], lines: &mut [Line]) = pack_scores_bf16_body
}
