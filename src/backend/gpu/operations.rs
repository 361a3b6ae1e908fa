//! The encoder's operations as launches of the kernels.
//!
//! Only `upload` takes data from the host: a forward pass writes to the device once and reads once.

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_wgpu::{WgpuDevice, WgpuRuntime};
use cubecl::ir::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind, StorageType};
use cubecl::prelude::*;

use super::Gpu;
use super::kernels::attention::{Added, Projected, TILE_FIELDS, TILE_ROWS, attention};
use super::kernels::bias::{bias_activation, bias_activation_of_split};
use super::kernels::norm::{Norm, layer_norm};
use super::kernels::pooling::pool_logits;
use super::kernels::readout::{self, read_logits};
use super::kernels::rotary::{Rotation, rotate};
use super::kernels::rows::gather;
use super::kernels::{Primitive, empty, split_f16};
use crate::backend::{
    Activation, AttentionOptions, EncoderBackend, ForwardInputs, IndexList, LayerNorm, LinearOp, PooledRows, Precision,
    QueryRows, RelativeBias, Rotary, RotaryPairing, SelfAttention, SequenceOffsets, UnsupportedPrecision, buckets,
};

/// The buffer that the kernels compute with, contiguous.
fn primitive<const D: usize>(tensor: Tensor<Gpu, D>) -> Primitive {
    into_contiguous(tensor.into_primitive().tensor())
}

fn tensor<const D: usize>(primitive: Primitive) -> Tensor<Gpu, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// True if the device computes in half precision, and keeps it in memory.
pub fn has_f16(device: &WgpuDevice) -> bool {
    let f16 = StorageType::Scalar(ElemType::Float(FloatKind::F16));
    let usage = WgpuRuntime::client(device).properties().type_usage(f16);
    usage.is_superset(TypeUsage::Conversion | TypeUsage::Arithmetic | TypeUsage::Buffer)
}

/// The precisions of the kernels; f16 only where the adapter has it.
pub const PRECISIONS: &[Precision] = &[Precision::F32, Precision::F16];

/// The element type of a precision in memory.
fn dtype(precision: Precision) -> Result<DType, UnsupportedPrecision> {
    match precision {
        Precision::F32 => Ok(DType::F32),
        Precision::F16 => Ok(DType::F16),
        requested @ (Precision::Bf16 | Precision::Int8) => Err(UnsupportedPrecision {
            requested,
            supported: PRECISIONS,
        }),
    }
}

/// A dense layer as the checkpoint has it; bias and activation are one launch after the product.
///
/// If the weight is f16, so is the other operand of its product: of [split](split_f16) hidden states the high part
/// alone, of f32 both parts, one after the other. So the matrix units multiply, and f32 goes in and comes out where the
/// digits matter: at the readout rows, which are few, and in the first layer. Sums are f32.
pub struct GpuLinear {
    /// `[outputs, inputs]`, f32 or f16.
    weight: Tensor<Gpu, 2>,
    /// The low part of an f16 weight, if it is kept.
    low: Option<Tensor<Gpu, 2>>,
    /// `[outputs]`, f32.
    bias: Tensor<Gpu, 1>,
}

impl LinearOp<Gpu> for GpuLinear {
    fn prepare(
        weight: Tensor<Gpu, 2>,
        bias: Tensor<Gpu, 1>,
        precision: Precision,
    ) -> Result<Self, UnsupportedPrecision> {
        Ok(Self {
            weight: rounded(weight, dtype(precision)?),
            low: None,
            bias,
        })
    }

    fn prepare_high_precision(
        weight: Tensor<Gpu, 2>,
        bias: Tensor<Gpu, 1>,
        precision: Precision,
    ) -> Result<Self, UnsupportedPrecision> {
        let dtype = dtype(precision)?;
        let high = rounded(weight.clone(), dtype);
        let low = (dtype == DType::F16).then(|| rounded(weight - rounded(high.clone(), DType::F32), dtype));
        Ok(Self {
            weight: high,
            low,
            bias,
        })
    }

    fn forward(&self, x: Tensor<Gpu, 2>, activation: Option<Activation>) -> Tensor<Gpu, 2> {
        let (x, bias) = (primitive(x), primitive(self.bias.clone()));
        if !self.splits(&x) {
            let dtype = x.dtype;
            return tensor(bias_activation(self.product(x, dtype), bias, activation));
        }
        let x = split_f16::split(x);
        let rest = self
            .low
            .as_ref()
            .map(|low| multiply(split_f16::high(x.clone()), low, DType::F32));
        tensor(bias_activation_of_split(
            self.product_of_split(x),
            rest,
            bias,
            activation,
        ))
    }

