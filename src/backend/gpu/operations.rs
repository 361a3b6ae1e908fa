//! The operations BERT needs, as launches of the kernels.
//!
//! Nothing here but `upload` takes numbers from the host: a forward pass writes to the device once, and reads once.

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_wgpu::{WgpuDevice, WgpuRuntime};
use cubecl::ir::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind, StorageType};
use cubecl::prelude::*;

use super::Gpu;
use super::kernels::Primitive;
use super::kernels::attention::{TILE_FIELDS, TILE_ROWS, attention};
use super::kernels::bias::bias_activation;
use super::kernels::norm::{Norm, layer_norm};
use super::kernels::rows::gather;
use super::kernels::top;
use crate::backend::{
    Activation, BertBackend, HostLists, LayerNorm, LinearOp, Lists, Precision, Spans, Wanted, ladder,
};

/// What the kernels compute with: the buffer, its numbers one after the other.
fn primitive<const D: usize>(tensor: Tensor<Gpu, D>) -> Primitive {
    into_contiguous(tensor.into_primitive().tensor())
}

fn tensor<const D: usize>(primitive: Primitive) -> Tensor<Gpu, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// Whether the device computes in half precision, and keeps it in memory.
pub fn has_f16(device: &WgpuDevice) -> bool {
    let f16 = StorageType::Scalar(ElemType::Float(FloatKind::F16));
    let usage = WgpuRuntime::client(device).properties().type_usage(f16);
    usage.is_superset(TypeUsage::Conversion | TypeUsage::Arithmetic | TypeUsage::Buffer)
}

/// What numbers of this precision are in memory.
fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::F16 => DType::F16,
        // A GPU has no other products; nothing above asks for them.
        Precision::F32 | Precision::Bf16 | Precision::Int8 => DType::F32,
    }
}

/// A dense layer as the checkpoint has it; bias and activation are one launch after the product.
///
/// The product is computed in the weight's type with sums in f32. It is kept in f16 where the input is f16 too, and in f32
/// where either is f32: so the decoder's logits are f32, since what comes out of the head's transform is.
pub struct GpuLinear {
    /// `[out, in]`, f32 or f16.
    weight: Tensor<Gpu, 2>,
    /// `[out]`, f32.
    bias: Tensor<Gpu, 1>,
}

impl LinearOp<Gpu> for GpuLinear {
    fn prepare(weight: Tensor<Gpu, 2>, bias: Tensor<Gpu, 1>, precision: Precision) -> Self {
        let weight = Gpu::table(weight, precision);
        Self { weight, bias }
    }

    fn forward(&self, x: Tensor<Gpu, 2>, activation: Option<Activation>) -> Tensor<Gpu, 2> {
        let product = self.product(x);
        tensor(bias_activation(product, primitive(self.bias.clone()), activation))
    }

    fn forward_normalized(&self, x: Tensor<Gpu, 2>, residual: Tensor<Gpu, 2>, norm: &LayerNorm<Gpu>) -> Tensor<Gpu, 2> {
        let product = self.product(x);
        let residual = cast(primitive(residual), product.dtype);
        let bias = primitive(self.bias.clone());
        tensor(layer_norm(product, Some(bias), Some(residual), weights_of(norm)))
    }

    fn weight_rows(&self, ids: &Primitive) -> Tensor<Gpu, 2> {
        Gpu::select_rows(&self.weight, ids)
    }
}

impl GpuLinear {
    /// `x · weightᵀ`.
    fn product(&self, x: Tensor<Gpu, 2>) -> Primitive {
        let x = primitive(x);
        let weight = self.weight.clone().transpose().into_primitive().tensor();
        let output = if x.dtype == weight.dtype { x.dtype } else { DType::F32 };
        let x = cast(x, weight.dtype);
        let product = matmul(x, weight, None, MatmulStrategy::default(), output).expect("the sizes fit together");
        into_contiguous(product)
    }
}

fn weights_of(norm: &LayerNorm<Gpu>) -> Norm {
    Norm {
        gamma: primitive(norm.gamma.clone()),
        beta: primitive(norm.beta.clone()),
        eps: norm.eps as f32,
    }
}

/// The query rows of all segments in tiles, on the device.
#[derive(Debug)]
pub struct GpuSegments {
    /// `[tiles, TILE_FIELDS]`.
    tiles: Primitive,
    count: usize,
}

