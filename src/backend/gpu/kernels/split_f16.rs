//! Values split in two f16 parts: `high` is the nearest f16, `low` the rest. Their sum has about 22 bits, and a matrix
//! product can take either part, or both, on the matrix units.
//!
//! A split row of `columns` values is `2 * columns` wide, the high parts first.

use burn::tensor::{DType, Shape};
use cubecl::prelude::*;
use cubecl::zspace::metadata::Metadata;

use super::{Primitive, UNITS, cubes_over, element, empty};

/// `x` `[rows, columns]` in f32 as `[rows, 2 * columns]` in f16; contiguous.
pub fn split(x: Primitive) -> Primitive {
    let (rows, columns) = (x.meta.shape()[0], x.meta.shape()[1]);
    let output = empty(&x, Shape::new([rows, 2 * columns]), DType::F16);
    split_kernel::launch(
        &x.client.clone(),
        cubes_over(rows * columns),
        CubeDim::new_1d(UNITS),
        x.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        columns as u32,
        element(DType::F16),
    );
    output
}

/// A view of the high parts of `x` `[rows, 2 * columns]`: `[rows, columns]`.
pub fn high(mut x: Primitive) -> Primitive {
    let (rows, width) = (x.meta.shape()[0], x.meta.shape()[1]);
    x.meta = Box::new(Metadata::new([rows, width / 2], [width, 1]));
    x
}

#[cube(launch)]
fn split_kernel<F: Float>(x: &Tensor<f32>, output: &mut Tensor<F>, columns: u32, #[define(F)] _dtype: ElemType) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS_X;
    if (at as usize) < x.len() {
        put::<F>(output, at / columns, at % columns, columns, x[at as usize], 2u32);
    }
}

/// The value at `row` and `column` of `x` `[rows, parts * columns]`: the sum of its parts.
#[cube]
pub fn get<F: Float>(x: &Tensor<F>, row: u32, column: u32, columns: u32, #[comptime] parts: u32) -> f32 {
    let at = row * columns * parts + column;
    let mut value = f32::cast_from(x[at as usize]);
    if comptime!(parts == 2) {
        value += f32::cast_from(x[(at + columns) as usize]);
    }
    value
}

/// Writes `value` at `row` and `column` of `x` `[rows, parts * columns]`.
#[cube]
pub fn put<F: Float>(x: &mut Tensor<F>, row: u32, column: u32, columns: u32, value: f32, #[comptime] parts: u32) {
    let at = row * columns * parts + column;
    let high = F::cast_from(value);
    x[at as usize] = high;
    if comptime!(parts == 2) {
        x[(at + columns) as usize] = F::cast_from(value - f32::cast_from(high));
    }
}
