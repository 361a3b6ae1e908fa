//! Micro-kernels of AVX-512: two registers of 16 columns for each row.
//!
//! f32 needs `avx512f`, 8 bits `avx512_vnni`, bf16 `avx512_bf16`. Without them, weights are widened in registers, to f32
//! or to 16-bit integers, and activations are packed [widened](Packing::Widened), as with AVX2.

use std::arch::x86_64::*;

use super::avx2;
use crate::epilogue::Epilogue;
use crate::kernel::{Block, MicroKernel, Operands, Rows};
use crate::layout::{INT8_MAX, K_BLOCK, K_PART, Line, MR, NR, Packing, ZERO_POINT};
use crate::rounding::ROUND;

pub struct F32;
pub struct Bf16;
pub struct Int8;
pub struct WidenedBf16;
pub struct WidenedInt8;

/// Most rows of a block with widened weights. With a row more, the compiler keeps sums in memory.
const WIDENED_ROWS: usize = MR - 1;

/// Implements [`MicroKernel::run`] by `$kernel::<M>` for M rows.
macro_rules! run {
    ($kernel:ident) => {
        unsafe fn run(
            &self,
            operands: &Operands<'_>,
            rows: usize,
            epilogue: Option<&Epilogue<'_>>,
            to: *mut f32,
            stride: usize,
        ) {
            let run = match rows {
                1 => $kernel::<1>,
                2 => $kernel::<2>,
                3 => $kernel::<3>,
                4 => $kernel::<4>,
                5 => $kernel::<5>,
                6 => $kernel::<6>,
                7 => $kernel::<7>,
                8 => $kernel::<8>,
                9 => $kernel::<9>,
                10 => $kernel::<10>,
                11 => $kernel::<11>,
                _ => $kernel::<12>,
            };
            // SAFETY: by the caller's promise; `rows` is the number in the type, since no block has more than 12.
            unsafe { run(operands, epilogue, to, stride) }
        }
    };
}

impl MicroKernel for F32 {
    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], _: &mut [f32]) {
        // SAFETY: the CPU has the instructions by the caller's promise.
        unsafe { pack_f32(rows, packed) }
    }

    run!(f32_rows);
}

impl MicroKernel for Bf16 {
    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], _: &mut [f32]) {
        // SAFETY: the CPU has the instructions by the caller's promise.
        unsafe { pack_bf16(rows, packed) }
    }

    run!(bf16_rows);
}

impl MicroKernel for Int8 {
    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
        // SAFETY: the CPU has the instructions by the caller's promise.
        unsafe { pack_int8(rows, packed, scales) }
    }

    run!(int8_rows);
}

impl MicroKernel for WidenedBf16 {
    fn packing(&self) -> Packing {
        Packing::Widened
    }

    fn block_rows(&self) -> usize {
        WIDENED_ROWS
    }

    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
        // SAFETY: by the caller's promise.
        unsafe { avx2::Bf16.pack_rows(rows, packed, scales) }
    }

    run!(widened_bf16_rows);
}

impl MicroKernel for WidenedInt8 {
    fn packing(&self) -> Packing {
        Packing::Widened
    }

    fn block_rows(&self) -> usize {
        WIDENED_ROWS
    }

    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
        // SAFETY: by the caller's promise.
        unsafe { avx2::Int8.pack_rows(rows, packed, scales) }
    }

    run!(widened_int8_rows);
}

/// 16 of a panel's columns.
#[target_feature(enable = "avx512f")]
fn load_half<T>(columns: &[T; NR], half: usize) -> __m512 {
    const { assert!(size_of::<T>() == size_of::<f32>()) };
    // SAFETY: one half of the 32 values of 32 bits.
    unsafe { _mm512_loadu_ps(columns.as_ptr().cast::<f32>().add(16 * half)) }
}

