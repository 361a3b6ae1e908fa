//! One call of a dense layer: its tasks, and the tiles of each task.

use std::cell::RefCell;
use std::ops::Range;

use super::Linear;
use super::packed_rows::PackedRows;
use crate::context::Context;
use crate::disjoint::{Disjoint, OutputTile};
use crate::epilogue::Activation;
use crate::gemm::Gemm;
use crate::isa::Isa;
use crate::kernel::{Block, Operands};
use crate::layout::{KLayout, Line, NR, PlacedBlock, RowBlocks, Tile};
use crate::pooled::Pooled;
use crate::schedule::Schedule;

thread_local! {
    /// Packed activations, kept by each thread that starts layers so that no layer allocates them.
    static PACKED: RefCell<PackedRows> = RefCell::default();
    /// The tile of a micro-kernel.
    static TILE: RefCell<Tile> = const { RefCell::new(Tile::ZERO) };
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
        packed.fill(context, linear, x, blocks.count(), |index| PlacedBlock {
            rows: blocks.range(index),
            start: blocks.start(index),
        });
        let schedule = Schedule::new(layout, linear.panels().len(), blocks, context.pool.threads());
        let schedule = match destination {
            Destination::Matrix { .. } => schedule,
            Destination::Pooled(_) => schedule.of_columns(context.pool.threads()),
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
        context
            .pool
            .run_with_prefetch(schedule.tasks(), |task, prefetch| product.run(task, prefetch));
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

impl Product<'_> {
    /// A task. `prefetch` is the thread's next one.
    fn run(&self, task: usize, prefetch: Option<usize>) {
        let _tiles = self.gemm.tiles();
        let (panels, blocks) = self.schedule.task(task);
        TILE.with_borrow_mut(|tile| {
            if self.schedule.is_streaming {
                let next = prefetch.map(|task| self.schedule.task(task).0.start);
                self.stream(panels, blocks, next, tile);
            } else {
                self.reuse(panels, blocks, tile);
            }
        });
    }

    /// Panel by panel, each for all blocks. Each block prefetches its part of the next panel.
    fn stream(&self, panels: Range<usize>, blocks: Range<usize>, next_task: Option<usize>, tile: &mut Tile) {
        let following = panels.clone().skip(1).map(Some).chain([next_task]);
        for (panel, next) in panels.zip(following) {
            for (index, block) in blocks.clone().enumerate() {
                let prefetch = next.map_or(&[][..], |next| self.linear.part_of_panel(next, index, blocks.len()));
                self.compute(panel, block, prefetch, tile);
            }
        }
    }

    /// Block by block, each with all panels.
    fn reuse(&self, panels: Range<usize>, blocks: Range<usize>, tile: &mut Tile) {
        for block in blocks {
            panels.clone().for_each(|panel| self.compute(panel, block, &[], tile));
        }
    }

    /// Computes a panel for a block. `tile` may be overwritten.
    fn compute(&self, panel: usize, block: usize, prefetch: &[Line], tile: &mut Tile) {
        let &Self {
            linear, layout, packed, ..
        } = self;
        let outputs = linear.outputs;
        let rows = self.blocks.range(block);
        let first = panel * NR;
        let columns = (outputs - first).min(NR);
        let epilogue = linear.epilogue(panel, packed.scales_of(linear.precision, rows.clone()));
        let operands = Operands {
            block: Block::Rows {
                elements: &packed.elements()[layout.element_range(rows.clone(), 0..layout.k_blocks)],
                rows: rows.len(),
            },
            panel: linear.panel(panel),
            prefetch,
            accumulate: false,
        };
        match self.destination {
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
        }
    }
}