    fn forward_pooled(&self, x: Tensor<Gpu, 2>, pools: &[PooledRows], pooled: Tensor<Gpu, 2>) -> Tensor<Gpu, 2> {
        let logits = primitive(self.forward(x, None));
        let pool = |pooled, pool| pool_logits(logits.clone(), pool, pooled);
        tensor(pools.iter().fold(primitive(pooled), pool))
    }

    fn forward_normalized(&self, x: Tensor<Gpu, 2>, residual: Tensor<Gpu, 2>, norm: &LayerNorm<Gpu>) -> Tensor<Gpu, 2> {
        let (x, bias) = (primitive(x), primitive(self.bias.clone()));
        let is_split = x.dtype == DType::F16;
        let product = self.product(x, DType::F32);
        tensor(layer_norm(
            product,
            Some(bias),
            Some(primitive(residual)),
            weights_of(norm),
            is_split,
        ))
    }

    fn embedding_lookup(&self, inputs: &GpuInputs) -> Tensor<Gpu, 2> {
        let [_, columns] = self.weight.dims();
        let low = self.low.clone().map(primitive);
        let token_ids = inputs.token_ids.clone();
        tensor(gather(primitive(self.weight.clone()), low, columns, token_ids))
    }
}

impl GpuLinear {
    /// True if `x` has more digits than the weight, so that it is split.
    fn splits(&self, x: &Primitive) -> bool {
        (x.dtype, self.weight.dtype()) == (DType::F32, DType::F16)
    }

    /// `x · weightᵀ` in `dtype`, or [in two parts](Self::product_of_split) in f32 if `x` has more digits than the
    /// weight.
    fn product(&self, x: Primitive, dtype: DType) -> Primitive {
        let [_, inputs] = self.weight.dims();
        if self.splits(&x) {
            return self.product_of_split(split_f16::split(x));
        }
        let is_split = x.dtype == DType::F16 && x.meta.shape()[1] == 2 * inputs;
        multiply(if is_split { split_f16::high(x) } else { x }, &self.weight, dtype)
    }

    /// `x · weightᵀ` of split `x`: `[rows, 2 * outputs]` in f32, whose two parts are not added yet.
    fn product_of_split(&self, x: Primitive) -> Primitive {
        split_f16::side_by_side(multiply(split_f16::stacked(x), &self.weight, DType::F32))
    }
}

/// `x · weightᵀ` in `dtype`; both operands have one type.
fn multiply(x: Primitive, weight: &Tensor<Gpu, 2>, dtype: DType) -> Primitive {
    let weight = weight.clone().transpose().into_primitive().tensor();
    let product = matmul(x, weight, None, MatmulStrategy::default(), dtype);
    into_contiguous(product.expect("the sizes fit together"))
}

/// `x` in another element type.
fn rounded(x: Tensor<Gpu, 2>, dtype: DType) -> Tensor<Gpu, 2> {
    tensor(cast(primitive(x), dtype))
}

fn weights_of(norm: &LayerNorm<Gpu>) -> Norm {
    Norm {
        kind: norm.kind,
        gamma: primitive(norm.gamma.clone()),
        beta: primitive(norm.beta.clone()),
        eps: norm.eps as f32,
    }
}

/// The index inputs of a batch on the device.
pub struct GpuInputs {
    host: ForwardInputs,
    token_ids: Primitive,
    position_ids: Primitive,
    /// The position of each readout row.
    readout_positions: Primitive,
    readout_rows: Primitive,
    /// Tiles of all rows, and of the readout rows.
    tiles: [Tiles; 2],
    readouts: Vec<GpuReadout>,
}

/// The query rows of all sequences in tiles.
#[derive(Debug)]
struct Tiles {
    /// `[tiles, TILE_FIELDS]`.
    tiles: Primitive,
    count: usize,
}

/// The lists of one [`ReadoutSpec`](crate::backend::ReadoutSpec).
struct GpuReadout {
    token_ids: Primitive,
    row_offsets: Primitive,
    full_rows: Primitive,
}

impl AsRef<ForwardInputs> for GpuInputs {
    fn as_ref(&self) -> &ForwardInputs {
        &self.host
    }
}