/// Applies an epilogue to the sums `$sum` of each half of `$rows` rows and passes the values to `$put(row, half,
/// value)`. A macro, since a function would get the sums through memory. Sound if the epilogue fits as many rows.
macro_rules! epilogue_rows {
    ($epilogue:expr, $rows:expr, |$row:ident, $half:ident| $sum:expr, $put:expr) => {
        match $epilogue {
            Epilogue::Bias(bias) => {
                let bias = [load_half(bias, 0), load_half(bias, 1)];
                for $row in 0..$rows {
                    for $half in 0..2 {
                        $put($row, $half, _mm512_add_ps(_mm512_castsi512_ps($sum), bias[$half]));
                    }
                }
            }
            Epilogue::RowFactors(factors) => {
                for $row in 0..$rows {
                    // SAFETY: the epilogue fits.
                    let factor = _mm512_set1_ps(unsafe { *factors.get_unchecked($row) });
                    for $half in 0..2 {
                        $put($row, $half, _mm512_mul_ps(_mm512_castsi512_ps($sum), factor));
                    }
                }
            }
            Epilogue::Dequantize(int8) => {
                let zero_point = [load_half(int8.zero_point, 0), load_half(int8.zero_point, 1)];
                let scales = [load_half(int8.weight_scales, 0), load_half(int8.weight_scales, 1)];
                let bias = [load_half(int8.bias, 0), load_half(int8.bias, 1)];
                for $row in 0..$rows {
                    // SAFETY: as above.
                    let activation_scale = _mm512_set1_ps(unsafe { *int8.activation_scales.get_unchecked($row) });
                    for $half in 0..2 {
                        let zero_point = _mm512_castps_si512(zero_point[$half]);
                        let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32($sum, zero_point));
                        let scale = _mm512_mul_ps(activation_scale, scales[$half]);
                        $put($row, $half, _mm512_add_ps(_mm512_mul_ps(sum, scale), bias[$half]));
                    }
                }
            }
        }
    };
}

/// The same bits as pairs of bf16.
#[inline(always)]
fn pairs(elements: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes in which every bit pattern is valid.
    unsafe { std::mem::transmute(elements) }
}

macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $features:literal, $kind:ty, $zero:expr, part = $part:expr,
        widen = $parts:literal |$line:ident, $index:ident| $widened:expr, |$sum:ident, $a:ident, $b:ident| $add:expr, |$out:ident| $bits:expr, |$here:ident, $earlier:ident| $join:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`MicroKernel::run`], with `M` rows.
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize>(
            operands: &Operands<'_>,
            epilogue: Option<&Epilogue<'_>>,
            to: *mut f32,
            stride: usize,
        ) {
            /// K-steps of a part of K.
            const PART: usize = $part;
            /// Elements of activations for one of weights.
            const WIDTH: usize = $parts;

            /// K-steps. `ROW` and `STEP` are the elements from one row to the next and from one K-step to the next.
            ///
            /// # Safety
            /// `a` points to the elements of `M` rows and `steps` K-steps, `b` to two lines for each K-step.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn steps<const M: usize, const ROW: usize, const STEP: usize>(
                mut acc: [[$kind; 2]; M],
                a: *const u32,
                b: *const Line,
                steps: usize,
                prefetch: *const Line,
                lines: usize,
            ) -> [[$kind; 2]; M] {
                let (mut a, mut b, mut prefetch) = (a, b, prefetch);
                for _ in 0..steps {
                    for line in 0..lines.min(2) {
                        // A prefetch of any address is harmless.
                        _mm_prefetch::<_MM_HINT_T0>(prefetch.wrapping_add(line).cast());
                    }
                    prefetch = prefetch.wrapping_add(lines);
                    // SAFETY: `b` walks over two lines a K-step.
                    let lines = unsafe { [_mm512_load_si512(b.cast()), _mm512_load_si512(b.add(1).cast())] };
                    for $index in 0..WIDTH {
                        let $b = lines.map(|$line| $widened);
                        for m in 0..M {
                            // SAFETY: the rows' elements of a K-step.
                            let $a = _mm512_set1_epi32(unsafe { *a.add(m * ROW + $index) } as i32);
                            for n in 0..2 {
                                let ($sum, $b) = (acc[m][n], $b[n]);
                                acc[m][n] = $add;
                            }
                        }
                    }
                    (a, b) = (a.wrapping_add(STEP), b.wrapping_add(2));
                }
                acc
            }
            /// Adds the sums of earlier parts of K, which are at `to`.
            ///
            /// # Safety
            /// 32 values of `M` rows, `stride` apart, can be read.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn join<const M: usize>(mut acc: [[$kind; 2]; M], to: *const f32, stride: usize) -> [[$kind; 2]; M] {
                for row in 0..M {
                    for half in 0..2 {
                        // SAFETY: by the caller's promise.
                        let $earlier = unsafe { _mm512_loadu_ps(to.add(row * stride + 16 * half)) };
                        let $here = acc[row][half];
                        acc[row][half] = $join;
                    }
                }
                acc
            }
            let &Operands { block, panel, prefetch, .. } = operands;
            let mut acc = [[$zero; 2]; M];
            // SAFETY: the caller permits writing these values.
            let put = |row: usize, half: usize, value| unsafe {
                _mm512_storeu_ps(to.add(row * stride + 16 * half), value);
            };
            // A part of K ends: its sums are stored, and those of the next part begin at zero.
            let mut is_first = true;
            macro_rules! end_part {
                () => {
                    if !is_first {
                        // SAFETY: an earlier part has written the sums there.
                        acc = unsafe { join::<M>(acc, to, stride) };
                    }
                    for row in 0..M {
                        for half in 0..2 {
                            let $out = acc[row][half];
                            put(row, half, _mm512_castsi512_ps($bits));
                        }
                    }
                    acc = [[$zero; 2]; M];
                    is_first = false;
                };
            }
            let all = panel.len() / 2;
            // Lines to prefetch in a K-step: all lines, spread evenly.
            let lines = prefetch.len().div_ceil(all);
            let (mut b, mut next) = (panel.as_ptr(), prefetch.as_ptr());
            match block {
                Block::Rows { elements, .. } => {
                    let mut a = elements.as_ptr();
                    let (mut left, mut part) = (all, 0);
                    while left > 0 {
                        if part >= PART {
                            end_part!();
                            part = 0;
                        }
                        let count = left.min(K_BLOCK);
                        // SAFETY: a K-block of all rows, and as many K-steps of the panel.
                        acc = unsafe { steps::<M, { WIDTH * K_BLOCK }, WIDTH>(acc, a, b, count, next, lines) };
                        a = a.wrapping_add(M * WIDTH * K_BLOCK);
                        b = b.wrapping_add(2 * count);
                        next = next.wrapping_add(lines * count);
                        left -= count;
                        part += count;
                    }
                }
                Block::Columns { panel: columns, first, .. } => {
                    // The K-steps of a panel are contiguous.
                    let mut a = columns.as_ptr().cast::<u32>().wrapping_add(first);
                    let mut left = all;
                    while left > 0 {
                        if left < all {
                            end_part!();
                        }
                        let count = left.min(PART);
                        // SAFETY: both have as many K-steps, the block `M` columns from the first on.
                        acc = unsafe { steps::<M, 1, NR>(acc, a, b, count, next, lines) };
                        a = a.wrapping_add(NR * count);
                        b = b.wrapping_add(2 * count);
                        next = next.wrapping_add(lines * count);
                        left -= count;
                    }
                }
            }
            if !is_first {
                // SAFETY: an earlier part has written the sums there.
                acc = unsafe { join::<M>(acc, to, stride) };
            }
            match epilogue {
                Some(epilogue) => {
                    epilogue_rows!(epilogue, M, |row, half| { let $out = acc[row][half]; $bits }, put);
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
    /// One f32 a K-step. Sums are added in parts of K: rounding errors grow with the length of a part instead of that
    /// of K.
    f32_rows, "avx512f", __m512, _mm512_setzero_ps(), part = K_PART, widen = 1 |line, _part| line,
    |sum, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum),
    |sum| _mm512_castps_si512(sum),
    |here, earlier| _mm512_add_ps(here, earlier)
);
kernel!(
    /// Two bf16 a K-step, summed in f32.
    bf16_rows, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), part = usize::MAX, widen = 1 |line, _part| line,
    |sum, a, b| _mm512_dpbf16_ps(sum, pairs(a), pairs(b)),
    |sum| _mm512_castps_si512(sum),
    |here, earlier| _mm512_add_ps(here, earlier)
);
kernel!(
    /// Four 8-bit integers a K-step, summed in i32 without saturation.
    int8_rows, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), part = usize::MAX, widen = 1 |line, _part| line,
    |sum, a, b| _mm512_dpbusd_epi32(sum, a, b),
    |sum| sum,
    |here, earlier| _mm512_add_epi32(here, _mm512_castps_si512(earlier))
);

