//! An encoder layer after its attention: output projection, residual, feed-forward, residual, with norms.
//!
//! Every row is independent here. With many rows, a task takes some dozens of rows through all layers, so that the
//! intermediate values, four times as wide as the others, stay in the second-level cache of its core, already packed
//! for the next layer. Only weights pass through that cache.

use std::cell::RefCell;
use std::ops::Range;

use crate::context::Context;
use crate::disjoint::{Disjoint, OutputTile};
use crate::elementwise::{add, add_values, multiply as multiply_values, multiply_bits};
use crate::epilogue::{Activation, store};
use crate::gemm::Gemm;
use crate::isa::Isa;
use crate::kernel::{Block, Operands, Rows};
use crate::layer_norm::{Norm, layer_norm, normalize_rows};
use crate::layout::{
    K_BLOCK, K_PART, KLayout, Line, MR, NR, Precision, RowBlocks, Tile, ZERO_LINE, as_f32, part, rows_mut,
};
use crate::linear::Linear;
use crate::scratch::{grow_elements, grow_to};

/// Rows of a task times bytes of their intermediate values: less than half of the second-level cache, since weights
/// pass through it too.
const TASK_BYTES_MAX: usize = 432 * 1024;
/// Fewest rows of a thread that pay for reading all weights. Measured on two cores.
const TASK_ROWS_MIN: usize = 16;
/// The same for AMX, in bf16 and 8 bits, and in f32, whose weights are larger.
const AMX_TASK_ROWS_MIN: usize = 32;
const AMX_F32_TASK_ROWS_MIN: usize = 96;
/// [`TASK_BYTES_MAX`] for CPUs with AMX, whose second-level caches have 2 MiB.
const AMX_TASK_BYTES_MAX: usize = 1200 * 1024;
/// Most rows of an AMX task whose intermediate values exist chunk by chunk. Weights are read once for all of them.
const AMX_TASK_ROWS_MAX: usize = 256;
/// Rows that go through all layers at once if the threads share each layer. Bounds the memory.
const PART_ROWS_MAX: usize = 512;

/// The part of a layer after attention, with `inner(x) = activation(up(x))`, or with a gate
/// `activation(gate(x)) · up(x)`.
#[derive(Clone, Copy)]
pub struct EncoderTail<'a> {
    /// `[hidden, hidden]`.
    pub output: &'a Linear,
    /// `[inner, hidden]`, in the precision of `up`.
    pub gate: Option<&'a Linear>,
    /// `[inner, hidden]`.
    pub up: &'a Linear,
    pub activation: Option<Activation>,
    /// `[hidden, inner]`.
    pub down: &'a Linear,
    pub norms: TailNorms<'a>,
}

/// Placement of the layer's normalizations.
#[derive(Clone, Copy)]
pub enum TailNorms<'a> {
    /// `second(x + down(inner(x)))` of `x = first(residual + output(attended))`.
    Post { first: Norm<'a>, second: Norm<'a> },
    /// `x + down(inner(norm(x)))` of `x = residual + output(attended)`.
    Pre(Norm<'a>),
}

