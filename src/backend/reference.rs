//! The operations in plain Burn: the default bodies of [`EncoderBackend`], and the oracle of every kernel.
//!
//! [`Reference`] is a backend that runs them as they are, in f64.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData, activation};

use super::readout::row_len;
use super::{
    Activation, EncoderBackend, IndexList, LayerNorm, LinearOp, Precision, ReadoutSpec, SequenceOffsets,
    UnsupportedPrecision,
};

/// ndarray in f64, without kernels of ours: every operation is its default body.
#[cfg(feature = "cpu")]
pub type Reference = burn_ndarray::NdArray<f64>;

#[cfg(feature = "cpu")]
impl EncoderBackend for Reference {
    type Linear = ReferenceLinear<Self>;
    type Inputs = super::ForwardInputs;

    fn upload(inputs: super::ForwardInputs, _device: &Self::Device) -> super::ForwardInputs {
        inputs
    }
}

/// A dense layer as the checkpoint has it, in the element type of its backend.
pub struct ReferenceLinear<B: Backend> {
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
            Some(activation) => activate(y, activation),
            None => y,
        }
    }

    fn embedding_lookup(&self, inputs: &B::Inputs) -> Tensor<B, 2> {
        B::select_rows(&self.weight, inputs, IndexList::TokenIds)
    }
}

/// The rows `ids` of `table`: `[ids, columns]`.
pub fn select_rows<B: Backend>(table: &Tensor<B, 2>, ids: &[u32]) -> Tensor<B, 2> {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let count = ids.len();
    let ids = Tensor::<B, 1, Int>::from_data(TensorData::new(ids, [count]), &table.device());
    table.clone().select(0, ids)
}

/// Applies `kind` element by element.
pub fn activate<B: Backend, const D: usize>(x: Tensor<B, D>, kind: Activation) -> Tensor<B, D> {
    match kind {
        Activation::Gelu => activation::gelu(x),
        Activation::GeluTanh => {
            // 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
            let inner = (x.clone() * x.clone() * x.clone() * 0.044715 + x.clone()) * std::f64::consts::FRAC_2_PI.sqrt();
            x * (inner.tanh() + 1.0) * 0.5
        }
        Activation::Relu => activation::relu(x),
        Activation::Silu => activation::silu(x),
    }
}

/// Softmax attention, one sequence after the other. Shapes as of [`EncoderBackend::sequence_attention`]; rows of
/// padding are zero.
pub fn attention<B: Backend>(
    query: Tensor<B, 2>,
    key_value: Tensor<B, 2>,
    offsets: SequenceOffsets<'_>,
    heads: usize,
) -> Tensor<B, 2> {
    let [query_rows, hidden] = query.dims();
    let device = query.device();
    let head_size = hidden / heads;
    let scale = 1.0 / (head_size as f64).sqrt();
    // [rows, hidden] to [heads, rows, head_size]
    let by_head = |x: Tensor<B, 2>| {
        let rows = x.dims()[0];
        x.reshape([rows, heads, head_size]).swap_dims(0, 1)
    };
    let mut outputs: Vec<Tensor<B, 2>> = offsets
        .iter()
        .filter(|(queries, _)| !queries.is_empty())
        .map(|(queries, keys)| {
            let rows = queries.len();
            let q = by_head(query.clone().slice([queries, 0..hidden]));
            let k = by_head(key_value.clone().slice([keys.clone(), 0..hidden]));
            let v = by_head(key_value.clone().slice([keys, hidden..2 * hidden]));
            let scores = q.matmul(k.swap_dims(1, 2)) * scale;
            let context = activation::softmax(scores, 2).matmul(v);
            context.swap_dims(0, 1).reshape([rows, hidden])
        })
        .collect();
    let padding = query_rows - offsets.queries.last().copied().unwrap_or(0);
    if padding > 0 {
        outputs.push(Tensor::zeros([padding, hidden], &device));
    }
    Tensor::cat(outputs, 0)
}

/// `(s - mean(s)) / sqrt(var(s) + eps) * gamma + beta` over each row of `s`, which is `x + residual`.
pub fn layer_norm<B: Backend>(x: Tensor<B, 2>, residual: Option<Tensor<B, 2>>, norm: &LayerNorm<B>) -> Tensor<B, 2> {
    let sum = match residual {
        Some(residual) => x + residual,
        None => x,
    };
    let centred = sum.clone() - sum.mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    centred / (variance + norm.eps).sqrt() * norm.gamma.clone().unsqueeze() + norm.beta.clone().unsqueeze()
}

/// The [readout](super::readout) of logits `[rows, vocabulary]`, without full rows. The order of equal logits is
/// unspecified.
pub fn read_logits<B: Backend>(logits: Tensor<B, 2>, spec: &ReadoutSpec) -> Tensor<B, 1> {
    let [_, vocab] = logits.dims();
    let logits = logits.slice([0..spec.rows, 0..vocab]);
    let device = logits.device();
    let largest = logits.clone().max_dim(1);
    let sum = (logits.clone() - largest.clone()).exp().sum_dim(1);
    let is_infinite = logits.clone().equal_elem(f32::INFINITY);
    let not_finite = logits.clone().is_nan().bool_or(is_infinite).float().sum_dim(1);
    let (top, tokens) = logits.clone().topk_with_indices(spec.top_k, 1);
    let pairs = Tensor::stack::<3>(vec![top, tokens.float()], 2).reshape([spec.rows, 2 * spec.top_k]);
    let rest = sum.zeros_like();
    let rows = Tensor::cat(vec![largest, sum, rest, not_finite, pairs], 1);
    let mut parts = vec![rows.reshape([spec.rows * row_len(spec.top_k)])];
    if !spec.token_ids.is_empty() {
        let bounds = spec.row_offsets.windows(2).enumerate();
        let places = bounds.flat_map(|(row, bounds)| {
            let tokens = &spec.token_ids[bounds[0] as usize..bounds[1] as usize];
            tokens
                .iter()
                .map(move |&token| row as i64 * vocab as i64 + i64::from(token))
        });
        let places: Vec<i64> = places.collect();
        let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [spec.token_ids.len()]), &device);
        parts.push(logits.reshape([spec.rows * vocab]).select(0, places));
    }
    Tensor::cat(parts, 0)
}