kernel!(
    /// Two bf16 a K-step, widened to f32. Sums are added in parts of K, as for f32.
    widened_bf16_rows, "avx512f", __m512, _mm512_setzero_ps(), part = K_PART,
    // The first of two, then the second.
    widen = 2 |line, part| match part {
        0 => _mm512_slli_epi32::<16>(line),
        _ => _mm512_and_si512(line, _mm512_set1_epi32(0xffff_0000u32 as i32)),
    },
    |sum, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum),
    |sum| _mm512_castps_si512(sum),
    |here, earlier| _mm512_add_ps(here, earlier)
);
kernel!(
    /// Four 8-bit integers a K-step, widened to 16 bits and summed in i32 without saturation.
    widened_int8_rows, "avx512f,avx512bw", __m512i, _mm512_setzero_si512(), part = usize::MAX,
    // The first and third of four, then the second and fourth, with their signs.
    widen = 2 |line, part| match part {
        0 => _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(line)),
        _ => _mm512_srai_epi16::<8>(line),
    },
    |sum, a, b| _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)),
    |sum| sum,
    |here, earlier| _mm512_add_epi32(here, _mm512_castps_si512(earlier))
);

/// Stores sums, or the result of the epilogue, `stride` values apart.
///
/// # Safety
/// The epilogue fits these rows, and 32 values of each may be written to `to`.
#[target_feature(enable = "avx512f")]
pub unsafe fn finish(sums: &[[u32; NR]], epilogue: Option<&Epilogue<'_>>, to: *mut f32, stride: usize) {
    let rows = sums.len();
    let start = sums.as_ptr().cast::<f32>();
    // SAFETY: a half of a row.
    let get =
        |row: usize, half: usize| unsafe { _mm512_castps_si512(_mm512_loadu_ps(start.add(row * NR + 16 * half))) };
    // SAFETY: by the caller's promise.
    let put = |row: usize, half: usize, value| unsafe { _mm512_storeu_ps(to.add(row * stride + 16 * half), value) };
    match epilogue {
        Some(epilogue) => epilogue_rows!(epilogue, rows, |row, half| get(row, half), put),
        None => {
            for row in 0..rows {
                (0..2).for_each(|half| put(row, half, _mm512_castsi512_ps(get(row, half))));
            }
        }
    }
}

