//! The encoder's operations as launches of the kernels.
//!
//! | file | subject |
//! |---|---|
//! | `linear` | dense layers |
//! | `inputs` | the index inputs of a batch, uploaded in one write |
//!
//! Only `inputs` takes data from the host: a forward pass writes to the device once and reads once.

mod inputs;
mod linear;
#[cfg(test)]
mod tests;

use burn::backend::ExecutionError;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeDevice;
use burn_cubecl::kernel::into_contiguous;
use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};

use super::Gpu;
use super::kernels::attention::{Added, Projected, attention};
use super::kernels::norm::{Norm, layer_norm};
use super::kernels::readout::{self, read_logits};
use super::kernels::rotary::{Rotation, rotate};
use super::kernels::rows::gather;
use super::kernels::{Primitive, Rows, empty};
use crate::backend::{
    AttentionOptions, EncoderBackend, EncoderTail, ForwardInputs, IndexList, LayerNorm, LinearOp, Precision, QueryRows,
    RelativeBias, Rotary, RotaryPairing, SelfAttention, TailNorms, Tensor, WordTable, buckets, reference,
};
use inputs::{GpuInputs, Tiles};
use linear::{GpuLinear, PRECISIONS, dtype};

/// The buffer that the kernels compute with, contiguous.
fn primitive<const D: usize>(tensor: Tensor<Gpu, D>) -> Primitive {
    into_contiguous(tensor.into_primitive())
}

fn tensor<const D: usize>(primitive: Primitive) -> Tensor<Gpu, D> {
    Tensor::from_primitive(primitive)
}

/// True if the device computes in half precision, and keeps it in memory.
pub fn has_f16(device: &CubeDevice) -> bool {
    let f16 = ElemType::Float(FloatKind::F16);
    let usage = device.client().properties().type_usage(f16);
    usage.is_superset(TypeUsage::Conversion | TypeUsage::Arithmetic | TypeUsage::Buffer)
}

fn weights_of(norm: &LayerNorm<Gpu>) -> Norm {
    Norm {
        kind: norm.kind,
        gamma: primitive(norm.gamma.clone()),
        beta: primitive(norm.beta.clone()),
        eps: norm.eps as f32,
    }
}

/// [`EncoderBackend::check`] of a buffer.
fn check(primitive: &Primitive) -> Result<(), ExecutionError> {
    // Memory of weights may be larger than a kernel can read, which nothing tells before the first launch.
    let (bytes, bytes_max) = (
        primitive.handle.size_in_used(),
        primitive.client.properties().memory.max_page_size,
    );
    if bytes > bytes_max {
        return Err(ExecutionError::WithContext {
            reason: format!("a weight takes {bytes} bytes and a kernel reads buffers of up to {bytes_max}"),
        });
    }
    let checked = primitive.client.check([&primitive.handle]);
    checked.map_err(|error| ExecutionError::WithContext {
        reason: error.to_string(),
    })
}

impl EncoderBackend for Gpu {
    type Burn = burn_wgpu::Wgpu;
    type Linear = GpuLinear;
    type Inputs = GpuInputs;

    const PRECISIONS: &'static [Precision] = PRECISIONS;
    const TOP_K_MAX: usize = readout::TOP_K_MAX;

    fn padded_rows(rows: usize) -> usize {
        buckets::bucket_for(rows)
    }

    fn upload(inputs: ForwardInputs, device: &CubeDevice) -> GpuInputs {
        inputs::upload(inputs, device)
    }

    fn check<const D: usize>(tensor: &Tensor<Self, D>) -> Result<(), ExecutionError> {
        check(&tensor.clone().into_primitive())
    }

    fn select_rows(table: &Tensor<Self, 2>, inputs: &GpuInputs, list: IndexList) -> Tensor<Self, 2> {
        let [_, width] = table.dims();
        let table = primitive(table.clone());
        let rows = inputs.indices(list).clone();
        // A table in f16 is split hidden states.
        let parts = if table.dtype == DType::F16 { 2 } else { 1 };
        tensor(gather(table, width / parts, rows))
    }

