//! The operations in plain Burn: the default bodies of [`EncoderBackend`], and the oracle of every kernel.
//!
//! [`Reference`] is a backend that runs them as they are, in f64.

#[cfg(feature = "cpu")]
use burn::backend::FloatDType;
use burn::tensor::TensorData;

use super::readout::row_len;
use super::{
    Activation, AttentionOptions, EncoderBackend, EncoderTail, ForwardInputs, IndexList, LayerNorm, LinearOp, NormKind,
    Precision, QueryRows, ReadoutSpec, RelativeBias, Rotary, RotaryPairing, SelfAttention, SequenceOffsets, Tensor,
    UnsupportedPrecision, WordTable,
};

/// ndarray in f64, without kernels of ours: every operation is its default body.
#[cfg(feature = "cpu")]
#[derive(Clone, Copy, Debug)]
pub struct Reference;

#[cfg(feature = "cpu")]
impl EncoderBackend for Reference {
    type Burn = <super::cpu::Cpu as EncoderBackend>::Burn;
    type Linear = ReferenceLinear<Self>;
    type Inputs = ForwardInputs;

    const ELEMENT: FloatDType = FloatDType::F64;

    fn upload(inputs: ForwardInputs, _device: &super::Device<Self>) -> ForwardInputs {
        inputs
    }
}

/// A dense layer as the checkpoint has it, in the element type of its backend.
pub struct ReferenceLinear<B: EncoderBackend> {
    /// `[outputs, inputs]`.
    weight: Tensor<B, 2>,
    /// `[1, outputs]`, so that it broadcasts over the rows.
    bias: Tensor<B, 2>,
}

impl<B: EncoderBackend> LinearOp<B> for ReferenceLinear<B> {
    fn prepare(weight: Tensor<B, 2>, bias: Tensor<B, 1>, precision: Precision) -> Result<Self, UnsupportedPrecision> {
        UnsupportedPrecision::check(precision, &[Precision::F32])?;
        Ok(Self {
            weight,
            bias: bias.unsqueeze(),
        })
    }

    fn forward(&self, x: Tensor<B, 2>, activation: Option<Activation>) -> Tensor<B, 2> {
        let y = x.matmul(self.weight.clone().transpose()) + self.bias.clone();
        match activation {
            Some(activation) => activation.apply(y),
            None => y,
        }
    }

    fn embedding_lookup(&self, inputs: &B::Inputs) -> Tensor<B, 2> {
        B::select_rows(&self.weight, inputs, IndexList::TokenIds)
    }
}

/// The rows `ids` of `table`: `[ids, columns]`.
pub fn select_rows<B: EncoderBackend>(table: &Tensor<B, 2>, ids: &[u32]) -> Tensor<B, 2> {
    table.clone().select(0, ids)
}

/// The word embeddings of all tokens, `[tokens, embedding]`.
pub fn word_embeddings<B: EncoderBackend>(words: WordTable<'_, B>, inputs: &B::Inputs) -> Tensor<B, 2> {
    match words {
        WordTable::Table(table) => B::select_rows(table, inputs, IndexList::TokenIds),
        WordTable::Decoder(decoder) => decoder.embedding_lookup(inputs),
    }
}

/// The default body of [`EncoderBackend::embed`].
pub fn embed<B: EncoderBackend>(
    words: WordTable<'_, B>,
    positions: Option<&Tensor<B, 2>>,
    norm: &LayerNorm<B>,
    inputs: &B::Inputs,
) -> Tensor<B, 2> {
    let positions = positions.map(|table| B::select_rows(table, inputs, IndexList::PositionIds));
    B::residual_layer_norm(word_embeddings(words, inputs), positions, norm)
}

/// The default body of [`EncoderBackend::readout_layer`].
pub fn readout_layer<B: EncoderBackend>(
    states: Tensor<B, 2>,
    attention: &SelfAttention<B>,
    tail: &EncoderTail<B>,
    inputs: &B::Inputs,
) -> Tensor<B, 2> {
    let selected = B::select_rows(&states, inputs, IndexList::ReadoutRows);
    let attended = B::self_attention(selected.clone(), states, attention, inputs, QueryRows::ReadoutOnly);
    B::encoder_tail(attended, selected, tail)
}

/// The default body of [`EncoderBackend::self_attention`].
pub fn self_attention<B: EncoderBackend>(
    query_states: Tensor<B, 2>,
    kv_states: Tensor<B, 2>,
    layer: &SelfAttention<B>,
    inputs: &B::Inputs,
    rows: QueryRows,
) -> Tensor<B, 2> {
    let mut query = layer.query.forward(query_states, None);
    let mut key_value = layer.key_value.forward(kv_states, None);
    let options = layer.options;
    if let Some(rotary) = &layer.rotary {
        query = B::rotate(query, rotary, options.heads, inputs, rows);
        key_value = B::rotate(key_value, rotary, options.heads, inputs, QueryRows::All);
    }
    B::sequence_attention(query, key_value, inputs, rows, options, layer.bias.as_ref())
}

