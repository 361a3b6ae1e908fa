//! Dense layers: packed weights, bias, activation.

use std::cell::RefCell;
use std::ops::Range;

use crate::arch::{self, amx};
use crate::context::Context;
use crate::disjoint::{Disjoint, OutputTile};
use crate::epilogue::{self, Activation, Dequantize, Epilogue};
use crate::gemm::Gemm;
use crate::isa::Isa;
use crate::kernel::{Block, Operands, Rows};
use crate::layout::{
    AMX_MR, K_BLOCK, KLayout, Line, MR, NR, Packing, Precision, RowBlocks, Tile, ZERO_TILE, panel_element,
};
use crate::pack;
use crate::pooled::{Pooled, PooledRows};
use crate::schedule::Schedule;
use crate::scratch::grow_to;

/// From so many rows on, packing the activations is shared among the threads.
const SHARED_PACKING_ROWS_MIN: usize = MR + 1;

/// A dense layer with packed weights.
pub struct Linear {
    precision: Precision,
    inputs: usize,
    outputs: usize,
    /// Layout of the weights. The layout of activations also depends on the instruction set that computes.
    layout: KLayout,
    /// All panels, one after the other.
    lines: Vec<Line>,
    /// By panel; zero beyond the last output.
    bias: Vec<[f32; NR]>,
    /// For 8-bit weights, by panel; zero beyond the last output.
    weight_scales: Vec<[f32; NR]>,
    /// For 8-bit weights, by panel: the amount that the zero point of the activations adds to each sum.
    zero_point: Vec<[i32; NR]>,
}

impl Linear {
    /// Packs `weight` `[outputs, inputs]`, row-major; `bias` is `[outputs]`. The layout is the same for all instruction
    /// sets but AMX, which keeps f32 weights as two bf16, with 16 bits of precision.
    ///
    /// # Panics
    /// If the sizes do not match or are zero.
    pub fn new(isa: Isa, weight: &[f32], bias: &[f32], inputs: usize, precision: Precision) -> Self {
        let outputs = bias.len();
        assert!(outputs > 0 && inputs > 0 && weight.len() == outputs * inputs);
        let layout = layout(isa, precision, inputs);
        let steps = layout.panel_lines() / 2;
        let (lines, scales) = match precision {
            Precision::F32 if layout.is_amx() => (amx::panels_split(weight, outputs, inputs), Vec::new()),
            Precision::F32 => (pack::panels_f32(weight, outputs, inputs, steps), Vec::new()),
            Precision::Bf16 => (pack::panels_bf16(weight, outputs, inputs, steps), Vec::new()),
            Precision::Int8 => pack::panels_int8(weight, outputs, inputs, steps),
        };
        let mut linear = Self {
            precision,
            inputs,
            outputs,
            layout,
            lines,
            bias: by_panel(bias),
            weight_scales: by_panel(&scales),
            zero_point: Vec::new(),
        };
        if precision == Precision::Int8 {
            linear.zero_point = linear.panels().map(pack::zero_point_sums).collect();
        }
        linear
    }

    /// The width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// The layout of the weights and of activations for `isa`.
    ///
    /// # Panics
    /// If the weights are packed for AMX and `isa` is smaller, or the other way round.
    pub(crate) fn layout(&self, isa: Isa) -> KLayout {
        assert_eq!(self.is_amx(), isa >= Isa::Amx, "packed for another instruction set");
        layout(isa, self.precision, self.inputs)
    }

    /// True if it is packed for AMX.
    pub(crate) fn is_amx(&self) -> bool {
        self.layout.is_amx()
    }

    pub(crate) fn panel(&self, index: usize) -> &[Line] {
        &self.lines[self.layout.line_range(index, 0..self.layout.k_blocks)]
    }

    /// Part `index` of `count` of a panel, to prefetch; empty beyond the last panel.
    pub(crate) fn part_of_panel(&self, panel: usize, index: usize, count: usize) -> &[Line] {
        let len = self.layout.panel_lines();
        let size = len.div_ceil(count);
        let start = (panel * len + index * size).min(self.lines.len());
        &self.lines[start..self.lines.len().min(start + size)]
    }

