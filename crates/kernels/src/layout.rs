//! The packed layout of GEMM operands: constants, element types, row blocks and K-blocks.
//!
//! A micro-kernel walks along K, the inner dimension, in *K-steps*. In a K-step each of [`NR`] columns has one *packed
//! element* of weights, 32 bits: one f32, two bf16 or four 8-bit integers. [`K_BLOCK`] K-steps are a *K-block*. All
//! precisions share one layout:
//!
//! - weights: panels of [`NR`] columns, each `[K-steps][32]` elements, two cache lines a K-step; columns and K-steps
//!   beyond the end are zero;
//! - activations: blocks of rows, each `[K-blocks][rows][row elements]`. A row has 16 elements in a K-block (a cache
//!   line), or 32 where the instruction set needs them [widened](Packing::Widened).
//!
//! A micro-kernel reads both from front to back, which suits the hardware prefetcher.

use std::ops::{Deref, DerefMut, Range};

/// Columns of a panel.
pub const NR: usize = 32;
/// Most rows of a block, unless the micro-kernel takes more. 12 rows of two 16-lane registers take 24 of the 32
/// registers of AVX-512.
pub const MR: usize = 12;
/// Most rows of a block with any micro-kernel but that of AMX.
pub const BLOCK_ROWS_MAX: usize = 64;
/// K-steps whose products are summed before they are added to the sums so far, in f32. Rounding errors grow with the
/// length of such a part instead of that of K.
pub const K_PART: usize = 256;
/// K-steps of a K-block.
pub const K_BLOCK: usize = 16;
/// Cache lines of a K-block in a panel.
pub const K_BLOCK_LINES: usize = 2 * K_BLOCK;
/// Most rows of a block with AMX: two tiles.
pub const AMX_MR: usize = 2 * K_BLOCK;
/// Values of an f32 K-block with AMX: two bf16 elements of each, in two parts.
pub const SPLIT_VALUES: usize = 2 * K_BLOCK;
/// Added to 8-bit activations to make them unsigned, as the instructions require.
pub const ZERO_POINT: i32 = 128;
/// The largest magnitude of an 8-bit weight or activation.
pub const INT8_MAX: f32 = 127.0;

/// The sums or values of a block with a panel: f32, or i32 in the same 32 bits. Half a row is a cache line.
#[repr(C, align(64))]
pub struct Tile([[u32; NR]; BLOCK_ROWS_MAX]);

impl Tile {
    pub const ZERO: Self = Self([[0; NR]; BLOCK_ROWS_MAX]);
}

impl Deref for Tile {
    type Target = [[u32; NR]];

    #[inline(always)]
    fn deref(&self) -> &[[u32; NR]] {
        &self.0
    }
}

impl DerefMut for Tile {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [[u32; NR]] {
        &mut self.0
    }
}

/// Storage and multiplication precision of a dense layer. Sums are f32, or exact i32 for 8-bit products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    /// Weights and activations rounded to bf16.
    Bf16,
    /// 8-bit weights with a scale for each output, 8-bit activations with a scale for each row of each call.
    Int8,
}

impl Precision {
    /// Values in a packed element.
    pub(crate) fn values_per_element(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }
}

/// The packing of activations for a micro-kernel, and of weights for AMX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// One element of activations for each element of weights.
    Plain,
    /// Two elements of activations for each element of weights: two f32 for two bf16, and two pairs of 16-bit integers
    /// for four 8-bit ones. For instruction sets without products of the narrow type.
    Widened,
    /// Tiles of AMX. Rows are padded to whole tiles of 16, and an f32 is two bf16, `high + low`: a K-block of weights
    /// or activations has two parts, the high halves and the low halves.
    AmxTiles,
}

/// One cache line: half a K-step of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u32; 16]);

/// A line of zeros.
pub const ZERO_LINE: Line = Line([0; 16]);

/// The K-steps of a panel as rows of f32.
pub fn f32_rows_mut(lines: &mut [Line]) -> &mut [[f32; NR]] {
    let steps = lines.len() / 2;
    // SAFETY: two lines are 32 elements without padding between them, every bit pattern is a valid f32, and a line is
    // aligned more strictly than an f32; the borrow passes on.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), steps) }
}

