//! Readout of logits: the softmax's statistics, the most probable tokens, the logits of given tokens; a cube for each
//! row.

use burn::tensor::{DType, Shape};
use cubecl::prelude::*;

use super::{Primitive, ROW_UNITS, cube_for_each, element, empty, sum_of_units};
use crate::backend::ReadoutSpec;
use crate::backend::readout::STATISTICS;

/// The largest `top_k` on the device; each token takes one more pass over the row.
pub const TOP_K_MAX: usize = 64;

/// The [readout](crate::backend::readout) of `logits` `[rows or more, columns]`, in f32; `token_ids` and `row_offsets`
/// are the lists of `spec` on the device.
pub fn read_logits(logits: Primitive, spec: &ReadoutSpec, token_ids: Primitive, row_offsets: Primitive) -> Primitive {
    let columns = logits.meta.shape()[1];
    let output = empty(&logits, Shape::new([spec.numbers()]), DType::F32);
    let dtype = logits.dtype;
    readout_kernel::launch(
        &logits.client.clone(),
        cube_for_each(spec.rows),
        CubeDim::new_1d(ROW_UNITS),
        logits.into_tensor_arg(),
        token_ids.into_tensor_arg(),
        row_offsets.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        spec.rows as u32,
        columns as u32,
        spec.top_k as u32,
        element(dtype),
    );
    output
}

#[cube(launch)]
fn readout_kernel<F: Float>(
    logits: &Tensor<F>,
    token_ids: &Tensor<u32>,
    row_offsets: &Tensor<u32>,
    output: &mut Tensor<f32>,
    rows: u32,
    columns: u32,
    top: u32,
    #[define(F)] _dtype: ElemType,
) {
    let row = min(CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X, rows - 1);
    let first = row * columns;
    let out = row * (STATISTICS as u32 + 2 * top);
    let unit = UNIT_POS_X as usize;
    let mut best_values = Shared::<[f32]>::new_slice(ROW_UNITS as usize);
    let mut best_columns = Shared::<[u32]>::new_slice(ROW_UNITS as usize);

    // NaN is found by its bits, because a comparison may miss it. Minus infinity is a probability of 0.
    let mut not_finite = 0.0f32;
    let mut largest = f32::cast_from(logits[first as usize]);
    let mut column = UNIT_POS_X;
    while column < columns {
        let value = f32::cast_from(logits[(first + column) as usize]);
        let bits = u32::reinterpret(value);
        if bits == 0x7f80_0000u32 || (bits & 0x7fff_ffffu32) > 0x7f80_0000u32 {
            not_finite += 1.0f32;
        }
        largest = max(largest, value);
        column += ROW_UNITS;
    }
    best_values[unit] = not_finite;
    let not_finite = sum_of_units(&mut best_values);
    best_values[unit] = largest;
    sync_cube();
    let mut half = CUBE_DIM_X / 2;
    while half > 0 {
        if UNIT_POS_X < half {
            let other = best_values[(UNIT_POS_X + half) as usize];
            best_values[unit] = max(best_values[unit], other);
        }
        sync_cube();
        half /= 2;
    }
    let largest = best_values[0];
    sync_cube();

    let mut sum = 0.0f32;
    let mut column = UNIT_POS_X;
    while column < columns {
        sum += (f32::cast_from(logits[(first + column) as usize]) - largest).exp();
        column += ROW_UNITS;
    }
    best_values[unit] = sum;
    let sum = sum_of_units(&mut best_values);
    if UNIT_POS_X == 0 {
        output[out as usize] = largest;
        output[(out + 1) as usize] = sum;
        output[(out + 2) as usize] = 0.0f32;
        output[(out + 3) as usize] = not_finite;
    }

    // Each round finds the next best: a smaller logit than the last, or an equal one in a later column.
    let mut last_value = largest;
    let mut next_column = 0u32;
    for round in 0..top {
        // `columns` means none.
        let mut best_value = 0.0f32;
        let mut best_column = columns;
        let mut column = UNIT_POS_X;
        while column < columns {
            let value = f32::cast_from(logits[(first + column) as usize]);
            let comes_after = value < last_value || (value == last_value && column >= next_column);
            if comes_after && (best_column == columns || value > best_value) {
                best_value = value;
                best_column = column;
            }
            column += ROW_UNITS;
        }
        best_values[unit] = best_value;
        best_columns[unit] = best_column;
        sync_cube();
        let mut half = CUBE_DIM_X / 2;
        while half > 0 {
            if UNIT_POS_X < half {
                let other = (UNIT_POS_X + half) as usize;
                let (mine_value, mine_column) = (best_values[unit], best_columns[unit]);
                let (other_value, other_column) = (best_values[other], best_columns[other]);
                let is_better = other_column < columns
                    && (mine_column == columns
                        || other_value > mine_value
                        || (other_value == mine_value && other_column < mine_column));
                if is_better {
                    best_values[unit] = other_value;
                    best_columns[unit] = other_column;
                }
            }
            sync_cube();
            half /= 2;
        }
        last_value = best_values[0];
        let best_column = best_columns[0];
        next_column = best_column + 1;
        sync_cube();
        if UNIT_POS_X == 0 {
            let at = out + STATISTICS as u32 + 2 * round;
            output[at as usize] = last_value;
            output[(at + 1) as usize] = f32::cast_from(best_column);
        }
    }

    let gathered = rows * (STATISTICS as u32 + 2 * top);
    let mut at = row_offsets[row as usize] + UNIT_POS_X;
    let end = row_offsets[(row + 1) as usize];
    while at < end {
        let token = token_ids[at as usize];
        output[(gathered + at) as usize] = f32::cast_from(logits[(first + token) as usize]);
        at += ROW_UNITS;
    }
}