/// The default body of [`EncoderBackend::sequence_attention`]; `bias` is added to the scaled scores.
pub fn sequence_attention<B: EncoderBackend>(
    query: Tensor<B, 2>,
    key_value: Tensor<B, 2>,
    inputs: &ForwardInputs,
    rows: QueryRows,
    options: AttentionOptions,
    bias: Option<&RelativeBias<B>>,
) -> Tensor<B, 2> {
    let distance = ByDistance {
        query_rows: &inputs.query_rows(rows),
        window: options.window,
        bias,
    };
    attention_by_distance(query, key_value, inputs.offsets(rows), options.heads, distance)
}

/// Rotates pairs of columns of `heads` heads by the angles of `positions`, one for each row.
pub fn rotate<B: EncoderBackend>(x: Tensor<B, 2>, rotary: &Rotary<B>, heads: usize, positions: &[u32]) -> Tensor<B, 2> {
    let [rows, columns] = x.dims();
    let half = rotary.cos.dims()[1];
    let rotated = heads * 2 * half;
    // [rows, 1, head size / 2]
    let angles = |table: &Tensor<B, 2>| select_rows(table, positions).reshape([rows, 1, half]);
    let (cos, sin) = (angles(&rotary.cos), angles(&rotary.sin));
    let own = x.clone().slice([0..rows, 0..rotated]);
    // [rows, heads, head size / 2] of the first and of the second columns of the pairs
    let (first, second) = match rotary.pairing {
        RotaryPairing::Halves => {
            let own = own.reshape([rows, heads, 2 * half]);
            let all = [0..rows, 0..heads];
            let part = |columns| own.clone().slice([all[0].clone(), all[1].clone(), columns]);
            (part(0..half), part(half..2 * half))
        }
        RotaryPairing::Neighbours => {
            let own = own.reshape([rows, heads, half, 2]);
            let part = |column| {
                let part = own.clone().slice([0..rows, 0..heads, 0..half, column..column + 1]);
                part.reshape([rows, heads, half])
            };
            (part(0), part(1))
        }
    };
    let left = first.clone() * cos.clone() - second.clone() * sin.clone();
    let right = second * cos + first * sin;
    let turned = match rotary.pairing {
        RotaryPairing::Halves => Tensor::cat(vec![left, right], 2).reshape([rows, rotated]),
        RotaryPairing::Neighbours => Tensor::stack::<4>(vec![left, right], 3).reshape([rows, rotated]),
    };
    match rotated == columns {
        true => turned,
        false => Tensor::cat(vec![turned, x.slice([0..rows, rotated..columns])], 1),
    }
}

/// Queries whose scores exist at once: a long sequence does not store a score for each pair of its tokens.
const QUERIES_AT_ONCE: usize = 256;

/// Softmax attention, one sequence after the other. Shapes as of [`EncoderBackend::sequence_attention`]; rows of
/// padding are zero.
pub fn attention<B: EncoderBackend>(
    query: Tensor<B, 2>,
    key_value: Tensor<B, 2>,
    offsets: SequenceOffsets<'_>,
    heads: usize,
) -> Tensor<B, 2> {
    attention_by_distance(query, key_value, offsets, heads, ByDistance::default())
}

/// The influence of the distance between query and key.
pub struct ByDistance<'a, B: EncoderBackend> {
    /// The row of each query in the batch; it may be empty without a window and a bias.
    pub query_rows: &'a [u32],
    /// The largest distance of a key that a query attends to.
    pub window: Option<usize>,
    /// Added to the scaled scores.
    pub bias: Option<&'a RelativeBias<B>>,
}

impl<B: EncoderBackend> Default for ByDistance<'_, B> {
    fn default() -> Self {
        Self {
            query_rows: &[],
            window: None,
            bias: None,
        }
    }
}

