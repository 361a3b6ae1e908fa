//! Bias and rotary position embeddings: <https://arxiv.org/abs/2104.09864>.

use burn::tensor::{DType, Shape};
use cubecl::prelude::*;

use super::{Primitive, UNITS, cubes_over, element, empty};

/// The rotation of pairs of columns by an angle for each position and pair.
pub struct Rotation {
    /// `[positions, head size / 2]`, f32.
    pub cos: Primitive,
    /// `[positions, head size / 2]`, f32.
    pub sin: Primitive,
    /// A pair is two neighbouring columns, not column `i` and column `i + head size / 2`.
    pub pairs_neighbours: bool,
}

/// `x + bias`, with the first `heads` heads of each row rotated: `[rows, columns]` in f32. `x` is `[rows, columns]`,
/// `positions` has one for each row; all contiguous.
pub fn rotate(
    x: Primitive,
    bias: Option<Primitive>,
    rotation: Rotation,
    heads: usize,
    positions: Primitive,
) -> Primitive {
    let (rows, columns) = (x.meta.shape()[0], x.meta.shape()[1]);
    let half = rotation.cos.meta.shape()[1];
    let output = empty(&x, Shape::new([rows, columns]), DType::F32);
    let has_bias = bias.is_some();
    // A kernel's arguments are fixed: an absent one is another buffer, which is not read.
    let bias = bias.unwrap_or_else(|| x.clone());
    let dtypes = [x.dtype, bias.dtype].map(element);
    rotate_kernel::launch(
        &x.client.clone(),
        cubes_over(rows * columns),
        CubeDim::new_1d(UNITS),
        x.into_tensor_arg(),
        bias.into_tensor_arg(),
        rotation.cos.into_tensor_arg(),
        rotation.sin.into_tensor_arg(),
        positions.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        columns as u32,
        (heads * 2 * half) as u32,
        half as u32,
        has_bias,
        rotation.pairs_neighbours,
        dtypes,
    );
    output
}

#[cube(launch)]
fn rotate_kernel<F: Float, G: Float>(
    x: &Tensor<F>,
    bias: &Tensor<G>,
    cos: &Tensor<f32>,
    sin: &Tensor<f32>,
    positions: &Tensor<u32>,
    output: &mut Tensor<f32>,
    columns: u32,
    rotated: u32,
    half: u32,
    #[comptime] has_bias: bool,
    #[comptime] pairs_neighbours: bool,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let at = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) * UNITS + UNIT_POS_X;
    if (at as usize) < output.len() {
        let (row, column) = (at / columns, at % columns);
        let mut value = f32::cast_from(x[at as usize]);
        if has_bias {
            value += f32::cast_from(bias[column as usize]);
        }
        if column < rotated {
            let local = column % (2 * half);
            let mut pair = local % half;
            let mut is_second = local / half;
            let mut step = half;
            if pairs_neighbours {
                pair = local / 2;
                is_second = local % 2;
                step = 1u32;
            }
            let other_column = column + step - 2 * step * is_second;
            let mut other = f32::cast_from(x[(row * columns + other_column) as usize]);
            if has_bias {
                other += f32::cast_from(bias[other_column as usize]);
            }
            let angle = positions[row as usize] * half + pair;
            // The first of a pair subtracts the second, and the second adds the first.
            let sign = f32::cast_from(is_second) * 2.0f32 - 1.0f32;
            value = value * cos[angle as usize] + sign * other * sin[angle as usize];
        }
        output[at as usize] = value;
    }
}
