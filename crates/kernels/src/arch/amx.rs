//! Tiles of AMX: 16 rows by 16 columns of sums, from 16 packed elements of K at once.
//!
//! A micro-kernel multiplies a block of up to 32 rows with a panel of 32 columns: two by two tiles of sums, so that
//! each tile of operands is used twice after it is loaded. bf16 and 8-bit panels have the layout of AVX-512, and the 16
//! K-steps of a K-block are two tiles side by side. Two things differ:
//!
//! - an f32 is two bf16, `x = high + low` to 16 bits, and a product is `high · high + high · low + low · high`, summed
//!   in f32. A K-block then has two parts of 16 K-steps, the high halves and the low ones, in weights and activations;
//! - blocks are larger, and their rows are padded to whole tiles.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::avx512;
use crate::detect::amx_is_usable;
use crate::epilogue::Epilogue;
use crate::kernel::{Block, MicroKernel, Operands, Rows};
use crate::layout::{AMX_MR, K_BLOCK, K_BLOCK_LINES, Line, NR, Packing, SPLIT_VALUES};

/// Rows and columns of a tile, and K-steps of a tile of operands.
const TILE: usize = K_BLOCK;

/// f32 as two bf16.
pub struct F32;
pub struct Bf16;
pub struct Int8;

/// Implements [`MicroKernel`] by `$pack` and a kernel each for one and for two tiles of rows.
macro_rules! micro_kernel {
    ($name:ident, $parts:literal, $one:ident, $two:ident, |$rows:ident, $packed:ident, $scales:ident| $pack:expr) => {
        impl MicroKernel for $name {
            fn packing(&self) -> Packing {
                Packing::AmxTiles
            }

            fn block_rows(&self) -> usize {
                AMX_MR
            }

            fn accumulates(&self) -> bool {
                true
            }

            unsafe fn pack_rows(&self, $rows: Rows<'_>, $packed: &mut [u32], $scales: &mut [f32]) {
                // SAFETY: the CPU has the instructions by the caller's promise.
                unsafe { $pack }
            }

            unsafe fn run(
                &self,
                operands: &Operands<'_>,
                rows: usize,
                epilogue: Option<&Epilogue<'_>>,
                to: *mut f32,
                stride: usize,
            ) {
                let kernel = if rows <= TILE {
                    instructions::$one
                } else {
                    instructions::$two
                };
                let k_blocks = operands.panel.len() / ($parts * K_BLOCK_LINES);
                // SAFETY: by the caller's promise; the number in the kernel's name is that of the tiles that the rows fill.
                unsafe { run(kernel, operands, k_blocks, rows, epilogue, to, stride) }
            }
        }
    };
}

micro_kernel!(F32, 2, split_1, split_2, |rows, packed, _scales| split_rows(
    rows, packed
));
micro_kernel!(Bf16, 1, bf16_1, bf16_2, |rows, packed, scales| avx512::Bf16
    .pack_rows(rows, packed, scales));
micro_kernel!(Int8, 1, int8_1, int8_2, |rows, packed, scales| avx512::Int8
    .pack_rows(rows, packed, scales));

/// Adds the products of a block and a panel to the sums, or writes them: `(block, panel, K-blocks, prefetch, accumulate,
/// sums)`. Sums are rows of 32, as many as fill the tiles.
type Kernel = unsafe fn(&[u32], &[Line], usize, &[Line], bool, *mut [u32; NR]);

/// The sums of a block: f32, or i32 in the same 32 bits. A cache line is half a row.
#[repr(C, align(64))]
struct TileSums([[u32; NR]; AMX_MR]);

/// # Safety
/// As [`MicroKernel::run`], with the kernel for these rows and precision.
unsafe fn run(
    kernel: Kernel,
    operands: &Operands<'_>,
    k_blocks: usize,
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
    let Block::Rows { elements, .. } = block else {
        panic!("columns of a panel are no tiles");
    };
    let _tiles = Configured::new();
    if epilogue.is_none() && stride == NR && rows.is_multiple_of(TILE) {
        // SAFETY: the tiles are configured, the operands have `k_blocks` K-blocks, and all rows of the tiles are there.
        return unsafe { kernel(elements, panel, k_blocks, prefetch, accumulate, to.cast()) };
    }
    let mut sums = MaybeUninit::<TileSums>::uninit();
    let sums = sums.as_mut_ptr().cast::<[u32; NR]>();
    if accumulate {
        for row in 0..rows.next_multiple_of(TILE) {
            // SAFETY: `to` has 32 values of each of `rows` rows, and `sums` has the padding rows too.
            unsafe {
                match row < rows {
                    true => *sums.add(row) = to.add(row * stride).cast::<[u32; NR]>().read_unaligned(),
                    false => *sums.add(row) = [0; NR],
                }
            }
        }
    }
    // SAFETY: the tiles are configured, the operands have `k_blocks` K-blocks, and `sums` has all rows of the tiles,
    // which are written above where the kernel reads them, and by the kernel. AVX-512 is part of AMX; `to` and the epilogue are as the caller promises.
    unsafe {
        kernel(elements, panel, k_blocks, prefetch, accumulate, sums);
        avx512::finish(std::slice::from_raw_parts(sums, rows), epilogue, to, stride);
    }
}

