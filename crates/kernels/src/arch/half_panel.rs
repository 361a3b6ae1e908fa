//! The loops around micro-tiles of a few rows by half a panel, for instruction sets whose registers hold the sums of 6
//! rows by 16 columns: AVX2 and NEON.

use crate::epilogue::Epilogue;
use crate::kernel::{Block, Operands};
use crate::layout::{K_BLOCK, K_PART, Line, RowBlocks};

/// Most rows of a micro-tile.
const ROWS_MAX: usize = 6;
/// Columns of half a panel.
const COLUMNS: usize = 16;

/// The operands of a micro-tile over a part of K.
pub struct Pass {
    /// The first element of the first row.
    pub a: *const u32,
    /// Elements from one K-block of activations to the next.
    pub k_block_elements: usize,
    /// The first line of the panel's half. Lines of a half are two apart.
    pub b: *const Line,
    pub steps: usize,
    pub prefetch: *const Line,
    /// Lines to prefetch in a K-block.
    pub prefetch_lines: usize,
    /// True if the sums of earlier parts are not in the output yet.
    pub is_first: bool,
}

/// The micro-tiles of an instruction set and a precision.
pub trait MicroTile {
    /// Elements from one row of activations to the next.
    const ROW: usize;
    /// Elements of activations from one K-step to the next.
    const STEP: usize;

    /// Multiplies `M` rows with one half of a panel's columns over a part of K.
    ///
    /// # Safety
    /// The CPU has the instructions; the pass lies within the operands; `to` may be written for 16 values of `M` rows,
    /// `stride` values apart; the epilogue fits the rows from `first_row` on.
    unsafe fn run<const M: usize>(
        pass: &Pass,
        epilogue: Option<&Epilogue<'_>>,
        first_row: usize,
        half: usize,
        to: *mut f32,
        stride: usize,
    );
}

/// Multiplies a block with a panel, micro-tile by micro-tile and [part by part](K_PART) of K: the part of a panel's
/// half that one micro-tile has loaded stays in the first-level cache for the next ones. Sums of a part are kept in the
/// output.
///
/// # Safety
/// As [`MicroKernel::run`](crate::kernel::MicroKernel::run), and the block is laid out as the micro-tiles take it.
pub unsafe fn multiply<T: MicroTile>(
    operands: &Operands<'_>,
    rows: usize,
    epilogue: Option<&Epilogue<'_>>,
    to: *mut f32,
    stride: usize,
) {
    let &Operands {
        block,
        panel,
        prefetch,
        accumulate,
    } = operands;
    let (a, row_step) = match block {
        Block::Rows { elements, .. } => (elements.as_ptr(), rows * T::ROW),
        // From one K-block to the next.
        Block::Columns { panel, first, .. } => (panel.as_ptr().cast::<u32>().wrapping_add(first), K_BLOCK * T::STEP),
    };
    let steps = panel.len() / 2;
    let blocks = RowBlocks::even(rows, ROWS_MAX);
    let k_blocks = steps.div_ceil(K_BLOCK) * 2 * blocks.count();
    let mut pass = Pass {
        a,
        k_block_elements: row_step,
        b: panel.as_ptr(),
        steps: 0,
        prefetch: prefetch.as_ptr(),
        // All lines, spread evenly.
        prefetch_lines: prefetch.len().div_ceil(k_blocks),
        is_first: false,
    };
    for start in (0..steps).step_by(K_PART) {
        pass.steps = K_PART.min(steps - start);
        pass.is_first = start == 0 && !accumulate;
        let epilogue = epilogue.filter(|_| start + pass.steps == steps);
        for half in 0..2 {
            pass.b = panel.as_ptr().wrapping_add(start * 2 + half);
            for index in 0..blocks.count() {
                let rows = blocks.range(index);
                pass.a = a.wrapping_add(start / K_BLOCK * row_step + rows.start * T::ROW);
                let first_row = rows.start;
                // SAFETY: these rows and columns may be written, by the caller's promise.
                let to = unsafe { to.add(first_row * stride + half * COLUMNS) };
                let run = match rows.len() {
                    1 => T::run::<1>,
                    2 => T::run::<2>,
                    3 => T::run::<3>,
                    4 => T::run::<4>,
                    5 => T::run::<5>,
                    _ => T::run::<6>,
                };
                // SAFETY: the number of rows is that in the type; the pass lies within the operands.
                unsafe { run(&pass, epilogue, first_row, half, to, stride) };
                let lines = pass.prefetch_lines * pass.steps.div_ceil(K_BLOCK);
                pass.prefetch = pass.prefetch.wrapping_add(lines);
            }
        }
    }
}
