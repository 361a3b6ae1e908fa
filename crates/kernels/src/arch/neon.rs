//! Micro-kernels of NEON: micro-tiles of 6 rows by 16 columns, whose sums take 24 of the 32 registers.
//!
//! A register of activations holds one row over several K-steps, and each product takes one lane of it. So every
//! operand is an ordinary load, which leaves the vector units to the products.
//!
//! bf16 weights are widened to f32 as they are loaded, and activations are packed [widened](Packing::Widened).
//! 8-bit products need the extension `dotprod`, whose `sdot` multiplies signed integers: activations are packed without
//! their zero point.

use std::arch::aarch64::*;
use std::arch::asm;

use super::generic::{pack_f32, quantized, write_k_blocks};
use super::half_panel::{MicroTile, Pass, multiply};
use crate::epilogue::Epilogue;
use crate::kernel::{Block, MicroKernel, Operands, Rows};
use crate::layout::{BLOCK_ROWS_MAX, K_BLOCK, Line, NR, Packing, ZERO_POINT};
use crate::pack::zero_point_sums;
use crate::rounding::int8_scale;

pub struct F32;
pub struct Bf16;
/// For CPUs with `dotprod`.
pub struct Int8;

/// Lanes of a register.
const LANES: usize = 4;
/// Registers of half a panel's columns.
const REGISTERS: usize = 4;

/// Sums of `M` rows by 16 columns: bits of f32, or i32.
type Sums<const M: usize> = [[uint32x4_t; REGISTERS]; M];

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
        pack_f32(rows, packed);
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
                Block::Rows { .. } => multiply::<RowTiles<KIND_F32>>(operands, rows, epilogue, to, stride),
                Block::Columns { .. } => multiply::<ColumnTiles>(operands, rows, epilogue, to, stride),
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
        const ELEMENTS: usize = 2 * K_BLOCK;
        for (index, values) in rows.iter().enumerate() {
            let packed = &mut packed[index * ELEMENTS..];
            write_k_blocks::<ELEMENTS, ELEMENTS>(values, rows.stored, packed, |values| {
                let mut elements = [0; ELEMENTS];
                let registers = values.as_chunks::<LANES>().0.iter();
                for (values, elements) in registers.zip(elements.as_chunks_mut::<LANES>().0) {
                    // SAFETY: 4 values and 4 elements; NEON is part of the target.
                    unsafe { vst1q_u32(elements.as_mut_ptr(), bf16_as_f32(vld1q_f32(values.as_ptr()))) };
                }
                elements
            });
        }
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
        unsafe { multiply::<RowTiles<KIND_BF16>>(operands, rows, epilogue, to, stride) }
    }
}

impl MicroKernel for Int8 {
    fn block_rows(&self) -> usize {
        BLOCK_ROWS_MAX
    }

    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
        for (index, values) in rows.iter().enumerate() {
            let scale = int8_scale(values);
            scales[index] = scale;
            let packed = &mut packed[index * K_BLOCK..];
            write_k_blocks::<{ 4 * K_BLOCK }, K_BLOCK>(values, rows.stored, packed, |values| {
                // Without the zero point, 128: the highest bit.
                let bytes = quantized(values, 1.0 / scale).map(|byte| byte ^ ZERO_POINT as u8);
                std::array::from_fn(|i| u32::from_le_bytes(std::array::from_fn(|byte| bytes[4 * i + byte])))
            });
        }
    }

    unsafe fn run(
        &self,
        operands: &Operands<'_>,
        rows: usize,
        epilogue: Option<&Epilogue<'_>>,
        to: *mut f32,
        stride: usize,
    ) {
        // SAFETY: by the caller's promise. 8-bit activations are never columns of a panel.
        unsafe { multiply::<RowTiles<KIND_INT8>>(operands, rows, epilogue, to, stride) };
        if epilogue.is_none() {
            // The sums as other instruction sets give them.
            let zero_point = zero_point_sums(operands.panel);
            for row in 0..rows {
                // SAFETY: the sums of a row are there, with the size and alignment of the elements.
                let sums = unsafe { &mut *to.add(row * stride).cast::<[i32; NR]>() };
                sums.iter_mut().zip(zero_point).for_each(|(sum, more)| *sum += more);
            }
        }
    }
}

