//! CubeCL kernels: one launch each where plain Burn takes several.
//!
//! Sums, softmax and error function run in f32 whatever the tensors hold. The oracle of each is its plain form
//! in [`plain`](crate::backend::plain).
//!
//! | file | what it computes |
//! |---|---|
//! | `halves` | numbers as two in half precision, and what reads and writes them so |
//! | `norm` | bias and residual addition and layer normalization, a row for each cube |
//! | `rows` | rows of a table, by their numbers, a row for each cube |
//! | `bias` | bias and activation, in place after a matrix product |
//! | `top` | softmax statistics, likeliest tokens and wanted logits, a row for each cube |
//! | `attention` | biases and softmax attention of all segments and heads at once |

// A kernel's arguments are its buffers and sizes, one by one.
#![allow(clippy::too_many_arguments)]

pub mod attention;
pub mod bias;
pub mod halves;
pub mod norm;
pub mod rows;
pub mod top;

use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use burn_wgpu::WgpuRuntime;
use cubecl::prelude::*;

/// A tensor's buffer and layout on the device.
pub type Primitive = CubeTensor<WgpuRuntime>;

/// Units of the cubes that reduce a row.
pub const ROW_UNITS: u32 = 128;
/// Units of the cubes that take one number each.
pub const UNITS: u32 = 256;

/// Memory for a tensor on the device of `like`, with whatever lay there before.
pub fn empty(like: &Primitive, shape: Shape, dtype: DType) -> Primitive {
    let bytes = shape.num_elements() * dtype.size();
    let handle = like.client.empty(bytes);
    Primitive::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, dtype)
}

/// A cube for each of `rows` rows. One dimension of a launch holds 65,535 at most; the kernels leave out what
/// is past the end.
pub fn cube_for_each(rows: usize) -> CubeCount {
    let rows = rows as u32;
    let width = rows.clamp(1, 65_535);
    CubeCount::Static(width, rows.div_ceil(width), 1)
}

/// Cubes of [`UNITS`] for so many numbers.
pub fn cubes_over(numbers: usize) -> CubeCount {
    cube_for_each(numbers.div_ceil(UNITS as usize))
}

/// Adds up the values of `partial`, one for each unit of the cube, a power of two; every unit gets the sum.
#[cube]
pub fn sum_of_units(partial: &mut SharedMemory<f32>) -> f32 {
    let unit = UNIT_POS_X;
    sync_cube();
    let mut half = CUBE_DIM_X / 2;
    while half > 0 {
        if unit < half {
            let other = partial[(unit + half) as usize];
            partial[unit as usize] += other;
        }
        sync_cube();
        half /= 2;
    }
    let sum = partial[0];
    // Nobody may write the next values before all have read this sum.
    sync_cube();
    sum
}