/// Transposes the first 16 or all 32 columns of a K-block of a panel, `[16][32]` elements, to rows of 16.
///
/// # Panics
/// If there are fewer lines.
#[target_feature(enable = "avx512f")]
pub fn transpose_k_block(columns: &[Line], rows: &mut [Line]) {
    for half in 0..rows.len() / 16 {
        let mut x = [_mm512_setzero_si512(); 16];
        for (step, x) in x.iter_mut().enumerate() {
            // SAFETY: a line is 64 bytes, aligned.
            *x = unsafe { _mm512_load_si512((&raw const columns[2 * step + half]).cast()) };
        }
        // Pairs of lines, then of pairs: `y[4 i + j]` has columns j, j + 4, j + 8 and j + 12 of lines 4 i to 4 i + 3.
        let mut y = [_mm512_setzero_si512(); 16];
        for i in 0..4 {
            let [a, b, c, d] = [x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]];
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            y[4 * i] = _mm512_unpacklo_epi64(ab_low, cd_low);
            y[4 * i + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
            y[4 * i + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
            y[4 * i + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
        }
        for j in 0..4 {
            let [a, b, c, d] = [y[j], y[4 + j], y[8 + j], y[12 + j]];
            // Quarters of registers: 0 and 2, then 1 and 3.
            let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
            let mut put = |column: usize, value: __m512i| {
                // SAFETY: a line is 64 bytes, aligned.
                unsafe { _mm512_store_si512((&raw mut rows[16 * half + column]).cast(), value) };
            };
            put(j, _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even));
            put(j + 4, _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd));
            put(j + 8, _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even));
            put(j + 12, _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd));
        }
    }
}

/// Up to 32 values as pairs of bf16, high and low: `value = high + low` to 16 bits.
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn split(values: &[f32]) -> ([u32; K_BLOCK], [u32; K_BLOCK]) {
    let values = [load(values, 0), load(values, K_BLOCK)];
    // SAFETY: 64 bytes in which every bit pattern is valid.
    let bits = |pairs: __m512bh| unsafe { std::mem::transmute::<__m512bh, __m512i>(pairs) };
    let high = bits(_mm512_cvtne2ps_pbh(values[1], values[0]));
    // The halves of a pair are values 0 to 15 and 16 to 31, each widened to f32.
    let widened = |half: __m256i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
    let first = _mm512_sub_ps(values[0], widened(_mm512_castsi512_si256(high)));
    let second = _mm512_sub_ps(values[1], widened(_mm512_extracti64x4_epi64::<1>(high)));
    let low = bits(_mm512_cvtne2ps_pbh(second, first));
    // SAFETY: as above.
    unsafe {
        (
            std::mem::transmute::<__m512i, [u32; K_BLOCK]>(high),
            std::mem::transmute::<__m512i, [u32; K_BLOCK]>(low),
        )
    }
}

/// Up to 16 values from `start` on, as many as there are.
#[target_feature(enable = "avx512f")]
fn load(values: &[f32], start: usize) -> __m512 {
    let count = values.len().saturating_sub(start).min(K_BLOCK);
    let lanes = ((1u32 << count) - 1) as __mmask16;
    // SAFETY: `count` values from `start` on are there, and no others are touched.
    unsafe { _mm512_maskz_loadu_ps(lanes, values.as_ptr().wrapping_add(start)) }
}

/// The line of a row in a K-block.
fn line(packed: &mut [u32], stored: usize, k_block: usize, row: usize) -> &mut [u32; K_BLOCK] {
    let position = &mut packed[(k_block * stored + row) * K_BLOCK..];
    position.first_chunk_mut().expect("a line of a row")
}

/// Writes from front to back; row by row, consecutive writes would be far apart.
#[target_feature(enable = "avx512f")]
fn pack_f32(rows: Rows<'_>, packed: &mut [u32]) {
    for (k_block, start) in (0..rows.inputs).step_by(K_BLOCK).enumerate() {
        let (lines, _) = packed[k_block * rows.stored * K_BLOCK..].as_chunks_mut::<K_BLOCK>();
        for (values, line) in rows.iter().zip(lines) {
            let values = load(values, start);
            // SAFETY: a line is 64 bytes.
            unsafe { _mm512_storeu_ps(line.as_mut_ptr().cast(), values) };
        }
    }
}