/// As [`bf16_bits`](crate::rounding::bf16_bits), in the upper half.
#[target_feature(enable = "neon")]
#[inline]
fn bf16_as_f32(values: float32x4_t) -> uint32x4_t {
    let bits = vreinterpretq_u32_f32(values);
    let is_odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
    let rounded = vaddq_u32(bits, vaddq_u32(is_odd, vdupq_n_u32(0x7fff)));
    let cut = vandq_u32(rounded, vdupq_n_u32(0xffff_0000));
    vbslq_u32(vceqq_f32(values, values), cut, vdupq_n_u32(0x7fc0_0000))
}

/// Micro-tiles of packed rows.
struct RowTiles<const KIND: u8>;
/// Micro-tiles of columns of a panel taken as rows, in f32.
struct ColumnTiles;

impl<const KIND: u8> MicroTile for RowTiles<KIND> {
    const ROW: usize = K_BLOCK * Self::STEP;
    const STEP: usize = if KIND == KIND_BF16 { 2 } else { 1 };

    unsafe fn run<const M: usize>(
        pass: &Pass,
        epilogue: Option<&Epilogue<'_>>,
        first_row: usize,
        half: usize,
        to: *mut f32,
        stride: usize,
    ) {
        // SAFETY: by the caller's promise.
        unsafe {
            let sums = sums(pass, |sums, a, b, steps| row_steps::<KIND, M>(sums, a, b, steps));
            finish::<KIND, M>(sums, pass.is_first, epilogue, first_row, half, to, stride);
        }
    }
}

impl MicroTile for ColumnTiles {
    const ROW: usize = 1;
    const STEP: usize = NR;

    unsafe fn run<const M: usize>(
        pass: &Pass,
        epilogue: Option<&Epilogue<'_>>,
        first_row: usize,
        half: usize,
        to: *mut f32,
        stride: usize,
    ) {
        // SAFETY: by the caller's promise.
        unsafe {
            let sums = sums(pass, |sums, a, b, steps| column_steps::<M>(sums, a, b, steps));
            finish::<KIND_F32, M>(sums, pass.is_first, epilogue, first_row, half, to, stride);
        }
    }
}

/// The sums of a pass: `k_block(sums, a, b, K-steps)` adds the products of a K-block.
#[inline(always)]
fn sums<const M: usize>(pass: &Pass, k_block: impl Fn(&mut Sums<M>, *const u32, *const Line, usize)) -> Sums<M> {
    let mut sums = [[splat(0); REGISTERS]; M];
    let (mut a, mut b, mut prefetch, mut left) = (pass.a, pass.b, pass.prefetch, pass.steps);
    while left > 0 {
        let steps = left.min(K_BLOCK);
        for line in 0..pass.prefetch_lines {
            prefetch_line(prefetch.wrapping_add(line));
        }
        k_block(&mut sums, a, b, steps);
        a = a.wrapping_add(pass.k_block_elements);
        b = b.wrapping_add(2 * steps);
        prefetch = prefetch.wrapping_add(pass.prefetch_lines);
        left -= steps;
    }
    sums
}

#[inline(always)]
fn prefetch_line(line: *const Line) {
    // SAFETY: a prefetch of any address is harmless.
    unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) line, options(readonly, nostack, preserves_flags)) };
}

/// Adds the products of some K-steps of packed rows.
///
/// # Safety
/// `a` points to a K-block of `M` rows, `b` to one of two lines for each K-step. With 8 bits, the CPU has `dotprod`.
#[inline(always)]
unsafe fn row_steps<const KIND: u8, const M: usize>(
    sums: &mut Sums<M>,
    mut a: *const u32,
    mut b: *const Line,
    steps: usize,
) {
    let row = RowTiles::<KIND>::ROW;
    let steps_at_once = LANES / RowTiles::<KIND>::STEP;
    for _ in 0..steps / steps_at_once {
        // SAFETY: 4 elements of each row.
        let rows = std::array::from_fn(|m| unsafe { vld1q_u32(a.add(m * row)) });
        let line = |lane: usize| b.wrapping_add(lane / RowTiles::<KIND>::STEP * 2);
        // SAFETY: a line for each K-step.
        unsafe {
            lane::<KIND, M, 0>(sums, &rows, line(0));
            lane::<KIND, M, 1>(sums, &rows, line(1));
            lane::<KIND, M, 2>(sums, &rows, line(2));
            lane::<KIND, M, 3>(sums, &rows, line(3));
        }
        (a, b) = (a.wrapping_add(LANES), b.wrapping_add(2 * steps_at_once));
    }
    for _ in 0..steps % steps_at_once {
        // SAFETY: the elements of a K-step, and its line.
        unsafe {
            let rows = std::array::from_fn(|m| load_some(a.add(m * row), RowTiles::<KIND>::STEP));
            lane::<KIND, M, 0>(sums, &rows, b);
            if RowTiles::<KIND>::STEP == 2 {
                lane::<KIND, M, 1>(sums, &rows, b);
            }
        }
        (a, b) = (a.wrapping_add(RowTiles::<KIND>::STEP), b.wrapping_add(2));
    }
}

