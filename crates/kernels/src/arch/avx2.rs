//! Micro-kernels of AVX2 and FMA: micro-tiles of 6 rows by 16 columns, whose sums take 12 of the 16 registers.
//!
//! AVX2 has products of f32 and of 16-bit integers. So bf16 weights are widened to f32 and 8-bit weights to 16 bits as
//! they are loaded, and activations are packed [widened](Packing::Widened). The 8-bit sums are exact, as those of VNNI
//! are. (`vpmaddubsw`, which multiplies 8-bit integers, saturates at 16 bits, and its sums need `vpmaddwd` all the
//! same.)

use std::arch::asm;
use std::arch::x86_64::*;

use super::generic::{pack_f32, quantized, write_k_blocks};
use super::half_panel::{MicroTile, Pass, multiply};
use crate::epilogue::Epilogue;
use crate::kernel::{Block, MicroKernel, Operands, Rows};
use crate::layout::{BLOCK_ROWS_MAX, K_BLOCK, Line, NR, Packing};
use crate::rounding::int8_scale;

pub struct F32;
pub struct Bf16;
pub struct Int8;

/// Prefetch distance of weights within a panel, in K-steps.
const PREFETCH_STEPS: usize = 12;
/// Lanes of a register.
const LANES: usize = 8;

/// Values of the constant parameter `KIND`.
const KIND_F32: u8 = 0;
const KIND_BF16: u8 = 1;
const KIND_INT8: u8 = 2;

impl MicroKernel for F32 {
    fn block_rows(&self) -> usize {
        BLOCK_ROWS_MAX
    }

    fn accumulates(&self) -> bool {
        true
    }

    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], _: &mut [f32]) {
        // SAFETY: the CPU has the instructions by the caller's promise.
        unsafe { pack_rows_f32(rows, packed) }
    }

    unsafe fn run(
        &self,
        operands: &Operands<'_>,
        rows: usize,
        epilogue: Option<&Epilogue<'_>>,
        to: *mut f32,
        stride: usize,
    ) {
        // SAFETY: by the caller's promise.
        unsafe {
            match operands.block {
                Block::Rows { .. } => multiply::<Tiles<KIND_F32, K_BLOCK, 1>>(operands, rows, epilogue, to, stride),
                Block::Columns { .. } => multiply::<Tiles<KIND_F32, 1, NR>>(operands, rows, epilogue, to, stride),
            }
        }
    }
}

impl MicroKernel for Bf16 {
    fn packing(&self) -> Packing {
        Packing::Widened
    }

    fn block_rows(&self) -> usize {
        BLOCK_ROWS_MAX
    }

    fn accumulates(&self) -> bool {
        true
    }

    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], _: &mut [f32]) {
        // SAFETY: the CPU has the instructions by the caller's promise.
        unsafe { pack_rows_bf16(rows, packed) }
    }

    unsafe fn run(
        &self,
        operands: &Operands<'_>,
        rows: usize,
        epilogue: Option<&Epilogue<'_>>,
        to: *mut f32,
        stride: usize,
    ) {
        // SAFETY: by the caller's promise. Widened activations are never columns of a panel (see `Block::rows`).
        unsafe { multiply::<Tiles<KIND_BF16, { 2 * K_BLOCK }, 2>>(operands, rows, epilogue, to, stride) }
    }
}

impl MicroKernel for Int8 {
    fn packing(&self) -> Packing {
        Packing::Widened
    }

    fn block_rows(&self) -> usize {
        BLOCK_ROWS_MAX
    }

