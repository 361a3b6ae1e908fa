//! Residual addition and layer normalization.

use burn::tensor::Shape;
use cubecl::prelude::*;

use super::{Primitive, ROW_UNITS, cube_for_each, empty, sum_of_units};

/// The weights of a normalization over `[hidden]` features, both of one type.
pub struct Norm {
    /// Scale.
    pub gamma: Primitive,
    /// Shift.
    pub beta: Primitive,
    /// Added to the variance.
    pub eps: f32,
}

/// Normalizes the rows of `x` with what is added to them first: `residual`, `[rows, hidden]` and of the type of `x`, and `bias`,
/// `[hidden]` and of the type of `norm`; all contiguous.
pub fn layer_norm(x: Primitive, bias: Option<Primitive>, residual: Option<Primitive>, norm: Norm) -> Primitive {
    let shape = x.meta.shape().clone();
    let (rows, hidden) = (shape[0], shape[1]);
    let output = empty(&x, Shape::new([rows, hidden]), x.dtype);
    let has_residual = residual.is_some();
    let client = x.client.clone();
    let (dtype, norm_dtype) = (x.dtype, norm.gamma.dtype);
    // A kernel's arguments are fixed; in the place of what is not there stands something that is, unread.
    let residual = residual.unwrap_or_else(|| x.clone());
    let has_bias = bias.is_some();
    let bias = bias.unwrap_or_else(|| norm.gamma.clone());
    layer_norm_kernel::launch(
        &client,
        cube_for_each(rows),
        CubeDim::new_1d(ROW_UNITS),
        x.into_tensor_arg(),
        residual.into_tensor_arg(),
        bias.into_tensor_arg(),
        norm.gamma.into_tensor_arg(),
        norm.beta.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        rows as u32,
        norm.eps,
        hidden as u32,
        has_residual,
        has_bias,
        [dtype.into(), norm_dtype.into()],
    );
    output
}

#[cube(launch)]
fn layer_norm_kernel<F: Float, G: Float>(
    x: &Tensor<F>,
    residual: &Tensor<F>,
    bias: &Tensor<G>,
    gamma: &Tensor<G>,
    beta: &Tensor<G>,
    output: &mut Tensor<F>,
    rows: u32,
    eps: f32,
    #[comptime] hidden: u32,
    #[comptime] has_residual: bool,
    #[comptime] has_bias: bool,
    #[define(F, G)] _dtypes: [StorageType; 2],
) {
    // Past the end a cube computes the last row again, so that all its units meet at the barriers.
    let row = min(CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X, rows - 1);
    let first = row * hidden;
    let mut values = SharedMemory::<f32>::new(hidden as usize);
    let mut partial = SharedMemory::<f32>::new(ROW_UNITS as usize);

    let mut sum = 0.0f32;
    let mut column = UNIT_POS_X;
    while column < hidden {
        let at = (first + column) as usize;
        let mut value = f32::cast_from(x[at]);
        if has_residual {
            value += f32::cast_from(residual[at]);
        }
        if has_bias {
            value += f32::cast_from(bias[column as usize]);
        }
        values[column as usize] = value;
        sum += value;
        column += ROW_UNITS;
    }
    partial[UNIT_POS_X as usize] = sum;
    let mean = sum_of_units(&mut partial) / hidden as f32;

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
        output[(first + column) as usize] = F::cast_from(scaled);
        column += ROW_UNITS;
    }
}