/// Adds the products of one lane of each row with a line of the panel. Of two bf16 in an element of the line, even lanes
/// take the first and odd lanes the second.
///
/// # Safety
/// `b` points to a line. With 8 bits, the CPU has `dotprod`.
#[inline(always)]
unsafe fn lane<const KIND: u8, const M: usize, const LANE: i32>(
    sums: &mut Sums<M>,
    rows: &[uint32x4_t; M],
    b: *const Line,
) {
    for n in 0..REGISTERS {
        // SAFETY: a line is 4 registers.
        let weights = unsafe { load(b, n) };
        let weights = match KIND {
            KIND_BF16 => widened::<LANE>(weights),
            _ => weights,
        };
        for (sums, row) in sums.iter_mut().zip(rows) {
            sums[n] = match KIND {
                // SAFETY: by the caller's promise.
                KIND_INT8 => unsafe { add_dot_products::<LANE>(sums[n], weights, *row) },
                _ => add_products::<LANE>(sums[n], weights, *row),
            };
        }
    }
}

/// `sums + b · a[LANE]` in f32.
#[inline(always)]
fn add_products<const LANE: i32>(sums: uint32x4_t, b: uint32x4_t, a: uint32x4_t) -> uint32x4_t {
    // SAFETY: NEON is part of the target.
    unsafe {
        let [sums, b, a] = [sums, b, a].map(|bits| vreinterpretq_f32_u32(bits));
        vreinterpretq_u32_f32(vfmaq_laneq_f32::<LANE>(sums, b, a))
    }
}

/// One of the two bf16 of each lane as f32: the first for even lanes of the activations, the second for odd ones.
#[inline(always)]
fn widened<const LANE: i32>(pairs: uint32x4_t) -> uint32x4_t {
    // SAFETY: NEON is part of the target.
    unsafe {
        match LANE % 2 {
            0 => vshlq_n_u32::<16>(pairs),
            _ => vandq_u32(pairs, vdupq_n_u32(0xffff_0000)),
        }
    }
}

#[inline(always)]
fn splat(element: u32) -> uint32x4_t {
    // SAFETY: NEON is part of the target.
    unsafe { vdupq_n_u32(element) }
}

