//! Rotary position embeddings.

use burn_ndarray::SharedArray;
use cloze_kernels::{Context, Pairing, Rotation};

use super::Cpu;
use super::tensors::{owned, slice, tensor, values};
use crate::backend::{Rotary, RotaryPairing, Tensor};

pub fn rotate(
    context: Context<'_>,
    x: Tensor<Cpu, 2>,
    rotary: &Rotary<Cpu>,
    heads: usize,
    positions: &[u32],
) -> Tensor<Cpu, 2> {
    let [rows, columns] = x.dims();
    let tables = RotaryTables::of(rotary);
    let mut x = owned(values(x));
    cloze_kernels::rotate(context, &mut x, heads, tables.rotation(), positions);
    tensor(x, rows, columns)
}

/// A rotation's tables as slices.
pub struct RotaryTables {
    pairing: Pairing,
    head_size: usize,
    cos: SharedArray<f32>,
    sin: SharedArray<f32>,
}

impl RotaryTables {
    pub fn of(rotary: &Rotary<Cpu>) -> Self {
        Self {
            pairing: match rotary.pairing {
                RotaryPairing::Halves => Pairing::Halves,
                RotaryPairing::Neighbours => Pairing::Neighbours,
            },
            head_size: 2 * rotary.cos.dims()[1],
            cos: values(rotary.cos.clone()),
            sin: values(rotary.sin.clone()),
        }
    }

    pub fn rotation(&self) -> Rotation<'_> {
        Rotation {
            pairing: self.pairing,
            head_size: self.head_size,
            cos: slice(&self.cos),
            sin: slice(&self.sin),
        }
    }
}
