//! The operations of an encoder, and how each backend runs them.
//!
//! [`EncoderBackend`] adds prepared dense layers and a few fused operations to a Burn backend. Each operation has a
//! default body in plain Burn, from [`reference`](mod@reference): a backend without kernels of its own runs every
//! encoder, and every kernel is tested against these bodies.
//!
//! | file | subject |
//! |---|---|
//! | `tensor` | tensors with backend and rank as types |
//! | `reference` | the operations in plain Burn, and a backend that runs them as they are |
//! | `activation` | activation functions |
//! | `inputs` | index inputs of a forward pass: token ids, offsets, readout |
//! | `readout` | statistics and scores that are read back from the logits |
//! | `pooling` | pooling of logits over the rows of a sequence |
//! | `precision` | the type of weights and products |
//! | `buckets` | row counts that a GPU compiles kernels for |
//! | `cpu/` | ndarray, with kernels over slices |
//! | `gpu/` | wgpu: adapters, device set-up, CubeCL kernels |

mod activation;
pub mod buckets;
#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "gpu")]
pub mod gpu;
mod inputs;
mod pooling;
mod precision;
pub mod readout;
pub mod reference;
mod tensor;

pub use activation::{Activation, RareActivation};
pub use inputs::{ForwardInputs, IndexList, QueryRows, ReadoutSpec, SequenceOffsets};
pub use pooling::{PooledRows, Pooling};
pub use precision::{Precision, UnsupportedPrecision, list as list_precisions};
pub use tensor::{Tensor, read};

use burn::backend::{Backend, BackendTypes, ExecutionError, FloatDType};

/// Statistics that a normalization divides by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormKind {
    /// Subtract the mean, divide by the standard deviation.
    #[default]
    Layer,
    /// Divide by the root of the mean square: <https://arxiv.org/abs/1910.07467>.
    RootMeanSquare,
}

/// The scale, shift and epsilon of a normalization over `hidden` features.
#[derive(Clone, Debug)]
pub struct LayerNorm<B: EncoderBackend> {
    pub kind: NormKind,
    /// Scale, `[hidden]`.
    pub gamma: Tensor<B, 1>,
    /// Shift, `[hidden]`.
    pub beta: Tensor<B, 1>,
    /// Added to the variance.
    pub eps: f64,
}

/// The dense layers before attention.
pub struct SelfAttention<B: EncoderBackend> {
    /// `[hidden]` to `[hidden]`. It is apart from key and value, because the last layer computes fewer queries than
    /// keys.
    pub query: B::Linear,
    /// `[hidden]` to `[2 * hidden]`, keys first.
    pub key_value: B::Linear,
    /// `[hidden]` to `[3 * hidden]`: query, keys, values, where the backend [joins](LinearOp::join) them.
    pub joined: Option<B::Linear>,
    pub options: AttentionOptions,
    /// Rotates queries and keys by their positions.
    pub rotary: Option<Rotary<B>>,
    pub bias: Option<RelativeBias<B>>,
}

/// Rotary position embeddings: which columns form a pair, and the rotation of each pair at each position.
#[derive(Clone, Debug)]
pub struct Rotary<B: EncoderBackend> {
    pub pairing: RotaryPairing,
    /// Cosines, `[positions, head size / 2]`.
    pub cos: Tensor<B, 2>,
    /// Sines, `[positions, head size / 2]`.
    pub sin: Tensor<B, 2>,
}

/// Columns of a head that rotary position embeddings rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotaryPairing {
    /// Column `i` and column `i + head size / 2`.
    Halves,
    /// Column `2 i` and column `2 i + 1`.
    Neighbours,
}

/// Biases that are added to the scaled scores, by the distance from query to key.
#[derive(Clone, Debug)]
pub struct RelativeBias<B: EncoderBackend> {
    /// `[2 * span + 1, heads]`: row `span + query - key` of a distance up to `span`; the first and the last row hold
    /// for larger distances too.
    pub table: Tensor<B, 2>,
}

