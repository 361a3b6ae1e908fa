//! The tasks of a dense layer, and the order of the work within a task.

use std::ops::Range;

use crate::layout::{KLayout, Line, RowBlocks};

/// Bytes of weights that a task keeps in the second-level cache while it walks over all rows.
const PANELS_BYTES_MAX: usize = 512 * 1024;
/// Most rows for which weights are used as they arrive from memory: the second-level cache keeps most of the rows while
/// panels pass.
const STREAMING_ROWS_MAX: usize = 144;
/// Bytes of the rows of an AMX task: they pass for every panel, which stays in the first-level cache. CPUs with AMX have
/// 2 MiB of second-level cache.
const AMX_ROWS_BYTES_MAX: usize = 1024 * 1024;

/// The tasks of a layer: each takes some panels and some row blocks.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    panels: usize,
    blocks: usize,
    panels_per_task: usize,
    blocks_per_task: usize,
    /// Weights are used as they arrive from memory: a task takes one panel after the other, each for all blocks.
    pub is_streaming: bool,
}

impl Schedule {
    pub fn new(layout: KLayout, panels: usize, blocks: RowBlocks, threads: usize) -> Self {
        let blocks = blocks.count();
        let is_streaming = layout.is_amx() || blocks <= STREAMING_ROWS_MAX / layout.block_rows;
        let blocks_max = match layout.is_amx() {
            true => AMX_ROWS_BYTES_MAX / (layout.elements(layout.block_rows) * size_of::<u32>()),
            false => blocks,
        };
        let even = |count: usize, max: usize| count.div_ceil(count.div_ceil(max));
        let blocks_per_task = even(blocks, blocks_max.max(1));
        let panels_max = PANELS_BYTES_MAX / (layout.panel_lines() * size_of::<Line>());
        // At least four tasks a thread.
        let share = (panels * blocks.div_ceil(blocks_per_task)).div_ceil(4 * threads);
        Self {
            panels,
            blocks,
            panels_per_task: panels_max.max(1).min(share),
            blocks_per_task,
            is_streaming,
        }
    }

    /// The same layer in tasks that each take all blocks of their panels.
    pub fn of_columns(self, threads: usize) -> Self {
        Self {
            panels_per_task: self.panels_per_task.min(self.panels.div_ceil(4 * threads)),
            blocks_per_task: self.blocks,
            ..self
        }
    }

    fn block_groups(self) -> usize {
        self.blocks.div_ceil(self.blocks_per_task)
    }

    pub fn tasks(self) -> usize {
        self.panels.div_ceil(self.panels_per_task) * self.block_groups()
    }

    /// The panels and blocks of a task. Tasks with the same panels are adjacent.
    pub fn task(self, index: usize) -> (Range<usize>, Range<usize>) {
        let part = |index: usize, size: usize, end: usize| index * size..end.min((index + 1) * size);
        let groups = self.block_groups();
        (
            part(index / groups, self.panels_per_task, self.panels),
            part(index % groups, self.blocks_per_task, self.blocks),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{BLOCK_ROWS_MAX, MR, Packing, Precision};

    #[test]
    fn every_panel_meets_every_block_once() {
        for packing in [Packing::Plain, Packing::Widened, Packing::AmxTiles] {
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                for (inputs, panels) in [(5, 1), (768, 24), (3072, 24), (768, 96), (768, 954)] {
                    for (rows, threads) in [(1, 1), (33, 2), (64, 2), (65, 3), (1000, 2), (16_384, 8)] {
                        let block_rows = if threads == 2 { BLOCK_ROWS_MAX } else { MR };
                        let layout = KLayout::new(precision, packing, inputs, block_rows);
                        let blocks = layout.row_blocks(rows);
                        let schedule = Schedule::new(layout, panels, blocks, threads);
                        let mut met = vec![0; panels * blocks.count()];
                        for task in 0..schedule.tasks() {
                            let (panels, task_blocks) = schedule.task(task);
                            assert!(!panels.is_empty() && !task_blocks.is_empty(), "{schedule:?}: {task}");
                            for panel in panels {
                                for block in task_blocks.clone() {
                                    met[panel * blocks.count() + block] += 1;
                                }
                            }
                        }
                        assert!(met.iter().all(|&count| count == 1), "{schedule:?}");
                        let columns = schedule.of_columns(threads);
                        let mut met = vec![0; panels];
                        for task in 0..columns.tasks() {
                            let (panels, task_blocks) = columns.task(task);
                            assert_eq!(task_blocks, 0..blocks.count());
                            panels.for_each(|panel| met[panel] += 1);
                        }
                        assert!(met.iter().all(|&count| count == 1));
                    }
                }
            }
        }
    }
}