impl BertBackend for Gpu {
    type Linear = GpuLinear;
    type Rows = Primitive;
    type Segments = GpuSegments;

    const COMPUTES_BESIDE_HOST: bool = true;
    const TOP_MAX: usize = top::TOP_MAX;

    fn rows_computed(rows: usize) -> usize {
        ladder::rung(rows)
    }

    fn upload(lists: HostLists, device: &WgpuDevice) -> Lists<Primitive, GpuSegments> {
        upload(lists, device)
    }

    fn table(table: Tensor<Self, 2>, precision: Precision) -> Tensor<Self, 2> {
        tensor(cast(primitive(table), dtype(precision)))
    }

    fn select_rows(table: &Tensor<Self, 2>, rows: &Primitive) -> Tensor<Self, 2> {
        tensor(gather(primitive(table.clone()), rows.clone()))
    }

    fn segment_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        segments: &GpuSegments,
        heads: usize,
        _precision: Precision,
    ) -> Tensor<Self, 2> {
        let query = primitive(query);
        if segments.count == 0 {
            return tensor(query);
        }
        let tiles = segments.tiles.clone();
        tensor(attention(query, primitive(key_value), tiles, segments.count, heads))
    }

    fn residual_layer_norm(
        x: Tensor<Self, 2>,
        residual: Option<Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
    ) -> Tensor<Self, 2> {
        tensor(layer_norm(
            primitive(x),
            None,
            residual.map(primitive),
            weights_of(norm),
        ))
    }

    fn summarize(logits: Tensor<Self, 2>, wanted: &Wanted<Primitive>) -> Tensor<Self, 1> {
        tensor(top::summarize(primitive(logits), wanted))
    }
}

/// Where lists may begin in a buffer: what wgpu allows of any adapter.
const ALIGNMENT: usize = 256;

/// Several lists in one piece of memory.
#[derive(Default)]
struct Packing {
    bytes: Vec<u8>,
}

/// Where a list lies in it.
struct Place {
    begin: usize,
    numbers: usize,
}

impl Packing {
    /// A list of nothing is one 0 that nobody reads: no buffer is empty.
    fn add(&mut self, numbers: &[u32]) -> Place {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let begin = self.bytes.len();
        let numbers = if numbers.is_empty() { &[0] } else { numbers };
        self.bytes
            .extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
        Place {
            begin,
            numbers: numbers.len(),
        }
    }
}

/// All lists in one write.
fn upload(lists: HostLists, device: &WgpuDevice) -> Lists<Primitive, GpuSegments> {
    let mut packing = Packing::default();
    let tiles = [&lists.everywhere, &lists.masks_only].map(tiles);
    let [everywhere, masks_only] = [0, 1].map(|spans| (packing.add(&tiles[spans]), tiles[spans].len() / TILE_FIELDS));
    let [input_ids, position_ids, mask_rows] =
        [&lists.input_ids, &lists.position_ids, &lists.mask_rows].map(|list| packing.add(list));
    let wanted: Vec<_> = lists
        .wanted
        .iter()
        .map(|wanted| {
            let lists = [&wanted.tokens, &wanted.token_bounds, &wanted.whole];
            (wanted, lists.map(|list| packing.add(list)))
        })
        .collect();
    let client = WgpuRuntime::client(device);
    let total = packing.bytes.len();
    let handle = client.create_from_slice(&packing.bytes);
    let at = |place: Place| {
        let end = place.begin + place.numbers * size_of::<u32>();
        let handle = handle
            .clone()
            .offset_start(place.begin as u64)
            .offset_end((total - end) as u64);
        let shape = Shape::new([place.numbers]);
        Primitive::new_contiguous(client.clone(), device.clone(), shape, handle, DType::U32)
    };
    let segments = |(place, count)| GpuSegments {
        tiles: at(place),
        count,
    };
    Lists {
        input_ids: at(input_ids),
        position_ids: at(position_ids),
        mask_rows: at(mask_rows),
        everywhere: segments(everywhere),
        masks_only: segments(masks_only),
        wanted: wanted
            .into_iter()
            .map(|(wanted, [tokens, token_bounds, whole])| Wanted {
                rows: wanted.rows,
                rows_padded: wanted.rows_padded,
                top: wanted.top,
                tokens: at(tokens),
                token_count: wanted.token_count,
                token_bounds: at(token_bounds),
                whole: at(whole),
                whole_count: wanted.whole_count,
            })
            .collect(),
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
