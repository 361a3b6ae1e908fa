//! Row lookup. Burn's own operation compiles again for each row count, and divides for every value that it copies.

use burn::tensor::{DType, Shape};
use cubecl::prelude::*;

use super::split_f16::get;
use super::{Primitive, ROW_UNITS, cube_for_each, element, empty};

/// The rows `ids` of a table with `columns` columns: `[ids, columns]` in f32; all contiguous. `table` is `[entries,
/// columns]`, or [split](super::split_f16) `[entries, 2 * columns]`.
pub fn gather(table: Primitive, columns: usize, ids: Primitive) -> Primitive {
    let (rows, parts) = (ids.meta.shape()[0], table.meta.shape()[1] / columns);
    let output = empty(&table, Shape::new([rows, columns]), DType::F32);
    let dtype = table.dtype;
    gather_kernel::launch(
        &output.client,
        cube_for_each(rows),
        CubeDim::new_1d(ROW_UNITS),
        table.into_tensor_arg(),
        ids.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        rows as u32,
        columns as u32,
        parts as u32,
        element(dtype),
    );
    output
}

#[cube(launch)]
fn gather_kernel<F: Float>(
    table: &Tensor<F>,
    ids: &Tensor<u32>,
    output: &mut Tensor<f32>,
    rows: u32,
    columns: u32,
    #[comptime] parts: u32,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    if row < rows {
        let from = ids[row as usize];
        let mut column = UNIT_POS_X;
        while column < columns {
            output[(row * columns + column) as usize] = get::<F>(table, from, column, columns, parts);
            column += ROW_UNITS;
        }
    }
}