    fn accumulates(&self) -> bool {
        true
    }

    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
        // SAFETY: the CPU has the instructions by the caller's promise.
        unsafe { pack_rows_int8(rows, packed, scales) }
    }

    unsafe fn run(
        &self,
        operands: &Operands<'_>,
        rows: usize,
        epilogue: Option<&Epilogue<'_>>,
        to: *mut f32,
        stride: usize,
    ) {
        // SAFETY: by the caller's promise. Widened activations are never columns of a panel (see `Block::rows`).
        unsafe { multiply::<Tiles<KIND_INT8, { 2 * K_BLOCK }, 2>>(operands, rows, epilogue, to, stride) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn pack_rows_f32(rows: Rows<'_>, packed: &mut [u32]) {
    pack_f32(rows, packed);
}

/// Values rounded to bf16, as f32: two for each element of the weights.
#[target_feature(enable = "avx2,fma")]
fn pack_rows_bf16(rows: Rows<'_>, packed: &mut [u32]) {
    const ELEMENTS: usize = 2 * K_BLOCK;
    for (index, values) in rows.iter().enumerate() {
        let packed = &mut packed[index * ELEMENTS..];
        write_k_blocks::<ELEMENTS, ELEMENTS>(values, rows.stored, packed, |values| {
            let mut elements = [0; ELEMENTS];
            for (values, elements) in values
                .as_chunks::<LANES>()
                .0
                .iter()
                .zip(elements.as_chunks_mut::<LANES>().0)
            {
                // SAFETY: 8 values of 32 bits.
                let rounded = bf16_as_f32(unsafe { _mm256_loadu_ps(values.as_ptr()) });
                // SAFETY: as above.
                unsafe { _mm256_storeu_si256(elements.as_mut_ptr().cast(), rounded) };
            }
            elements
        });
    }
}

/// As [`bf16_bits`](crate::rounding::bf16_bits), in the upper half.
#[target_feature(enable = "avx2")]
fn bf16_as_f32(values: __m256) -> __m256i {
    let bits = _mm256_castps_si256(values);
    let is_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7fff)));
    let cut = _mm256_and_si256(rounded, _mm256_set1_epi32(0xffff_0000u32 as i32));
    let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
    _mm256_blendv_epi8(cut, _mm256_set1_epi32(0x7fc0_0000), is_nan)
}

/// Values as unsigned 8-bit integers in 16 bits: the first and third of four in one element, the second and fourth in
/// the next, as the weights are widened.
#[target_feature(enable = "avx2,fma")]
fn pack_rows_int8(rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
    const ELEMENTS: usize = 2 * K_BLOCK;
    for (index, values) in rows.iter().enumerate() {
        let scale = int8_scale(values);
        scales[index] = scale;
        let packed = &mut packed[index * ELEMENTS..];
        write_k_blocks::<{ 4 * K_BLOCK }, ELEMENTS>(values, rows.stored, packed, |values| {
            let bytes = quantized(values, 1.0 / scale);
            let mut elements = [0; ELEMENTS];
            for (bytes, elements) in bytes.as_chunks::<4>().0.iter().zip(elements.as_chunks_mut::<2>().0) {
                let four = u32::from_le_bytes(*bytes);
                *elements = [four & 0x00ff_00ff, four >> 8 & 0x00ff_00ff];
            }
            elements
        });
    }
}

/// The micro-tiles of a precision. `ROW` and `STEP` are the elements from one row of activations to the next and from one
/// K-step to the next.
struct Tiles<const KIND: u8, const ROW: usize, const STEP: usize>;

impl<const KIND: u8, const ROW: usize, const STEP: usize> MicroTile for Tiles<KIND, ROW, STEP> {
    const ROW: usize = ROW;
    const STEP: usize = STEP;

    unsafe fn run<const M: usize>(
        pass: &Pass,
        epilogue: Option<&Epilogue<'_>>,
        first_row: usize,
        half: usize,
        to: *mut f32,
        stride: usize,
    ) {
        // SAFETY: by the caller's promise.
        unsafe { micro_tile::<KIND, M, ROW, STEP>(pass, epilogue, first_row, half, to, stride) }
    }
}