impl<B: EncoderBackend> RelativeBias<B> {
    /// The largest distance that has a row of its own.
    pub fn span(&self) -> usize {
        self.table.dims()[0] / 2
    }

    /// The row of the table for a query and a key.
    pub fn row(&self, query: usize, key: usize) -> usize {
        let span = self.span();
        match query < key {
            true => span - (key - query).min(span),
            false => span + (query - key).min(span),
        }
    }
}

/// The options of scaled dot-product attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionOptions {
    /// Divides `hidden`; heads lie side by side in it.
    pub heads: usize,
    /// Products may be computed in this precision, or in a higher one.
    pub precision: Precision,
    /// The largest distance between a query and a key that it attends to; `None` for all keys of its sequence.
    pub window: Option<usize>,
}

impl AttentionOptions {
    /// Attention to all keys of a sequence.
    pub fn new(heads: usize, precision: Precision) -> Self {
        Self {
            heads,
            precision,
            window: None,
        }
    }
}

/// The word embeddings, `[vocab_size, embedding]`.
pub enum WordTable<'a, B: EncoderBackend> {
    Table(&'a Tensor<B, 2>),
    /// A tied decoder's weight.
    Decoder(&'a B::Linear),
}

/// The part of an encoder layer after attention, with `inner(x) = activation(up(x))`, or with a gate
/// `activation(gate(x)) · up(x)`.
pub struct EncoderTail<B: EncoderBackend> {
    pub attention_output: B::Linear,
    /// `[hidden]` to `[intermediate]`, of the precision of `up`.
    pub gate: Option<B::Linear>,
    /// `[hidden]` to `[intermediate]`.
    pub up: B::Linear,
    pub activation: Activation,
    /// `[intermediate]` to `[hidden]`.
    pub down: B::Linear,
    pub norms: TailNorms<B>,
}

/// Placement of a layer's normalizations after attention.
#[derive(Clone, Debug)]
pub enum TailNorms<B: EncoderBackend> {
    /// `output(x + down(inner(x)))` of `x = attention(residual + attention_output(attended))`.
    Post {
        attention: LayerNorm<B>,
        output: LayerNorm<B>,
    },
    /// `x + down(inner(norm(x)))` of `x = residual + attention_output(attended)`.
    Pre(LayerNorm<B>),
}

impl<B: EncoderBackend> EncoderTail<B> {
    /// The default body of [`EncoderBackend::encoder_tail`].
    pub fn apply(&self, attended: Tensor<B, 2>, residual: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.norms {
            TailNorms::Post { attention, output } => {
                let x = self.attention_output.forward_normalized(attended, residual, attention);
                let inner = self.inner(x.clone());
                self.down.forward_normalized(inner, x, output)
            }
            TailNorms::Pre(norm) => {
                let x = B::add(self.attention_output.forward(attended, None), residual);
                let inner = self.inner(B::residual_layer_norm(x.clone(), None, norm));
                B::add(self.down.forward(inner, None), x)
            }
        }
    }

    /// The input of `down`.
    pub fn inner(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.gate {
            Some(gate) => {
                let factor = gate.forward(x.clone(), Some(self.activation));
                B::multiply(factor, self.up.forward(x, None))
            }
            None => self.up.forward(x, Some(self.activation)),
        }
    }
}

/// A dense layer's weights in the form that its backend computes with.
pub trait LinearOp<B: EncoderBackend>: Sized + Send + 'static {
    /// Prepares `weight` `[outputs, inputs]`, the row-major layout of checkpoints, and `bias` `[outputs]`; once, at
    /// load.
    ///
    /// # Errors
    /// A precision that the backend does not compute in.
    fn prepare(weight: Tensor<B, 2>, bias: Tensor<B, 1>, precision: Precision) -> Result<Self, UnsupportedPrecision>;

    /// The same for a weight that should keep more digits than `precision` has, if the backend can: few rows are
    /// multiplied with it, or [embeddings](Self::embedding_lookup) are read from it.
    ///
    /// # Errors
    /// As of [`prepare`](Self::prepare).
    fn prepare_high_precision(
        weight: Tensor<B, 2>,
        bias: Tensor<B, 1>,
        precision: Precision,
    ) -> Result<Self, UnsupportedPrecision> {
        Self::prepare(weight, bias, precision)
    }

    /// A layer with the outputs of `first` before those of `second`, whose memory all three then share. `None` if the
    /// backend gains nothing by it, or cannot.
    fn join(_first: &mut Self, _second: &mut Self) -> Option<Self> {
        None
    }

    /// `activation(x · weightᵀ + bias)`: `[rows, inputs]` to `[rows, outputs]`.
    fn forward(&self, x: Tensor<B, 2>, activation: Option<Activation>) -> Tensor<B, 2>;

    /// Layer normalization of `x · weightᵀ + bias + residual`: `[rows, inputs]` to `[rows, outputs]`; `residual` is
    /// `[rows, outputs]`. The result may be in a form that only dense layers, `residual` and
    /// [`select_rows`](EncoderBackend::select_rows) read.
    fn forward_normalized(&self, x: Tensor<B, 2>, residual: Tensor<B, 2>, norm: &LayerNorm<B>) -> Tensor<B, 2> {
        B::residual_layer_norm(self.forward(x, None), Some(residual), norm)
    }

    /// Pools `x · weightᵀ + bias` into `pooled` `[any number of rows, outputs]`, which is 0 at first: `x` is `[rows,
    /// inputs]`; the rows of `pools` ascend and do not overlap. [`Pooling::weight`] turns a pooled value into a weight.
    /// NaN and infinity stay.
    fn forward_pooled(&self, x: Tensor<B, 2>, pools: &[PooledRows], pooled: Tensor<B, 2>) -> Tensor<B, 2> {
        pooling::pool_logits(&self.forward(x, None), pools, pooled)
    }

    /// The rows of the weight that the token ids name, `[tokens, inputs]`: a tied decoder is the word-embedding table
    /// too.
    fn embedding_lookup(&self, inputs: &B::Inputs) -> Tensor<B, 2>;

    /// [`EncoderBackend::check`] of the prepared weights.
    ///
    /// # Errors
    /// As there.
    fn check(&self) -> Result<(), ExecutionError> {
        Ok(())
    }
}

