//! One call of a dense layer: its tasks, and the tiles of each task.

use std::cell::RefCell;
use std::ops::Range;

use super::Linear;
use super::packed_rows::PackedRows;
use crate::arch::{self, amx};
use crate::context::Context;
use crate::disjoint::{Disjoint, OutputTile};
use crate::epilogue::{self, Activation};
use crate::gemm::Gemm;
use crate::isa::Isa;
use crate::kernel::{Block, Operands};
use crate::layout::{KLayout, Line, NR, Precision, RowBlocks, Tile, ZERO_TILE};
use crate::pooled::Pooled;
use crate::schedule::Schedule;
use crate::scratch::grow_to;

thread_local! {
    /// Packed activations, kept by each thread that starts layers so that no layer allocates them.
    static PACKED: RefCell<PackedRows> = RefCell::default();
    /// Sums of the thread's current task, for AMX.
    static SUMS: RefCell<Vec<amx::TileSums>> = const { RefCell::new(Vec::new()) };
    /// The tile of a micro-kernel.
    static TILE: RefCell<Tile> = const { RefCell::new(ZERO_TILE) };
}

/// The place of a layer's outputs.
pub enum Destination<'a> {
    Matrix {
        /// `[rows, outputs]`.
        y: Disjoint<'a, f32>,
        activation: Option<Activation>,
    },
    /// The schedule must be one [of columns](Schedule::of_columns).
    Pooled(Pooled<'a>),
}

/// Puts `x · weightᵀ + bias` of `linear` into `destination`.
pub fn multiply(linear: &Linear, context: Context<'_>, x: &[f32], rows: usize, destination: &Destination<'_>) {
    let layout = linear.layout(context.isa);
    if rows == 0 {
        return;
    }
    PACKED.with_borrow_mut(|packed| {
        let blocks = layout.row_blocks(rows);
        packed.fill(context, linear, x, blocks.count(), |index| blocks.range(index));
        let schedule = Schedule::new(layout, linear.panels().len(), blocks, context.pool.threads());
        let schedule = match destination {
            Destination::Matrix { .. } => schedule,
            Destination::Pooled(_) => schedule.of_columns(layout, context.pool.threads()),
        };
        let product = Product {
            linear,
            layout,
            isa: context.isa,
            gemm: Gemm::new(context.isa, linear.precision),
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