/// Buffers of a thread.
#[derive(Default)]
struct Scratch {
    /// Rows of the hidden width, packed.
    packed: Vec<Line>,
    /// Rows of the inner width, packed.
    inner: Vec<Line>,
    /// The input of the feed-forward part.
    narrow: Vec<f32>,
    /// Rows of the inner width, not packed.
    wide: Vec<f32>,
    /// The same, of the gate.
    gate: Vec<f32>,
    /// Scales of 8-bit rows.
    scales: Vec<f32>,
    /// Sums of `down`, panel by panel.
    sums: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl EncoderTail<'_> {
    /// Replaces `rows` `[rows, hidden]`, the result of the attention, by the output of the layer. `residual`, of the
    /// same shape, is the input of the layer.
    ///
    /// # Panics
    /// If the sizes do not match, or as [`Linear::apply`].
    pub fn apply(self, context: Context<'_>, rows: &mut [f32], residual: &[f32]) {
        let Self { output, up, down, .. } = self;
        let hidden = up.inputs();
        assert!(output.inputs() == hidden && output.outputs() == hidden);
        assert!(up.outputs() == down.inputs() && down.outputs() == hidden);
        assert!(
            self.gate
                .is_none_or(|gate| (gate.inputs(), gate.outputs()) == (hidden, up.outputs()))
        );
        let norms = match &self.norms {
            TailNorms::Post { first, second } => &[first, second][..],
            TailNorms::Pre(norm) => &[norm],
        };
        assert!(
            norms
                .iter()
                .all(|norm| norm.gamma.len() == hidden && norm.beta.len() == hidden)
        );
        assert!(residual.len() == rows.len() && rows.len().is_multiple_of(hidden));
        let count = rows.len() / hidden;
        let threads = context.pool.threads();
        let is_alike = [output, down, self.gate.unwrap_or(up)]
            .iter()
            .all(|layer| layer.precision() == up.precision());
        let is_amx = up.layout(context.isa).is_amx();
        let rows_min = match self.precision() {
            _ if !is_amx => TASK_ROWS_MIN,
            Precision::F32 => AMX_F32_TASK_ROWS_MIN,
            Precision::Bf16 | Precision::Int8 => AMX_TASK_ROWS_MIN,
        };
        if !is_alike || count < threads * rows_min {
            return self.layer_by_layer(context, rows, residual);
        }
        // Tasks of equal size, as many for each thread.
        let tasks = count.div_ceil(self.task_rows(context.isa)).next_multiple_of(threads);
        let tasks = match is_amx {
            true => RowBlocks::full(count, count.div_ceil(tasks).next_multiple_of(K_BLOCK)),
            false => RowBlocks::parts(count, tasks),
        };
        let rows = Disjoint::new(rows);
        context.pool.run(tasks.count(), |task| {
            let range = tasks.range(task);
            let values = range.start * hidden..range.end * hidden;
            let residual = &residual[values.clone()];
            // SAFETY: each task has its own rows.
            let rows = unsafe { rows.slice(values) };
            let _tiles = Gemm::new(context.isa, self.precision()).tiles();
            SCRATCH.with_borrow_mut(|scratch| self.task(context, rows, residual, scratch));
        });
    }

    /// Most rows of a task.
    fn task_rows(self, isa: Isa) -> usize {
        let (up, down) = (self.up.layout(isa), self.down.layout(isa));
        if self.is_chunked(isa) {
            return if up.is_amx() { AMX_TASK_ROWS_MAX } else { up.block_rows };
        }
        // 8-bit rows are packed when they are complete, so their intermediate values are f32 too.
        let row_elements = match self.precision() {
            Precision::Int8 => self.up.outputs(),
            Precision::F32 | Precision::Bf16 => down.k_blocks * down.row_elements,
        };
        let (bytes_max, block_rows) = match up.is_amx() {
            true => (AMX_TASK_BYTES_MAX, up.block_rows),
            false => (TASK_BYTES_MAX, MR),
        };
        // Whole blocks, since a few rows more would be one more block for every panel.
        let blocks = bytes_max / (size_of::<f32>() * row_elements * block_rows);
        blocks.max(1) * block_rows
    }

    /// True if the intermediate values exist chunk by chunk: as many columns of them as are a part of K for `down`.
    fn is_chunked(self, isa: Isa) -> bool {
        // The scale of an 8-bit row needs all of it.
        self.precision() != Precision::Int8 && Gemm::new(isa, self.precision()).accumulates()
    }

    fn precision(self) -> Precision {
        self.down.precision()
    }

