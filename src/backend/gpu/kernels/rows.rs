//! Row lookup. Burn's own operation compiles again for each row count, and divides for every value that it copies.

use burn::tensor::{DType, Shape};
use cubecl::prelude::*;

use super::{Primitive, ROW_UNITS, cube_for_each, element, empty};

/// The rows `ids` of a table with `columns` columns: `[ids, columns]` in f32; all contiguous.
///
/// `table` is `[entries, columns]`, or [split](super::split_f16) `[entries, 2 * columns]`. `low` holds the low parts: a
/// table like it, or a split `table` itself.
pub fn gather(table: Primitive, low: Option<Primitive>, columns: usize, ids: Primitive) -> Primitive {
    let (rows, width) = (ids.meta.shape()[0], table.meta.shape()[1] / columns);
    let output = empty(&table, Shape::new([rows, columns]), DType::F32);
    let (dtype, has_low) = (table.dtype, low.is_some());
    gather_kernel::launch(
        &table.client.clone(),
        cube_for_each(rows),
        CubeDim::new_1d(ROW_UNITS),
        table.clone().into_tensor_arg(),
        // A kernel's arguments are fixed: an absent one is another buffer, which is not read.
        low.unwrap_or(table).into_tensor_arg(),
        ids.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        rows as u32,
        columns as u32,
        width as u32,
        has_low,
        element(dtype),
    );
    output
}

#[cube(launch)]
fn gather_kernel<F: Float>(
    table: &Tensor<F>,
    low: &Tensor<F>,
    ids: &Tensor<u32>,
    output: &mut Tensor<f32>,
    rows: u32,
    columns: u32,
    #[comptime] width: u32,
    #[comptime] has_low: bool,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    if row < rows {
        let from = ids[row as usize] * columns * width;
        let low_from = from + columns * comptime!(width - 1);
        let mut column = UNIT_POS_X;
        while column < columns {
            let mut value = f32::cast_from(table[(from + column) as usize]);
            if has_low {
                value += f32::cast_from(low[(low_from + column) as usize]);
            }
            output[(row * columns + column) as usize] = value;
            column += ROW_UNITS;
        }
    }
}