    /// Some K-blocks of a panel.
    pub(crate) fn k_blocks_of_panel(&self, panel: usize, k_blocks: Range<usize>) -> &[Line] {
        &self.lines[self.layout.line_range(panel, k_blocks)]
    }

    /// The epilogue of a panel's sums. `activation_scales` are those of the rows, for 8 bits.
    pub(crate) fn epilogue<'a>(&'a self, panel: usize, activation_scales: &'a [f32]) -> Epilogue<'a> {
        let bias = &self.bias[panel];
        match self.precision {
            Precision::F32 | Precision::Bf16 => Epilogue::Bias(bias),
            Precision::Int8 => Epilogue::Dequantize(Dequantize {
                zero_point: &self.zero_point[panel],
                activation_scales,
                weight_scales: &self.weight_scales[panel],
                bias,
            }),
        }
    }

    fn panels(&self) -> impl ExactSizeIterator<Item = &[Line]> {
        self.lines.chunks_exact(self.layout.panel_lines())
    }

    /// Writes `activation(x · weightᵀ + bias)` to `y`: `x` is `[rows, inputs]`, `y` `[rows, outputs]`.
    ///
    /// # Panics
    /// If the sizes do not match, or if the layer is packed for AMX and `context` has a smaller instruction set, or the
    /// other way round.
    pub fn apply(&self, context: Context<'_>, x: &[f32], rows: usize, activation: Option<Activation>, y: &mut [f32]) {
        assert!(x.len() == rows * self.inputs && y.len() == rows * self.outputs);
        let destination = Destination::Matrix {
            y: Disjoint::new(y),
            activation,
        };
        self.multiply(context, x, rows, &destination);
    }

    /// Pools `x · weightᵀ + bias` into `pooled` `[any number of rows, outputs]`, whose values are at least 0: 0 before
    /// the first call. `x` is `[rows, inputs]`; the rows of `pools` ascend and do not overlap.
    ///
    /// # Panics
    /// If the sizes do not match or the rows are out of order, or as [`apply`](Self::apply).
    pub fn apply_pooled(&self, context: Context<'_>, x: &[f32], pools: &[PooledRows], pooled: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert!(x.len() == rows * self.inputs);
        let pooled = Pooled::new(pools, rows, self.outputs, pooled);
        self.multiply(context, x, rows, &Destination::Pooled(pooled));
    }

    /// Puts `x · weightᵀ + bias` into `destination`.
    fn multiply(&self, context: Context<'_>, x: &[f32], rows: usize, destination: &Destination<'_>) {
        let layout = self.layout(context.isa);
        if rows == 0 {
            return;
        }
        PACKED.with_borrow_mut(|packed| {
            let blocks = layout.row_blocks(rows);
            packed.fill(context, self, x, blocks.count(), |index| blocks.range(index));
            let schedule = Schedule::new(layout, self.panels().len(), blocks, context.pool.threads());
            let schedule = match destination {
                Destination::Matrix { .. } => schedule,
                Destination::Pooled(_) => schedule.of_columns(layout, context.pool.threads()),
            };
            let product = Product {
                linear: self,
                layout,
                isa: context.isa,
                gemm: Gemm::new(context.isa, self.precision),
                packed,
                blocks,
                schedule,
                destination,
            };
            context.pool.run_with_prefetch(schedule.tasks(), |task, prefetch| {
                SUMS.with_borrow_mut(|sums| product.run(task, prefetch, sums));
            });
        });
    }