/// [`attention`] with a window or a bias.
pub fn attention_by_distance<B: EncoderBackend>(
    query: Tensor<B, 2>,
    key_value: Tensor<B, 2>,
    offsets: SequenceOffsets<'_>,
    heads: usize,
    distance: ByDistance<'_, B>,
) -> Tensor<B, 2> {
    let ByDistance {
        query_rows: batch_rows,
        window,
        bias,
    } = distance;
    let [query_rows, hidden] = query.dims();
    let device = query.device();
    let head_size = hidden / heads;
    let scale = 1.0 / (head_size as f64).sqrt();
    // [rows, hidden] to [heads, rows, head_size]
    let by_head = |x: Tensor<B, 2>| {
        let rows = x.dims()[0];
        x.reshape([rows, heads, head_size]).swap_dims(0, 1)
    };
    let mut outputs = Vec::new();
    for (queries, keys) in offsets.iter() {
        for first in queries.clone().step_by(QUERIES_AT_ONCE) {
            let queries = first..queries.end.min(first + QUERIES_AT_ONCE);
            let indices = batch_rows.get(queries.clone()).unwrap_or_default();
            let keys = match window {
                None => keys.clone(),
                // Rows ascend within a sequence.
                Some(window) => {
                    let (first, last) = (indices[0] as usize, indices[indices.len() - 1] as usize);
                    keys.start.max(first.saturating_sub(window))..keys.end.min(last + window + 1)
                }
            };
            let (rows, columns) = (queries.len(), keys.len());
            let q = by_head(query.clone().slice([queries, 0..hidden]));
            let k = by_head(key_value.clone().slice([keys.clone(), 0..hidden]));
            let v = by_head(key_value.clone().slice([keys.clone(), hidden..2 * hidden]));
            let mut scores = q.matmul(k.swap_dims(1, 2)) * scale;
            let pairs = || {
                indices
                    .iter()
                    .flat_map(|&query| keys.clone().map(move |key| (query as usize, key)))
            };
            if let Some(bias) = bias {
                let table_rows: Vec<u32> = pairs().map(|(query, key)| bias.row(query, key) as u32).collect();
                let added = select_rows(&bias.table, &table_rows).reshape([rows, columns, heads]);
                scores = scores + added.permute([2, 0, 1]);
            }
            if let Some(window) = window {
                let excluded = |(query, key): (usize, usize)| match query.abs_diff(key) <= window {
                    true => 0.0f32,
                    false => f32::NEG_INFINITY,
                };
                let excluded: Vec<f32> = pairs().map(excluded).collect();
                scores = scores + Tensor::from_data(TensorData::new(excluded, [1, rows, columns]), &device);
            }
            let context = scores.softmax(2).matmul(v);
            outputs.push(context.swap_dims(0, 1).reshape([rows, hidden]));
        }
    }
    let padding = query_rows - offsets.queries.last().copied().unwrap_or(0);
    if padding > 0 {
        outputs.push(Tensor::zeros([padding, hidden], &device));
    }
    Tensor::cat(outputs, 0)
}

/// `(s - mean(s)) / sqrt(var(s) + eps) * gamma + beta` over each row of `s`, which is `x + residual`. With
/// [`NormKind::RootMeanSquare`] the mean counts as 0.
pub fn layer_norm<B: EncoderBackend>(
    x: Tensor<B, 2>,
    residual: Option<Tensor<B, 2>>,
    norm: &LayerNorm<B>,
) -> Tensor<B, 2> {
    let sum = match residual {
        Some(residual) => x + residual,
        None => x,
    };
    let centred = match norm.kind {
        NormKind::Layer => sum.clone() - sum.mean_dim(1),
        NormKind::RootMeanSquare => sum,
    };
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    centred / (variance + norm.eps).sqrt() * norm.gamma.clone().unsqueeze() + norm.beta.clone().unsqueeze()
}

/// The [readout](super::readout) of logits `[rows, vocabulary]`, without full rows. The order of equal logits is
/// unspecified.
pub fn read_logits<B: EncoderBackend>(logits: Tensor<B, 2>, spec: &ReadoutSpec) -> Tensor<B, 1> {
    let [_, vocab] = logits.dims();
    let logits = logits.slice([0..spec.rows, 0..vocab]);
    let largest = logits.clone().max_dim(1);
    let sum = (logits.clone() - largest.clone()).exp().sum_dim(1);
    let is_infinite = logits.clone().is_equal(f64::INFINITY);
    let not_finite = (logits.clone().is_nan() + is_infinite).sum_dim(1);
    let (top, tokens) = logits.clone().topk_with_indices(spec.top_k, 1);
    let pairs = Tensor::stack::<3>(vec![top, tokens], 2).reshape([spec.rows, 2 * spec.top_k]);
    let rest = sum.zeros_like();
    let rows = Tensor::cat(vec![largest, sum, rest, not_finite, pairs], 1);
    let mut parts = vec![rows.reshape([spec.rows * row_len(spec.top_k)])];
    if !spec.token_ids.is_empty() {
        let bounds = spec.row_offsets.windows(2).enumerate();
        let places = bounds.flat_map(|(row, bounds)| {
            let tokens = &spec.token_ids[bounds[0] as usize..bounds[1] as usize];
            tokens.iter().map(move |&token| row as u32 * vocab as u32 + token)
        });
        let places: Vec<u32> = places.collect();
        parts.push(logits.flatten().select(0, &places));
    }
    Tensor::cat(parts, 0)
}
