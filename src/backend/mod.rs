//! The few operations BERT needs, and how each backend runs them.
//!
//! [`BertBackend`] extends a Burn backend with a handful of fused operations. The form of each in plain Burn is in
//! [`plain`], over lists in the host's memory: it runs on any Burn backend, and every fast path is tested against it.
//!
//! | file | what it is |
//! |---|---|
//! | `plain` | the operations in plain Burn: the definition of what each must compute |
//! | `lists` | what a forward pass is told: token ids, rows, spans |
//! | `summary` | what is kept of the logits |
//! | `cpu` | ndarray: kernels over raw slices |
//! | `gpu` | wgpu: adapters, device set-up |
//! | `ladder` | the few numbers of rows that a GPU computes |

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod ladder;
mod lists;
pub mod plain;
pub mod summary;

pub use lists::{HostLists, Lists, Wanted};

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// The activation of the feed-forward layers and of the MLM head's transform (`hidden_act`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x · Φ(x)` with the error function: <https://arxiv.org/abs/1606.08415>, equation 1.
    Gelu,
    /// The tanh form of GELU, `gelu_new` and `gelu_pytorch_tanh` in config files: the same paper, section 2.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x · sigmoid(x)`, also called swish.
    Silu,
}

/// What weights are kept in and products computed with, as far as a backend can choose: sums, softmax and normalization
/// are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As exact as f32.
    #[default]
    F32,
    /// On a GPU: weights and what they multiply in half precision, but for the head's transform; hidden states between products,
    /// everything at the masks from the last layer on, and the logits stay as exact as f32.
    F16,
    /// On the CPU: weights and the activations that meet them rounded to bf16, but for the head's transform, which stays f32.
    Bf16,
    /// On the CPU: both in 8 bits, weights with a scale for each output, activations with one for each row. The decoder, which may
    /// be the embeddings too, is kept in bf16, and the head's transform in f32.
    Int8,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

/// Which rows of a packed batch belong to which sequence.
///
/// Sequence `i` owns the key and value rows `tokens[i]..tokens[i + 1]` and the query rows
/// `queries[i]..queries[i + 1]`. The two differ in the last layer alone, where only the mask positions
/// ask a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans {
    /// Boundaries of the query rows, one more than there are sequences, from 0 on, ascending.
    pub queries: Vec<usize>,
    /// Boundaries of the key and value rows, as many as `queries`.
    pub tokens: Vec<usize>,
}

impl Spans {
    /// The number of sequences.
    pub fn len(&self) -> usize {
        self.tokens.len().saturating_sub(1)
    }

    /// Whether there is no sequence at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The query rows and the token rows of each sequence.
    pub fn iter(&self) -> impl Iterator<Item = (std::ops::Range<usize>, std::ops::Range<usize>)> + '_ {
        (0..self.len()).map(|i| (self.queries[i]..self.queries[i + 1], self.tokens[i]..self.tokens[i + 1]))
    }
}

/// The scale, shift and epsilon of a layer normalization over `hidden` features.
#[derive(Clone, Debug)]
pub struct LayerNorm<B: Backend> {
    /// Scale, `[hidden]`.
    pub gamma: Tensor<B, 1>,
    /// Shift, `[hidden]`.
    pub beta: Tensor<B, 1>,
    /// Added to the variance.
    pub eps: f64,
}

/// The layers of an encoder layer that follow its attention, under the names of checkpoints:
/// `output_norm(x + output(hidden_act(intermediate(x))))` of `x = attention_norm(residual + attention_output(attended))`.
pub struct AfterAttention<B: BertBackend> {
    /// From the hidden width to the same.
    pub attention_output: B::Linear,
    /// After the residual has been added.
    pub attention_norm: LayerNorm<B>,
    /// From the hidden width to the inner one.
    pub intermediate: B::Linear,
    /// After that.
    pub hidden_act: Activation,
    /// And back.
    pub output: B::Linear,
    /// After `x` has been added.
    pub output_norm: LayerNorm<B>,
}

