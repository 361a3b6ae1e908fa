//! CPU kernels over plain slices: packed dense layers, attention within sequences, layer normalization, and the readout
//! of logits. The crate knows no model and no framework.
//!
//! Modules, each using only those above it:
//!
//! | module | subject |
//! |---|---|
//! | `layout` | packed layout of operands: panels, row blocks, K-blocks, precision |
//! | `disjoint` | output matrices that several threads write |
//! | `scratch` | buffers that a thread keeps |
//! | `detect` | detection of AMX and of the CPU's vendor |
//! | `isa` | instruction sets; functions compiled once for each |
//! | `pool` | threads |
//! | `context` | threads and instruction set, the argument of every kernel |
//! | `math` | exp and GELU in a form that the compiler vectorizes |
//! | `rounding` | rounding to bf16 and 8-bit integers |
//! | `pack` | packing of weights |
//! | `epilogue` | dequantize, add bias, activate, store |
//! | `pooled` | the epilogue of dense layers whose outputs are pooled over rows |
//! | `kernel` | the interface of a micro-kernel |
//! | `arch` | the micro-kernels, one file for each instruction set |
//! | `gemm` | a tile: micro-kernel, epilogue, activation, store |
//! | `weight_lines` | memory of packed weights, in huge pages |
//! | `schedule` | the tasks of a dense layer |
//! | `linear` | dense layers |
//! | `layer_norm` | layer normalization |
//! | `attention` | softmax attention |
//! | `rotary` | rotary position embeddings |
//! | `self_attention` | query, key and value projections with attention, one head at a time |
//! | `elementwise` | sums and products of two matrices |
//! | `encoder_tail` | an encoder layer after its attention: output, norm, feed-forward, norm |
//! | `logits` | softmax sums and the largest logits |
//!
//! Every function is safe and checks sizes. How to add an instruction set: an entry in `isa`, a file in
//! `arch` with a `kernel::MicroKernel` for each precision, and a line in `arch::micro_kernel`.

mod arch;
mod attention;
mod context;
#[cfg(target_arch = "x86_64")]
mod detect;
mod disjoint;
mod elementwise;
mod encoder_tail;
mod epilogue;
mod gemm;
mod isa;
mod kernel;
mod layer_norm;
mod layout;
mod linear;
mod logits;
mod math;
mod pack;
mod pool;
mod pooled;
mod rotary;
mod rounding;
mod schedule;
mod scratch;
mod self_attention;
mod weight_lines;

pub use attention::{ByDistance, DistanceBias, Heads, Sequence, attention, attention_by_distance};
pub use context::Context;
pub use elementwise::{add, multiply};
pub use encoder_tail::{EncoderTail, TailNorms};
pub use epilogue::Activation;
pub use isa::Isa;
pub use layer_norm::{Norm, NormKind, layer_norm};
pub use layout::Precision;
pub use linear::Linear;
pub use logits::{LOGIT_STATISTICS, summarize_logits};
pub use pool::Pool;
pub use pooled::{PooledRows, Pooling};
pub use rotary::{Pairing, Rotation, rotate};
pub use self_attention::{RotaryPositions, SelfAttention};
