//! The operations BERT needs, as launches of the kernels.

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::Gpu;
use super::kernels::Primitive;
use super::kernels::attention::{TILE_FIELDS, TILE_ROWS, attention};
use super::kernels::bias::bias_activation;
use super::kernels::norm::{Norm, layer_norm};
use crate::backend::{Activation, BertBackend, LayerNorm, LinearOp, Precision, Spans, plain};

/// What the kernels compute with: the buffer, its numbers one after the other.
fn primitive<const D: usize>(tensor: Tensor<Gpu, D>) -> Primitive {
    into_contiguous(tensor.into_primitive().tensor())
}

fn tensor<const D: usize>(primitive: Primitive) -> Tensor<Gpu, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// A dense layer as the checkpoint has it; bias and activation are one launch after the product.
pub struct GpuLinear {
    /// `[out, in]`.
    weight: Tensor<Gpu, 2>,
    /// `[out]`.
    bias: Tensor<Gpu, 1>,
}

impl LinearOp<Gpu> for GpuLinear {
    fn prepare(weight: Tensor<Gpu, 2>, bias: Tensor<Gpu, 1>, _precision: Precision) -> Self {
        Self { weight, bias }
    }

    fn forward(&self, x: Tensor<Gpu, 2>, activation: Option<Activation>) -> Tensor<Gpu, 2> {
        let product = primitive(x.matmul(self.weight.clone().transpose()));
        tensor(bias_activation(product, primitive(self.bias.clone()), activation))
    }

    fn weight_rows(&self, ids: &[u32]) -> Tensor<Gpu, 2> {
        plain::select_rows(&self.weight, ids)
    }
}

impl BertBackend for Gpu {
    type Linear = GpuLinear;

    fn segment_attention(
        query: Tensor<Gpu, 2>,
        key_value: Tensor<Gpu, 2>,
        spans: &Spans,
        heads: usize,
    ) -> Tensor<Gpu, 2> {
        let query = primitive(query);
        let tiles = tiles(spans);
        let count = tiles.len() / TILE_FIELDS;
        if count == 0 {
            return tensor(query);
        }
        let bytes: Vec<u8> = tiles.iter().flat_map(|number| number.to_ne_bytes()).collect();
        let handle = query.client.create_from_slice(&bytes);
        let shape = Shape::new([tiles.len()]);
        let tiles = CubeTensor::new_contiguous(query.client.clone(), query.device.clone(), shape, handle, DType::U32);
        tensor(attention(query, primitive(key_value), tiles, count, heads))
    }

    fn residual_layer_norm(
        x: Tensor<Gpu, 2>,
        residual: Option<Tensor<Gpu, 2>>,
        norm: &LayerNorm<Gpu>,
    ) -> Tensor<Gpu, 2> {
        let weights = Norm {
            gamma: primitive(norm.gamma.clone()),
            beta: primitive(norm.beta.clone()),
            eps: norm.eps as f32,
        };
        tensor(layer_norm(primitive(x), residual.map(primitive), weights))
    }
}

/// The query rows of every segment in tiles of `TILE_ROWS` at most, each with the rows that it attends to.
fn tiles(spans: &Spans) -> Vec<u32> {
    let mut tiles = Vec::new();
    for (queries, tokens) in spans.iter() {
        for begin in queries.clone().step_by(TILE_ROWS as usize) {
            let end = queries.end.min(begin + TILE_ROWS as usize);
            tiles.extend([begin, end, tokens.start, tokens.end].map(|row| row as u32));
        }
    }
    tiles
}

#[cfg(test)]
mod tests;