    /// The threads share each layer.
    fn layer_by_layer(self, context: Context<'_>, rows: &mut [f32], residual: &[f32]) {
        let part = PART_ROWS_MAX * self.up.inputs();
        for (rows, residual) in rows.chunks_mut(part).zip(residual.chunks(part)) {
            let count = rows.len() / self.up.inputs();
            // Not borrowed while the pool works, since its tasks borrow theirs.
            let mut scratch = SCRATCH.take();
            let x = grow_to(&mut scratch.narrow, rows.len(), 0.0);
            let inner = grow_to(&mut scratch.wide, count * self.up.outputs(), 0.0);
            self.output.apply(context, rows, count, None, x);
            let input = match self.norms {
                TailNorms::Post { first, .. } => {
                    layer_norm(context, x, Some(residual), first);
                    &*x
                }
                TailNorms::Pre(norm) => {
                    add(context, x, residual);
                    rows.copy_from_slice(x);
                    layer_norm(context, rows, None, norm);
                    &*rows
                }
            };
            match self.gate {
                None => self.up.apply(context, input, count, self.activation, inner),
                Some(gate) => {
                    let factors = grow_to(&mut scratch.gate, inner.len(), 0.0);
                    gate.apply(context, input, count, self.activation, factors);
                    self.up.apply(context, input, count, None, inner);
                    multiply_values(context, inner, factors);
                }
            }
            self.down.apply(context, inner, count, None, rows);
            match self.norms {
                TailNorms::Post { second, .. } => layer_norm(context, rows, Some(x), second),
                TailNorms::Pre(_) => add(context, rows, x),
            }
            SCRATCH.set(scratch);
        }
    }

    /// A task takes its rows through all layers.
    fn task(self, context: Context<'_>, rows: &mut [f32], residual: &[f32], scratch: &mut Scratch) {
        let Self { output, up, down, .. } = self;
        let isa = context.isa;
        let gemm = Gemm::new(isa, self.precision());
        let (hidden, width) = (up.inputs(), up.outputs());
        let count = rows.len() / hidden;
        let blocks = up.layout(isa).row_blocks(count);
        let Scratch {
            packed,
            inner,
            narrow,
            wide,
            scales,
            sums,
            ..
        } = scratch;
        let scales = grow_to(scales, count, 0.0);
        let packed = grow_elements(packed, up.layout(isa).elements(count));
        pack_blocks(gemm, up.layout(isa), rows, blocks, packed, scales);
        let x = grow_to(narrow, rows.len(), 0.0);
        multiply(gemm, output, packed, scales, blocks, None, x);
        match self.norms {
            TailNorms::Post { first, .. } => {
                normalize_rows(isa, x, Some(residual), first);
                pack_blocks(gemm, up.layout(isa), x, blocks, packed, scales);
            }
            TailNorms::Pre(norm) => {
                add_values(isa, x, residual);
                rows.copy_from_slice(x);
                normalize_rows(isa, rows, None, norm);
                pack_blocks(gemm, up.layout(isa), rows, blocks, packed, scales);
            }
        }
        if self.is_chunked(isa) {
            self.by_chunks(gemm, packed, blocks, inner, sums, rows);
            return self.finish(isa, rows, x);
        }
        let inner = grow_elements(inner, down.layout(isa).elements(count));
        if self.precision() == Precision::Int8 {
            let wide = grow_to(wide, count * width, 0.0);
            let panels = 0..up.outputs().div_ceil(NR);
            self.inner(
                gemm,
                packed,
                scales,
                blocks,
                panels,
                &[],
                |rows, first, columns, tile| {
                    let mut output = OutputTile::new(wide, rows.start * width + first, width, columns);
                    store(isa, &mut output, &tile[..rows.len()]);
                },
            );
            pack_blocks(gemm, down.layout(isa), wide, blocks, inner, scales);
        } else {
            let layout = down.layout(isa);
            let panels = 0..up.outputs().div_ceil(NR);
            self.inner(
                gemm,
                packed,
                scales,
                blocks,
                panels,
                &[],
                |rows, first, columns, tile| {
                    let k_blocks = first / layout.values..(first + columns).div_ceil(layout.values);
                    let elements = &mut inner[layout.element_range(rows.clone(), k_blocks)];
                    let rows = Rows {
                        x: as_f32(tile),
                        stride: NR,
                        inputs: columns,
                        count: rows.len(),
                        stored: layout.stored_rows(rows.len()),
                    };
                    gemm.pack_rows(rows, elements, &mut []);
                },
            );
        }
        multiply(gemm, down, inner, scales, blocks, None, rows);
        self.finish(isa, rows, x);
    }