/// Adds the products of the four signed 8-bit integers of each lane of `b` with those of `a[LANE]`. In assembly, since
/// `vdotq_laneq_s32` is stable only from Rust 1.98 on.
///
/// # Safety
/// The CPU has `dotprod`.
#[inline(always)]
unsafe fn add_dot_products<const LANE: i32>(mut sums: uint32x4_t, b: uint32x4_t, a: uint32x4_t) -> uint32x4_t {
    // SAFETY: one instruction on registers.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            b = in(vreg) b,
            a = in(vreg) a,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Adds the products of some K-steps of columns taken as rows.
///
/// # Safety
/// `a` points to `M` adjacent elements of the first K-step, `b` to one of two lines for each K-step.
#[inline(always)]
unsafe fn column_steps<const M: usize>(sums: &mut Sums<M>, mut a: *const u32, mut b: *const Line, steps: usize) {
    for _ in 0..steps {
        // SAFETY: `M` elements.
        let rows = unsafe {
            match M {
                ..LANES => [load_some(a, M), splat(0)],
                LANES => [vld1q_u32(a), splat(0)],
                _ => [vld1q_u32(a), load_some(a.add(LANES), M - LANES)],
            }
        };
        for n in 0..REGISTERS {
            // SAFETY: a line is 4 registers.
            let weights = unsafe { load(b, n) };
            for (m, sums) in sums.iter_mut().enumerate() {
                let row = rows[m / LANES];
                sums[n] = match m % LANES {
                    0 => add_products::<0>(sums[n], weights, row),
                    1 => add_products::<1>(sums[n], weights, row),
                    2 => add_products::<2>(sums[n], weights, row),
                    _ => add_products::<3>(sums[n], weights, row),
                };
            }
        }
        (a, b) = (a.wrapping_add(NR), b.wrapping_add(2));
    }
}

/// Register `n` of a line.
///
/// # Safety
/// `line` points to a line.
#[inline(always)]
unsafe fn load(line: *const Line, n: usize) -> uint32x4_t {
    // SAFETY: a line is 4 registers.
    unsafe { vld1q_u32(line.cast::<u32>().add(n * LANES)) }
}

/// 1 to 3 elements in the low lanes.
///
/// # Safety
/// `from` points to `count` elements.
#[inline(always)]
unsafe fn load_some(from: *const u32, count: usize) -> uint32x4_t {
    // SAFETY: not more than `count` elements are read.
    unsafe {
        match count {
            1 => vsetq_lane_u32::<0>(*from, vdupq_n_u32(0)),
            2 => vcombine_u32(vld1_u32(from), vdup_n_u32(0)),
            _ => vsetq_lane_u32::<2>(*from.add(2), vcombine_u32(vld1_u32(from), vdup_n_u32(0))),
        }
    }
}

/// Adds the sums of earlier parts and applies the epilogue; writes the result.
///
/// # Safety
/// `to` may be written for 16 values of `M` rows, `stride` values apart, and has the sums of earlier parts unless these
/// are the first; the epilogue fits the rows from `first_row` on.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn finish<const KIND: u8, const M: usize>(
    mut sums: Sums<M>,
    is_first: bool,
    epilogue: Option<&Epilogue<'_>>,
    first_row: usize,
    half: usize,
    to: *mut f32,
    stride: usize,
) {
    let position = |row: usize, n: usize| to.wrapping_add(row * stride + n * LANES).cast::<u32>();
    let as_f32 = |bits: uint32x4_t| vreinterpretq_f32_u32(bits);
    let bits = |values: float32x4_t| vreinterpretq_u32_f32(values);
    if !is_first {
        // Added at the end, so that rounding errors grow with the length of a part instead of that of K.
        for (row, sums) in sums.iter_mut().enumerate() {
            for (n, sums) in sums.iter_mut().enumerate() {
                // SAFETY: an earlier pass has written the sums there.
                let earlier = unsafe { vld1q_u32(position(row, n)) };
                *sums = match KIND {
                    KIND_INT8 => vaddq_u32(*sums, earlier),
                    _ => bits(vaddq_f32(as_f32(*sums), as_f32(earlier))),
                };
            }
        }
    }
    // SAFETY: by the caller's promise.
    let put = |row: usize, n: usize, values: uint32x4_t| unsafe { vst1q_u32(position(row, n), values) };
    match epilogue {
        None => {
            for (row, sums) in sums.iter().enumerate() {
                for (n, sums) in sums.iter().enumerate() {
                    put(row, n, *sums);
                }
            }
        }
        Some(Epilogue::Bias(bias)) => {
            let bias = columns(bias, half);
            for (row, sums) in sums.iter().enumerate() {
                for (n, sums) in sums.iter().enumerate() {
                    put(row, n, bits(vaddq_f32(as_f32(*sums), bias[n])));
                }
            }
        }
        Some(Epilogue::RowFactors(factors)) => {
            for (row, sums) in sums.iter().enumerate() {
                let factor = vdupq_n_f32(factors[first_row + row]);
                for (n, sums) in sums.iter().enumerate() {
                    put(row, n, bits(vmulq_f32(as_f32(*sums), factor)));
                }
            }
        }
        Some(Epilogue::Dequantize(int8)) => {
            let (scales, bias) = (columns(int8.weight_scales, half), columns(int8.bias, half));
            for (row, sums) in sums.iter().enumerate() {
                let activation_scale = vdupq_n_f32(int8.activation_scales[first_row + row]);
                for (n, sums) in sums.iter().enumerate() {
                    // Sums of signed activations: there is no zero point to subtract.
                    let sum = vcvtq_f32_s32(vreinterpretq_s32_u32(*sums));
                    let scale = vmulq_f32(activation_scale, scales[n]);
                    // Not fused, as elsewhere, so that every instruction set gives the same values.
                    put(row, n, bits(vaddq_f32(vmulq_f32(sum, scale), bias[n])));
                }
            }
        }
    }
}

/// The registers of a half of a panel's columns.
#[target_feature(enable = "neon")]
#[inline]
fn columns(values: &[f32; NR], half: usize) -> [float32x4_t; REGISTERS] {
    let (registers, _) = values.as_chunks::<LANES>();
    // SAFETY: 4 values.
    std::array::from_fn(|n| unsafe { vld1q_f32(registers[half * REGISTERS + n].as_ptr()) })
}
