//! The interface of a micro-kernel: the product of a block of rows with a panel of 32 columns, then the epilogue.
//!
//! `arch` implements it once for each instruction set and precision.

use crate::epilogue::Epilogue;
use crate::layout::{K_BLOCK, KLayout, Line, MR, NR, Packing};

/// The activations of a micro-kernel call.
#[derive(Clone, Copy)]
pub enum Block<'a> {
    /// `rows` packed rows: `[K-blocks][rows][row elements]`, the rows padded as the layout says.
    Rows { elements: &'a [u32], rows: usize },
    /// Columns of a panel taken as rows: `rows` of them from `first` on.
    Columns {
        panel: &'a [Line],
        first: usize,
        rows: usize,
    },
}

impl Block<'_> {
    /// The number of rows.
    ///
    /// # Panics
    /// If the block does not fit `lines` lines of a panel, or has too many rows.
    #[inline(always)]
    pub fn rows(self, lines: usize, layout: KLayout) -> usize {
        let rows = match self {
            Self::Rows { elements, rows } => {
                let k_blocks = lines.div_ceil(layout.block_lines);
                assert!(elements.len() == k_blocks * layout.stored_rows(rows) * layout.row_elements);
                assert!(!layout.is_amx() || lines.is_multiple_of(layout.block_lines));
                rows
            }
            Self::Columns { panel, first, rows } => {
                assert!(panel.len() == lines && first + rows <= NR);
                assert!(layout.row_elements == K_BLOCK && !layout.is_amx());
                rows
            }
        };
        assert!(0 < rows && rows <= layout.block_rows);
        rows
    }
}

/// The operands of a micro-kernel call.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    pub block: Block<'a>,
    /// `[K-steps][2]` lines.
    pub panel: &'a [Line],
    /// Lines that the caller reads next; the micro-kernel prefetches them.
    pub prefetch: &'a [Line],
    /// The output holds the sums of earlier K-steps, to which these are added.
    pub accumulate: bool,
}

/// Rows to pack.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The values, from the first row on.
    pub x: &'a [f32],
    /// Values from one row to the next.
    pub stride: usize,
    /// Values of a row.
    pub inputs: usize,
    pub count: usize,
    /// Rows of the block after padding. Elements of rows beyond `count` keep their contents.
    pub stored: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub fn iter(self) -> impl Iterator<Item = &'a [f32]> {
        let rows = self.x.chunks(self.stride).take(self.count);
        rows.map(move |row| &row[..self.inputs])
    }
}

/// A micro-kernel with the packing of its activations, for one instruction set and precision.
pub trait MicroKernel: Sync {
    fn packing(&self) -> Packing {
        Packing::Plain
    }

    /// Most rows of a block.
    fn block_rows(&self) -> usize {
        MR
    }

    /// True if it [adds](Operands::accumulate) to earlier sums.
    fn accumulates(&self) -> bool {
        false
    }

    /// Packs rows into `[K-blocks][stored][row elements]`; values beyond the last input are zero. For 8 bits,
    /// `scales` receives the scale of each row.
    ///
    /// # Safety
    /// The CPU has the instructions, and `packed` has exactly these elements.
    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]);

    /// Multiplies the block with the panel and writes 32 values of each row to `to`, `stride` values apart: the sums as
    /// they are, or the result of the epilogue.
    ///
    /// # Safety
    /// The CPU has the instructions; the block has `rows` rows that [fit](Block::rows) the panel, not more than
    /// [`block_rows`](Self::block_rows); sums are accumulated only if it [does](Self::accumulates) so; the epilogue
    /// [fits](Epilogue::fits) as many rows; and those values may be written.
    unsafe fn run(
        &self,
        operands: &Operands<'_>,
        rows: usize,
        epilogue: Option<&Epilogue<'_>>,
        to: *mut f32,
        stride: usize,
    );
}