/// `vcvtne2ps2bf16` rounds 32 values at once. It treats denormal numbers as zero, as the products do.
#[target_feature(enable = "avx512f,avx512bf16")]
fn pack_bf16(rows: Rows<'_>, packed: &mut [u32]) {
    let put = |place: &mut [u32; K_BLOCK], low, high| {
        let pairs = _mm512_cvtne2ps_pbh(high, low);
        // SAFETY: 64 bytes in which every bit pattern is valid.
        *place = unsafe { std::mem::transmute::<__m512bh, [u32; K_BLOCK]>(pairs) };
    };
    for (row, values) in rows.iter().enumerate() {
        let (whole, rest) = values.as_chunks::<{ 2 * K_BLOCK }>();
        for (k_block, values) in whole.iter().enumerate() {
            // SAFETY: two halves of 32 values.
            let (low, high) = unsafe {
                (
                    _mm512_loadu_ps(values.as_ptr()),
                    _mm512_loadu_ps(values.as_ptr().add(K_BLOCK)),
                )
            };
            put(line(packed, rows.stored, k_block, row), low, high);
        }
        if !rest.is_empty() {
            let position = line(packed, rows.stored, whole.len(), row);
            put(position, load(rest, 0), load(rest, K_BLOCK));
        }
    }
}

/// As [`int8_scale`](crate::rounding::int8_scale).
#[target_feature(enable = "avx512f")]
fn int8_scale(values: &[f32]) -> f32 {
    // The bits of magnitudes, as integers, have the same order, with infinity and NaN above all others.
    let mut largest = [_mm512_setzero_si512(); 4];
    let magnitude = _mm512_set1_epi32(i32::MAX);
    let (lines, rest) = values.as_chunks::<{ 4 * K_BLOCK }>();
    for line in lines {
        for (part, largest) in largest.iter_mut().enumerate() {
            let bits = _mm512_castps_si512(whole(line, part));
            *largest = _mm512_max_epu32(*largest, _mm512_and_si512(bits, magnitude));
        }
    }
    for (part, largest) in largest.iter_mut().enumerate() {
        let bits = _mm512_castps_si512(load(rest, part * K_BLOCK));
        *largest = _mm512_max_epu32(*largest, _mm512_and_si512(bits, magnitude));
    }
    let [a, b, c, d] = largest;
    let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_max_epu32(a, b), _mm512_max_epu32(c, d)));
    match f32::from_bits(largest) {
        0.0 => 1.0,
        largest if largest.is_finite() => largest / INT8_MAX,
        _ => f32::NAN,
    }
}

/// 16 of a line's 64 values.
#[target_feature(enable = "avx512f")]
fn whole(line: &[f32; 4 * K_BLOCK], part: usize) -> __m512 {
    // SAFETY: `part` is below 4.
    unsafe { _mm512_loadu_ps(line.as_ptr().add(part * K_BLOCK)) }
}

#[target_feature(enable = "avx512f")]
fn pack_int8(rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
    let round = _mm512_set1_ps(ROUND + ZERO_POINT as f32);
    // Not fused, as elsewhere, so that every instruction set gives the same integers.
    let bytes = |values: __m512, inverse: __m512| {
        let bits = _mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(values, inverse), round));
        _mm512_cvtepi32_epi8(bits)
    };
    for (row, values) in rows.iter().enumerate() {
        let scale = int8_scale(values);
        scales[row] = scale;
        let inverse = _mm512_set1_ps(1.0 / scale);
        let (lines, rest) = values.as_chunks::<{ 4 * K_BLOCK }>();
        for (k_block, values) in lines.iter().enumerate() {
            let (quarters, _) = line(packed, rows.stored, k_block, row).as_chunks_mut::<4>();
            for (part, quarter) in quarters.iter_mut().enumerate() {
                // SAFETY: four elements are 16 bytes.
                unsafe { _mm_storeu_si128(quarter.as_mut_ptr().cast(), bytes(whole(values, part), inverse)) };
            }
        }
        if !rest.is_empty() {
            let (quarters, _) = line(packed, rows.stored, lines.len(), row).as_chunks_mut::<4>();
            for (part, quarter) in quarters.iter_mut().enumerate() {
                // SAFETY: as above.
                unsafe { _mm_storeu_si128(quarter.as_mut_ptr().cast(), bytes(load(rest, part * K_BLOCK), inverse)) };
            }
        }
    }
}
