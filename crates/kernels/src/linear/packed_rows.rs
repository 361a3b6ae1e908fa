//! Packed activations of a dense layer.

use std::ops::Range;

use super::Linear;
use crate::arch::amx;
use crate::context::Context;
use crate::disjoint::Disjoint;
use crate::gemm::Gemm;
use crate::kernel::Rows;
use crate::layout::{K_BLOCK, MR, Precision};
use crate::scratch::grow_to;

/// Fewest rows whose packing the threads share.
const SHARED_PACKING_ROWS_MIN: usize = MR + 1;

/// Packed activations.
#[derive(Default)]
pub struct PackedRows {
    pub elements: Vec<u32>,
    /// Scales of 8-bit rows.
    pub scales: Vec<f32>,
}

impl PackedRows {
    /// Packs all rows of `x` for a layer, in `count` blocks of the rows that `range` returns, one after the other.
    pub fn fill(
        &mut self,
        context: Context<'_>,
        linear: &Linear,
        x: &[f32],
        count: usize,
        range: impl Fn(usize) -> Range<usize> + Sync,
    ) {
        let (inputs, isa) = (linear.inputs, context.isa);
        let layout = linear.layout(isa);
        let rows = x.len() / inputs;
        let elements = Disjoint::new(grow_to(&mut self.elements, layout.elements(rows), 0));
        let scales = Disjoint::new(grow_to(&mut self.scales, rows, 0.0));
        let gemm = Gemm::new(isa, linear.precision);
        // Few blocks are cut along K. The scale of an 8-bit row needs all of it.
        let is_divisible = linear.precision != Precision::Int8 && !layout.is_amx();
        let parts = if is_divisible && count < context.pool.threads() {
            context.pool.threads().min(layout.k_blocks)
        } else {
            1
        };
        let part = layout.k_blocks.div_ceil(parts);
        let pack = |index: usize| {
            let (range, index) = (range(index / parts), index % parts);
            let k_blocks = (index * part).min(layout.k_blocks)..((index + 1) * part).min(layout.k_blocks);
            if k_blocks.is_empty() {
                return;
            }
            let count = range.len();
            let x = &x[range.start * inputs..range.end * inputs];
            // SAFETY: each block has its own elements and scales, and each part of it its own elements.
            let (elements, scales) = unsafe {
                let elements = elements.slice(layout.element_range(range.clone(), k_blocks.clone()));
                let scales = if parts == 1 { scales.slice(range) } else { &mut [] };
                (elements, scales)
            };
            let stored = layout.stored_rows(count);
            if linear.precision == Precision::F32 && layout.is_amx() {
                return amx::split_rows(isa, x, inputs, stored, elements);
            }
            let values = K_BLOCK * linear.precision.values_per_element();
            let first = k_blocks.start * values;
            let rows = Rows {
                x: &x[first..],
                stride: inputs,
                inputs: inputs.min(k_blocks.end * values) - first,
                count,
                stored,
            };
            gemm.pack_rows(rows, elements, scales);
        };
        match rows < SHARED_PACKING_ROWS_MIN {
            true => (0..count * parts).for_each(pack),
            false => context.pool.run(count * parts, pack),
        }
    }

    /// The scales of `rows`; empty for other precisions than 8 bits.
    pub fn scales_of(&self, precision: Precision, rows: Range<usize>) -> &[f32] {
        match precision {
            Precision::Int8 => &self.scales[rows],
            Precision::F32 | Precision::Bf16 => &[],
        }
    }
}
