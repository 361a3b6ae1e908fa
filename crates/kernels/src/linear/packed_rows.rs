//! Packed activations of a dense layer.

use std::ops::Range;

use super::Linear;
use crate::context::Context;
use crate::disjoint::Disjoint;
use crate::gemm::Gemm;
use crate::kernel::Rows;
use crate::layout::{Line, MR, PlacedBlock, Precision, elements};
use crate::scratch::{grow_elements, grow_to};

/// Fewest rows whose packing the threads share.
const SHARED_PACKING_ROWS_MIN: usize = MR + 1;

/// Packed activations.
#[derive(Default)]
pub struct PackedRows {
    lines: Vec<Line>,
    /// Scales of 8-bit rows.
    scales: Vec<f32>,
}

impl PackedRows {
    /// Packs all rows of `x` for a layer, in the `count` blocks that `block` returns, one after the other.
    pub fn fill(
        &mut self,
        context: Context<'_>,
        linear: &Linear,
        x: &[f32],
        count: usize,
        block: impl Fn(usize) -> PlacedBlock + Sync,
    ) {
        let (inputs, isa) = (linear.inputs, context.isa);
        let layout = linear.layout(isa);
        let rows = x.len() / inputs;
        let len = count
            .checked_sub(1)
            .map_or(0, |last| layout.placed_range(&block(last), 0..layout.k_blocks).end);
        let elements = Disjoint::new(grow_elements(&mut self.lines, len));
        let scales = Disjoint::new(grow_to(&mut self.scales, rows, 0.0));
        let gemm = Gemm::new(isa, linear.precision);
        // Few blocks are cut along K. The scale of an 8-bit row needs all of it.
        let is_divisible = linear.precision != Precision::Int8;
        let parts = if is_divisible && count < context.pool.threads() {
            context.pool.threads().min(layout.k_blocks)
        } else {
            1
        };
        let part = layout.k_blocks.div_ceil(parts);
        let pack = |index: usize| {
            let (block, index) = (block(index / parts), index % parts);
            let range = block.rows.clone();
            let k_blocks = (index * part).min(layout.k_blocks)..((index + 1) * part).min(layout.k_blocks);
            if k_blocks.is_empty() {
                return;
            }
            let count = range.len();
            let x = &x[range.start * inputs..range.end * inputs];
            // SAFETY: each block has its own elements and scales, and each part of it its own elements.
            let (elements, scales) = unsafe {
                let elements = elements.slice(layout.placed_range(&block, k_blocks.clone()));
                let scales = if parts == 1 { scales.slice(range) } else { &mut [] };
                (elements, scales)
            };
            let stored = layout.stored_rows(count);
            let first = k_blocks.start * layout.values;
            let rows = Rows {
                x: &x[first..],
                stride: inputs,
                inputs: inputs.min(k_blocks.end * layout.values) - first,
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

    /// The packed elements of all blocks.
    pub fn elements(&self) -> &[u32] {
        elements(&self.lines)
    }

    /// The scales of `rows`; empty for other precisions than 8 bits.
    pub fn scales_of(&self, precision: Precision, rows: Range<usize>) -> &[f32] {
        match precision {
            Precision::Int8 => &self.scales[rows],
            Precision::F32 | Precision::Bf16 => &[],
        }
    }
}