/// Multiplies `M` rows with one half of a panel's columns over a part of K.
///
/// # Safety
/// The pass lies within the operands; `to` may be written for 16 values of `M` rows, `stride` values apart; the
/// epilogue fits the rows from `first_row` on.
#[target_feature(enable = "avx2,fma")]
unsafe fn micro_tile<const KIND: u8, const M: usize, const ROW: usize, const STEP: usize>(
    pass: &Pass,
    epilogue: Option<&Epilogue<'_>>,
    first_row: usize,
    half: usize,
    to: *mut f32,
    stride: usize,
) {
    let position = |row: usize, n: usize| to.wrapping_add(row * stride + n * LANES).cast::<__m256i>();
    let mut acc = [[_mm256_setzero_si256(); 2]; M];
    let (mut a, mut b, mut prefetch, mut left) = (pass.a, pass.b, pass.prefetch, pass.steps);
    while left > 0 {
        let steps = left.min(K_BLOCK);
        for line in 0..pass.prefetch_lines {
            // A prefetch of any address is harmless.
            _mm_prefetch::<_MM_HINT_T0>(prefetch.wrapping_add(line).cast());
        }
        // SAFETY: a K-block of the rows, and as many K-steps of the panel.
        acc = unsafe { k_steps::<KIND, M, ROW, STEP>(acc, a, b, steps) };
        a = a.wrapping_add(pass.k_block_elements);
        b = b.wrapping_add(2 * steps);
        prefetch = prefetch.wrapping_add(pass.prefetch_lines);
        left -= steps;
    }
    if !pass.is_first {
        // Added at the end, so that rounding errors grow with the length of a part instead of that of K.
        for (row, acc) in acc.iter_mut().enumerate() {
            for (n, acc) in acc.iter_mut().enumerate() {
                // SAFETY: an earlier pass has written the sums there.
                let earlier = unsafe { _mm256_loadu_si256(position(row, n)) };
                *acc = match KIND {
                    KIND_INT8 => _mm256_add_epi32(*acc, earlier),
                    _ => _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(*acc), _mm256_castsi256_ps(earlier))),
                };
            }
        }
    }
    // SAFETY: by the caller's promise.
    let put = |row: usize, n: usize, value: __m256i| unsafe { _mm256_storeu_si256(position(row, n), value) };
    let as_f32 = |value: __m256i| _mm256_castsi256_ps(value);
    let bits = |value: __m256| _mm256_castps_si256(value);
    match epilogue {
        None => {
            for (row, acc) in acc.iter().enumerate() {
                for (n, acc) in acc.iter().enumerate() {
                    put(row, n, *acc);
                }
            }
        }
        Some(Epilogue::Bias(bias)) => {
            let bias = [load(bias, half, 0), load(bias, half, 1)];
            for (row, acc) in acc.iter().enumerate() {
                for (n, acc) in acc.iter().enumerate() {
                    put(row, n, bits(_mm256_add_ps(as_f32(*acc), bias[n])));
                }
            }
        }
        Some(Epilogue::RowFactors(factors)) => {
            for (row, acc) in acc.iter().enumerate() {
                let factor = _mm256_set1_ps(factors[first_row + row]);
                for (n, acc) in acc.iter().enumerate() {
                    put(row, n, bits(_mm256_mul_ps(as_f32(*acc), factor)));
                }
            }
        }
        Some(Epilogue::Dequantize(int8)) => {
            let zero_point = [load(int8.zero_point, half, 0), load(int8.zero_point, half, 1)];
            let scales = [load(int8.weight_scales, half, 0), load(int8.weight_scales, half, 1)];
            let bias = [load(int8.bias, half, 0), load(int8.bias, half, 1)];
            for (row, acc) in acc.iter().enumerate() {
                let activation_scale = _mm256_set1_ps(int8.activation_scales[first_row + row]);
                for (n, acc) in acc.iter().enumerate() {
                    let sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(*acc, bits(zero_point[n])));
                    let scale = _mm256_mul_ps(activation_scale, scales[n]);
                    // Not fused, as elsewhere, so that every instruction set gives the same values.
                    put(row, n, bits(_mm256_add_ps(_mm256_mul_ps(sum, scale), bias[n])));
                }
            }
        }
    }
}

