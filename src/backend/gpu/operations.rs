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
use super::kernels::attention::{Projected, TILE_FIELDS, TILE_ROWS, attention};
use super::kernels::bias::{bias_activation, bias_activation_of_halves};
use super::kernels::norm::{Norm, layer_norm};
use super::kernels::rows::gather;
use super::kernels::{Primitive, empty, halves, top};
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
/// Where the weight is f16, so is the product's other side: hidden states in two [halves] by their high ones alone, what is f32 by
/// both of its halves, one after the other. So the matrix units multiply, and f32 goes in and comes out where the digits matter:
/// at the masks, which are few rows, and in the first layer. Sums are f32.
pub struct GpuLinear {
    /// `[out, in]`, f32 or f16.
    weight: Tensor<Gpu, 2>,
    /// What an f16 weight lacks, where that is kept.
    low: Option<Tensor<Gpu, 2>>,
    /// `[out]`, f32.
    bias: Tensor<Gpu, 1>,
}

impl LinearOp<Gpu> for GpuLinear {
    fn prepare(weight: Tensor<Gpu, 2>, bias: Tensor<Gpu, 1>, precision: Precision) -> Self {
        Self {
            weight: rounded(weight, dtype(precision)),
            low: None,
            bias,
        }
    }

    fn prepare_exact(weight: Tensor<Gpu, 2>, bias: Tensor<Gpu, 1>, precision: Precision) -> Self {
        let dtype = dtype(precision);
        let high = rounded(weight.clone(), dtype);
        let low = (dtype == DType::F16).then(|| rounded(weight - rounded(high.clone(), DType::F32), dtype));
        Self {
            weight: high,
            low,
            bias,
        }
    }

    fn forward(&self, x: Tensor<Gpu, 2>, activation: Option<Activation>) -> Tensor<Gpu, 2> {
        let (x, bias) = (primitive(x), primitive(self.bias.clone()));
        if !self.takes_halves(&x) {
            let dtype = x.dtype;
            return tensor(bias_activation(self.product(x, dtype), bias, activation));
        }
        let x = halves::split(x);
        let rest = self
            .low
            .as_ref()
            .map(|low| multiply(halves::high(x.clone()), low, DType::F32));
        tensor(bias_activation_of_halves(
            self.product_of_halves(x),
            rest,
            bias,
            activation,
        ))
    }

    fn forward_normalized(&self, x: Tensor<Gpu, 2>, residual: Tensor<Gpu, 2>, norm: &LayerNorm<Gpu>) -> Tensor<Gpu, 2> {
        let (x, bias) = (primitive(x), primitive(self.bias.clone()));
        let halves = x.dtype == DType::F16;
        let product = self.product(x, DType::F32);
        tensor(layer_norm(
            product,
            Some(bias),
            Some(primitive(residual)),
            weights_of(norm),
            halves,
        ))
    }

    fn weight_rows(&self, ids: &Primitive) -> Tensor<Gpu, 2> {
        let [_, inputs] = self.weight.dims();
        let low = self.low.clone().map(primitive);
        tensor(gather(primitive(self.weight.clone()), low, inputs, ids.clone()))
    }
}

impl GpuLinear {
    /// Whether `x` has more digits than the weight.
    fn takes_halves(&self, x: &Primitive) -> bool {
        (x.dtype, self.weight.dtype()) == (DType::F32, DType::F16)
    }

    /// `x · weightᵀ` in `dtype`, or [in two parts](Self::product_of_halves) in f32 where `x` has more digits than the weight.
    fn product(&self, x: Primitive, dtype: DType) -> Primitive {
        let [_, inputs] = self.weight.dims();
        if self.takes_halves(&x) {
            return self.product_of_halves(halves::split(x));
        }
        let is_hidden = x.dtype == DType::F16 && x.meta.shape()[1] == 2 * inputs;
        multiply(if is_hidden { halves::high(x) } else { x }, &self.weight, dtype)
    }

    /// `x · weightᵀ` of `x` in two halves: `[rows, 2 * out]` in f32, the two yet to be added up.
    fn product_of_halves(&self, x: Primitive) -> Primitive {
        halves::side_by_side(multiply(halves::apart(x), &self.weight, DType::F32))
    }
}

/// `x · weightᵀ` in `dtype`, of one type both.
fn multiply(x: Primitive, weight: &Tensor<Gpu, 2>, dtype: DType) -> Primitive {
    let weight = weight.clone().transpose().into_primitive().tensor();
    let product = matmul(x, weight, None, MatmulStrategy::default(), dtype);
    into_contiguous(product.expect("the sizes fit together"))
}

/// In another type.
fn rounded(x: Tensor<Gpu, 2>, dtype: DType) -> Tensor<Gpu, 2> {
    tensor(cast(primitive(x), dtype))
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

    fn select_rows(table: &Tensor<Self, 2>, rows: &Primitive) -> Tensor<Self, 2> {
        let [_, width] = table.dims();
        let table = primitive(table.clone());
        // What is f16 and has rows to choose from are hidden states.
        tensor(match table.dtype {
            DType::F16 => gather(table.clone(), Some(table), width / 2, rows.clone()),
            _ => gather(table, None, width, rows.clone()),
        })
    }

    fn attend(
        asking: Tensor<Self, 2>,
        all: Tensor<Self, 2>,
        query: &GpuLinear,
        key_value: &GpuLinear,
        segments: &GpuSegments,
        heads: usize,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        // Attention adds the biases as it reads, so it may as well read f32: that is one launch, two passes over the memory and two
        // roundings less for each.
        let projected = Projected {
            query: query.product(primitive(asking), DType::F32),
            key_value: key_value.product(primitive(all), DType::F32),
            hidden: query.weight.dims()[0],
            biases: Some((primitive(query.bias.clone()), primitive(key_value.bias.clone()))),
        };
        attended(projected, segments, heads, precision)
    }

    fn segment_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        segments: &GpuSegments,
        heads: usize,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        let projected = Projected {
            hidden: query.dims()[1],
            query: primitive(query),
            key_value: primitive(key_value),
            biases: None,
        };
        attended(projected, segments, heads, precision)
    }

    fn residual_layer_norm(
        x: Tensor<Self, 2>,
        residual: Option<Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
    ) -> Tensor<Self, 2> {
        let residual = residual.map(primitive);
        tensor(layer_norm(primitive(x), None, residual, weights_of(norm), false))
    }

    fn summarize(logits: Tensor<Self, 2>, wanted: &Wanted<Primitive>) -> Tensor<Self, 1> {
        tensor(top::summarize(primitive(logits), wanted))
    }
}

fn attended(projected: Projected, segments: &GpuSegments, heads: usize, precision: Precision) -> Tensor<Gpu, 2> {
    if segments.count == 0 {
        // Rows of no sequence hold anything.
        let shape = Shape::new([projected.query.meta.shape()[0], projected.hidden]);
        return tensor(empty(&projected.query, shape, dtype(precision)));
    }
    let tiles = segments.tiles.clone();
    tensor(attention(projected, tiles, segments.count, heads, dtype(precision)))
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
