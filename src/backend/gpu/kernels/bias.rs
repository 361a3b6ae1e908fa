//! Bias and activation after a matrix product.

use burn::tensor::Shape;
use cubecl::prelude::*;

use super::split_f16::get;
use super::{Primitive, UNITS, cubes_over, element, empty};
use crate::backend::Activation;

const INVERSE_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// `activation(x + bias)` over the rows of `x` `[rows, columns]`; `x` itself is overwritten.
pub fn bias_activation(x: Primitive, bias: Primitive, activation: Option<Activation>) -> Primitive {
    let shape = x.meta.shape();
    let (rows, columns) = (shape[0], shape[1]);
    let (dtype, bias_dtype) = (x.dtype, bias.dtype);
    bias_kernel::launch(
        &x.client.clone(),
        cubes_over(rows * columns),
        CubeDim::new_1d(UNITS),
        x.clone().into_tensor_arg(),
        bias.into_tensor_arg(),
        columns as u32,
        activation,
        [dtype, bias_dtype].map(element),
    );
    x
}

/// `activation(high + low + rest + bias)`: `x` `[rows, 2 * columns]` is split, `rest` is `[rows, columns]` if there is
/// one, and so is the result.
pub fn bias_activation_of_split(
    x: Primitive,
    rest: Option<Primitive>,
    bias: Primitive,
    activation: Option<Activation>,
) -> Primitive {
    let (rows, columns) = (x.meta.shape()[0], x.meta.shape()[1] / 2);
    let output = empty(&x, Shape::new([rows, columns]), x.dtype);
    let (dtype, bias_dtype, has_rest) = (x.dtype, bias.dtype, rest.is_some());
    bias_of_split_kernel::launch(
        &x.client.clone(),
        cubes_over(rows * columns),
        CubeDim::new_1d(UNITS),
        x.clone().into_tensor_arg(),
        // A kernel's arguments are fixed: an absent one is another buffer, which is not read.
        rest.unwrap_or(x).into_tensor_arg(),
        bias.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        columns as u32,
        has_rest,
        activation,
        [dtype, bias_dtype].map(element),
    );
    output
}

#[cube(launch)]
fn bias_kernel<F: Float, G: Float>(
    x: &mut Tensor<F>,
    bias: &Tensor<G>,
    columns: u32,
    #[comptime] activation: Option<Activation>,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS_X;
    let at = at as usize;
    if at < x.len() {
        let column = at % columns as usize;
        let value = f32::cast_from(x[at]) + f32::cast_from(bias[column]);
        x[at] = F::cast_from(activate(value, activation));
    }
}

#[cube(launch)]
fn bias_of_split_kernel<F: Float, G: Float>(
    x: &Tensor<F>,
    rest: &Tensor<F>,
    bias: &Tensor<G>,
    output: &mut Tensor<F>,
    columns: u32,
    #[comptime] has_rest: bool,
    #[comptime] activation: Option<Activation>,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS_X;
    if (at as usize) < output.len() {
        let (row, column) = (at / columns, at % columns);
        let mut value = get::<F>(x, row, column, columns, 2u32);
        if has_rest {
            value += f32::cast_from(rest[at as usize]);
        }
        value += f32::cast_from(bias[column as usize]);
        output[at as usize] = F::cast_from(activate(value, activation));
    }
}

#[cube]
fn activate(x: f32, #[comptime] activation: Option<Activation>) -> f32 {
    match comptime!(activation) {
        Some(Activation::Gelu) => 0.5f32 * x * (1.0f32 + Erf::erf(x * INVERSE_SQRT_2)),
        Some(Activation::GeluTanh) => {
            // √(2/π)
            let inner = 0.797_884_6f32 * (x + 0.044_715f32 * x * x * x);
            0.5f32 * x * (1.0f32 + inner.tanh())
        }
        Some(Activation::Relu) => max(x, 0.0f32),
        Some(Activation::Silu) => x / (1.0f32 + (0.0f32 - x).exp()),
        // A rare one follows in plain Burn.
        Some(Activation::Rare(_)) | None => x,
    }
}