    /// Rows `ids` of the weight, one after the other.
    ///
    /// # Panics
    /// If an id is not below the number of outputs.
    pub fn rows(&self, ids: &[u32]) -> Vec<f32> {
        let mut values = Vec::with_capacity(ids.len() * self.inputs);
        for &id in ids {
            let id = id as usize;
            assert!(id < self.outputs());
            let (index, column) = (id / NR, id % NR);
            let panel = self.panel(index);
            let half = |element: u32, input: usize| f32::from_bits(element >> (16 * (input % 2)) << 16);
            values.extend((0..self.inputs).map(|input| match self.precision {
                Precision::F32 if self.layout.is_amx() => {
                    let [high, low] = amx::split_elements(panel, input / 2, column);
                    half(high, input) + half(low, input)
                }
                Precision::F32 => f32::from_bits(panel_element(panel, input, column)),
                Precision::Bf16 => half(panel_element(panel, input / 2, column), input),
                Precision::Int8 => {
                    let element = panel_element(panel, input / 4, column);
                    f32::from(element.to_le_bytes()[input % 4] as i8) * self.weight_scales[index][column]
                }
            }));
        }
        values
    }
}

/// The layout of dense layers.
fn layout(isa: Isa, precision: Precision, inputs: usize) -> KLayout {
    if isa >= Isa::Amx {
        KLayout::new(precision, Packing::AmxTiles, inputs, AMX_MR)
    } else {
        Gemm::new(isa, precision).layout(inputs)
    }
}

/// Values of the outputs, panel by panel.
fn by_panel(values: &[f32]) -> Vec<[f32; NR]> {
    let panel = |values: &[f32]| {
        let mut panel = [0.0; NR];
        panel[..values.len()].copy_from_slice(values);
        panel
    };
    values.chunks(NR).map(panel).collect()
}

/// One call of a dense layer.
struct Product<'a> {
    linear: &'a Linear,
    layout: KLayout,
    isa: Isa,
    gemm: Gemm,
    packed: &'a PackedRows,
    blocks: RowBlocks,
    schedule: Schedule,
    destination: &'a Destination<'a>,
}

/// The place of a layer's outputs.
enum Destination<'a> {
    Matrix {
        /// `[rows, outputs]`.
        y: Disjoint<'a, f32>,
        activation: Option<Activation>,
    },
    /// The schedule must be one [of columns](Schedule::of_columns).
    Pooled(Pooled<'a>),
}

/// A tile of the output: a panel and a block, over a range of K-blocks.
struct TileIndex {
    panel: usize,
    block: usize,
    k_blocks: Range<usize>,
}

