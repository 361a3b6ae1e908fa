//! Tiles of AMX: 16 rows by 16 columns of sums, from 16 packed elements of K at once.
//!
//! A micro-kernel multiplies a block of up to 32 rows with a panel of 32 columns: two by two tiles of sums, so that
//! each tile of operands is used twice after it is loaded. bf16 and 8-bit panels have the layout of AVX-512, and the 16
//! K-steps of a K-block are two tiles side by side. Two things differ:
//!
//! - an f32 is two bf16, `x = high + low` to 16 bits, and a product is `high · high + high · low + low · high`, summed
//!   in f32. A K-block then has two parts of 16 K-steps, the high halves and the low ones, in weights and activations;
//! - blocks are larger, and their rows are padded to whole tiles.

use crate::detect::amx_is_usable;
use crate::isa::{Isa, for_each_isa};
use crate::layout::{AMX_MR, K_BLOCK, K_BLOCK_LINES, KLayout, Line, NR, Packing, Precision, ZERO_LINE};
use crate::rounding::bf16_bits;

/// Rows and columns of a tile, and K-steps of a tile of operands.
const TILE: usize = K_BLOCK;
/// Values of an f32 K-block.
const SPLIT_VALUES: usize = 2 * TILE;

/// A value as two bf16: the nearest, and the nearest to the remainder. Together they have 16 bits of precision.
#[inline(always)]
pub fn split(value: f32) -> (u32, u32) {
    let high = bf16_bits(value);
    (high, bf16_bits(value - f32::from_bits(high << 16)))
}

/// The f32 panels of a weight `[outputs, inputs]`: each `[K-blocks][high, low][16][32]` elements of two values.
pub fn panels_split(weight: &[f32], outputs: usize, inputs: usize) -> Vec<Line> {
    let panel_lines = inputs.div_ceil(SPLIT_VALUES) * 2 * K_BLOCK_LINES;
    let mut lines = vec![ZERO_LINE; outputs.div_ceil(NR) * panel_lines];
    for (output, row) in weight.chunks_exact(inputs).enumerate() {
        let (panel, lane) = (output / NR, output % NR);
        let panel = &mut lines[panel * panel_lines..][..panel_lines];
        for (step, pair) in row.chunks(2).enumerate() {
            let (first, second) = (split(pair[0]), pair.get(1).map_or((0, 0), |&value| split(value)));
            let line = split_line(step) + lane / 16;
            panel[line].0[lane % 16] = first.0 | second.0 << 16;
            panel[line + K_BLOCK_LINES].0[lane % 16] = first.1 | second.1 << 16;
        }
    }
    lines
}

/// The elements, high and low, at `column` of a [`panels_split`] panel's `step` of two values.
pub fn split_elements(panel: &[Line], step: usize, column: usize) -> [u32; 2] {
    let line = split_line(step) + column / 16;
    [panel[line], panel[line + K_BLOCK_LINES]].map(|line| line.0[column % 16])
}

/// The line of a K-step's high halves in a panel.
fn split_line(step: usize) -> usize {
    step / TILE * 2 * K_BLOCK_LINES + step % TILE * 2
}

/// Packs a block of rows of `x` `[rows, inputs]` for f32 into `[K-blocks][high, low][stored][16]` elements. Elements of
/// padding rows keep their contents.
///
/// # Panics
/// If the sizes do not match.
pub fn split_rows(isa: Isa, x: &[f32], inputs: usize, stored: usize, packed: &mut [u32]) {
    let k_blocks = inputs.div_ceil(SPLIT_VALUES);
    let part = stored * TILE;
    assert!(x.len() <= stored * inputs && packed.len() == k_blocks * 2 * part);
    split_rows_unchecked(isa, x, inputs, part, packed);
}

