//! ndarray, with the encoder's operations as kernels over slices.
//!
//! Plain Burn on ndarray copies whole weights on reshape and computes `erf` one value at a time; the kernels do not.
//! Each is compared with its [`reference`](mod@super::reference) over odd sizes in `tests`.
//!
//! | file | subject |
//! |---|---|
//! | `compute` | the threads and the instruction set of a worker |
//! | `precision` | precisions of the kernels |
//! | `tensors` | tensors as slices and vectors |
//! | `buffers` | buffer reuse |
//! | `linear` | dense layers |
//! | `rotary` | rotary position embeddings |
//! | `attention` | attention, alone and with its projections |
//! | `layer_norm` | layer normalization |
//! | `encoder_tail` | an encoder layer after its attention |
//! | `readout` | readout of logits |

#![expect(deprecated, reason = "burn-ndarray is maintained up to Burn 0.22")]

mod attention;
mod buffers;
mod compute;
mod encoder_tail;
mod layer_norm;
mod linear;
mod precision;
mod readout;
mod rotary;
mod tensors;
#[cfg(test)]
mod tests;

use cloze_kernels::Context;

use super::{
    AttentionOptions, EncoderBackend, EncoderTail, ForwardInputs, IndexList, LayerNorm, Precision, QueryRows,
    RelativeBias, Rotary, SelfAttention, Tensor,
};
use compute::with_context;
pub use compute::{Compute, FEATURES_VARIABLE, automatic_precision, cpu_features};
pub use linear::CpuLinear;
use tensors::{owned, slice, tensor, values};

/// The CPU backend.
#[derive(Clone, Copy, Debug)]
pub struct Cpu;

/// All rows of a chunk are read with their largest `top_k`, so it is limited.
const TOP_K_MAX: usize = 64;

impl EncoderBackend for Cpu {
    type Burn = burn_ndarray::NdArray;
    type Linear = CpuLinear;
    type Inputs = ForwardInputs;

    const PRECISIONS: &'static [Precision] = precision::PRECISIONS;
    const TOP_K_MAX: usize = TOP_K_MAX;
    /// The outputs are not stored; between two blocks a batch can be cancelled.
    const POOLED_ROWS_MAX: usize = 1024;

    fn upload(inputs: ForwardInputs, _device: &super::Device<Self>) -> ForwardInputs {
        inputs
    }

    fn select_rows(table: &Tensor<Self, 2>, inputs: &ForwardInputs, list: IndexList) -> Tensor<Self, 2> {
        let rows = inputs.indices(list);
        let [entries, columns] = table.dims();
        let table = values(table.clone());
        let table = slice(&table);
        let mut selected = buffers::take(rows.len() * columns);
        for (values, &row) in selected.chunks_exact_mut(columns).zip(rows) {
            let row = row as usize;
            assert!(row < entries, "row {row} of {entries}");
            values.copy_from_slice(&table[row * columns..(row + 1) * columns]);
        }
        tensor(selected, rows.len(), columns)
    }

    fn self_attention(
        query_states: Tensor<Self, 2>,
        kv_states: Tensor<Self, 2>,
        layer: &SelfAttention<Self>,
        inputs: &ForwardInputs,
        rows: QueryRows,
    ) -> Tensor<Self, 2> {
        with_context(|context| attention::self_attention(context, query_states, kv_states, layer, inputs, rows))
    }

    fn rotate(
        x: Tensor<Self, 2>,
        rotary: &Rotary<Self>,
        heads: usize,
        inputs: &ForwardInputs,
        rows: QueryRows,
    ) -> Tensor<Self, 2> {
        with_context(|context| rotary::rotate(context, x, rotary, heads, &inputs.positions(rows)))
    }

    fn add(x: Tensor<Self, 2>, y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        combine(x, y, cloze_kernels::add)
    }

    fn multiply(x: Tensor<Self, 2>, y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        combine(x, y, cloze_kernels::multiply)
    }

    fn sequence_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        inputs: &ForwardInputs,
        rows: QueryRows,
        options: AttentionOptions,
        bias: Option<&RelativeBias<Self>>,
    ) -> Tensor<Self, 2> {
        with_context(|context| attention::attention(context, query, key_value, inputs, rows, options, bias))
    }

    fn encoder_tail(
        attended: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        layer: &EncoderTail<Self>,
    ) -> Tensor<Self, 2> {
        with_context(|context| encoder_tail::encoder_tail(context, attended, residual, layer))
    }

    fn residual_layer_norm(
        x: Tensor<Self, 2>,
        residual: Option<Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
    ) -> Tensor<Self, 2> {
        with_context(|context| layer_norm::normalize(context, x, residual, norm))
    }

    fn read_logits(logits: Tensor<Self, 2>, inputs: &ForwardInputs, chunk: usize) -> Tensor<Self, 1> {
        with_context(|context| readout::read_logits(context, logits, &inputs.readouts[chunk]))
    }
}

/// Combines two matrices of one size, in the memory of `x`.
fn combine(x: Tensor<Cpu, 2>, y: Tensor<Cpu, 2>, operation: fn(Context<'_>, &mut [f32], &[f32])) -> Tensor<Cpu, 2> {
    let [rows, columns] = x.dims();
    let y = values(y);
    let mut x = owned(values(x));
    with_context(|context| operation(context, &mut x, slice(&y)));
    buffers::give_back(y);
    tensor(x, rows, columns)
}
