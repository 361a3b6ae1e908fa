//! The product of a block of rows with a panel of 32 columns.
//!
//! The sums of all rows and columns stay in registers over the whole inner dimension: with both operands packed,
//! they are read once from front to back, and the caches need no further blocking.

use crate::Level;
use crate::pack::{COLUMNS, Line, ROWS_MAX, ZERO_POINT};

/// The sums of a block: f32, or i32 in the same words for 8-bit operands.
pub type Sums = [[u32; COLUMNS]; ROWS_MAX];

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

/// Writes into `sums`, for each of the `rows` rows of `block` (`[steps][rows]`), its products with the columns of
/// `panel` (`[steps][2]` lines). Meanwhile `ahead`, which the caller will read soon, is fetched into the cache.
///
/// # Panics
/// When the sizes do not fit together.
pub fn tile(
    level: Level,
    words: Words,
    block: &[u32],
    rows: usize,
    panel: &[Line],
    ahead: &[Line],
    sums: &mut [[u32; COLUMNS]],
) {
    let sums: &mut Sums = sums.first_chunk_mut().expect("room for the largest block");
    let steps = panel.len() / 2;
    assert!(0 < rows && rows <= ROWS_MAX && block.len() == steps * rows && panel.len() == steps * 2);
    macro_rules! by_rows {
        ($function:ident) => {
            match rows {
                1 => avx512::$function::<1>,
                2 => avx512::$function::<2>,
                3 => avx512::$function::<3>,
                4 => avx512::$function::<4>,
                5 => avx512::$function::<5>,
                6 => avx512::$function::<6>,
                7 => avx512::$function::<7>,
                8 => avx512::$function::<8>,
                9 => avx512::$function::<9>,
                10 => avx512::$function::<10>,
                11 => avx512::$function::<11>,
                _ => avx512::$function::<12>,
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    {
        match (level, words) {
            (Level::Avx512Bf16 | Level::Amx, Words::Bf16) => {
                // SAFETY: the level says that the CPU has the instructions; the sizes were checked above, and `rows` is
                // the number in the type.
                return unsafe { by_rows!(bf16s)(block, panel, ahead, sums) };
            }
            (Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx, Words::F32) => {
                // SAFETY: as above.
                return unsafe { by_rows!(f32s)(block, panel, ahead, sums) };
            }
            (Level::Avx512Vnni | Level::Avx512Bf16 | Level::Amx, Words::Int8) => {
                // SAFETY: as above.
                return unsafe { by_rows!(int8s)(block, panel, ahead, sums) };
            }
            _ => {}
        }
        match level {
            Level::Portable => {}
            // SAFETY: the level says that the CPU has the instructions.
            Level::Avx2 => return unsafe { vectorized::avx2(words, block, rows, panel, sums) },
            // SAFETY: as above.
            _ => return unsafe { vectorized::avx512(words, block, rows, panel, sums) },
        }
    }
    let _ = (level, ahead);
    generic::<false>(words, block, rows, panel, sums);
}

/// A few rows at a time, so that their sums fit the 16 registers of AVX2; the compiler turns the inner loops into vector
/// code.
#[inline(always)]
fn generic<const FMA: bool>(words: Words, block: &[u32], rows: usize, panel: &[Line], sums: &mut Sums) {
    let mut row = 0;
    while row < rows {
        let take = (rows - row).min(if FMA { 3 } else { 2 });
        match take {
            3 => some_rows::<3, FMA>(words, block, rows, row, panel, sums),
            2 => some_rows::<2, FMA>(words, block, rows, row, panel, sums),
            _ => some_rows::<1, FMA>(words, block, rows, row, panel, sums),
        }
        row += take;
    }
}

#[inline(always)]
fn some_rows<const M: usize, const FMA: bool>(
    words: Words,
    block: &[u32],
    rows: usize,
    first: usize,
    panel: &[Line],
    sums: &mut Sums,
) {
    let add = |sum: f32, a: f32, b: f32| if FMA { a.mul_add(b, sum) } else { a * b + sum };
    let steps = block.chunks_exact(rows).zip(panel.chunks_exact(2));
    match words {
        Words::F32 => {
            let mut acc = [[0f32; COLUMNS]; M];
            for (a, b) in steps {
                for m in 0..M {
                    let a = f32::from_bits(a[first + m]);
                    for n in 0..COLUMNS {
                        acc[m][n] = add(acc[m][n], a, f32::from_bits(b[n / 16].0[n % 16]));
                    }
                }
            }
            for m in 0..M {
                sums[first + m] = acc[m].map(f32::to_bits);
            }
        }
        Words::Bf16 => {
            let mut acc = [[0f32; COLUMNS]; M];
            for (a, b) in steps {
                for m in 0..M {
                    let (low, high) = halves(a[first + m]);
                    for n in 0..COLUMNS {
                        let (b_low, b_high) = halves(b[n / 16].0[n % 16]);
                        acc[m][n] = add(add(acc[m][n], low, b_low), high, b_high);
                    }
                }
            }
            for m in 0..M {
                sums[first + m] = acc[m].map(f32::to_bits);
            }
        }
        Words::Int8 => {
            let mut acc = [[0i32; COLUMNS]; M];
            for (a, b) in steps {
                for m in 0..M {
                    let a = a[first + m];
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
            }
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
    pub fn avx2(words: Words, block: &[u32], rows: usize, panel: &[Line], sums: &mut Sums) {
        generic::<true>(words, block, rows, panel, sums);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn avx512(words: Words, block: &[u32], rows: usize, panel: &[Line], sums: &mut Sums) {
        generic::<true>(words, block, rows, panel, sums);
    }
}

/// AVX-512: two registers of 16 columns for each row.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Line, Sums};

    /// The same bits as pairs of bf16.
    #[inline(always)]
    fn pairs(words: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes in which every bit pattern is valid.
        unsafe { std::mem::transmute(words) }
    }

    macro_rules! kernel {
        ($(#[$doc:meta])* $name:ident, $features:literal, $zero:expr, |$sum:ident, $a:ident, $b:ident| $add:expr, |$out:ident| $bits:expr) => {
            $(#[$doc])*
            ///
            /// # Safety
            /// `block` holds `panel.len() / 2 * M` words.
            #[target_feature(enable = $features)]
            pub unsafe fn $name<const M: usize>(block: &[u32], panel: &[Line], ahead: &[Line], sums: &mut Sums) {
                let mut acc = [[$zero; 2]; M];
                let mut a = block.as_ptr();
                let mut b = panel.as_ptr();
                let mut next = ahead.as_ptr();
                // Bytes of `ahead` to ask for in a step: all of it, spread evenly.
                let lines = ahead.len().div_ceil(panel.len() / 2);
                for _ in 0..panel.len() / 2 {
                    for line in 0..lines.min(2) {
                        // A prefetch of any address is harmless.
                        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line).cast());
                    }
                    next = next.wrapping_add(lines);
                    // SAFETY: `b` walks over the lines of `panel`, two a step.
                    let $b = unsafe { [_mm512_load_si512(b.cast()), _mm512_load_si512(b.add(1).cast())] };
                    for m in 0..M {
                        // SAFETY: `a` walks over the words of `block`, `M` a step.
                        let $a = _mm512_set1_epi32(unsafe { *a.add(m) } as i32);
                        for n in 0..2 {
                            let ($sum, $b) = (acc[m][n], $b[n]);
                            acc[m][n] = $add;
                        }
                    }
                    // SAFETY: one past the end at most.
                    (a, b) = unsafe { (a.add(M), b.add(2)) };
                }
                for m in 0..M {
                    for n in 0..2 {
                        let $out = acc[m][n];
                        // SAFETY: a row of sums is 32 words.
                        unsafe { _mm512_storeu_si512(sums[m].as_mut_ptr().add(16 * n).cast(), $bits) };
                    }
                }
            }
        };
    }

    kernel!(
        /// One f32 a step.
        f32s, "avx512f", _mm512_setzero_ps(),
        |sum, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum),
        |sum| _mm512_castps_si512(sum)
    );
    kernel!(
        /// Two bf16 a step, summed in f32.
        bf16s, "avx512f,avx512bf16", _mm512_setzero_ps(),
        |sum, a, b| _mm512_dpbf16_ps(sum, pairs(a), pairs(b)),
        |sum| _mm512_castps_si512(sum)
    );
    kernel!(
        /// Four 8-bit integers a step, summed in i32 without saturation.
        int8s, "avx512f,avx512vnni", _mm512_setzero_si512(),
        |sum, a, b| _mm512_dpbusd_epi32(sum, a, b),
        |sum| sum
    );
}
