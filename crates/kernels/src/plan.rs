//! How the work of a dense layer is cut into tasks, and in which order a task does its part.

use std::ops::Range;

use crate::amx;
use crate::pack::{Blocks, GROUP, Line, ROWS_MAX};
use crate::tile::Words;

/// Bytes of weights that a task keeps in the second-level cache while it walks over all rows.
const GROUP_BYTES: usize = 512 * 1024;
/// Up to so many blocks of rows, weights are used for all of them while they come from memory: as long as the second-level
/// cache keeps most of the rows while panels pass by.
const STREAMING_BLOCKS: usize = 12;

/// With AMX, the same; its blocks have 32 rows, and its products catch up with memory at about twice that.
const AMX_STREAMING_BLOCKS: usize = 2;
/// Bytes of a block's activations that a task with AMX keeps in the first-level cache while panels pass by: a third of it,
/// so that two threads of a core, the weights on their way and the sums find room.
const AMX_BLOCK_BYTES: usize = 16 * 1024;
/// Panels and blocks of a task with AMX at most: as each panel's slice of depth passes all blocks, 8 such slices (128 KiB)
/// and the sums of all (512 KiB) stay in the second-level cache, and whatever comes from beyond it is used 8 or 16 times.
const AMX_PANELS: usize = 8;
const AMX_BLOCKS: usize = 16;

/// How the inner dimension of a layer lies in panels and blocks: in units, each a group of steps.
#[derive(Clone, Copy)]
pub struct Depth {
    pub units: usize,
    /// Of a panel in a unit.
    pub unit_lines: usize,
    /// Of a row in a unit.
    pub unit_words: usize,
    /// For AMX.
    pub is_tiled: bool,
}

impl Depth {
    pub fn new(words: Words, inputs: usize, is_tiled: bool) -> Self {
        let (values, parts) = match is_tiled {
            true => (amx::group_values(words), amx::parts(words)),
            false => (GROUP * words.values(), 1),
        };
        Self {
            units: inputs.div_ceil(values),
            unit_lines: parts * 2 * GROUP,
            unit_words: parts * GROUP,
            is_tiled,
        }
    }

    /// Lines of a panel.
    pub fn panel_lines(self) -> usize {
        self.units * self.unit_lines
    }

    /// How `rows` rows are cut into blocks.
    pub fn blocks(self, rows: usize) -> Blocks {
        match self.is_tiled {
            true => Blocks::full(rows, amx::ROWS_MAX),
            false => Blocks::even(rows, ROWS_MAX),
        }
    }

    /// Rows that so many take in a block.
    pub fn stored_rows(self, rows: usize) -> usize {
        match self.is_tiled {
            true => rows.next_multiple_of(amx::TILE),
            false => rows,
        }
    }

    /// Words of all blocks of `rows` rows.
    pub fn words(self, rows: usize) -> usize {
        self.stored_rows(rows) * self.units * self.unit_words
    }

    /// Where a slice of a block lies among the words of all; its `rows` are among all rows.
    pub fn words_of(self, rows: Range<usize>, slice: Range<usize>) -> Range<usize> {
        let stored = self.stored_rows(rows.len());
        let place = |unit: usize| (rows.start * self.units + stored * unit) * self.unit_words;
        place(slice.start)..place(slice.end)
    }

    /// Where a slice of a panel lies among the lines of all.
    pub fn lines_of(self, panel: usize, slice: Range<usize>) -> Range<usize> {
        let place = |unit: usize| (panel * self.units + unit) * self.unit_lines;
        place(slice.start)..place(slice.end)
    }
}

/// The tasks of a layer over some blocks of rows.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    panels: usize,
    blocks: usize,
    /// Panels of a task.
    group: usize,
    /// Blocks of a task.
    chunk: usize,
    /// Units of depth that a task takes for all its blocks and panels, before it takes the next.
    pub slice: usize,
    /// Weights come from memory while they are used: a task takes one panel after the other for all blocks.
    pub is_streaming: bool,
}

impl Plan {
    pub fn new(depth: Depth, panels: usize, blocks: Blocks, threads: usize) -> Self {
        let blocks = blocks.count();
        let streaming_blocks = if depth.is_tiled {
            AMX_STREAMING_BLOCKS
        } else {
            STREAMING_BLOCKS
        };
        let is_streaming = blocks <= streaming_blocks;
        let (panels_max, blocks_max, slice_max) = if depth.is_tiled && !is_streaming {
            let unit_bytes = amx::ROWS_MAX * depth.unit_words * size_of::<u32>();
            (AMX_PANELS, AMX_BLOCKS, AMX_BLOCK_BYTES / unit_bytes)
        } else {
            let fit = GROUP_BYTES / (depth.panel_lines() * size_of::<Line>());
            (fit.max(1), blocks, depth.units)
        };
        let even = |count: usize, max: usize| count.div_ceil(count.div_ceil(max));
        let chunk = even(blocks, blocks_max);
        // Every thread gets some.
        let share = (panels * blocks.div_ceil(chunk)).div_ceil(4 * threads);
        Self {
            panels,
            blocks,
            group: panels_max.min(share),
            chunk,
            slice: even(depth.units, slice_max),
            is_streaming,
        }
    }

    fn chunks(self) -> usize {
        self.blocks.div_ceil(self.chunk)
    }

    pub fn tasks(self) -> usize {
        self.panels.div_ceil(self.group) * self.chunks()
    }

    /// The panels and blocks of a task. Tasks with the same panels follow each other.
    pub fn task(self, index: usize) -> (Range<usize>, Range<usize>) {
        let part = |index: usize, size: usize, end: usize| index * size..end.min((index + 1) * size);
        (
            part(index / self.chunks(), self.group, self.panels),
            part(index % self.chunks(), self.chunk, self.blocks),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_meets_every_block_once() {
        for is_tiled in [false, true] {
            for words in [Words::F32, Words::Bf16, Words::Int8] {
                for (inputs, panels) in [(5, 1), (768, 24), (3072, 24), (768, 96), (768, 954)] {
                    for (rows, threads) in [(1, 1), (33, 2), (64, 2), (65, 3), (1000, 2), (16_384, 8)] {
                        let depth = Depth::new(words, inputs, is_tiled);
                        let blocks = depth.blocks(rows);
                        let plan = Plan::new(depth, panels, blocks, threads);
                        let mut met = vec![0; panels * blocks.count()];
                        for task in 0..plan.tasks() {
                            let (panels, task_blocks) = plan.task(task);
                            assert!(!panels.is_empty() && !task_blocks.is_empty(), "{plan:?}: {task}");
                            for panel in panels {
                                task_blocks
                                    .clone()
                                    .for_each(|block| met[panel * blocks.count() + block] += 1);
                            }
                        }
                        assert!(met.iter().all(|&count| count == 1), "{plan:?}");
                        assert!(plan.slice > 0 && (plan.slice == depth.units || is_tiled), "{plan:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_and_panels_fill_their_words_and_lines() {
        for is_tiled in [false, true] {
            for words in [Words::F32, Words::Bf16, Words::Int8] {
                let depth = Depth::new(words, 100, is_tiled);
                for rows in [1, 15, 33, 100] {
                    let blocks = depth.blocks(rows);
                    let mut end = 0;
                    for range in (0..blocks.count()).map(|index| depth.words_of(blocks.range(index), 0..depth.units)) {
                        assert_eq!(range.start, end);
                        end = range.end;
                    }
                    assert_eq!(end, depth.words(rows));
                }
                assert_eq!(depth.lines_of(2, 0..depth.units).start, 2 * depth.panel_lines());
            }
        }
    }
}