    /// Adds the residual `x` to the result of the feed-forward part, and normalizes.
    fn finish(self, isa: Isa, rows: &mut [f32], x: &[f32]) {
        match self.norms {
            TailNorms::Post { second, .. } => normalize_rows(isa, rows, Some(x), second),
            TailNorms::Pre(_) => add_values(isa, rows, x),
        }
    }

    /// The feed-forward part of packed blocks. A chunk of the intermediate values stays in the second-level cache, beside
    /// the sums of `down`.
    fn by_chunks(
        self,
        gemm: Gemm,
        packed: &[u32],
        blocks: RowBlocks,
        inner: &mut Vec<Line>,
        sums: &mut Vec<Line>,
        y: &mut [f32],
    ) {
        let Self { up, down, .. } = self;
        let layout = down.layout(gemm.isa());
        let count = blocks.start(blocks.count());
        let (up_panels, down_panels) = (up.outputs().div_ceil(NR), down.outputs().div_ceil(NR));
        let chunk = KLayout {
            k_blocks: K_PART / K_BLOCK,
            ..layout
        };
        let chunk_panels = chunk.k_blocks * layout.values / NR;
        let inner = grow_elements(inner, chunk.elements(count));
        let sums = rows_mut(grow_to(sums, down_panels * count * 2, ZERO_LINE));
        for first in (0..up_panels).step_by(chunk_panels) {
            let panels = first..up_panels.min(first + chunk_panels);
            let first_k_block = first * NR / layout.values;
            let is_last = panels.end == up_panels;
            let k_blocks = first_k_block..layout.k_blocks.min(first_k_block + chunk.k_blocks);
            let chunk = KLayout {
                k_blocks: k_blocks.len(),
                ..layout
            };
            let after = down.k_blocks_of_panel(0, k_blocks.clone());
            self.inner(
                gemm,
                packed,
                &[],
                blocks,
                panels.clone(),
                after,
                |rows, column, columns, tile| {
                    let column = column - first * NR;
                    let k_blocks = column / layout.values..(column + columns).div_ceil(layout.values);
                    let elements = &mut inner[chunk.element_range(rows.clone(), k_blocks)];
                    let rows = Rows {
                        x: as_f32(tile),
                        stride: NR,
                        inputs: columns,
                        count: rows.len(),
                        stored: chunk.stored_rows(rows.len()),
                    };
                    gemm.pack_rows(rows, elements, &mut []);
                },
            );
            for (panel, sums) in sums.chunks_exact_mut(count).enumerate() {
                let next = if panel + 1 < down_panels {
                    down.k_blocks_of_panel(panel + 1, k_blocks.clone())
                } else {
                    up.part_of_panel(panels.end, 0, 1)
                };
                for index in 0..blocks.count() {
                    let rows = blocks.range(index);
                    let sums = &mut sums[rows.clone()];
                    let operands = Operands {
                        block: Block::Rows {
                            elements: &inner[chunk.element_range(rows.clone(), 0..chunk.k_blocks)],
                            rows: rows.len(),
                        },
                        panel: down.k_blocks_of_panel(panel, k_blocks.clone()),
                        prefetch: part(next, index, blocks.count()),
                        accumulate: first > 0,
                    };
                    if !is_last {
                        gemm.sums(&operands, sums);
                        continue;
                    }
                    gemm.values(&operands, &down.epilogue(panel, &[]), None, sums);
                    let hidden = down.outputs();
                    let column = panel * NR;
                    let first = rows.start * hidden + column;
                    let mut output = OutputTile::new(y, first, hidden, (hidden - column).min(NR));
                    store(gemm.isa(), &mut output, sums);
                }
            }
        }
    }