    fn embed(
        words: WordTable<'_, Self>,
        positions: Option<&Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
        inputs: &GpuInputs,
    ) -> Tensor<Self, 2> {
        let table = match words {
            WordTable::Table(table) => table,
            WordTable::Decoder(decoder) => &decoder.weight,
        };
        let rows =
            |table: &Tensor<Self, 2>, list| Rows::selected(primitive(table.clone()), inputs.indices(list).clone());
        tensor(layer_norm(
            rows(table, IndexList::TokenIds),
            None,
            positions.map(|table| rows(table, IndexList::PositionIds)),
            weights_of(norm),
            false,
        ))
    }

    fn readout_layer(
        states: Tensor<Self, 2>,
        attention: &SelfAttention<Self>,
        tail: &EncoderTail<Self>,
        inputs: &GpuInputs,
    ) -> Tensor<Self, 2> {
        let TailNorms::Post {
            attention: norm,
            output,
        } = &tail.norms
        else {
            return reference::readout_layer(states, attention, tail, inputs);
        };
        let selected = Rows::selected(
            primitive(states.clone()),
            inputs.indices(IndexList::ReadoutRows).clone(),
        );
        let attended = attended_rows(selected.clone(), states, attention, inputs, QueryRows::ReadoutOnly);
        let x = tail.attention_output.normalized(attended, selected, norm);
        tail.down.forward_normalized(tail.inner(x.clone()), x, output)
    }

    fn self_attention(
        query_states: Tensor<Self, 2>,
        kv_states: Tensor<Self, 2>,
        layer: &SelfAttention<Self>,
        inputs: &GpuInputs,
        rows: QueryRows,
    ) -> Tensor<Self, 2> {
        match (&layer.joined, rows) {
            (Some(joined), QueryRows::All) => attended_tokens(query_states, layer, joined, inputs),
            _ => attended_rows(Rows::all(primitive(query_states)), kv_states, layer, inputs, rows),
        }
    }

    fn rotate(
        x: Tensor<Self, 2>,
        rotary: &Rotary<Self>,
        heads: usize,
        inputs: &GpuInputs,
        rows: QueryRows,
    ) -> Tensor<Self, 2> {
        let positions = inputs.positions(rows).clone();
        tensor(rotate(primitive(x), None, rotation(rotary), heads, positions))
    }

    fn sequence_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        inputs: &GpuInputs,
        rows: QueryRows,
        options: AttentionOptions,
        bias: Option<&RelativeBias<Self>>,
    ) -> Tensor<Self, 2> {
        let biases = bias.map_or(Added::Nothing, by_distance);
        let projected = Projected::apart(primitive(query), primitive(key_value), biases);
        attended(projected, inputs.tiles(rows), options)
    }

    fn residual_layer_norm(
        x: Tensor<Self, 2>,
        residual: Option<Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
    ) -> Tensor<Self, 2> {
        let rows = |x| Rows::all(primitive(x));
        tensor(layer_norm(rows(x), None, residual.map(rows), weights_of(norm), false))
    }

    fn read_logits(logits: Tensor<Self, 2>, inputs: &GpuInputs, chunk: usize) -> Tensor<Self, 1> {
        let (spec, lists) = (&inputs.as_ref().readouts[chunk], &inputs.readouts[chunk]);
        let (token_ids, row_offsets) = (lists.token_ids.clone(), lists.row_offsets.clone());
        tensor(read_logits(primitive(logits), spec, token_ids, row_offsets))
    }
}