impl GpuInputs {
    fn indices(&self, list: IndexList) -> &Primitive {
        match list {
            IndexList::TokenIds => &self.token_ids,
            IndexList::PositionIds => &self.position_ids,
            IndexList::ReadoutRows => &self.readout_rows,
            IndexList::FullRows(chunk) => &self.readouts[chunk].full_rows,
        }
    }

    fn positions(&self, rows: QueryRows) -> &Primitive {
        match rows {
            QueryRows::All => &self.position_ids,
            QueryRows::ReadoutOnly => &self.readout_positions,
        }
    }

    fn tiles(&self, rows: QueryRows) -> &Tiles {
        match rows {
            QueryRows::All => &self.tiles[0],
            QueryRows::ReadoutOnly => &self.tiles[1],
        }
    }
}

impl EncoderBackend for Gpu {
    type Linear = GpuLinear;
    type Inputs = GpuInputs;

    const IS_ASYNC: bool = true;
    const PRECISIONS: &'static [Precision] = PRECISIONS;
    const TOP_K_MAX: usize = readout::TOP_K_MAX;

    fn padded_rows(rows: usize) -> usize {
        buckets::bucket_for(rows)
    }

    fn upload(inputs: ForwardInputs, device: &WgpuDevice) -> GpuInputs {
        upload(inputs, device)
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
        let (spec, lists) = (&inputs.host.readouts[chunk], &inputs.readouts[chunk]);
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

/// Alignment of a list in a buffer that every adapter accepts.
const ALIGNMENT: usize = 256;

/// Several lists in one buffer.
#[derive(Default)]
struct Packing {
    bytes: Vec<u8>,
}

/// The range of a list in the buffer.
struct Place {
    begin: usize,
    numbers: usize,
}

impl Packing {
    /// An empty list becomes one 0, which is not read: no buffer may be empty.
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

/// Uploads all lists in one write.
fn upload(inputs: ForwardInputs, device: &WgpuDevice) -> GpuInputs {
    let mut packing = Packing::default();
    let tiles = [QueryRows::All, QueryRows::ReadoutOnly].map(|rows| {
        let tiles = tiles(inputs.offsets(rows), &inputs.query_rows(rows));
        (packing.add(&tiles), tiles.len() / TILE_FIELDS)
    });
    let readout_positions = match inputs.position_ids.is_empty() {
        true => Vec::new(),
        false => inputs.positions(QueryRows::ReadoutOnly).into_owned(),
    };
    let lists = [
        &inputs.token_ids,
        &inputs.position_ids,
        &readout_positions,
        &inputs.readout_rows,
    ];
    let [token_ids, position_ids, readout_positions, readout_rows] = lists.map(|list| packing.add(list));
    let specs = inputs.readouts.iter();
    let readouts: Vec<_> = specs
        .map(|spec| [&spec.token_ids, &spec.row_offsets, &spec.full_rows].map(|list| packing.add(list)))
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
    GpuInputs {
        token_ids: at(token_ids),
        position_ids: at(position_ids),
        readout_positions: at(readout_positions),
        readout_rows: at(readout_rows),
        tiles: tiles.map(|(place, count)| Tiles {
            tiles: at(place),
            count,
        }),
        readouts: readouts
            .into_iter()
            .map(|[token_ids, row_offsets, full_rows]| GpuReadout {
                token_ids: at(token_ids),
                row_offsets: at(row_offsets),
                full_rows: at(full_rows),
            })
            .collect(),
        host: inputs,
    }
}

/// The query rows of every sequence in tiles of `TILE_ROWS` at most, each with the key rows that it attends to and the
/// tokens of its queries. A list of tokens that is too short counts as zeros.
fn tiles(offsets: SequenceOffsets<'_>, query_tokens: &[u32]) -> Vec<u32> {
    let mut tiles = Vec::new();
    for (queries, keys) in offsets.iter() {
        for begin in queries.clone().step_by(TILE_ROWS as usize) {
            let end = queries.end.min(begin + TILE_ROWS as usize);
            tiles.extend([begin, end, keys.start, keys.end].map(|row| row as u32));
            let tokens = begin..begin + TILE_ROWS as usize;
            tiles.extend(tokens.map(|row| query_tokens.get(row).copied().filter(|_| row < end).unwrap_or(0)));
        }
    }
    tiles
}

#[cfg(test)]
mod tests;