/// The K-steps of a panel as rows of elements.
pub fn rows_mut(lines: &mut [Line]) -> &mut [[u32; NR]] {
    let steps = lines.len() / 2;
    // SAFETY: two lines are 32 elements without padding between them, aligned more strictly than an element; the borrow
    // passes on.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), steps) }
}

/// Part `index` of `count` of some lines.
pub fn part(lines: &[Line], index: usize, count: usize) -> &[Line] {
    let size = lines.len().div_ceil(count);
    &lines[(index * size).min(lines.len())..((index + 1) * size).min(lines.len())]
}

/// Lines as elements.
pub fn elements(lines: &[Line]) -> &[u32] {
    // SAFETY: a line is 16 elements without padding between them, aligned more strictly than an element; the borrow
    // passes on.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
}

/// Lines as elements.
pub fn elements_mut(lines: &mut [Line]) -> &mut [u32] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}

/// Rows of f32 bits as f32.
pub fn as_f32(rows: &[[u32; NR]]) -> &[f32] {
    let elements = rows.as_flattened();
    // SAFETY: an f32 has the size and alignment of a u32, and every bit pattern is valid; the borrow passes on.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), elements.len()) }
}

/// The element at `column` of a panel's K-step.
#[inline(always)]
pub fn panel_element(panel: &[Line], step: usize, column: usize) -> u32 {
    panel[step * 2 + column / 16].0[column % 16]
}

/// The division of rows into blocks: as few blocks as possible, either of equal size (±1) or full except for the last.
#[derive(Clone, Copy, Debug)]
pub struct RowBlocks {
    rows: usize,
    count: usize,
    /// Rows of a full block, for blocks that are not of equal size.
    full: Option<usize>,
}

impl RowBlocks {
    /// Blocks of equal size, up to `max` rows.
    pub fn even(rows: usize, max: usize) -> Self {
        Self::parts(rows, rows.div_ceil(max))
    }

    /// Blocks of `size` rows and a remainder.
    pub fn full(rows: usize, size: usize) -> Self {
        Self {
            rows,
            count: rows.div_ceil(size),
            full: Some(size),
        }
    }

    /// `count` blocks of equal size.
    pub fn parts(rows: usize, count: usize) -> Self {
        Self {
            rows,
            count,
            full: None,
        }
    }

    pub fn count(self) -> usize {
        self.count
    }

    /// The first row of block `index`; for `index == count`, the number of rows.
    pub fn start(self, index: usize) -> usize {
        if let Some(size) = self.full {
            return self.rows.min(index * size);
        }
        let (size, larger) = (self.rows / self.count, self.rows % self.count);
        index * size + index.min(larger)
    }

    pub fn range(self, index: usize) -> Range<usize> {
        self.start(index)..self.start(index + 1)
    }

    /// The block that holds `row`.
    pub fn holding(self, row: usize) -> usize {
        // Blocks differ by a row at most, so this is the block or close to it.
        let mut index = (row * self.count / self.rows).min(self.count - 1);
        while self.start(index) > row {
            index -= 1;
        }
        while self.start(index + 1) <= row {
            index += 1;
        }
        index
    }
}

/// A block of rows and its place among the packed rows.
#[derive(Clone, Debug)]
pub struct PlacedBlock {
    pub rows: Range<usize>,
    /// Rows before it, padding included.
    pub start: usize,
}

/// The K dimension of a dense layer in panels and blocks.
#[derive(Clone, Copy)]
pub struct KLayout {
    pub k_blocks: usize,
    /// Values of a row in a K-block.
    pub values: usize,
    /// Lines of a K-block in a panel.
    pub block_lines: usize,
    /// Elements of a row in a K-block.
    pub row_elements: usize,
    pub packing: Packing,
    /// Most rows of a block.
    pub block_rows: usize,
}