impl Product<'_> {
    /// A task. `prefetch` is the thread's next one.
    fn run(&self, task: usize, prefetch: Option<usize>, sums: &mut Vec<amx::TileSums>) {
        let tiles = self.linear.is_amx().then(amx::Configured::new);
        let (panels, blocks) = self.schedule.task(task);
        if self.schedule.is_streaming {
            let prefetch = prefetch.map(|task| self.schedule.task(task).0.start);
            self.stream(tiles.as_ref(), panels, prefetch, sums);
        } else {
            self.reuse(tiles.as_ref(), panels, blocks, sums);
        }
    }

    /// Panel by panel, each for all blocks. Few rows wait for memory, so each block prefetches its part of the next
    /// panel.
    fn stream(
        &self,
        tiles: Option<&amx::Configured>,
        panels: Range<usize>,
        next_task: Option<usize>,
        sums: &mut Vec<amx::TileSums>,
    ) {
        let sums = &mut grow_to(sums, 1, amx::TileSums::ZERO)[0];
        let count = self.blocks.count();
        let following = panels.clone().skip(1).map(Some).chain([next_task]);
        for (panel, next) in panels.zip(following) {
            for block in 0..count {
                let prefetch = next.map_or(&[][..], |next| self.linear.part_of_panel(next, block, count));
                let tile = TileIndex {
                    panel,
                    block,
                    k_blocks: 0..self.layout.k_blocks,
                };
                self.tile(tiles, &tile, prefetch, sums);
            }
        }
    }

    /// Block by block, each with all panels, slice by slice of K.
    fn reuse(
        &self,
        tiles: Option<&amx::Configured>,
        panels: Range<usize>,
        blocks: Range<usize>,
        sums: &mut Vec<amx::TileSums>,
    ) {
        let layout = self.layout;
        // Sums that one slice of K completes need no storage of their own.
        let is_sliced = self.schedule.k_blocks < layout.k_blocks;
        let count = if is_sliced { panels.len() * blocks.len() } else { 1 };
        let sums = grow_to(sums, count, amx::TileSums::ZERO);
        for start in (0..layout.k_blocks).step_by(self.schedule.k_blocks) {
            let k_blocks = start..layout.k_blocks.min(start + self.schedule.k_blocks);
            for (i, block) in blocks.clone().enumerate() {
                for (j, panel) in panels.clone().enumerate() {
                    let sums = &mut sums[if is_sliced { i * panels.len() + j } else { 0 }];
                    // With AMX, the first block would wait for the weights.
                    let prefetch = match layout.is_amx() && i == 0 && panel + 1 < panels.end {
                        true => &self.linear.lines[layout.line_range(panel + 1, k_blocks.clone())],
                        false => &[],
                    };
                    let tile = TileIndex {
                        panel,
                        block,
                        k_blocks: k_blocks.clone(),
                    };
                    self.tile(tiles, &tile, prefetch, sums);
                }
            }
        }
    }

    /// Computes a tile. A range of K-blocks that does not begin at the first adds to `sums`; one that ends at the last
    /// stores the result.
    fn tile(&self, tiles: Option<&amx::Configured>, tile: &TileIndex, prefetch: &[Line], sums: &mut amx::TileSums) {
        let &Self {
            linear, layout, packed, ..
        } = self;
        let outputs = linear.outputs;
        let rows = self.blocks.range(tile.block);
        let elements = &packed.elements[layout.element_range(rows.clone(), tile.k_blocks.clone())];
        let panel = &linear.lines[layout.line_range(tile.panel, tile.k_blocks.clone())];
        let first = tile.panel * NR;
        let columns = (outputs - first).min(NR);
        let epilogue = linear.epilogue(tile.panel, packed.scales_of(linear.precision, rows.clone()));
        let Some(tiles) = tiles else {
            let operands = Operands {
                block: Block::Rows {
                    elements,
                    rows: rows.len(),
                },
                panel,
                prefetch,
                accumulate: false,
            };
            return TILE.with_borrow_mut(|tile| match self.destination {
                Destination::Matrix { y, activation } => {
                    // SAFETY: each task has its own rows and columns.
                    let output = unsafe { OutputTile::shared(y, rows.start * outputs + first, outputs, columns) };
                    self.gemm.store(&operands, &epilogue, *activation, output, tile);
                }
                Destination::Pooled(pooled) => {
                    self.gemm.values(&operands, &epilogue, None, tile);
                    // SAFETY: each task has its own columns.
                    unsafe { pooled.add(self.isa, rows.start, &tile[..rows.len()], first, columns) };
                }
            });
        };
        let accumulate = tile.k_blocks.start > 0;
        amx::multiply(tiles, linear.precision, elements, panel, prefetch, accumulate, sums);
        if tile.k_blocks.end == layout.k_blocks {
            let sums = &mut sums.0[..rows.len()];
            arch::apply_epilogue(self.isa, sums, &epilogue);
            match self.destination {
                Destination::Matrix { y, activation } => {
                    // SAFETY: each task has its own rows and columns.
                    let mut output = unsafe { OutputTile::shared(y, rows.start * outputs + first, outputs, columns) };
                    let low_precision = linear.precision != Precision::F32;
                    epilogue::activate(self.isa, sums, *activation, low_precision);
                    epilogue::store(self.isa, &mut output, sums);
                }
                // SAFETY: each task has its own columns.
                Destination::Pooled(pooled) => unsafe { pooled.add(self.isa, rows.start, sums, first, columns) },
            }
        }
    }
}

/// Packed activations, kept by each thread that starts layers so that no layer allocates them.
#[derive(Default)]
pub(crate) struct PackedRows {
    pub elements: Vec<u32>,
    /// Scales of 8-bit rows.
    pub scales: Vec<f32>,
}

thread_local! {
    static PACKED: RefCell<PackedRows> = RefCell::default();
    /// Sums of the thread's current task, for AMX.
    static SUMS: RefCell<Vec<amx::TileSums>> = const { RefCell::new(Vec::new()) };
    /// The tile of a micro-kernel.
    static TILE: RefCell<Tile> = const { RefCell::new(ZERO_TILE) };
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