/// Attention of every token to those of its sequence, with one product for queries, keys and values.
fn attended_tokens(
    states: Tensor<Gpu, 2>,
    layer: &SelfAttention<Gpu>,
    joined: &GpuLinear,
    inputs: &GpuInputs,
) -> Tensor<Gpu, 2> {
    let (states, heads) = (Rows::all(primitive(states)), layer.options.heads);
    let rotated = |x, bias, rotary| {
        let positions = inputs.positions(QueryRows::All).clone();
        // Of the queries and of the keys.
        rotate(x, bias, rotation(rotary), 2 * heads, positions)
    };
    let projected = match (&layer.rotary, &layer.bias) {
        (None, None) => Projected::joined(joined.product(states, DType::F32), biases_of(layer)),
        // The rotation adds the biases, and writes f32.
        (Some(rotary), bias) => {
            let product = joined.product(states, DType::F32);
            let rotated = rotated(product, Some(primitive(joined.bias.clone())), rotary);
            Projected::joined(rotated, bias.as_ref().map_or(Added::Nothing, by_distance))
        }
        (None, Some(bias)) => Projected::joined(joined.finished(states, None, DType::F32), by_distance(bias)),
    };
    attended(projected, inputs.tiles(QueryRows::All), layer.options)
}

/// Attention of `queries` to the tokens `kv_states` of their sequences.
fn attended_rows(
    queries: Rows,
    kv_states: Tensor<Gpu, 2>,
    layer: &SelfAttention<Gpu>,
    inputs: &GpuInputs,
    rows: QueryRows,
) -> Tensor<Gpu, 2> {
    let SelfAttention {
        query,
        key_value,
        options,
        rotary,
        bias,
        joined: _,
    } = layer;
    let keys = Rows::all(primitive(kv_states));
    let projected = match (rotary, bias) {
        // Attention adds the biases as it reads, and reads f32: one launch, two passes over the memory and two
        // roundings less for each.
        (None, None) => Projected::apart(
            query.product(queries, DType::F32),
            key_value.product(keys, DType::F32),
            biases_of(layer),
        ),
        // The rotation adds the biases, and writes f32.
        (Some(rotary), bias) => {
            let rotated = |layer: &GpuLinear, x, rows| {
                let (bias, positions) = (primitive(layer.bias.clone()), inputs.positions(rows).clone());
                let product = layer.product(x, DType::F32);
                rotate(product, Some(bias), rotation(rotary), options.heads, positions)
            };
            Projected::apart(
                rotated(query, queries, rows),
                rotated(key_value, keys, QueryRows::All),
                bias.as_ref().map_or(Added::Nothing, by_distance),
            )
        }
        (None, Some(bias)) => Projected::apart(
            query.finished(queries, None, DType::F32),
            key_value.finished(keys, None, DType::F32),
            by_distance(bias),
        ),
    };
    attended(projected, inputs.tiles(rows), *options)
}

/// The biases of the dense layers before attention.
fn biases_of(layer: &SelfAttention<Gpu>) -> Added {
    let biases = [&layer.query.bias, &layer.key_value.bias].map(|bias| primitive(bias.clone()));
    Added::Biases(Box::new(biases))
}

fn by_distance(bias: &RelativeBias<Gpu>) -> Added {
    Added::ByDistance(Box::new(primitive(bias.table.clone())))
}

fn rotation(rotary: &Rotary<Gpu>) -> Rotation {
    Rotation {
        cos: primitive(rotary.cos.clone()),
        sin: primitive(rotary.sin.clone()),
        pairs_neighbours: rotary.pairing == RotaryPairing::Neighbours,
    }
}

fn attended(projected: Projected, tiles: &Tiles, options: AttentionOptions) -> Tensor<Gpu, 2> {
    let dtype = dtype(options.precision).expect("dense layers of this precision were refused at load");
    if tiles.count == 0 {
        // Every row is padding.
        let shape = Shape::new([projected.query.meta.shape()[0], projected.hidden]);
        return tensor(empty(&projected.query, shape, dtype));
    }
    tensor(attention(
        projected,
        tiles.tiles.clone(),
        tiles.count,
        options.heads,
        options.window,
        dtype,
    ))
}
