//! The product of a block of rows with a panel of 32 columns.
//!
//! The sums of all rows and columns stay in registers over the whole inner dimension: with both operands packed,
//! they are read once from front to back, and the caches need no further blocking.

use crate::finish::{self, Finish, Place};
use crate::pack::{COLUMNS, GROUP, Line, ROWS_MAX, ZERO_POINT};
use crate::{Activation, Level};

/// The sums of a block: f32, or i32 in the same words for 8-bit operands.
pub type Sums = [[u32; COLUMNS]; ROWS_MAX];

/// Room for the sums of a block.
pub const ZERO_SUMS: Sums = [[0; COLUMNS]; ROWS_MAX];

/// What the words are; see [`pack`](crate::pack).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// One f32.
    F32,
    /// Two bf16.
    Bf16,
    /// Four 8-bit integers: signed weights, activations with [`ZERO_POINT`] added.
    Int8,
}

impl Words {
    /// Values in a word.
    pub fn values(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }
}

/// The activations of a tile.
#[derive(Clone, Copy)]
pub enum Block<'a> {
    /// So many rows of 16 words for each group of steps: `[groups][rows][16]`.
    ByRow(&'a [u32], usize),
    /// So many columns of a panel, from this one on, taken as rows.
    Columns(&'a [Line], usize, usize),
}

impl Block<'_> {
    /// How many rows it has.
    ///
    /// # Panics
    /// When it does not fit a panel of so many steps.
    #[inline(always)]
    fn rows(self, steps: usize) -> usize {
        let rows = match self {
            Self::ByRow(all, rows) => {
                assert!(all.len() == steps.div_ceil(GROUP) * rows * GROUP);
                rows
            }
            Self::Columns(lines, first, rows) => {
                assert!(lines.len() == steps * 2 && first + rows <= COLUMNS);
                rows
            }
        };
        assert!(0 < rows && rows <= ROWS_MAX);
        rows
    }
}

/// The product of a block with a panel.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    pub level: Level,
    pub words: Words,
    pub block: Block<'a>,
    /// `[steps][2]` lines.
    pub panel: &'a [Line],
    /// Fetched into the cache meanwhile, since the caller will read it soon.
    pub ahead: &'a [Line],
}

impl Product<'_> {
    /// Writes the sums of each row to `sums`.
    ///
    /// # Panics
    /// When the sizes do not fit together.
    pub fn sums(&self, sums: &mut [[u32; COLUMNS]]) {
        let sums: &mut Sums = sums.first_chunk_mut().expect("room for the largest block");
        let &Self {
            level,
            words,
            block,
            panel,
            ..
        } = self;
        let rows = block.rows(panel.len() / 2);
        #[cfg(target_arch = "x86_64")]
        {
            if avx512::has(level, words) {
                let to = sums.as_mut_ptr().cast();
                // SAFETY: the level has the instructions, and there is room for all rows.
                return unsafe { avx512::run(self, rows, None, to, COLUMNS) };
            }
            match level {
                Level::Portable => {}
                // SAFETY: the level says that the CPU has the instructions.
                Level::Avx2 => return unsafe { vectorized::avx2(words, block, panel, sums) },
                // SAFETY: as above.
                _ => return unsafe { vectorized::avx512(words, block, panel, sums) },
            }
        }
        let _ = (level, rows);
        generic::<false>(words, block, panel, sums);
    }

    /// Writes to `values` what becomes of the sums of each row: the bits of f32.
    ///
    /// # Panics
    /// When the sizes do not fit together.
    #[inline(always)]
    pub fn values(&self, how: &Finish<'_>, activation: Option<Activation>, values: &mut Sums) {
        let rows = self.block.rows(self.panel.len() / 2);
        // SAFETY: there is room for the largest block.
        if !unsafe { self.write(rows, how, values.as_mut_ptr().cast(), COLUMNS) } {
            self.sums(values);
            finish::finish(self.level, &mut values[..rows], *how);
        }
        let is_coarse = self.words != Words::F32;
        finish::activate(self.level, &mut values[..rows], activation, is_coarse);
    }

    /// The same to `place`, for which `values` is room that is used if need be.
    ///
    /// # Panics
    /// When the sizes do not fit together.
    #[inline(always)]
    pub fn finish(&self, how: &Finish<'_>, activation: Option<Activation>, place: Place<'_>, values: &mut Sums) {
        let rows = self.block.rows(self.panel.len() / 2);
        if activation.is_none()
            && let Some((to, stride)) = place.whole_rows(rows)
        {
            // SAFETY: there is room for whole rows.
            if unsafe { self.write(rows, how, to, stride) } {
                return;
            }
        }
        self.values(how, activation, values);
        finish::write_rows(self.level, place, &values[..rows]);
    }

    /// Writes what becomes of the sums straight from the registers, if there are instructions for it: 32 values of each row to
    /// `to`, `stride` apart.
    ///
    /// # Safety
    /// There is room for so many rows.
    #[inline(always)]
    unsafe fn write(&self, rows: usize, how: &Finish<'_>, to: *mut f32, stride: usize) -> bool {
        assert!(how.fits(rows));
        #[cfg(target_arch = "x86_64")]
        if avx512::has(self.level, self.words) {
            // SAFETY: the level has the instructions, there is room for all rows, and it is said what becomes of them.
            unsafe { avx512::run(self, rows, Some(how), to, stride) };
            return true;
        }
        let _ = (to, stride);
        false
    }
}