#[inline(always)]
fn split_rows_body(x: &[f32], inputs: usize, part: usize, packed: &mut [u32]) {
    for (row, values) in x.chunks_exact(inputs).enumerate() {
        let mut k_blocks = packed.chunks_exact_mut(2 * part);
        let mut write = |values: &[f32; SPLIT_VALUES]| {
            let k_block = k_blocks.next().expect("as many K-blocks as the values need");
            let mut parts = [[0u32; TILE]; 2];
            for i in 0..TILE {
                let (first, second) = (split(values[2 * i]), split(values[2 * i + 1]));
                parts[0][i] = first.0 | second.0 << 16;
                parts[1][i] = first.1 | second.1 << 16;
            }
            for (i, elements) in parts.iter().enumerate() {
                k_block[i * part + row * TILE..][..TILE].copy_from_slice(elements);
            }
        };
        let (whole, rest) = values.as_chunks::<SPLIT_VALUES>();
        whole.iter().for_each(&mut write);
        if !rest.is_empty() {
            let mut padded = [0.0; SPLIT_VALUES];
            padded[..rest.len()].copy_from_slice(rest);
            write(&padded);
        }
    }
}

for_each_isa! {
    fn split_rows_unchecked(x: &[f32], inputs: usize, part: usize, packed: &mut [u32]) = split_rows_body
}

/// The sums of a block: f32, or i32 in the same 32 bits. A cache line is half a row.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct TileSums(pub [[u32; NR]; AMX_MR]);

impl TileSums {
    pub const ZERO: Self = Self([[0; NR]; AMX_MR]);
}

/// The tile registers of this thread, configured for as long as this lives. The system saves configured tiles whenever
/// it switches threads, and other code may configure them differently, so do not keep this between two tasks.
pub struct Configured {
    /// Belongs to the thread.
    not_send: std::marker::PhantomData<*const ()>,
}

impl Configured {
    /// # Panics
    /// If AMX is not [usable](amx_is_usable).
    pub fn new() -> Self {
        assert!(amx_is_usable(), "AMX is not usable");
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has AMX, and this process may use it.
        unsafe {
            instructions::configure();
        }
        Self {
            not_send: std::marker::PhantomData,
        }
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        unsafe {
            instructions::release();
        }
    }
}

