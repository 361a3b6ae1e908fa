//! The product of a block of up to 32 rows with a panel of 32 columns: two by two tiles of sums, so that each tile of
//! factors that is read is used twice.

use super::{PART_LINES, TILE, parts};
use crate::pack::{COLUMNS, Line};
use crate::tile::Words;

/// Rows of a block at most.
pub const ROWS_MAX: usize = 2 * TILE;

/// The sums of a block: f32, or i32 in the same words. A line of the cache is half a row.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct TileSums(pub [[u32; COLUMNS]; ROWS_MAX]);

impl TileSums {
    pub const ZERO: Self = Self([[0; COLUMNS]; ROWS_MAX]);
}

/// This thread's tiles, configured for as long as this lives. Tiles in use must be saved whenever threads switch, and
/// others in the process may want them otherwise, so nobody keeps this between two pieces of work.
pub struct Configured {
    /// Belongs to the thread.
    not_send: std::marker::PhantomData<*const ()>,
}

impl Configured {
    /// # Panics
    /// When [`is_usable`](super::is_usable) is false.
    pub fn new() -> Self {
        assert!(super::is_usable(), "tiles without AMX");
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

/// Writes into `sums` the products of `block` (`[groups][parts][rows][16]` words, the rows filled up to a whole tile)
/// with the columns of `panel` (`[groups][parts][16][2]` lines); with `keep`, adds them to what is in `sums`.
/// Meanwhile `ahead`, which the caller will read soon, is fetched into the second-level cache. Rows beyond the block's
/// are any numbers.
///
/// # Panics
/// When the sizes do not fit together.
pub fn tile(
    _: &Configured,
    words: Words,
    block: &[u32],
    panel: &[Line],
    ahead: &[Line],
    keep: bool,
    sums: &mut TileSums,
) {
    let group_lines = parts(words) * PART_LINES;
    let groups = panel.len() / group_lines;
    let tile_words = groups * parts(words) * TILE * TILE;
    assert!(groups > 0 && panel.len() == groups * group_lines);
    assert!(block.len() == tile_words || block.len() == 2 * tile_words);
    #[cfg(target_arch = "x86_64")]
    {
        let run = match (words, block.len() == tile_words) {
            (Words::F32, true) => instructions::split_1,
            (Words::F32, false) => instructions::split_2,
            (Words::Bf16, true) => instructions::bf16_1,
            (Words::Bf16, false) => instructions::bf16_2,
            (Words::Int8, true) => instructions::int8_1,
            (Words::Int8, false) => instructions::int8_2,
        };
        // SAFETY: the tiles are configured; the sizes were checked above, and the name's number is that of the tiles
        // that the block's rows fill.
        unsafe { run(block, panel, groups, ahead, keep, sums) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (ahead, keep, sums);
        unreachable!("tiles cannot be configured on this CPU");
    }
}

/// The tiles: 0 to 3 hold sums (0 and 1 of the first 16 rows, 2 and 3 of the next), 4 and 5 activations, 6 and 7 weights.
#[cfg(target_arch = "x86_64")]
mod instructions {
    use std::arch::asm;

    use super::{COLUMNS, Line, PART_LINES, TILE, TileSums};

    /// What `ldtilecfg` reads.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// Eight tiles of 16 rows of 64 bytes. All are full, so that one configuration serves every size.
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
        // SAFETY: touches nothing but the tiles, which nobody uses now.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }

    /// Bytes of a tile of activations.
    const A_TILE: usize = TILE * TILE * size_of::<u32>();
    /// Bytes of a part of a group of weights.
    const B_PART: usize = PART_LINES * size_of::<Line>();

    /// Defines a kernel for one or two tiles of rows; `$body` is what a group of 16 steps takes.
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
            /// The tiles are configured. `panel` has `groups` groups and so has `block`, whose rows fill as many tiles as
            /// the name says.
            pub unsafe fn $name(
                block: &[u32], panel: &[Line], groups: usize, ahead: &[Line], keep: bool, sums: &mut TileSums,
            ) {
                // Weights are loaded with a hint (`t1`) to leave the first-level cache to the activations, which the next
                // panel needs again; these weights come back, if at all, from the second level.
                //
                // SAFETY: `a` and `b` walk over `block` and `panel`, which have `groups` groups of the steps added to them
                // here; a tile of sums is 16 half rows of `sums`. A prefetch of any address is harmless. Every tile and
                // register that is changed is named.
                unsafe {
                    asm!(
                        "test {keep:e}, {keep:e}",
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
                        "dec {groups}",
                        "jnz 21b",
                        $($store,)*
                        a = inout(reg) block.as_ptr() => _,
                        b = inout(reg) panel.as_ptr() => _,
                        next = inout(reg) ahead.as_ptr() => _,
                        groups = inout(reg) groups => _,
                        left = out(reg) _,
                        // Lines of `ahead` to ask for in a group: all of it, spread evenly.
                        fetch = in(reg) ahead.len().div_ceil(groups),
                        keep = in(reg) u32::from(keep),
                        sums = in(reg) sums,
                        // Bytes from one row to the next: of activations, and of weights or sums.
                        row = in(reg) TILE * size_of::<u32>(),
                        line = in(reg) COLUMNS * size_of::<u32>(),
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

    /// Bf16 and 8 bits: one part a group.
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
        /// Two bf16 a word, summed in f32.
        bf16_1, bf16_2, "tdpbf16ps"
    );
    kernels!(
        /// Four 8-bit integers a word, unsigned activations and signed weights, summed in i32 without saturation.
        int8_1, int8_2, "tdpbusd"
    );
    // Low · high comes first, then high · high, then high · low: so each tile of a group is loaded once, eight of them for
    // twelve products, and there is room for all.
    kernel!(
        1,
        /// Two f32 a word and part, as high and low halves.
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
        /// Two f32 a word and part, as high and low halves.
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