/// A few rows at a time, so that their sums fit the 16 registers of AVX2; the compiler turns the inner loops into vector
/// code.
#[inline(always)]
fn generic<const FMA: bool>(words: Words, block: Block<'_>, panel: &[Line], sums: &mut Sums) {
    let rows = match block {
        Block::ByRow(_, rows) | Block::Columns(_, _, rows) => rows,
    };
    let mut row = 0;
    while row < rows {
        let take = (rows - row).min(if FMA { 3 } else { 2 });
        match take {
            3 => some_rows::<3, FMA>(words, block, row, panel, sums),
            2 => some_rows::<2, FMA>(words, block, row, panel, sums),
            _ => some_rows::<1, FMA>(words, block, row, panel, sums),
        }
        row += take;
    }
}

/// Calls `step(words of M rows, words of the columns)` for each step.
#[inline(always)]
fn for_each_step<const M: usize>(
    block: Block<'_>,
    first: usize,
    panel: &[Line],
    mut step: impl FnMut([u32; M], &[Line]),
) {
    match block {
        Block::ByRow(block, rows) => {
            let groups = block.chunks_exact(rows * GROUP).zip(panel.chunks(2 * GROUP));
            for (block, panel) in groups {
                let rows: [&[u32]; M] = std::array::from_fn(|m| &block[(first + m) * GROUP..][..GROUP]);
                for (s, lines) in panel.chunks_exact(2).enumerate() {
                    step(rows.map(|row| row[s]), lines);
                }
            }
        }
        Block::Columns(block, column, _) => {
            for (block, lines) in block.chunks_exact(2).zip(panel.chunks_exact(2)) {
                let word = |column: usize| block[column / 16].0[column % 16];
                step(std::array::from_fn(|m| word(column + first + m)), lines);
            }
        }
    }
}

#[inline(always)]
fn some_rows<const M: usize, const FMA: bool>(
    words: Words,
    block: Block<'_>,
    first: usize,
    panel: &[Line],
    sums: &mut Sums,
) {
    let add = |sum: f32, a: f32, b: f32| if FMA { a.mul_add(b, sum) } else { a * b + sum };
    match words {
        Words::F32 => {
            let mut acc = [[0f32; COLUMNS]; M];
            for_each_step::<M>(block, first, panel, |a, b| {
                for m in 0..M {
                    let a = f32::from_bits(a[m]);
                    for n in 0..COLUMNS {
                        acc[m][n] = add(acc[m][n], a, f32::from_bits(b[n / 16].0[n % 16]));
                    }
                }
            });
            for m in 0..M {
                sums[first + m] = acc[m].map(f32::to_bits);
            }
        }
        Words::Bf16 => {
            let mut acc = [[0f32; COLUMNS]; M];
            for_each_step::<M>(block, first, panel, |a, b| {
                for m in 0..M {
                    let (low, high) = halves(a[m]);
                    for n in 0..COLUMNS {
                        let (b_low, b_high) = halves(b[n / 16].0[n % 16]);
                        acc[m][n] = add(add(acc[m][n], low, b_low), high, b_high);
                    }
                }
            });
            for m in 0..M {
                sums[first + m] = acc[m].map(f32::to_bits);
            }
        }
        Words::Int8 => {
            let mut acc = [[0i32; COLUMNS]; M];
            for_each_step::<M>(block, first, panel, |a, b| {
                for m in 0..M {
                    let a = a[m];
                    for n in 0..COLUMNS {
                        let b = b[n / 16].0[n % 16];
                        // Shifting left and arithmetically right takes a signed byte out of a word.
                        for byte in 0..4 {
                            let activation = (a >> (8 * byte) & 0xff) as i32;
                            let weight = ((b << (24 - 8 * byte)) as i32) >> 24;
                            acc[m][n] += activation * weight;
                        }
                    }
                }
            });
            for m in 0..M {
                sums[first + m] = acc[m].map(|sum| sum as u32);
            }
        }
    }
}

