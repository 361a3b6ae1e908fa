//! Rows of a table: Burn's own operation compiles anew for other numbers of rows, and divides for every number it copies.

use burn::tensor::Shape;
use cubecl::prelude::*;

use super::{Primitive, ROW_UNITS, cube_for_each, empty};

/// The rows `ids` of `table` `[entries, columns]`: `[ids, columns]`, in the table's type; all contiguous.
pub fn gather(table: Primitive, ids: Primitive) -> Primitive {
    let (rows, columns) = (ids.meta.shape()[0], table.meta.shape()[1]);
    let output = empty(&table, Shape::new([rows, columns]), table.dtype);
    let dtype = table.dtype;
    gather_kernel::launch(
        &table.client.clone(),
        cube_for_each(rows),
        CubeDim::new_1d(ROW_UNITS),
        table.into_tensor_arg(),
        ids.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        rows as u32,
        columns as u32,
        dtype.into(),
    );
    output
}

#[cube(launch)]
fn gather_kernel<F: Float>(
    table: &Tensor<F>,
    ids: &Tensor<u32>,
    output: &mut Tensor<F>,
    rows: u32,
    columns: u32,
    #[define(F)] _dtype: StorageType,
) {
    let row = CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X;
    if row < rows {
        let from = ids[row as usize] * columns;
        let mut column = UNIT_POS_X;
        while column < columns {
            output[(row * columns + column) as usize] = table[(from + column) as usize];
            column += ROW_UNITS;
        }
    }
}