/// A dense layer's weights in the form that its backend computes with.
pub trait LinearOp<B: BertBackend>: Sized + Send + 'static {
    /// Takes `weight` `[out, in]` (the row-major layout of checkpoints) and `bias` `[out]`; once, at load. A backend
    /// that cannot choose its precision computes in its own element type.
    fn prepare(weight: Tensor<B, 2>, bias: Tensor<B, 1>, precision: Precision) -> Self;

    /// The same for a weight of which more digits are wanted than `precision` keeps, if the backend can: it meets few rows, or its
    /// own rows are read ([`weight_rows`](Self::weight_rows)).
    fn prepare_exact(weight: Tensor<B, 2>, bias: Tensor<B, 1>, precision: Precision) -> Self {
        Self::prepare(weight, bias, precision)
    }

    /// `activation(x · weightᵀ + bias)`: `[rows, in]` to `[rows, out]`.
    fn forward(&self, x: Tensor<B, 2>, activation: Option<Activation>) -> Tensor<B, 2>;

    /// Layer normalization of `x · weightᵀ + bias + residual`: `[rows, in]` to `[rows, out]`, as wide as `residual`. Only dense
    /// layers, `residual` and [`select_rows`](BertBackend::select_rows) take what comes out.
    fn forward_normalized(&self, x: Tensor<B, 2>, residual: Tensor<B, 2>, norm: &LayerNorm<B>) -> Tensor<B, 2> {
        B::residual_layer_norm(self.forward(x, None), Some(residual), norm)
    }

    /// The rows `ids` of the weight, `[ids, in]`: a tied decoder is the word embedding table too.
    fn weight_rows(&self, ids: &B::Rows) -> Tensor<B, 2>;
}

/// A Burn backend that can run BERT.
pub trait BertBackend: Backend {
    /// A prepared dense layer; [`plain::PlainLinear`] serves any backend.
    type Linear: LinearOp<Self>;
    /// Numbers of rows or tokens, where this backend reads them.
    type Rows;
    /// [`Spans`], as this backend reads them.
    type Segments;

    /// Whether what is launched computes while the host goes on.
    const COMPUTES_BESIDE_HOST: bool = false;

    /// Tokens that [`summarize`](Self::summarize) finds in a row at most.
    const TOP_MAX: usize;

    /// How many rows so many are computed as. A backend that compiles or tunes for each number fills up to a few of them.
    fn rows_computed(rows: usize) -> usize {
        rows
    }

    /// Puts the lists of a batch where the operations read them: the one upload of a forward pass.
    fn upload(lists: HostLists, device: &Self::Device) -> Lists<Self::Rows, Self::Segments>;

    /// The rows of `table` that `rows` names, `[rows, columns]`. A table is `[entries, columns]`, or what
    /// [`forward_normalized`](LinearOp::forward_normalized) gave, which a backend may keep in a form of its own.
    fn select_rows(table: &Tensor<Self, 2>, rows: &Self::Rows) -> Tensor<Self, 2>;

    /// Attention of the rows `asking` to the rows `all`: both through their dense layers, and then
    /// [`segment_attention`](Self::segment_attention).
    fn attend(
        asking: Tensor<Self, 2>,
        all: Tensor<Self, 2>,
        query: &Self::Linear,
        key_value: &Self::Linear,
        segments: &Self::Segments,
        heads: usize,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        let query = query.forward(asking, None);
        let key_value = key_value.forward(all, None);
        Self::segment_attention(query, key_value, segments, heads, precision)
    }

    /// Softmax attention within each sequence of a packed batch, [`plain::attention`].
    ///
    /// `query` is `[query rows, hidden]`, `key_value` is `[token rows, 2 * hidden]` with the keys first;
    /// heads lie side by side in `hidden`. Returns `[query rows, hidden]`; rows of no sequence hold anything. Products
    /// may be computed in `precision`.
    fn segment_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        segments: &Self::Segments,
        heads: usize,
        precision: Precision,
    ) -> Tensor<Self, 2>;

    /// What follows attention in a layer, each row on its own: `attended` and `residual` `[rows, hidden]` to `[rows, hidden]`.
    fn after_attention(
        attended: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        layers: &AfterAttention<Self>,
    ) -> Tensor<Self, 2> {
        let x = layers
            .attention_output
            .forward_normalized(attended, residual, &layers.attention_norm);
        let inner = layers.intermediate.forward(x.clone(), Some(layers.hidden_act));
        layers.output.forward_normalized(inner, x, &layers.output_norm)
    }

    /// Layer normalization of `x`, or of `x + residual`; both `[rows, hidden]`.
    fn residual_layer_norm(
        x: Tensor<Self, 2>,
        residual: Option<Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
    ) -> Tensor<Self, 2> {
        plain::layer_norm(x, residual, norm)
    }

    /// The [`summary`] of logits `[rows, vocabulary]`, [`plain::summarize`].
    fn summarize(logits: Tensor<Self, 2>, wanted: &Wanted<Self::Rows>) -> Tensor<Self, 1>;
}