/// Writes the products of `block` (`[K-blocks][parts][rows][16]` elements, the rows padded to whole tiles) with the
/// columns of `panel` (`[K-blocks][parts][16][2]` lines) to `sums`, or adds them if `accumulate`. Prefetches `prefetch`
/// into the second-level cache. Sums of padding rows are undefined.
///
/// # Panics
/// If the sizes do not match.
pub fn multiply(
    _: &Configured,
    precision: Precision,
    block: &[u32],
    panel: &[Line],
    prefetch: &[Line],
    accumulate: bool,
    sums: &mut TileSums,
) {
    let KLayout {
        block_lines,
        row_elements,
        ..
    } = KLayout::new(precision, Packing::AmxTiles, 1, AMX_MR);
    let k_blocks = panel.len() / block_lines;
    let tile_elements = k_blocks * row_elements * TILE;
    assert!(k_blocks > 0 && panel.len() == k_blocks * block_lines);
    assert!(block.len() == tile_elements || block.len() == 2 * tile_elements);
    #[cfg(target_arch = "x86_64")]
    {
        let run = match (precision, block.len() == tile_elements) {
            (Precision::F32, true) => instructions::split_1,
            (Precision::F32, false) => instructions::split_2,
            (Precision::Bf16, true) => instructions::bf16_1,
            (Precision::Bf16, false) => instructions::bf16_2,
            (Precision::Int8, true) => instructions::int8_1,
            (Precision::Int8, false) => instructions::int8_2,
        };
        // SAFETY: the tiles are configured; the sizes were checked above, and the number in the name is the number of
        // tiles that the rows fill.
        unsafe { run(block, panel, k_blocks, prefetch, accumulate, sums) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (prefetch, accumulate, sums);
        unreachable!("tiles cannot be configured on this CPU");
    }
}

/// The tile registers: 0 to 3 hold sums (0 and 1 of the first 16 rows, 2 and 3 of the next), 4 and 5 activations, 6 and
/// 7 weights.
#[cfg(target_arch = "x86_64")]
mod instructions {
    use std::arch::asm;

    use super::{K_BLOCK_LINES, Line, NR, TILE, TileSums};

    /// The operand of `ldtilecfg`.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// Eight full tiles of 16 rows of 64 bytes: one configuration for every size.
    static CONFIGURATION: Configuration = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// # Safety
    /// The CPU has AMX, and this process may use it.
    pub unsafe fn configure() {
        // SAFETY: reads the 64 bytes of the configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly, preserves_flags))
        };
    }

    /// # Safety
    /// As for [`configure`].
    pub unsafe fn release() {
        // SAFETY: touches nothing but the tiles, which are not in use.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }

    /// Bytes of a tile of activations.
    const A_TILE: usize = TILE * TILE * size_of::<u32>();
    /// Bytes of a part of a K-block of weights.
    const B_PART: usize = K_BLOCK_LINES * size_of::<Line>();

    /// Defines a kernel for one or two tiles of rows; `$body` is a K-block of 16 K-steps.
    macro_rules! kernel {
        (1, $($kernel:tt)*) => {
            kernel!(
                @ 1, ["tilezero tmm0", "tilezero tmm1"],
                ["tileloadd tmm0, [{sums} + {line}*1]", "tileloadd tmm1, [{sums} + {line}*1 + 64]"],
                ["tilestored [{sums} + {line}*1], tmm0", "tilestored [{sums} + {line}*1 + 64], tmm1"],
                $($kernel)*
            );
        };
        (2, $($kernel:tt)*) => {
            kernel!(
                @ 2, ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
                [
                    "tileloadd tmm0, [{sums} + {line}*1]",
                    "tileloadd tmm1, [{sums} + {line}*1 + 64]",
                    "tileloadd tmm2, [{sums} + {line}*1 + 2048]",
                    "tileloadd tmm3, [{sums} + {line}*1 + 2112]"
                ],
                [
                    "tilestored [{sums} + {line}*1], tmm0",
                    "tilestored [{sums} + {line}*1 + 64], tmm1",
                    "tilestored [{sums} + {line}*1 + 2048], tmm2",
                    "tilestored [{sums} + {line}*1 + 2112], tmm3"
                ],
                $($kernel)*
            );
        };
        (
            @ $row_tiles:literal, [$($zero:literal),*], [$($load:literal),*], [$($store:literal),*],
            $(#[$doc:meta])* $name:ident, $parts:literal, [$($body:expr),* $(,)?]
        ) => {
            $(#[$doc])*
            ///
            /// # Safety
            /// The tiles are configured. `panel` and `block` have `k_blocks` K-blocks, and the rows of `block` fill as
            /// many tiles as the name says.
            pub unsafe fn $name(
                block: &[u32], panel: &[Line], k_blocks: usize, prefetch: &[Line], accumulate: bool, sums: &mut TileSums,
            ) {
                // Weights are loaded with a hint (`t1`) that leaves the first-level cache to the activations, which the
                // next panel needs again; weights that are needed again come from the second level.
                //
                // SAFETY: `a` and `b` walk over `block` and `panel`, which have `k_blocks` K-blocks of the strides
                // added here; a tile of sums is 16 half rows of `sums`. A prefetch of any address is harmless. Every
                // tile and register that is changed is named.
                unsafe {
                    asm!(
                        "test {accumulate:e}, {accumulate:e}",
                        "jnz 20f",
                        $($zero,)*
                        "jmp 21f",
                        "20:",
                        $($load,)*
                        "21:",
                        $($body,)*
                        "add {a}, {a_step}",
                        "add {b}, {b_step}",
                        "mov {left}, {fetch}",
                        "test {left}, {left}",
                        "jz 23f",
                        "22:",
                        "prefetcht1 [{next}]",
                        "add {next}, 64",
                        "dec {left}",
                        "jnz 22b",
                        "23:",
                        "dec {k_blocks}",
                        "jnz 21b",
                        $($store,)*
                        a = inout(reg) block.as_ptr() => _,
                        b = inout(reg) panel.as_ptr() => _,
                        next = inout(reg) prefetch.as_ptr() => _,
                        k_blocks = inout(reg) k_blocks => _,
                        left = out(reg) _,
                        // Lines to prefetch in a K-block: all lines, spread evenly.
                        fetch = in(reg) prefetch.len().div_ceil(k_blocks),
                        accumulate = in(reg) u32::from(accumulate),
                        sums = in(reg) sums,
                        // Bytes from one row to the next: of activations, and of weights or sums.
                        row = in(reg) TILE * size_of::<u32>(),
                        line = in(reg) NR * size_of::<u32>(),
                        a_step = const $row_tiles * $parts * A_TILE,
                        b_step = const $parts * B_PART,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        };
    }

    /// bf16 and 8 bits: one part a K-block.
    macro_rules! kernels {
        ($(#[$doc:meta])* $one:ident, $two:ident, $dot:literal) => {
            kernel!(1, $(#[$doc])* $one, 1, [
                "tileloadd tmm4, [{a} + {row}*1]",
                "tileloaddt1 tmm6, [{b} + {line}*1]",
                concat!($dot, " tmm0, tmm4, tmm6"),
                "tileloaddt1 tmm7, [{b} + {line}*1 + 64]",
                concat!($dot, " tmm1, tmm4, tmm7"),
            ]);
            kernel!(2, $(#[$doc])* $two, 1, [
                "tileloadd tmm4, [{a} + {row}*1]",
                "tileloaddt1 tmm6, [{b} + {line}*1]",
                concat!($dot, " tmm0, tmm4, tmm6"),
                "tileloaddt1 tmm7, [{b} + {line}*1 + 64]",
                concat!($dot, " tmm1, tmm4, tmm7"),
                "tileloadd tmm5, [{a} + {row}*1 + 1024]",
                concat!($dot, " tmm2, tmm5, tmm6"),
                concat!($dot, " tmm3, tmm5, tmm7"),
            ]);
        };
    }

    kernels!(
        /// Two bf16 an element, summed in f32.
        bf16_1, bf16_2, "tdpbf16ps"
    );
    kernels!(
        /// Four 8-bit integers an element, unsigned activations and signed weights, summed in i32 without saturation.
        int8_1, int8_2, "tdpbusd"
    );
    // Low · high comes first, then high · high, then high · low. So each tile of a K-block is loaded once, eight loads
    // for twelve products, and eight registers suffice.
    kernel!(
        1,
        /// Two f32 an element and part, as high and low halves.
        split_1,
        2,
        [
            "tileloadd tmm4, [{a} + {row}*1 + 1024]",
            "tileloaddt1 tmm6, [{b} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloaddt1 tmm7, [{b} + {line}*1 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row}*1]",
            "tdpbf16ps tmm0, tmm5, tmm6",
            "tdpbf16ps tmm1, tmm5, tmm7",
            "tileloaddt1 tmm6, [{b} + {line}*1 + 2048]",
            "tdpbf16ps tmm0, tmm5, tmm6",
            "tileloaddt1 tmm7, [{b} + {line}*1 + 2112]",
            "tdpbf16ps tmm1, tmm5, tmm7",
        ]
    );
    kernel!(
        2,
        /// Two f32 an element and part, as high and low halves.
        split_2,
        2,
        [
            "tileloadd tmm4, [{a} + {row}*1 + 2048]",
            "tileloaddt1 tmm6, [{b} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloaddt1 tmm7, [{b} + {line}*1 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row}*1 + 3072]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm4, [{a} + {row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {row}*1 + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloaddt1 tmm6, [{b} + {line}*1 + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloaddt1 tmm7, [{b} + {line}*1 + 2112]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
        ]
    );
}