/// 8 of a panel's columns: register `n` of a half.
#[target_feature(enable = "avx2")]
fn load<T>(columns: &[T; NR], half: usize, n: usize) -> __m256 {
    const { assert!(size_of::<T>() == size_of::<f32>()) };
    let columns = &columns[half * 2 * LANES + n * LANES..][..LANES];
    // SAFETY: 8 values of 32 bits.
    unsafe { _mm256_loadu_ps(columns.as_ptr().cast()) }
}

/// Adds the products of some K-steps to the sums.
///
/// # Safety
/// `a` points to the elements of `M` rows and `steps` K-steps, `b` to one of two lines for each K-step.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn k_steps<const KIND: u8, const M: usize, const ROW: usize, const STEP: usize>(
    mut acc: [[__m256i; 2]; M],
    mut a: *const u32,
    mut b: *const Line,
    steps: usize,
) -> [[__m256i; 2]; M] {
    let as_f32 = |value: __m256i| _mm256_castsi256_ps(value);
    for _ in 0..steps {
        // A prefetch of any address is harmless.
        _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(2 * PREFETCH_STEPS).cast());
        for part in 0..if KIND == KIND_F32 { 1 } else { 2 } {
            // Loaded again for the second part, since registers are few.
            let b = if part == 0 { b } else { opaque(b) };
            // SAFETY: a line is two registers.
            let weights = unsafe {
                [
                    _mm256_load_si256(b.cast()),
                    _mm256_load_si256(b.cast::<__m256i>().add(1)),
                ]
            };
            let weights = weights.map(|b| match (KIND, part) {
                (KIND_F32, _) => b,
                // The first of two bf16, then the second.
                (KIND_BF16, 0) => _mm256_slli_epi32::<16>(b),
                (KIND_BF16, _) => _mm256_blend_epi16::<0b1010_1010>(_mm256_setzero_si256(), b),
                // The first and third of four bytes, then the second and fourth, with their signs.
                (_, 0) => _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)),
                _ => _mm256_srai_epi16::<8>(b),
            });
            for (m, acc) in acc.iter_mut().enumerate() {
                // SAFETY: an element of each row for each part.
                let a = unsafe { _mm256_set1_epi32(*a.add(m * ROW + part) as i32) };
                for (acc, b) in acc.iter_mut().zip(weights) {
                    *acc = match KIND {
                        KIND_INT8 => add_products(*acc, a, b),
                        _ => _mm256_castps_si256(_mm256_fmadd_ps(as_f32(a), as_f32(b), as_f32(*acc))),
                    };
                }
            }
        }
        (a, b) = (a.wrapping_add(STEP), b.wrapping_add(2));
    }
    acc
}

/// The same pointer, of which the compiler does not know that it is the same, so that it does not keep what was loaded
/// from there.
#[inline(always)]
#[expect(
    clippy::pointers_in_nomem_asm_block,
    reason = "the pointer passes through; nothing is read or written"
)]
fn opaque(mut pointer: *const Line) -> *const Line {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags)) };
    pointer
}

/// Adds the products of pairs of 16-bit integers. In assembly, since the compiler otherwise adds the products of two
/// K-steps to each other first and runs out of registers.
#[target_feature(enable = "avx2")]
#[inline]
fn add_products(mut acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: two instructions of AVX2 on registers.
    unsafe {
        asm!(
            "vpmaddwd {products}, {a}, {b}",
            "vpaddd {acc}, {acc}, {products}",
            products = out(ymm_reg) _,
            a = in(ymm_reg) a,
            b = in(ymm_reg) b,
            acc = inout(ymm_reg) acc,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