thread_local! {
    static IS_CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

/// The tile registers of this thread, configured for as long as the first value of the thread lives. The system saves
/// configured tiles whenever it switches threads, so do not keep one between two tasks. To configure and release them
/// takes some 80 ns, a tenth of a micro-kernel's call, so keep one for a task.
pub struct Configured {
    was_configured: bool,
    /// Belongs to the thread.
    not_send: PhantomData<*const ()>,
}

impl Configured {
    /// # Panics
    /// If AMX is not [usable](amx_is_usable).
    pub fn new() -> Self {
        let was_configured = IS_CONFIGURED.get();
        if !was_configured {
            assert!(amx_is_usable(), "AMX is not usable");
            // SAFETY: the CPU has AMX, and this process may use it.
            unsafe { instructions::configure() };
            IS_CONFIGURED.set(true);
        }
        Self {
            was_configured,
            not_send: PhantomData,
        }
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        if !self.was_configured {
            IS_CONFIGURED.set(false);
            // SAFETY: as above.
            unsafe { instructions::release() };
        }
    }
}

/// Packs rows for f32 into `[K-blocks][high, low][stored][16]` elements.
#[target_feature(enable = "avx512f,avx512bf16")]
fn split_rows(rows: Rows<'_>, packed: &mut [u32]) {
    let part = rows.stored * TILE;
    for (row, values) in rows.iter().enumerate() {
        for (k_block, values) in packed.chunks_exact_mut(2 * part).zip(values.chunks(SPLIT_VALUES)) {
            let (high, low) = avx512::split(values);
            for (i, elements) in [high, low].iter().enumerate() {
                k_block[i * part + row * TILE..][..TILE].copy_from_slice(elements);
            }
        }
    }
}

/// The tile registers: 0 to 3 hold sums (0 and 1 of the first 16 rows, 2 and 3 of the next), 4 and 5 activations, 6 and
/// 7 weights.
mod instructions {
    use std::arch::asm;

    use super::{K_BLOCK_LINES, Line, NR, TILE};

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
            /// The tiles are configured. `panel` and `block` have `k_blocks` K-blocks, and the rows of `block` and `sums`
            /// fill as many tiles as the name says.
            pub unsafe fn $name(
                block: &[u32], panel: &[Line], k_blocks: usize, prefetch: &[Line], accumulate: bool, sums: *mut [u32; NR],
            ) {
                // Activations are loaded with a hint (`t1`) that leaves the first-level cache to the weights, which the
                // next block needs again; activations come from the second level.
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
                "tileloaddt1 tmm4, [{a} + {row}*1]",
                "tileloadd tmm6, [{b} + {line}*1]",
                concat!($dot, " tmm0, tmm4, tmm6"),
                "tileloadd tmm7, [{b} + {line}*1 + 64]",
                concat!($dot, " tmm1, tmm4, tmm7"),
            ]);
            kernel!(2, $(#[$doc])* $two, 1, [
                "tileloaddt1 tmm4, [{a} + {row}*1]",
                "tileloadd tmm6, [{b} + {line}*1]",
                concat!($dot, " tmm0, tmm4, tmm6"),
                "tileloadd tmm7, [{b} + {line}*1 + 64]",
                concat!($dot, " tmm1, tmm4, tmm7"),
                "tileloaddt1 tmm5, [{a} + {row}*1 + 1024]",
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
            "tileloaddt1 tmm4, [{a} + {row}*1 + 1024]",
            "tileloadd tmm6, [{b} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {line}*1 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloaddt1 tmm5, [{a} + {row}*1]",
            "tdpbf16ps tmm0, tmm5, tmm6",
            "tdpbf16ps tmm1, tmm5, tmm7",
            "tileloadd tmm6, [{b} + {line}*1 + 2048]",
            "tdpbf16ps tmm0, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {line}*1 + 2112]",
            "tdpbf16ps tmm1, tmm5, tmm7",
        ]
    );
    kernel!(
        2,
        /// Two f32 an element and part, as high and low halves.
        split_2,
        2,
        [
            "tileloaddt1 tmm4, [{a} + {row}*1 + 2048]",
            "tileloadd tmm6, [{b} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {line}*1 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloaddt1 tmm5, [{a} + {row}*1 + 3072]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloaddt1 tmm4, [{a} + {row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloaddt1 tmm5, [{a} + {row}*1 + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tileloadd tmm6, [{b} + {line}*1 + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {line}*1 + 2112]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
        ]
    );
}
