//! Tiles of Intel's AMX: 16 rows by 16 columns of sums, from 16 words of depth at once.
//!
//! What a step is, which words it holds, and where they lie is as in [`pack`](crate::pack); so weights and activations in
//! bf16 and in 8 bits are those of AVX-512, and 16 steps of a panel are two tiles side by side. Two things differ:
//!
//! - f32 is computed with as two bf16: `x = high + low` to 16 bits, and a product is `high · high + high · low +
//!   low · high`, summed in f32. A group then has two parts of 16 steps, the high halves and the low ones, in weights
//!   and activations alike;
//! - blocks are larger, and their rows are filled up to a whole tile.
//!
//! | file | what it is |
//! |---|---|
//! | `detect` | whether the CPU has AMX and the system lets us use it |
//! | `layout` | weights and activations in that order |
//! | `tile` | the product of a block of rows with a panel |

mod detect;
mod layout;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests;
mod tile;

pub use detect::is_usable;
pub use layout::{panels_split, split_rows, words_of};
pub use tile::{Configured, ROWS_MAX, TileSums, tile};

use crate::tile::Words;

/// Rows and columns of a tile, and words of its depth.
pub const TILE: usize = 16;
/// Cache lines of a part of a group in a panel of 32 columns.
pub const PART_LINES: usize = 2 * TILE;

/// Parts of a group.
pub const fn parts(words: Words) -> usize {
    match words {
        Words::F32 => 2,
        Words::Bf16 | Words::Int8 => 1,
    }
}

/// Values of the inner dimension that a group holds.
pub const fn group_values(words: Words) -> usize {
    match words {
        Words::F32 | Words::Bf16 => 2 * TILE,
        Words::Int8 => 4 * TILE,
    }
}
