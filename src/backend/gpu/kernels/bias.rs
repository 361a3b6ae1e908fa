//! Bias and activation after a matrix product.

use cubecl::prelude::*;

use super::Primitive;
use crate::backend::Activation;

const UNITS: u32 = 256;
const INVERSE_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// `activation(x + bias)` over the rows of `x` `[rows, columns]`; `x` itself is overwritten.
pub fn bias_activation(x: Primitive, bias: Primitive, activation: Option<Activation>) -> Primitive {
    let shape = x.meta.shape();
    let (rows, columns) = (shape[0], shape[1]);
    let cubes = ((rows * columns) as u32).div_ceil(UNITS);
    let width = cubes.clamp(1, 65_535);
    let (dtype, bias_dtype) = (x.dtype, bias.dtype);
    bias_kernel::launch(
        &x.client.clone(),
        CubeCount::Static(width, cubes.div_ceil(width), 1),
        CubeDim::new_1d(UNITS),
        x.clone().into_tensor_arg(),
        bias.into_tensor_arg(),
        columns as u32,
        activation,
        [dtype.into(), bias_dtype.into()],
    );
    x
}

#[cube(launch)]
fn bias_kernel<F: Float, G: Float>(
    x: &mut Tensor<F>,
    bias: &Tensor<G>,
    columns: u32,
    #[comptime] activation: Option<Activation>,
    #[define(F, G)] _dtypes: [StorageType; 2],
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS_X;
    let at = at as usize;
    if at < x.len() {
        let column = at % columns as usize;
        let value = f32::cast_from(x[at]) + f32::cast_from(bias[column]);
        x[at] = F::cast_from(activate(value, activation));
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
        None => x,
    }
}