    /// Computes some panels of the input of `down` of packed rows, tile by tile: `take(rows, first column, columns,
    /// tile)`. `after` is read after them.
    #[allow(clippy::too_many_arguments)]
    fn inner(
        self,
        gemm: Gemm,
        packed: &[u32],
        scales: &[f32],
        blocks: RowBlocks,
        panels: Range<usize>,
        after: &[Line],
        mut take: impl FnMut(Range<usize>, usize, usize, &Tile),
    ) {
        let Self {
            gate, up, activation, ..
        } = self;
        let width = up.outputs();
        let (mut tile, mut factors) = (Tile::ZERO, Tile::ZERO);
        for_each_tile(
            gemm,
            up,
            packed,
            blocks,
            panels,
            after,
            |block, rows, panel, operands| {
                let scales = match self.precision() {
                    Precision::Int8 => &scales[rows.clone()],
                    _ => &[],
                };
                let activation = match gate {
                    None => activation,
                    Some(gate) => {
                        let operands = Operands {
                            panel: gate.panel(panel),
                            prefetch: gate.part_of_panel(panel + 1, block, blocks.count()),
                            ..*operands
                        };
                        gemm.values(&operands, &gate.epilogue(panel, scales), activation, &mut factors);
                        None
                    }
                };
                gemm.values(operands, &up.epilogue(panel, scales), activation, &mut tile);
                if gate.is_some() {
                    multiply_bits(gemm.isa(), &mut tile[..rows.len()], &factors[..rows.len()]);
                }
                let first = panel * NR;
                take(rows, first, (width - first).min(NR), &tile);
            },
        );
    }
}

/// Writes the outputs of a layer for packed rows to `y`.
fn multiply(
    gemm: Gemm,
    linear: &Linear,
    packed: &[u32],
    scales: &[f32],
    blocks: RowBlocks,
    activation: Option<Activation>,
    y: &mut [f32],
) {
    let outputs = linear.outputs();
    let mut tile = Tile::ZERO;
    let panels = 0..outputs.div_ceil(NR);
    for_each_tile(gemm, linear, packed, blocks, panels, &[], |_, rows, panel, operands| {
        let first = panel * NR;
        let columns = (outputs - first).min(NR);
        let output = OutputTile::new(y, rows.start * outputs + first, outputs, columns);
        let epilogue = linear.epilogue(panel, &scales[rows]);
        gemm.store(operands, &epilogue, activation, output, &mut tile);
    });
}

/// Calls `compute(block, rows, panel, operands)` for each of some panels and each block. `after` is read after them.
fn for_each_tile(
    gemm: Gemm,
    linear: &Linear,
    packed: &[u32],
    blocks: RowBlocks,
    panels: Range<usize>,
    after: &[Line],
    mut compute: impl FnMut(usize, Range<usize>, usize, &Operands<'_>),
) {
    let layout = linear.layout(gemm.isa());
    for panel in panels.clone() {
        for index in 0..blocks.count() {
            let rows = blocks.range(index);
            let operands = Operands {
                block: Block::Rows {
                    elements: &packed[layout.element_range(rows.clone(), 0..layout.k_blocks)],
                    rows: rows.len(),
                },
                panel: linear.panel(panel),
                // Each block prefetches its part of the next panel.
                prefetch: match panel + 1 < panels.end {
                    true => linear.part_of_panel(panel + 1, index, blocks.count()),
                    false => part(after, index, blocks.count()),
                },
                accumulate: false,
            };
            compute(index, rows, panel, &operands);
        }
    }
}

/// Packs all rows, block by block.
fn pack_blocks(gemm: Gemm, layout: KLayout, x: &[f32], blocks: RowBlocks, packed: &mut [u32], scales: &mut [f32]) {
    let width = x.len() / blocks.start(blocks.count());
    for index in 0..blocks.count() {
        let rows = blocks.range(index);
        let packed = &mut packed[layout.element_range(rows.clone(), 0..layout.k_blocks)];
        let scales = &mut scales[rows.clone()];
        let rows = Rows {
            x: &x[rows.start * width..],
            stride: width,
            inputs: width,
            count: rows.len(),
            stored: layout.stored_rows(rows.len()),
        };
        gemm.pack_rows(rows, packed, scales);
    }
}
