//! Row lookup, residual addition, and layer or root-mean-square normalization.

use burn::tensor::{DType, Shape};
use cubecl::prelude::*;

use super::split_f16::{get, put};
use super::{Primitive, ROW_UNITS, Rows, cube_for_each, element, empty, sum_of_units};
use crate::backend::NormKind;

/// The weights of a normalization over `[hidden]` features, both of one type.
pub struct Norm {
    pub kind: NormKind,
    pub gamma: Primitive,
    pub beta: Primitive,
    /// Added to the variance.
    pub eps: f32,
}

/// Normalization of the rows of `x + residual + bias`; `bias` is `[hidden]` and of the type of `norm`; all
/// contiguous. `x` and `residual` have rows of `hidden` values, or [split](super::split_f16) ones of `2 * hidden`. The
/// result is f32, or split if `splits_output`.
pub fn layer_norm(
    x: Rows,
    bias: Option<Primitive>,
    residual: Option<Rows>,
    norm: Norm,
    splits_output: bool,
) -> Primitive {
    let (rows, hidden) = (x.len(), norm.gamma.meta.shape()[0]);
    let parts = |of: &Rows| (of.values.meta.shape()[1] / hidden) as u32;
    let x_parts = parts(&x);
    let residual_parts = residual.as_ref().map_or(0, parts);
    let (output_parts, output_dtype) = if splits_output {
        (2, DType::F16)
    } else {
        (1, DType::F32)
    };
    let Rows { values: x, selected } = x;
    let output = empty(&x, Shape::new([rows, output_parts as usize * hidden]), output_dtype);
    let client = x.client.clone();
    // A kernel's arguments are fixed: an absent one is another buffer, which is not read.
    let residual = residual.unwrap_or_else(|| Rows::all(x.clone()));
    let has_bias = bias.is_some();
    let bias = bias.unwrap_or_else(|| norm.gamma.clone());
    let dtypes = [&x, &residual.values, &output, &norm.gamma].map(|of| element(of.dtype));
    let (selects_x, selects_residual) = (selected.is_some(), residual.selected.is_some());
    let indices = |selected: Option<Primitive>| selected.unwrap_or_else(|| norm.gamma.clone()).into_tensor_arg();
    let (x_rows, residual_rows) = (indices(selected), indices(residual.selected));
    layer_norm_kernel::launch(
        &client,
        cube_for_each(rows),
        CubeDim::new_1d(ROW_UNITS),
        x.into_tensor_arg(),
        residual.values.into_tensor_arg(),
        x_rows,
        residual_rows,
        bias.into_tensor_arg(),
        norm.gamma.into_tensor_arg(),
        norm.beta.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        rows as u32,
        norm.eps,
        hidden as u32,
        x_parts,
        residual_parts,
        output_parts,
        selects_x,
        selects_residual,
        has_bias,
        norm.kind == NormKind::Layer,
        dtypes,
    );
    output
}

#[cube(launch)]
fn layer_norm_kernel<X: Float, R: Float, Y: Float, G: Float>(
    x: &Tensor<X>,
    residual: &Tensor<R>,
    x_rows: &Tensor<u32>,
    residual_rows: &Tensor<u32>,
    bias: &Tensor<G>,
    gamma: &Tensor<G>,
    beta: &Tensor<G>,
    output: &mut Tensor<Y>,
    rows: u32,
    eps: f32,
    #[comptime] hidden: u32,
    #[comptime] x_parts: u32,
    #[comptime] residual_parts: u32,
    #[comptime] output_parts: u32,
    #[comptime] selects_x: bool,
    #[comptime] selects_residual: bool,
    #[comptime] has_bias: bool,
    #[comptime] subtracts_mean: bool,
    #[define(X, R, Y, G)] _dtypes: [ElemType; 4],
) {
    // Past the end a cube computes the last row again, so that all its units meet at the barriers.
    let row = min(CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X, rows - 1);
    let mut x_row = row;
    if selects_x {
        x_row = x_rows[row as usize];
    }
    let mut residual_row = row;
    if selects_residual {
        residual_row = residual_rows[row as usize];
    }
    let mut values = Shared::<[f32]>::new_slice(hidden as usize);
    let mut partial = Shared::<[f32]>::new_slice(ROW_UNITS as usize);

    let mut sum = 0.0f32;
    let mut column = UNIT_POS_X;
    while column < hidden {
        let mut value = get::<X>(x, x_row, column, hidden, x_parts);
        if comptime!(residual_parts > 0) {
            value += get::<R>(residual, residual_row, column, hidden, residual_parts);
        }
        if has_bias {
            value += f32::cast_from(bias[column as usize]);
        }
        values[column as usize] = value;
        sum += value;
        column += ROW_UNITS;
    }
    let mut mean = 0.0f32;
    if subtracts_mean {
        partial[UNIT_POS_X as usize] = sum;
        mean = sum_of_units(&mut partial) / hidden as f32;
    }

    let mut squares = 0.0f32;
    let mut column = UNIT_POS_X;
    while column < hidden {
        let centred = values[column as usize] - mean;
        squares += centred * centred;
        column += ROW_UNITS;
    }
    partial[UNIT_POS_X as usize] = squares;
    let variance = sum_of_units(&mut partial) / hidden as f32;

    let deviation = (variance + eps).sqrt();
    let mut column = UNIT_POS_X;
    while column < hidden {
        let at = column as usize;
        let normal = (values[at] - mean) / deviation;
        let scaled = normal * f32::cast_from(gamma[at]) + f32::cast_from(beta[at]);
        put::<Y>(output, row, column, hidden, scaled, output_parts);
        column += ROW_UNITS;
    }
}
