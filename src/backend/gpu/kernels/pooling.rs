//! Pooling of logits over the rows of a sequence, a unit for each column.

use cubecl::prelude::*;

use super::{Primitive, UNITS, cubes_over, element};
use crate::backend::{PooledRows, Pooling};

/// Pools rows of `logits` `[rows, columns]` into a row of `pooled` `[any number of rows, columns]`, f32, which is
/// overwritten.
pub fn pool_logits(logits: Primitive, pool: &PooledRows, pooled: Primitive) -> Primitive {
    let columns = logits.meta.shape()[1];
    let dtype = logits.dtype;
    pool_kernel::launch(
        &logits.client.clone(),
        cubes_over(columns),
        CubeDim::new_1d(UNITS),
        logits.into_tensor_arg(),
        pooled.clone().into_tensor_arg(),
        pool.rows.start as u32,
        pool.rows.end as u32,
        pool.to as u32,
        columns as u32,
        pool.pooling == Pooling::Sum,
        element(dtype),
    );
    pooled
}

#[cube(launch)]
fn pool_kernel<F: Float>(
    logits: &Tensor<F>,
    pooled: &mut Tensor<f32>,
    first_row: u32,
    end_row: u32,
    to: u32,
    columns: u32,
    #[comptime] is_sum: bool,
    #[define(F)] _dtype: ElemType,
) {
    let column = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS_X;
    if column < columns {
        let place = (to * columns + column) as usize;
        let mut sum = pooled[place];
        // Values that are not negative are ordered as their bits are, and NaN is above all: a comparison of f32 may
        // miss it.
        let mut largest = u32::reinterpret(sum);
        for row in first_row..end_row {
            let value = f32::cast_from(logits[(row * columns + column) as usize]);
            let with_sign = u32::reinterpret(value);
            let mut bits = with_sign & 0x7fff_ffffu32;
            if with_sign > bits && bits <= 0x7f80_0000u32 {
                // A negative number.
                bits = 0u32;
            }
            if is_sum {
                if bits > 0x7f80_0000u32 {
                    largest = max(largest, bits);
                }
                sum += (f32::reinterpret(bits) + 1.0f32).ln();
            } else {
                largest = max(largest, bits);
            }
        }
        if is_sum {
            // Drivers may drop a NaN in arithmetic.
            if largest > 0x7f80_0000u32 {
                sum = f32::reinterpret(largest);
            }
            pooled[place] = sum;
        } else {
            pooled[place] = f32::reinterpret(largest);
        }
    }
}
