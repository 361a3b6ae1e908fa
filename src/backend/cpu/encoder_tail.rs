//! An encoder layer after its attention.

use cloze_kernels::Context;

use super::layer_norm::Parameters;
use super::linear::kernel_activation;
use super::tensors::{owned, slice, tensor, values};
use super::{Cpu, buffers};
use crate::backend::{EncoderTail, TailNorms, Tensor};

pub fn encoder_tail(
    context: Context<'_>,
    attended: Tensor<Cpu, 2>,
    residual: Tensor<Cpu, 2>,
    layer: &EncoderTail<Cpu>,
) -> Tensor<Cpu, 2> {
    let Some(activation) = kernel_activation(layer.activation) else {
        return layer.apply(attended, residual);
    };
    let [rows, hidden] = residual.dims();
    let (mut attended, residual) = (owned(values(attended)), values(residual));
    let (first, second) = match &layer.norms {
        TailNorms::Post { attention, output } => (Parameters::of(attention), Some(Parameters::of(output))),
        TailNorms::Pre(norm) => (Parameters::of(norm), None),
    };
    let tail = cloze_kernels::EncoderTail {
        output: &layer.attention_output.0,
        gate: layer.gate.as_ref().map(|gate| &gate.0),
        up: &layer.up.0,
        activation: Some(activation),
        down: &layer.down.0,
        norms: match &second {
            Some(second) => cloze_kernels::TailNorms::Post {
                first: first.norm(),
                second: second.norm(),
            },
            None => cloze_kernels::TailNorms::Pre(first.norm()),
        },
    };
    tail.apply(context, &mut attended, slice(&residual));
    buffers::give_back(residual);
    tensor(attended, rows, hidden)
}
