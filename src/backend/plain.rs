//! The operations in plain Burn: what every backend must compute, and the oracle of the fast paths.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData, activation};

use super::summary::row_len;
use super::{Activation, BertBackend, LayerNorm, LinearOp, Precision, Spans, Wanted};

/// A dense layer as the checkpoint has it.
pub struct PlainLinear<B: Backend> {
    /// `[out, in]`.
    weight: Tensor<B, 2>,
    /// `[1, out]`, so that it broadcasts over the rows.
    bias: Tensor<B, 2>,
}

impl<B: BertBackend> LinearOp<B> for PlainLinear<B> {
    fn prepare(weight: Tensor<B, 2>, bias: Tensor<B, 1>, _precision: Precision) -> Self {
        Self {
            weight,
            bias: bias.unsqueeze(),
        }
    }

    fn forward(&self, x: Tensor<B, 2>, activation: Option<Activation>) -> Tensor<B, 2> {
        let y = x.matmul(self.weight.clone().transpose()) + self.bias.clone();
        match activation {
            Some(activation) => activate(y, activation),
            None => y,
        }
    }

    fn weight_rows(&self, ids: &B::Rows) -> Tensor<B, 2> {
        B::select_rows(&self.weight, ids)
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

/// Softmax attention, one sequence after the other. Shapes as in
/// [`segment_attention`](super::BertBackend::segment_attention); rows after the last sequence are left out.
pub fn attention<B: Backend>(
    query: Tensor<B, 2>,
    key_value: Tensor<B, 2>,
    spans: &Spans,
    heads: usize,
) -> Tensor<B, 2> {
    let hidden = query.dims()[1];
    let head_size = hidden / heads;
    let scale = 1.0 / (head_size as f64).sqrt();
    // [rows, hidden] to [heads, rows, head_size]
    let by_head = |x: Tensor<B, 2>| {
        let rows = x.dims()[0];
        x.reshape([rows, heads, head_size]).swap_dims(0, 1)
    };
    let outputs = spans
        .iter()
        .filter(|(queries, _)| !queries.is_empty())
        .map(|(queries, tokens)| {
            let rows = queries.len();
            let q = by_head(query.clone().slice([queries, 0..hidden]));
            let k = by_head(key_value.clone().slice([tokens.clone(), 0..hidden]));
            let v = by_head(key_value.clone().slice([tokens, hidden..2 * hidden]));
            let scores = q.matmul(k.swap_dims(1, 2)) * scale;
            let context = activation::softmax(scores, 2).matmul(v);
            context.swap_dims(0, 1).reshape([rows, hidden])
        })
        .collect();
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

/// The [`summary`](super::summary) of logits `[rows, vocabulary]`. In which order it tells equal logits is left open.
pub fn summarize<B: Backend>(logits: Tensor<B, 2>, wanted: &Wanted<Vec<u32>>) -> Tensor<B, 1> {
    let [_, vocab] = logits.dims();
    let logits = logits.slice([0..wanted.rows, 0..vocab]);
    let device = logits.device();
    let largest = logits.clone().max_dim(1);
    let sum = (logits.clone() - largest.clone()).exp().sum_dim(1);
    let is_infinite = logits.clone().equal_elem(f32::INFINITY);
    let broken = logits.clone().is_nan().bool_or(is_infinite).float().sum_dim(1);
    let (top, tokens) = logits.clone().topk_with_indices(wanted.top, 1);
    let pairs = Tensor::stack::<3>(vec![top, tokens.float()], 2).reshape([wanted.rows, 2 * wanted.top]);
    let rest = sum.zeros_like();
    let rows = Tensor::cat(vec![largest, sum, rest, broken, pairs], 1);
    let mut parts = vec![rows.reshape([wanted.rows * row_len(wanted.top)])];
    if wanted.token_count > 0 {
        let bounds = wanted.token_bounds.windows(2).enumerate();
        let places = bounds.flat_map(|(row, bounds)| {
            let tokens = &wanted.tokens[bounds[0] as usize..bounds[1] as usize];
            tokens
                .iter()
                .map(move |&token| row as i64 * vocab as i64 + i64::from(token))
        });
        let places: Vec<i64> = places.collect();
        let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [wanted.token_count]), &device);
        parts.push(logits.reshape([wanted.rows * vocab]).select(0, places));
    }
    Tensor::cat(parts, 0)
}
