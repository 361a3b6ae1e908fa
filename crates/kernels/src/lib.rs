//! The CPU kernels of Cloze, over plain slices: packed dense layers, attention within segments, layer
//! normalization, what is kept of logits.
//!
//! | file | what it is |
//! |---|---|
//! | `level` | which instructions this CPU has, and which of them are used |
//! | `pool` | the threads that compute |
//! | `pack` | weights and activations in the order that a tile reads them |
//! | `tile` | the product of a few rows with 32 columns: the inner loop, once for each set of instructions |
//! | `amx` | the same for 32 rows with Intel's AMX, and what lies otherwise for it |
//! | `plan` | how the work of a dense layer is cut into tasks |
//! | `linear` | dense layers |
//! | `after_attention` | those of a layer after its attention with what belongs to them, a few dozen rows at a time |
//! | `attention` | softmax attention |
//! | `self_attention` | the same from its projections on, a head at a time |
//! | `logits` | the softmax of the head, and the likeliest tokens |
//! | `finish` | what becomes of a tile's sums: bias, scales, activation |
//! | `rows` | work along rows: layer normalization |
//! | `allocator` | memory that glibc keeps |
//! | `limits` | what the machine can do at best |
//! | `math` | exp and GELU that the compiler can vectorize |
//! | `emulator` | AMX where there is none, for tests |
//!
//! Every `unsafe` block of the project is in this package, behind safe functions that check their sizes.

mod after_attention;
mod allocator;
mod amx;
mod attention;
#[cfg(all(target_arch = "x86_64", target_os = "linux", any(test, feature = "amx-emulator")))]
pub mod emulator;
mod finish;
mod level;
mod limits;
mod linear;
mod logits;
mod math;
mod pack;
mod plan;
mod pool;
mod rows;
mod self_attention;
mod tile;

pub use after_attention::AfterAttention;
pub use allocator::give_back_freed_memory;
pub use attention::{Heads, Segment, attention};
pub use level::Level;
pub use limits::{memory_bandwidth, peak_flops};
pub use linear::{Activation, Linear, Precision};
pub use logits::summarize_logits;
pub use pool::Pool;
pub use rows::{Norm, layer_norm};
pub use self_attention::SelfAttention;

/// How a kernel runs: on these threads, with these instructions.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The threads.
    pub pool: &'a Pool,
    /// The instructions.
    pub level: Level,
}

/// Grows a buffer that is kept to `len` at least and gives that much of it.
fn at_least<T: Clone>(buffer: &mut Vec<T>, len: usize, zero: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, zero);
    }
    &mut buffer[..len]
}