impl KLayout {
    /// The layout for micro-kernels with blocks of `block_rows` rows.
    pub fn new(precision: Precision, packing: Packing, inputs: usize, block_rows: usize) -> Self {
        let values = K_BLOCK * precision.values_per_element();
        let (values, lines, row_elements) = match (packing, precision) {
            (Packing::AmxTiles, Precision::F32) => (SPLIT_VALUES, 2 * K_BLOCK_LINES, 2 * K_BLOCK),
            (Packing::Widened, Precision::Bf16 | Precision::Int8) => (values, K_BLOCK_LINES, 2 * K_BLOCK),
            _ => (values, K_BLOCK_LINES, K_BLOCK),
        };
        Self {
            k_blocks: inputs.div_ceil(values),
            values,
            block_lines: lines,
            row_elements,
            packing,
            block_rows,
        }
    }

    pub fn is_amx(self) -> bool {
        self.packing == Packing::AmxTiles
    }

    /// Lines of a panel.
    pub fn panel_lines(self) -> usize {
        self.k_blocks * self.block_lines
    }

    /// The blocks of `rows` rows.
    pub fn row_blocks(self, rows: usize) -> RowBlocks {
        match self.is_amx() {
            true => RowBlocks::full(rows, AMX_MR),
            false => RowBlocks::even(rows, self.block_rows),
        }
    }

    /// Rows of a block of `rows` rows after padding.
    pub fn stored_rows(self, rows: usize) -> usize {
        match self.is_amx() {
            true => rows.next_multiple_of(K_BLOCK),
            false => rows,
        }
    }

    /// Elements of all blocks of `rows` rows.
    pub fn elements(self, rows: usize) -> usize {
        self.stored_rows(rows) * self.k_blocks * self.row_elements
    }

    /// The elements of a range of K-blocks of the block with these `rows`, among the elements of all blocks: those of
    /// [`row_blocks`](Self::row_blocks), of which the last alone is padded.
    pub fn element_range(self, rows: Range<usize>, k_blocks: Range<usize>) -> Range<usize> {
        let start = rows.start;
        self.placed_range(&PlacedBlock { rows, start }, k_blocks)
    }

    /// The same of a block anywhere.
    pub fn placed_range(self, block: &PlacedBlock, k_blocks: Range<usize>) -> Range<usize> {
        let stored = self.stored_rows(block.rows.len());
        let position = |k_block: usize| (block.start * self.k_blocks + stored * k_block) * self.row_elements;
        position(k_blocks.start)..position(k_blocks.end)
    }

    /// The lines of a range of K-blocks of a panel, among the lines of all panels.
    pub fn line_range(self, panel: usize, k_blocks: Range<usize>) -> Range<usize> {
        let position = |k_block: usize| (panel * self.k_blocks + k_block) * self.block_lines;
        position(k_blocks.start)..position(k_blocks.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_blocks_differ_by_one_row_and_cover_all_rows() {
        for rows in 1..100 {
            let blocks = RowBlocks::even(rows, MR);
            let sizes: Vec<usize> = (0..blocks.count()).map(|i| blocks.range(i).len()).collect();
            assert_eq!(sizes.iter().sum::<usize>(), rows);
            let (min, max) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(max - min <= 1 && *max <= MR, "{rows} rows: {sizes:?}");
        }
    }

    #[test]
    fn blocks_and_panels_fill_their_elements_and_lines() {
        for packing in [Packing::Plain, Packing::Widened, Packing::AmxTiles] {
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                let layout = KLayout::new(precision, packing, 100, MR);
                for rows in [1, 15, 33, 100] {
                    let blocks = layout.row_blocks(rows);
                    let mut end = 0;
                    for index in 0..blocks.count() {
                        let range = layout.element_range(blocks.range(index), 0..layout.k_blocks);
                        assert_eq!(range.start, end);
                        end = range.end;
                    }
                    assert_eq!(end, layout.elements(rows));
                }
                assert_eq!(layout.line_range(2, 0..layout.k_blocks).start, 2 * layout.panel_lines());
            }
        }
    }
}
