//! Micro-kernels for any CPU: loops over a few rows that the compiler vectorizes.

use crate::epilogue::{self, Epilogue};
use crate::kernel::{Block, MicroKernel, Operands, Rows};
use crate::layout::{K_BLOCK, K_PART, Line, MR, NR, Precision, ZERO_POINT};
use crate::rounding::{ROUND, bf16_bits, int8_scale};

/// True if multiply and add are one instruction.
const FMA: bool = cfg!(target_arch = "aarch64");
/// Rows whose sums are computed together: with fused instructions there are 32 registers, otherwise 16 of 4 lanes.
const ROWS_AT_ONCE: usize = if FMA { 3 } else { 2 };

pub struct F32;
pub struct Bf16;
pub struct Int8;

impl MicroKernel for F32 {
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
        unsafe { run(Precision::F32, operands, rows, epilogue, to, stride) }
    }
}

impl MicroKernel for Bf16 {
    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], _: &mut [f32]) {
        for (index, values) in rows.iter().enumerate() {
            let packed = &mut packed[index * K_BLOCK..];
            write_k_blocks::<{ 2 * K_BLOCK }, K_BLOCK>(values, rows.stored, packed, |values| {
                std::array::from_fn(|i| bf16_bits(values[2 * i]) | bf16_bits(values[2 * i + 1]) << 16)
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
        // SAFETY: by the caller's promise.
        unsafe { run(Precision::Bf16, operands, rows, epilogue, to, stride) }
    }
}

impl MicroKernel for Int8 {
    unsafe fn pack_rows(&self, rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
        for (index, values) in rows.iter().enumerate() {
            let scale = int8_scale(values);
            scales[index] = scale;
            let packed = &mut packed[index * K_BLOCK..];
            write_k_blocks::<{ 4 * K_BLOCK }, K_BLOCK>(values, rows.stored, packed, |values| {
                let bytes = quantized(values, 1.0 / scale);
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
        // SAFETY: by the caller's promise.
        unsafe { run(Precision::Int8, operands, rows, epilogue, to, stride) }
    }
}

#[inline(always)]
pub fn pack_f32(rows: Rows<'_>, packed: &mut [u32]) {
    for (index, values) in rows.iter().enumerate() {
        let packed = &mut packed[index * K_BLOCK..];
        write_k_blocks::<K_BLOCK, K_BLOCK>(values, rows.stored, packed, |values| values.map(f32::to_bits));
    }
}

/// Quantized activations, with the zero point added.
#[inline(always)]
pub fn quantized<const N: usize>(values: &[f32; N], inverse: f32) -> [u8; N] {
    values.map(|value| (value * inverse + (ROUND + ZERO_POINT as f32)).to_bits() as u8)
}

/// Writes the elements of a row: `ELEMENTS` for each K-block of `VALUES` values, K-blocks `stored` rows apart. `pack`
/// packs a K-block. It has one call site, so that it is inlined and compiled with the instructions of the caller.
#[inline(always)]
pub fn write_k_blocks<const VALUES: usize, const ELEMENTS: usize>(
    values: &[f32],
    stored: usize,
    packed: &mut [u32],
    pack: impl Fn(&[f32; VALUES]) -> [u32; ELEMENTS],
) {
    let positions = packed.chunks_mut(stored * ELEMENTS);
    for (values, position) in values.chunks(VALUES).zip(positions) {
        let mut padded = [0.0; VALUES];
        let whole = match values.first_chunk() {
            Some(whole) => whole,
            None => {
                padded[..values.len()].copy_from_slice(values);
                &padded
            }
        };
        *position.first_chunk_mut().expect("a K-block of a row") = pack(whole);
    }
}

/// # Safety
/// As [`MicroKernel::run`].
unsafe fn run(
    precision: Precision,
    operands: &Operands<'_>,
    rows: usize,
    epilogue: Option<&Epilogue<'_>>,
    to: *mut f32,
    stride: usize,
) {
    let mut tile = [[0; NR]; MR];
    let mut row = 0;
    while row < rows {
        let take = (rows - row).min(ROWS_AT_ONCE);
        match take {
            3 => some_rows::<3>(precision, operands, row, &mut tile),
            2 => some_rows::<2>(precision, operands, row, &mut tile),
            _ => some_rows::<1>(precision, operands, row, &mut tile),
        }
        row += take;
    }
    let sums = &mut tile[..rows];
    if let Some(epilogue) = epilogue {
        epilogue::apply(sums, epilogue);
    }
    for (index, row) in sums.iter().enumerate() {
        // SAFETY: 32 values of each row may be written; they have the size and alignment of the elements.
        unsafe { to.add(index * stride).cast::<[u32; NR]>().write(*row) };
    }
}

/// The operands of [parts](K_PART) of K.
fn parts<'a>(operands: &Operands<'a>) -> impl Iterator<Item = Operands<'a>> {
    /// K-blocks of a part.
    const PART: usize = K_PART / K_BLOCK;
    let &Operands { block, panel, .. } = operands;
    let panels = panel.chunks(2 * K_BLOCK * PART).enumerate();
    panels.map(move |(index, panel)| {
        let block = match block {
            Block::Rows { elements, rows } => {
                let part = PART * rows * K_BLOCK;
                let elements = &elements[index * part..];
                Block::Rows {
                    elements: &elements[..elements.len().min(part)],
                    rows,
                }
            }
            Block::Columns {
                panel: columns,
                first,
                rows,
            } => Block::Columns {
                panel: &columns[index * 2 * K_BLOCK * PART..][..panel.len()],
                first,
                rows,
            },
        };
        Operands {
            block,
            panel,
            ..*operands
        }
    })
}

/// Calls `step(elements of M rows, lines of the panel)` for each K-step.
#[inline(always)]
fn for_each_step<const M: usize>(operands: &Operands<'_>, first: usize, mut step: impl FnMut([u32; M], &[Line])) {
    let panel = operands.panel;
    match operands.block {
        Block::Rows { elements, rows } => {
            let k_blocks = elements.chunks_exact(rows * K_BLOCK).zip(panel.chunks(2 * K_BLOCK));
            for (block, panel) in k_blocks {
                let rows: [&[u32]; M] = std::array::from_fn(|m| &block[(first + m) * K_BLOCK..][..K_BLOCK]);
                for (s, lines) in panel.chunks_exact(2).enumerate() {
                    step(rows.map(|row| row[s]), lines);
                }
            }
        }
        Block::Columns {
            panel: block,
            first: column,
            ..
        } => {
            for (block, lines) in block.chunks_exact(2).zip(panel.chunks_exact(2)) {
                let element = |column: usize| block[column / 16].0[column % 16];
                step(std::array::from_fn(|m| element(column + first + m)), lines);
            }
        }
    }
}

#[inline(always)]
fn some_rows<const M: usize>(precision: Precision, operands: &Operands<'_>, first: usize, sums: &mut [[u32; NR]]) {
    let add = |sum: f32, a: f32, b: f32| if FMA { a.mul_add(b, sum) } else { a * b + sum };
    match precision {
        Precision::F32 => {
            let mut all = [[0f32; NR]; M];
            for part in parts(operands) {
                let mut acc = [[0f32; NR]; M];
                for_each_step::<M>(&part, first, |a, b| {
                    // Converted before the rows: from a loop over both, the compiler makes scalar code.
                    let b: [f32; NR] = std::array::from_fn(|n| f32::from_bits(b[n / 16].0[n % 16]));
                    for m in 0..M {
                        let a = f32::from_bits(a[m]);
                        for n in 0..NR {
                            acc[m][n] = add(acc[m][n], a, b[n]);
                        }
                    }
                });
                for m in 0..M {
                    for n in 0..NR {
                        all[m][n] += acc[m][n];
                    }
                }
            }
            for m in 0..M {
                sums[first + m] = all[m].map(f32::to_bits);
            }
        }
        Precision::Bf16 => {
            let mut acc = [[0f32; NR]; M];
            for_each_step::<M>(operands, first, |a, b| {
                for m in 0..M {
                    let (low, high) = unpack_bf16x2(a[m]);
                    for n in 0..NR {
                        let (b_low, b_high) = unpack_bf16x2(b[n / 16].0[n % 16]);
                        acc[m][n] = add(add(acc[m][n], low, b_low), high, b_high);
                    }
                }
            });
            for m in 0..M {
                sums[first + m] = acc[m].map(f32::to_bits);
            }
        }
        Precision::Int8 => {
            let mut acc = [[0i32; NR]; M];
            for_each_step::<M>(operands, first, |a, b| {
                for byte in 0..4 {
                    // A left shift and an arithmetic right shift extract a signed byte.
                    let weights: [i32; NR] =
                        std::array::from_fn(|n| ((b[n / 16].0[n % 16] << (24 - 8 * byte)) as i32) >> 24);
                    for m in 0..M {
                        let activation = (a[m] >> (8 * byte) & 0xff) as i32;
                        for n in 0..NR {
                            acc[m][n] += activation * weights[n];
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

/// The two bf16 of an element.
#[inline(always)]
fn unpack_bf16x2(element: u32) -> (f32, f32) {
    (f32::from_bits(element << 16), f32::from_bits(element & 0xffff_0000))
}
