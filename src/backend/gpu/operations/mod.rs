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
use super::kernels::{Primitive, empty};
use crate::backend::{
    AttentionOptions, EncoderBackend, ForwardInputs, IndexList, LayerNorm, LinearOp, Precision, QueryRows,
    RelativeBias, Rotary, RotaryPairing, SelfAttention, Tensor, buckets,
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
        tensor(match table.dtype {
            DType::F16 => gather(table.clone(), Some(table), width / 2, rows),
            _ => gather(table, None, width, rows),
        })
    }

    fn self_attention(
        query_states: Tensor<Self, 2>,
        kv_states: Tensor<Self, 2>,
        layer: &SelfAttention<Self>,
        inputs: &GpuInputs,
        rows: QueryRows,
    ) -> Tensor<Self, 2> {
        let SelfAttention {
            query,
            key_value,
            options,
            rotary,
            bias,
        } = layer;
        let hidden = query.weight.dims()[0];
        if let Some(bias) = bias {
            let (mut queries, mut keys) = (query.forward(query_states, None), key_value.forward(kv_states, None));
            if let Some(rotary) = rotary {
                queries = Self::rotate(queries, rotary, options.heads, inputs, rows);
                keys = Self::rotate(keys, rotary, options.heads, inputs, QueryRows::All);
            }
            return Self::sequence_attention(queries, keys, inputs, rows, *options, Some(bias));
        }
        let projections = [
            query.product(primitive(query_states), DType::F32),
            key_value.product(primitive(kv_states), DType::F32),
        ];
        let biases = [&query.bias, &key_value.bias].map(|bias| primitive(bias.clone()));
        if let Some(rotary) = rotary {
            // The rotation adds the biases, and writes f32.
            let [queries, keys] = projections;
            let [query_bias, key_value_bias] = biases;
            let rotated = |x, columns, bias, rows| {
                let positions = inputs.positions(rows).clone();
                rotate(x, columns, Some(bias), rotation(rotary), options.heads, positions)
            };
            let projected = Projected {
                query: rotated(queries, hidden, query_bias, rows),
                key_value: rotated(keys, 2 * hidden, key_value_bias, QueryRows::All),
                hidden,
                biases: Added::Nothing,
            };
            return attended(projected, inputs.tiles(rows), *options);
        }
        // Attention adds the biases as it reads, and reads f32: one launch, two passes over the memory and two
        // roundings less for each.
        let [queries, keys] = projections;
        let projected = Projected {
            query: queries,
            key_value: keys,
            hidden,
            biases: Added::Biases(Box::new(biases)),
        };
        attended(projected, inputs.tiles(rows), *options)
    }

    fn rotate(
        x: Tensor<Self, 2>,
        rotary: &Rotary<Self>,
        heads: usize,
        inputs: &GpuInputs,
        rows: QueryRows,
    ) -> Tensor<Self, 2> {
        let (columns, positions) = (x.dims()[1], inputs.positions(rows).clone());
        tensor(rotate(primitive(x), columns, None, rotation(rotary), heads, positions))
    }

    fn sequence_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        inputs: &GpuInputs,
        rows: QueryRows,
        options: AttentionOptions,
        bias: Option<&RelativeBias<Self>>,
    ) -> Tensor<Self, 2> {
        let projected = Projected {
            hidden: query.dims()[1],
            query: primitive(query),
            key_value: primitive(key_value),
            biases: match bias {
                Some(bias) => Added::ByDistance(Box::new(primitive(bias.table.clone()))),
                None => Added::Nothing,
            },
        };
        attended(projected, inputs.tiles(rows), options)
    }

    fn residual_layer_norm(
        x: Tensor<Self, 2>,
        residual: Option<Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
    ) -> Tensor<Self, 2> {
        let residual = residual.map(primitive);
        tensor(layer_norm(primitive(x), None, residual, weights_of(norm), false))
    }

    fn read_logits(logits: Tensor<Self, 2>, inputs: &GpuInputs, chunk: usize) -> Tensor<Self, 1> {
        let (spec, lists) = (&inputs.as_ref().readouts[chunk], &inputs.readouts[chunk]);
        let (token_ids, row_offsets) = (lists.token_ids.clone(), lists.row_offsets.clone());
        tensor(read_logits(primitive(logits), spec, token_ids, row_offsets))
    }
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
