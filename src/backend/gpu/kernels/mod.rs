//! CubeCL kernels: one launch each where plain Burn takes several.
//!
//! Sums, softmax and error function are f32 for tensors of every type. Each kernel is tested against its plain form in
//! [`reference`](mod@crate::backend::reference).
//!
//! | file | subject |
//! |---|---|
//! | `split_f16` | values split in two f16 parts |
//! | `product` | matrix products with conversion of operands, bias and activation |
//! | `activation` | activation functions of one value |
//! | `norm` | row lookup, bias and residual addition and normalization, a cube for each row |
//! | `rows` | row lookup, a cube for each row |
//! | `readout` | softmax statistics, most probable tokens, logits of given tokens; a cube for each row |
//! | `pooling` | pooling of logits over the rows of a sequence |
//! | `rotary` | bias and rotary position embeddings |
//! | `attention` | biases and softmax attention of all sequences and heads at once |

// A kernel's arguments are its buffers and sizes, one by one.
#![allow(clippy::too_many_arguments)]

mod activation;
pub mod attention;
pub mod norm;
pub mod pooling;
pub mod product;
pub mod readout;
pub mod rotary;
pub mod rows;
pub mod split_f16;

use burn::backend::cubecl::dtype_to_elem_type as element;
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// A tensor's buffer and layout on the device.
pub type Primitive = CubeTensor;

/// Bytes; a buffer that is part of another begins at a multiple of it on every adapter.
pub const ALIGNMENT: usize = 256;

/// Rows of a matrix, all of them or the selected ones in their order.
#[derive(Clone)]
pub struct Rows {
    pub values: Primitive,
    /// Indices of rows.
    pub selected: Option<Primitive>,
}

impl Rows {
    pub fn all(values: Primitive) -> Self {
        Self { values, selected: None }
    }

    pub fn selected(values: Primitive, rows: Primitive) -> Self {
        Self {
            values,
            selected: Some(rows),
        }
    }

    pub fn len(&self) -> usize {
        self.selected.as_ref().unwrap_or(&self.values).meta.shape()[0]
    }
}

/// Units of the cubes that reduce a row.
pub const ROW_UNITS: u32 = 128;
/// Units of the cubes that compute one element each.
pub const UNITS: u32 = 256;

/// Uninitialized memory for a tensor on the device of `like`.
pub fn empty(like: &Primitive, shape: Shape, dtype: DType) -> Primitive {
    let bytes = shape.num_elements() * dtype.size();
    let handle = like.client.empty(bytes);
    Primitive::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, dtype)
}

/// A cube for each of `rows` rows. One dimension of a launch holds 65,535 at most, so there may be more cubes than
/// rows; the kernels check.
pub fn cube_for_each(rows: usize) -> CubeCount {
    let rows = rows as u32;
    let width = rows.clamp(1, 65_535);
    CubeCount::Static(width, rows.div_ceil(width), 1)
}

/// Cubes of [`UNITS`] for `numbers` elements.
pub fn cubes_over(numbers: usize) -> CubeCount {
    cube_for_each(numbers.div_ceil(UNITS as usize))
}

/// Adds up the values of `partial`, one for each unit of the cube, a power of two; every unit gets the sum.
#[cube]
pub fn sum_of_units(partial: &mut Shared<[f32]>) -> f32 {
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
    // No unit may write the next values before all have read this sum.
    sync_cube();
    sum
}