/// The two bf16 of a word.
#[inline(always)]
fn halves(word: u32) -> (f32, f32) {
    (f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000))
}

/// The sum of a panel's 8-bit weights in each column, times the zero point: what the products are too large by.
pub fn zero_point_share(panel: &[Line]) -> [i32; COLUMNS] {
    let mut sums = [0; COLUMNS];
    for lines in panel.chunks_exact(2) {
        for (n, sum) in sums.iter_mut().enumerate() {
            let bytes = lines[n / 16].0[n % 16].to_le_bytes();
            *sum += bytes.into_iter().map(|byte| i32::from(byte as i8)).sum::<i32>();
        }
    }
    sums.map(|sum| sum * ZERO_POINT)
}

/// The generic loops compiled for the vector instructions that have no kernel of their own.
#[cfg(target_arch = "x86_64")]
mod vectorized {
    use super::*;

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(words: Words, block: Block<'_>, panel: &[Line], sums: &mut Sums) {
        generic::<true>(words, block, panel, sums);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn avx512(words: Words, block: Block<'_>, panel: &[Line], sums: &mut Sums) {
        generic::<true>(words, block, panel, sums);
    }
}

/// AVX-512: two registers of 16 columns for each row.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Block, COLUMNS, GROUP, Line, Product, Words};
    use crate::Level;
    use crate::finish::Finish;
    use crate::finish::avx512::{finish_rows, load};

    /// Whether the level has what these kernels need.
    pub fn has(level: Level, words: Words) -> bool {
        level
            >= match words {
                Words::F32 => Level::Avx512,
                Words::Int8 => Level::Avx512Vnni,
                Words::Bf16 => Level::Avx512Bf16,
            }
    }

    /// Computes the sums of the block's `rows` rows and writes them, or what becomes of them, to `to`: 32 words of each row,
    /// `stride` words apart.
    ///
    /// # Safety
    /// The level [has] these words, the block has so many rows and as many steps as the panel, there is room for all
    /// rows, and the finish says what becomes of as many.
    #[inline(always)]
    pub unsafe fn run(product: &Product<'_>, rows: usize, finish: Option<&Finish<'_>>, to: *mut f32, stride: usize) {
        macro_rules! by_rows {
            ($function:ident) => {
                match rows {
                    1 => $function::<1>,
                    2 => $function::<2>,
                    3 => $function::<3>,
                    4 => $function::<4>,
                    5 => $function::<5>,
                    6 => $function::<6>,
                    7 => $function::<7>,
                    8 => $function::<8>,
                    9 => $function::<9>,
                    10 => $function::<10>,
                    11 => $function::<11>,
                    _ => $function::<12>,
                }
            };
        }
        // SAFETY: by the caller's promise; `rows` is the number in the type.
        unsafe {
            match product.words {
                Words::F32 => by_rows!(f32s)(product, finish, to, stride),
                Words::Bf16 => by_rows!(bf16s)(product, finish, to, stride),
                Words::Int8 => by_rows!(int8s)(product, finish, to, stride),
            }
        }
    }

    /// The same bits as pairs of bf16.
    #[inline(always)]
    fn pairs(words: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes in which every bit pattern is valid.
        unsafe { std::mem::transmute(words) }
    }

