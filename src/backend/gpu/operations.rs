//! The operations BERT needs, as launches of the kernels.
//!
//! Nothing here but `upload` takes numbers from the host: a forward pass writes to the device once, and reads once.

use burn::tensor::{DType, Int, Shape, Tensor, TensorPrimitive};
use burn_cubecl::FloatElement;
use burn_cubecl::kernel::into_contiguous;
use burn_wgpu::{Wgpu, WgpuDevice, WgpuRuntime};
use cubecl::prelude::*;

use super::kernels::Primitive;
use super::kernels::attention::{TILE_FIELDS, TILE_ROWS, attention};
use super::kernels::bias::bias_activation;
use super::kernels::norm::{Norm, layer_norm};
use super::kernels::top::{self, Asked};
use crate::backend::{
    Activation, BertBackend, HostLists, LayerNorm, LinearOp, Lists, Precision, Spans, Wanted, ladder,
};

/// What the kernels compute with: the buffer, its numbers one after the other.
fn primitive<F: FloatElement, const D: usize>(tensor: Tensor<Wgpu<F>, D>) -> Primitive {
    into_contiguous(tensor.into_primitive().tensor())
}

fn tensor<F: FloatElement, const D: usize>(primitive: Primitive) -> Tensor<Wgpu<F>, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// A dense layer as the checkpoint has it; bias and activation are one launch after the product.
pub struct GpuLinear<F: FloatElement> {
    /// `[out, in]`.
    weight: Tensor<Wgpu<F>, 2>,
    /// `[out]`.
    bias: Tensor<Wgpu<F>, 1>,
}

impl<F: FloatElement> LinearOp<Wgpu<F>> for GpuLinear<F> {
    fn prepare(weight: Tensor<Wgpu<F>, 2>, bias: Tensor<Wgpu<F>, 1>, _precision: Precision) -> Self {
        Self { weight, bias }
    }

    fn forward(&self, x: Tensor<Wgpu<F>, 2>, activation: Option<Activation>) -> Tensor<Wgpu<F>, 2> {
        let product = primitive(x.matmul(self.weight.clone().transpose()));
        tensor(bias_activation(product, primitive(self.bias.clone()), activation))
    }

    fn weight_rows(&self, ids: &Primitive) -> Tensor<Wgpu<F>, 2> {
        Wgpu::<F>::select_rows(&self.weight, ids)
    }
}

/// The query rows of all segments in tiles, on the device.
#[derive(Debug)]
pub struct GpuSegments {
    /// `[tiles, TILE_FIELDS]`.
    tiles: Primitive,
    count: usize,
}

impl<F: FloatElement> BertBackend for Wgpu<F> {
    type Linear = GpuLinear<F>;
    type Rows = Primitive;
    type Segments = GpuSegments;

    const TOP_MAX: usize = top::TOP_MAX;

    fn rows_computed(rows: usize) -> usize {
        ladder::rung(rows)
    }

    fn upload(lists: HostLists, device: &WgpuDevice) -> Lists<Primitive, GpuSegments> {
        upload(lists, device)
    }

    fn select_rows(table: &Tensor<Self, 2>, rows: &Primitive) -> Tensor<Self, 2> {
        table
            .clone()
            .select(0, Tensor::<Self, 1, Int>::from_primitive(rows.clone()))
    }

    fn segment_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        segments: &GpuSegments,
        heads: usize,
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
        let weights = Norm {
            gamma: primitive(norm.gamma.clone()),
            beta: primitive(norm.beta.clone()),
            eps: norm.eps as f32,
        };
        tensor(layer_norm(primitive(x), residual.map(primitive), weights))
    }

    fn summarize(logits: Tensor<Self, 2>, wanted: &Wanted<Primitive>) -> Tensor<Self, 1> {
        let asked = Asked {
            rows: wanted.rows,
            top: wanted.top,
            tokens: wanted.tokens.clone(),
            token_count: wanted.token_count,
            token_bounds: wanted.token_bounds.clone(),
        };
        tensor(top::summarize(primitive(logits), asked))
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