/// The device of a backend.
pub type Device<B> = <<B as EncoderBackend>::Burn as BackendTypes>::Device;

/// A backend that can run an encoder: a Burn backend, and what it computes in its own way.
///
/// A backend without kernels of its own sets `Linear` to [`reference::ReferenceLinear`] and `Inputs` to
/// [`ForwardInputs`].
pub trait EncoderBackend: Clone + std::fmt::Debug + Send + Sync + Sized + 'static {
    /// The Burn backend of the tensors; it computes the default bodies.
    type Burn: Backend;
    /// A prepared dense layer.
    type Linear: LinearOp<Self>;
    /// The index inputs of a batch as this backend reads them; it keeps the host's copy.
    type Inputs: AsRef<ForwardInputs>;

    /// Element type of tensors that are made on the host.
    const ELEMENT: FloatDType = FloatDType::F32;

    /// Rows that [`LinearOp::forward_pooled`] gets at once. Where it stores the outputs of all rows, this bounds their
    /// memory.
    const POOLED_ROWS_MAX: usize = 64;

    /// Precisions that [`LinearOp::prepare`] accepts; a device may lack some of them.
    const PRECISIONS: &'static [Precision] = &[Precision::F32];

    /// The largest `top_k` of [`read_logits`](Self::read_logits).
    const TOP_K_MAX: usize = 64;

    /// The row count that `rows` are padded to. A backend that compiles per shape returns one of a few
    /// [buckets]; others return `rows`.
    fn padded_rows(rows: usize) -> usize {
        rows
    }

    /// Uploads the index inputs of a batch, in one write.
    fn upload(inputs: ForwardInputs, device: &Device<Self>) -> Self::Inputs;

    /// Checks that the memory of a tensor was allocated and written, as far as the device knows by now. Elsewhere such
    /// a fault is an error of the read of a result.
    ///
    /// # Errors
    /// The fault.
    fn check<const D: usize>(_tensor: &Tensor<Self, D>) -> Result<(), ExecutionError> {
        Ok(())
    }

    /// The rows of `table` that `list` names, `[indices, columns]`. A table is `[entries, columns]`, or a result of
    /// [`forward_normalized`](LinearOp::forward_normalized).
    fn select_rows(table: &Tensor<Self, 2>, inputs: &Self::Inputs, list: IndexList) -> Tensor<Self, 2> {
        reference::select_rows(table, inputs.as_ref().indices(list))
    }

    /// The normalized sum of the word embeddings and the position embeddings of all tokens, `[tokens, embedding]`.
    fn embed(
        words: WordTable<'_, Self>,
        positions: Option<&Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
        inputs: &Self::Inputs,
    ) -> Tensor<Self, 2> {
        reference::embed(words, positions, norm, inputs)
    }

    /// The last layer of an encoder without a normalization before attention: the readout rows of `states` `[tokens,
    /// hidden]` attend to all rows. Returns `[readout rows, hidden]`.
    fn readout_layer(
        states: Tensor<Self, 2>,
        attention: &SelfAttention<Self>,
        tail: &EncoderTail<Self>,
        inputs: &Self::Inputs,
    ) -> Tensor<Self, 2> {
        reference::readout_layer(states, attention, tail, inputs)
    }

    /// Attention of the rows `query_states` `[query rows, hidden]` to the rows `kv_states` `[tokens, hidden]`: the
    /// dense layers, the rotation, then [`sequence_attention`](Self::sequence_attention).
    fn self_attention(
        query_states: Tensor<Self, 2>,
        kv_states: Tensor<Self, 2>,
        layer: &SelfAttention<Self>,
        inputs: &Self::Inputs,
        rows: QueryRows,
    ) -> Tensor<Self, 2> {
        reference::self_attention(query_states, kv_states, layer, inputs, rows)
    }

    /// Rotates the first columns of `x` `[rows, columns]`, as many as `heads` heads have; the others stay.
    fn rotate(
        x: Tensor<Self, 2>,
        rotary: &Rotary<Self>,
        heads: usize,
        inputs: &Self::Inputs,
        rows: QueryRows,
    ) -> Tensor<Self, 2> {
        reference::rotate(x, rotary, heads, &inputs.as_ref().positions(rows))
    }

    /// Softmax attention within each sequence of a packed batch.
    ///
    /// `query` is `[query rows, hidden]`, `key_value` is `[tokens, 2 * hidden]` with the keys first. Returns
    /// `[query rows, hidden]`; the values of padding rows are unspecified.
    fn sequence_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        inputs: &Self::Inputs,
        rows: QueryRows,
        options: AttentionOptions,
        bias: Option<&RelativeBias<Self>>,
    ) -> Tensor<Self, 2> {
        reference::sequence_attention(query, key_value, inputs.as_ref(), rows, options, bias)
    }

    /// `x + y`, of matrices of one size.
    fn add(x: Tensor<Self, 2>, y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        x + y
    }

    /// `x · y`, value by value, of matrices of one size.
    fn multiply(x: Tensor<Self, 2>, y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        x * y
    }

    /// The part of a layer after attention, each row on its own: `attended` and `residual` are `[rows, hidden]`, and so
    /// is the result.
    fn encoder_tail(
        attended: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        layer: &EncoderTail<Self>,
    ) -> Tensor<Self, 2> {
        layer.apply(attended, residual)
    }

    /// Normalization of `x`, or of `x + residual`; both are `[rows, hidden]`.
    fn residual_layer_norm(
        x: Tensor<Self, 2>,
        residual: Option<Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
    ) -> Tensor<Self, 2> {
        reference::layer_norm(x, residual, norm)
    }

    /// The [`readout`] of the logits `[rows, vocabulary]` of the chunk `chunk`, without its full rows.
    fn read_logits(logits: Tensor<Self, 2>, inputs: &Self::Inputs, chunk: usize) -> Tensor<Self, 1> {
        reference::read_logits(logits, &inputs.as_ref().readouts[chunk])
    }
}