    macro_rules! kernel {
        ($(#[$doc:meta])* $name:ident, $features:literal, $kind:ty, $zero:expr, |$sum:ident, $a:ident, $b:ident| $add:expr, |$out:ident| $bits:expr) => {
            $(#[$doc])*
            ///
            /// # Safety
            /// As [`run`], with `M` rows.
            #[target_feature(enable = $features)]
            unsafe fn $name<const M: usize>(
                product: &Product<'_>,
                finish: Option<&Finish<'_>>,
                to: *mut f32,
                stride: usize,
            ) {
                /// Steps, the words from one row to the next, and from one step to the next, being constants.
                ///
                /// # Safety
                /// `a` points to the words of `M` rows and `steps` steps, `b` to two lines a step.
                #[target_feature(enable = $features)]
                #[inline]
                unsafe fn steps<const M: usize, const ROW: usize, const STEP: usize>(
                    mut acc: [[$kind; 2]; M],
                    a: *const u32,
                    b: *const Line,
                    steps: usize,
                    next: *const Line,
                    lines: usize,
                ) -> [[$kind; 2]; M] {
                    let (mut a, mut b, mut next) = (a, b, next);
                    for _ in 0..steps {
                        for line in 0..lines.min(2) {
                            // A prefetch of any address is harmless.
                            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line).cast());
                        }
                        next = next.wrapping_add(lines);
                        // SAFETY: `b` walks over two lines a step.
                        let $b = unsafe { [_mm512_load_si512(b.cast()), _mm512_load_si512(b.add(1).cast())] };
                        for m in 0..M {
                            // SAFETY: the rows' words of a step.
                            let $a = _mm512_set1_epi32(unsafe { *a.add(m * ROW) } as i32);
                            for n in 0..2 {
                                let ($sum, $b) = (acc[m][n], $b[n]);
                                acc[m][n] = $add;
                            }
                        }
                        (a, b) = (a.wrapping_add(STEP), b.wrapping_add(2));
                    }
                    acc
                }
                let &Product { block, panel, ahead, .. } = product;
                let mut acc = [[$zero; 2]; M];
                let all = panel.len() / 2;
                // Lines of `ahead` to ask for in a step: all of it, spread evenly.
                let lines = ahead.len().div_ceil(all);
                let (mut b, mut next) = (panel.as_ptr(), ahead.as_ptr());
                match block {
                    Block::ByRow(words, _) => {
                        let mut a = words.as_ptr();
                        let mut left = all;
                        while left > 0 {
                            let count = left.min(GROUP);
                            // SAFETY: a group of all rows, and so many steps of the panel.
                            acc = unsafe { steps::<M, GROUP, 1>(acc, a, b, count, next, lines) };
                            a = a.wrapping_add(M * GROUP);
                            b = b.wrapping_add(2 * count);
                            next = next.wrapping_add(lines * count);
                            left -= count;
                        }
                    }
                    Block::Columns(words, first, _) => {
                        // The steps of a panel lie in one piece.
                        let a = words.as_ptr().cast::<u32>().wrapping_add(first);
                        // SAFETY: as many steps of both, `M` columns of one from the first on.
                        acc = unsafe { steps::<M, 1, COLUMNS>(acc, a, b, all, next, lines) };
                    }
                }
                // SAFETY: there is room.
                let put = |row: usize, half: usize, value| unsafe {
                    _mm512_storeu_ps(to.add(row * stride + 16 * half), value);
                };
                match finish {
                    Some(finish) => {
                        finish_rows!(finish, M, |row, half| { let $out = acc[row][half]; $bits }, put);
                    }
                    None => {
                        for row in 0..M {
                            for half in 0..2 {
                                let $out = acc[row][half];
                                put(row, half, _mm512_castsi512_ps($bits));
                            }
                        }
                    }
                }
            }
        };
    }

    kernel!(
        /// One f32 a step.
        f32s, "avx512f", __m512, _mm512_setzero_ps(),
        |sum, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum),
        |sum| _mm512_castps_si512(sum)
    );
    kernel!(
        /// Two bf16 a step, summed in f32.
        bf16s, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(),
        |sum, a, b| _mm512_dpbf16_ps(sum, pairs(a), pairs(b)),
        |sum| _mm512_castps_si512(sum)
    );
    kernel!(
        /// Four 8-bit integers a step, summed in i32 without saturation.
        int8s, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(),
        |sum, a, b| _mm512_dpbusd_epi32(sum, a, b),
        |sum| sum
    );
}
